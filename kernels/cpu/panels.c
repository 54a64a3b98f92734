// panels.c: filling panels (cpu.h): transposition of 32-bit words, pairing of bf16 rows, conversion.
#include "cpu.h"

// One of the log2(n) stages of a transposition of n x n elements in x, registers of `type`: blocks of d lanes are exchanged between
// rows d apart.
#define STAGE(type, n, d)                                                                                                     \
  _Pragma("GCC unroll 16") for (int i = 0; i < n; i++) if (!(i & (d))) {                                                      \
    type a = x[i], b = x[i + (d)], low, high;                                                                                 \
    _Pragma("GCC unroll 16") for (int l = 0; l < n; l++) {                                                                    \
      low[l] = l & (d) ? n + l - (d) : l;                                                                                     \
      high[l] = l & (d) ? n + l : l + (d);                                                                                    \
    }                                                                                                                         \
    x[i] = __builtin_shuffle(a, b, low);                                                                                      \
    x[i + (d)] = __builtin_shuffle(a, b, high);                                                                               \
  }

// Transposes the VL x VL words in x.
INLINE void transpose(vu x[VL]) {
#if VL == 16  // with unpacking and exchanges of 128-bit lanes, which are cheaper here than the shuffles of any two registers
  __m512i *r = (__m512i *)x, t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
      r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
#pragma GCC unroll 2
    for (int j = 0; j < 16; j += 8) {
      t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
      t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
    }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
#else
  STAGE(vu, VL, 1)
  STAGE(vu, VL, 2)
#if VL >= 8
  STAGE(vu, VL, 4)
#endif
#endif
}

INLINE vu load_words(const void *p, int n) {
  if (n >= VL) return *(const vu_mem *)p;
  uint32_t w[VL] = {0};
  if (n > 0) memcpy(w, p, (size_t)n * 4);
  return *(const vu_mem *)w;
}

// words w .. w + VL of at most VL rows
static void strip_edge(uint32_t *dst, const void *const *rows, int n_rows, int n_words, int w) {
  vu x[VL];
  for (int i = 0; i < VL; i++) x[i] = i < n_rows ? load_words((const char *)rows[i] + (size_t)w * 4, n_words - w) : (vu){0};
  transpose(x);
  for (int i = 0; i < min_int(VL, n_words - w); i++) *(vu_mem *)(dst + (size_t)(w + i) * PANEL) = x[i];
}

void OP(panel_strip)(uint32_t *dst, const void *const *rows, int n_rows, int n_words) {
  int w = 0;
  vi lane;
  for (int l = 0; l < VL; l++) lane[l] = l;
  for (; n_rows > 0 && w + VL <= n_words; w += VL) {
    vu x[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) x[i] = *(const vu_mem *)((const char *)rows[i < n_rows ? i : 0] + (size_t)w * 4);
    transpose(x);
    vu in = (vu)(lane < n_rows);
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) *(vu_mem *)(dst + (size_t)(w + i) * PANEL) = x[i] & in;
  }
  for (; w < n_words; w += VL) strip_edge(dst, rows, n_rows, n_words, w);
}

void OP(panel_of_rows)(uint32_t *dst, const void *const *rows, int n_rows, int n_words) {
  for (int r = 0; r < PANEL; r += VL) OP(panel_strip)(dst + r, rows + r, max_int(0, min_int(VL, n_rows - r)), n_words);
}

// one step of bf16 pairs: low halves from a, high halves from b
INLINE void pair_rows(uint32_t *dst, const uint16_t *a, const uint16_t *b, int n) {
  for (int j = 0; j < PANEL; j += VL)
    v_store((float *)dst + j, v_pair(v_loadh(a + j, max_int(n - j, 0)), b ? v_loadh(b + j, max_int(n - j, 0)) : (vh){0}));
}

void OP(panel_of_columns)(void *dst, int bf16, tlk_mat m, int t0, int t1, int c0, int n_cols) {
  size_t at = (size_t)c0 * tlk_dtype_size(m.dtype);
  if (bf16)
    for (int t = t0; t < t1; t += 2, dst = (char *)dst + STEP_BYTES)
      pair_rows(dst, (const void *)((const char *)mat_row(m, t) + at),
                t + 1 < t1 ? (const void *)((const char *)mat_row(m, t + 1) + at) : NULL, n_cols);
  else
    for (int t = t0; t < t1; t++, dst = (char *)dst + STEP_BYTES)
      for (int j = 0; j < PANEL; j += VL)
        v_store((float *)dst + j, v_load_as((const char *)mat_row(m, t) + at, m.dtype, j, max_int(n_cols - j, 0)));
}

typedef uint64_t vd __attribute__((vector_size(VL * 4)));
typedef uint16_t vhh __attribute__((vector_size(VL * 4)));

enum { UNITS = VL / 2 };  // of 64 bits in a register

// 64 columns n of pairs along k, n_words <= 32 of them (the rest zero) -> pairs along n of 64 columns k. Two neighbouring columns
// of one word, (k n, k+1 n, k n+1, k+1 n+1), are a unit of 64 bits: with its middle halves exchanged it is what the result has.
static void turn_pairs(uint32_t *dst, const uint32_t *src, int n_words) {
  vhh swap;
  for (int l = 0; l < 2 * VL; l++) swap[l] = (uint16_t)((l & ~3) | ((l & 1) << 1) | ((l & 2) >> 1));
  for (int s = 0; s < PANEL / 2; s += UNITS)
    for (int n = 0; n < PANEL; n += VL) {
      vd x[UNITS];
#pragma GCC unroll 8
      for (int i = 0; i < UNITS; i++)
        x[i] = s + i < n_words ? (vd)__builtin_shuffle((vhh) * (const vu_mem *)(src + (size_t)(s + i) * PANEL + n), swap) : (vd){0};
      STAGE(vd, UNITS, 1)
#if VL >= 8
      STAGE(vd, UNITS, 2)
#endif
#if VL >= 16
      STAGE(vd, UNITS, 4)
#endif
#pragma GCC unroll 8
      for (int i = 0; i < UNITS; i++) *(vu_mem *)(dst + (size_t)(n / 2 + i) * PANEL + 2 * s) = (vu)x[i];
    }
}

// fp32: words (k, n) -> (n, k). bf16: words are pairs along k, the result's pairs along n.
void OP(panel_transposed)(uint32_t *dst, const tlk_packed *w, int k0, int n0, int n1) {
  int bf16 = w->compute == TLK_BF16, s0 = bf16 ? k0 / 2 : k0;
  int n_words = min_int(bf16 ? PANEL / 2 : PANEL, w->steps - s0);
  const void *rows[PANEL];
  for (int n = n0; n < n1; n += PANEL) {
    const uint32_t *panel = w->data + (size_t)(n / PANEL) * w->panel_words + (size_t)s0 * PANEL;
    if (bf16) {
      turn_pairs(dst, panel, n_words);
      dst += PANEL / 2 * PANEL;
      continue;
    }
    for (int i = 0; i < n_words; i++) rows[i] = panel + (size_t)i * PANEL;
    OP(panel_of_rows)(dst, rows, n_words, PANEL);
    dst += PANEL * PANEL;
  }
}

void OP(convert)(void *y, int y_dtype, const void *x, int x_dtype, int n) {
  for (int i = 0; i < n; i += VL) v_store_as(y, y_dtype, i, v_load_as(x, x_dtype, i, n - i), n - i);
}

tlk_mat OP(as_act)(tlk_mat x, int T, int C, int compute) {
  int dtype = compute == TLK_F16 ? TLK_F32 : compute;
  if (x.dtype == compute && compute == dtype) return x;
  tlk_mat y = {tlk_cpu_scratch(SCRATCH_ACT, (size_t)T * C * tlk_dtype_size(dtype)), dtype, C};
  OP(cast)(y, NULL, x, T, C);
  if (compute == TLK_F16 && x.dtype != TLK_F16) OP(round_to)(y.p, y.p, (size_t)T * C, TLK_F16);
  return y;
}
