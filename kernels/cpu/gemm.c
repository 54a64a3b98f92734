// gemm.c: the one matrix product of the CPU backend: C (rows, cols <= 64) = A B with B a panel (cpu.h).
//
// A tile of C, up to 6 rows by 4 registers (6 x 64 with AVX-512: 24 accumulators, 4 of B, 1 broadcast of A), stays in registers
// over the whole reduction: per step 4 loads of B and 6 broadcasts feed 24 vdpbf16ps (bf16: 2 products a lane), 24 FMA (fp32)
// or 24 vpdpbusd (int8: 4 products a lane, sums in int32). B's panel, K x 64, is streamed once per 6 rows from L2. Instruction
// sets without bf16 products widen the pairs (x << 16, x & 0xffff0000) and use two FMA; those without byte products widen to
// 16 bits, or 32. Sums of integers are exact, so int8 gives the same bits on every instruction set.
//
// Batch invariance. Every tile height runs the same operations per element in the same order, the reduction is never split
// between threads, and tails are padded rather than treated by other code; so a row's bits do not depend on its neighbours.
// Libraries (oneDNN, OpenBLAS) choose blocking, and with it the order of sums, by the number of rows; that is why they are not
// used here. Nor are they faster: bf16, weights from memory, two busy Zen 4 cores, medians in GFLOP/s of tests/bench_kernels.c
// and of oneDNN 2.6.3 (weights packed beforehand) run one after the other:
//     N, K           T = 8: here, oneDNN     T = 64     T = 2048
//     1536, 576             140,   65       385, 233    459, 416
//     576, 1536             133,  133       410, 167    473, 432
// A weight is read from memory while the panel before it is multiplied (gemm_weight), so 64 rows run at the speed of 2048.
#include "cpu.h"

enum { MAX_ROWS = 6, WIDE = VL == 16 ? 4 : 2 };

INLINE uint32_t word_at(const char *p) {
  uint32_t w;
  memcpy(&w, p, 4);
  return w;
}
INLINE uint32_t half_at(const char *p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return h;
}

// acc (int32) += the 4 products of bytes: a unsigned, b signed
INLINE vf multiply_bytes(vf acc, uint32_t a, vf b) {
#if defined(__AVX512VNNI__)
  return (vf)_mm512_dpbusd_epi32((__m512i)acc, _mm512_set1_epi32((int)a), (__m512i)b);
#elif defined(__AVX512BW__)
  __m512i w = (__m512i)b, even = _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), odd = _mm512_srai_epi16(w, 8);
  __m512i sum = _mm512_add_epi32(_mm512_madd_epi16(even, _mm512_set1_epi32((int)(a & 0x00ff00ffu))),
                                 _mm512_madd_epi16(odd, _mm512_set1_epi32((int)(a >> 8 & 0x00ff00ffu))));
  return (vf)_mm512_add_epi32((__m512i)acc, sum);
#elif defined(__AVX2__)
  __m256i w = (__m256i)b, even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), odd = _mm256_srai_epi16(w, 8);
  __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(even, _mm256_set1_epi32((int)(a & 0x00ff00ffu))),
                                 _mm256_madd_epi16(odd, _mm256_set1_epi32((int)(a >> 8 & 0x00ff00ffu))));
  return (vf)_mm256_add_epi32((__m256i)acc, sum);
#else
  vi sum = (vi)acc;
  for (int i = 0; i < 4; i++) sum += ((vi)((vu)b << (24 - 8 * i)) >> 24) * (int32_t)(a >> 8 * i & 0xff);
  return (vf)sum;
#endif
}

INLINE vf multiply(int kind, vf acc, uint32_t a, vf b) {
  if (kind == KIND_I8) return multiply_bytes(acc, a, b);
  if (kind == KIND_F32) return v_fma((vf)v_setu(a), b, acc);
#ifdef __AVX512BF16__
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
#else
  acc = v_fma((vf)v_setu(a << 16), (vf)((vu)b << 16), acc);
  return v_fma((vf)v_setu(a & 0xffff0000u), (vf)((vu)b & 0xffff0000u), acc);
#endif
}

typedef struct {
  const char *a;
  ptrdiff_t row_stride, step_stride;
  const float *b;
  int steps, odd;  // whole steps; odd: one more with only the low half of A's word
  float *c;
  ptrdiff_t ldc;
  int add;
  const char *ahead;  // fetched into L2, `lines` lines a step; ahead_stride 0: nothing
  ptrdiff_t ahead_stride;
} job;

// Lines fetched a step: the fewer rows, the fewer tiles there are to fetch the next panel under.
static inline int lines(int rows) { return rows <= 3 ? 4 : rows == 4 ? 2 : 1; }

// rows x (nv registers) of C; rows, nv, bf16 and the step stride are constants in every instance
INLINE void tile(const job *q, const int rows, const int nv, const int kind, const ptrdiff_t step_stride) {
  vf acc[MAX_ROWS][4];
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) acc[i][j] = (vf){0};
  const char *a = q->a;
  const float *b = q->b;
  const char *ahead = q->ahead;
  const ptrdiff_t rs = q->row_stride, ahead_stride = q->ahead_stride;
  for (int s = 0; s < q->steps; s++) {
    vf bv[4];
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) bv[j] = v_load(b + j * VL);
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++) {
      uint32_t av = word_at(a + i * rs);
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++) acc[i][j] = multiply(kind, acc[i][j], av, bv[j]);
    }
#pragma GCC unroll 4
    for (int l = 0; l < lines(rows); l++) __builtin_prefetch(ahead + 64 * l, 0, 2);
    ahead += ahead_stride;
    a += step_stride;
    b += PANEL;
  }
  if (kind == KIND_BF16 && q->odd)
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++) acc[i][j] = multiply(kind, acc[i][j], half_at(a + i * rs), v_load(b + j * VL));
#pragma GCC unroll 6
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) {
      float *c = q->c + i * q->ldc + j * VL;
      v_store(c, q->add ? v_load(c) + acc[i][j] : acc[i][j]);
    }
}

#define ROWS_CASES(nv, kind, stride)                                                                                          \
  switch (rows) {                                                                                                             \
  case 1: tile(q, 1, nv, kind, stride); return;                                                                               \
  case 2: tile(q, 2, nv, kind, stride); return;                                                                               \
  case 3: tile(q, 3, nv, kind, stride); return;                                                                               \
  case 4: tile(q, 4, nv, kind, stride); return;                                                                               \
  case 5: tile(q, 5, nv, kind, stride); return;                                                                               \
  default: tile(q, 6, nv, kind, stride); return;                                                                              \
  }

#define TILE_FUNCTION(name, nv, kind, stride)                                                                                 \
  static __attribute__((noinline)) void name(const job *q, int rows) { ROWS_CASES(nv, kind, stride) }

typedef void tile_fn(const job *q, int rows);
TILE_FUNCTION(bf16_wide, WIDE, KIND_BF16, 4)
TILE_FUNCTION(f32_wide, WIDE, KIND_F32, 4)
TILE_FUNCTION(i8_wide, WIDE, KIND_I8, 4)
TILE_FUNCTION(bf16_wide_panel, WIDE, KIND_BF16, STEP_BYTES)
TILE_FUNCTION(f32_wide_panel, WIDE, KIND_F32, STEP_BYTES)
#if VL == 16
TILE_FUNCTION(i8_half, 2, KIND_I8, 4)
TILE_FUNCTION(bf16_half, 2, KIND_BF16, 4)
TILE_FUNCTION(f32_half, 2, KIND_F32, 4)
TILE_FUNCTION(bf16_half_panel, 2, KIND_BF16, STEP_BYTES)
TILE_FUNCTION(f32_half_panel, 2, KIND_F32, STEP_BYTES)
#else
#define i8_half i8_wide
#define bf16_half bf16_wide
#define f32_half f32_wide
#define bf16_half_panel bf16_wide_panel
#define f32_half_panel f32_wide_panel
#endif

// fetch: bytes behind the panel that the tiles together fetch into L2
INLINE void product(int kind, int rows, const void *a, ptrdiff_t row_stride, ptrdiff_t step_stride, const void *b, int k,
                    int cols, float *c, ptrdiff_t ldc, int add, ptrdiff_t fetch) {
  static tile_fn *const fns[3][2][2] = {{{f32_half, f32_wide}, {f32_half_panel, f32_wide_panel}},
                                        {{bf16_half, bf16_wide}, {bf16_half_panel, bf16_wide_panel}},
                                        {{i8_half, i8_wide}, {NULL, NULL}}};  // weights only: rows of bytes
  int wide = cols > PANEL / 2, panel = step_stride != 4;
  int strip = VL == 16 ? (wide ? 64 : 32) : WIDE * VL;
  tile_fn *fn = fns[kind][panel][wide];
  job q = {.row_stride = row_stride, .step_stride = step_stride, .ldc = ldc, .add = add};
  q.odd = kind == KIND_BF16 && !panel && (k & 1);
  q.steps = n_steps(k, kind) - q.odd;
  int n = div_up(rows, MAX_ROWS);
  const char *end = (const char *)b + (ptrdiff_t)n_steps(k, kind) * STEP_BYTES;
  ptrdiff_t fetched = 0;
  for (int i = 0; i < n; i++) {
    int r0, r1;
    share(rows, i, n, &r0, &r1);
    for (int j = 0; j < cols; j += strip) {
      q.a = (const char *)a + r0 * row_stride;
      q.b = (const float *)b + j;
      q.c = c + r0 * ldc + j;
      q.ahead_stride = fetched < fetch ? 64 * lines(r1 - r0) : 0;
      q.ahead = fetched < fetch ? end + fetched : (const char *)q.b;
      fetched += q.steps * q.ahead_stride;
      fn(&q, r1 - r0);
    }
  }
}

void OP(gemm)(int kind, int rows, const void *a, ptrdiff_t row_stride, ptrdiff_t step_stride, const void *b, int k, int cols,
              float *c, ptrdiff_t ldc, int add) {
  product(kind, rows, a, row_stride, step_stride, b, k, cols, c, ldc, add, 0);
}

void OP(gemm_weight)(int kind, int rows, const void *a, ptrdiff_t row_stride, const void *b, int k, int cols, float *c,
                     ptrdiff_t ldc, int add) {
  product(kind, rows, a, row_stride, 4, b, k, cols, c, ldc, add, (ptrdiff_t)n_steps(k, kind) * STEP_BYTES);
}

void OP(gemm_out)(int kind, int rows, const void *a, ptrdiff_t row_stride, ptrdiff_t step_stride, const void *b, int k,
                  int cols, float *c, ptrdiff_t ldc, int add) {
  if (cols == PANEL) {
    OP(gemm)(kind, rows, a, row_stride, step_stride, b, k, cols, c, ldc, add);
    return;
  }
  float edge[MAX_ROWS * PANEL];
  for (int r = 0; r < rows; r += MAX_ROWS) {
    int n = min_int(MAX_ROWS, rows - r);
    OP(gemm)(kind, n, (const char *)a + r * row_stride, row_stride, step_stride, b, k, cols, edge, PANEL, 0);
    for (int i = 0; i < n; i++)
      for (int j = 0; j < cols; j++) {
        float *out = c + (r + i) * ldc + j;
        *out = add ? *out + edge[i * PANEL + j] : edge[i * PANEL + j];
      }
  }
}
