// cpu.h: what the files of the fast CPU backend share: packed weights, products, scratch, the division of work.
//
// Names. Every source is compiled once per instruction set with TLK_ISA set to its name; OP(linear_fwd) is then
// tlk_linear_fwd_avx2 and so on. table.c gathers an instruction set's functions, dispatch.c chooses among the tables.
//
// Memory. Packed weights live as long as their handle. Scratch (scratch.c) is a few buffers that belong to the process, grow
// on demand and are kept. Ops are called from one thread at a time; inside, the threads of pool.c share the work.
//
// Panels. The one layout of every right-hand operand B (reduction k, columns j) is the panel of 64 columns:
//     fp32   panel[k][64]
//     bf16   panel[k / 2][64][2]     pairs along k, as vdpbf16ps takes them; an odd last k is paired with zero
//     int8   panel[k / 4][64][4]     fours along k, as vpdpbusd takes them; filled up with zeros
// In all a step is 64 words of 32 bits, which is why packing is a transposition of 32-bit words.
//
// fp16. No processor that this is written for multiplies fp16 with fp32 sums, so weights of compute dtype F16 are panels of fp32 that hold
// fp16's values, rows are widened before a product (as_act), and only what lies in memory between ops (activations, the cache) is fp16.
#ifndef TL_CPU_H
#define TL_CPU_H
#include "../ops.h"
#include "vec.h"
#include <math.h>
#include <stdlib.h>

#define TLK_PASTE2(name, isa) tlk_##name##_##isa
#define TLK_PASTE(name, isa) TLK_PASTE2(name, isa)
#define OP(name) TLK_PASTE(name, TLK_ISA)

enum { PANEL = 64, STEP_BYTES = PANEL * 4 };
enum { KIND_F32, KIND_BF16, KIND_I8 };  // of a product's operands; where only the first two can be, the parameter is `bf16`

// W (N, K) as ceil(N / 64) panels over n with the reduction over k; columns beyond N are zero.
struct tlk_packed {
  int N, K, compute;
  int steps;           // 32-bit words along k: K, ceil(K / 2) pairs or ceil(K / 4) fours
  size_t panel_words;  // 64 * steps
  size_t bytes;        // of data
  uint32_t *data;
  struct tlk_block *block;  // that the data is in
  float *scale;        // int8: (N up to whole panels) of each row; else NULL
  int32_t *sum;        // int8: 128 times the sum of each row's integers
};

static inline int min_int(int a, int b) { return a < b ? a : b; }
static inline int max_int(int a, int b) { return a > b ? a : b; }
static inline int div_up(int a, int b) { return (a + b - 1) / b; }
static inline int n_panels(int n) { return div_up(n, PANEL); }
static inline int n_steps(int k, int kind) { return div_up(k, 1 << kind); }
static inline int kind_of(int compute) { return compute == TLK_I8 ? KIND_I8 : compute == TLK_BF16 ? KIND_BF16 : KIND_F32; }
static inline const void *mat_row(tlk_mat m, int t) { return (const char *)m.p + (size_t)t * m.ld * tlk_dtype_size(m.dtype); }
static inline void *mat_row_out(tlk_mat m, int t) { return (char *)m.p + (size_t)t * m.ld * tlk_dtype_size(m.dtype); }

// ---- blocks.c: memory of weights, 64-byte aligned; NULL when there is none. Each allocation of a block is released by itself.
typedef struct tlk_block tlk_block;
void *tlk_cpu_block_alloc(size_t bytes, tlk_block **block);
void tlk_cpu_block_release(tlk_block *block);

// ---- scratch.c
enum { SCRATCH_A, SCRATCH_B, SCRATCH_C, SCRATCH_D, SCRATCH_ACT, N_SCRATCH };
void *tlk_cpu_scratch(int slot, size_t bytes);  // 64-byte aligned; content undefined; valid until the slot's next call

// ---- pool.c
typedef void tlk_task(const void *ctx, int item, int thread);
// fn(ctx, i, thread) for every item i, shared among threads 0 .. tlk_cpu_threads() - 1; returns when all are done. Items run in
// any order and must write disjoint memory. cost: about how many vectorised operations
// on one number in all (a product's multiply-adds count 1/16); small jobs stay on the caller's thread.
void tlk_run(int items, double cost, tlk_task *fn, const void *ctx);
int tlk_cpu_threads(void);
void tlk_cpu_set_threads(int n);
// part i of n_parts of n things: [*a, *b)
static inline void share(int n, int i, int n_parts, int *a, int *b) {
  *a = (int)((int64_t)n * i / n_parts);
  *b = (int)((int64_t)n * (i + 1) / n_parts);
}

// ---- gemm.c
// C (rows, cols) = A B, or += when add (the sum over k is made first, then added). cols <= 64; C's rows are `ldc` floats
// apart. Row i, step s of A is the 32-bit word at a + i * row_stride + s * step_stride (bytes; step_stride 4 for row-major
// operands, STEP_BYTES for a panel used as the left operand). b is a panel, k the reduction in elements. Each element sums
// over k in rising order, whatever the number of rows: that is what makes every product here batch-invariant. Whole strips of
// up to 64 columns are written even when cols is less: C's rows have room for 64, or use gemm_out.
void OP(gemm)(int kind, int rows, const void *a, ptrdiff_t row_stride, ptrdiff_t step_stride, const void *b, int k, int cols,
              float *c, ptrdiff_t ldc, int add);
// the same for a row-major A and a packed weight: meanwhile what follows the panel in memory, which is the next
// one, is fetched into L2, so that a weight coming from memory is read under the arithmetic of the panel before
void OP(gemm_weight)(int kind, int rows, const void *a, ptrdiff_t row_stride, const void *b, int k, int cols, float *c,
                     ptrdiff_t ldc, int add);
// the same as gemm, writing exactly cols columns
void OP(gemm_out)(int kind, int rows, const void *a, ptrdiff_t row_stride, ptrdiff_t step_stride, const void *b, int k,
                  int cols, float *c, ptrdiff_t ldc, int add);

// ---- panels.c
// dst[word][0..64) = word `word` of each of the 64 rows: n_rows <= 64 row pointers, the rest zero
void OP(panel_of_rows)(uint32_t *dst, const void *const *rows, int n_rows, int n_words);
// the same for VL of the columns, from dst's: n_rows <= VL
void OP(panel_strip)(uint32_t *dst, const void *const *rows, int n_rows, int n_words);
// dst = a panel (bf16 pairs or fp32) over columns c0.. of m with the reduction along rows t0..t1
void OP(panel_of_columns)(void *dst, int bf16, tlk_mat m, int t0, int t1, int c0, int n_cols);
// dst = a panel over k0..k0+64 with the reduction along n0..n1 (n0 a multiple of 64) of w: the transposed weight
void OP(panel_transposed)(uint32_t *dst, const tlk_packed *w, int k0, int n0, int n1);
// y (n) = x (n), of any of fp32, bf16, fp16
void OP(convert)(void *y, int y_dtype, const void *x, int x_dtype, int n);
// x as products with a weight of that compute dtype take it: x itself, or a converted copy in SCRATCH_ACT (fp16: its values in fp32)
tlk_mat OP(as_act)(tlk_mat x, int T, int C, int compute);

// ---- packed.c
void OP(packed_row)(float *row, const tlk_packed *p, int n);  // row (K) = row n in fp32

// ---- int8.c
// x (T, C) as unsigned bytes q + 128 with x about scale q, in SCRATCH_ACT; row stride `ld` bytes, a multiple of 4
typedef struct {
  uint8_t *q;
  float *scale;  // (T)
  ptrdiff_t ld;
} bytes_mat;
bytes_mat OP(as_bytes)(tlk_mat x, int T, int C);
float OP(quantize_row)(uint8_t *q, uint32_t flip, const void *x, int x_dtype, int n);  // q XOR flip; returns the row's scale
// columns j0 .. j0 + width, 32 or 64 of them, of c (rows t0..t1, ldc apart) = the product with panel `panel` of an int8 weight
void OP(gemm_bytes)(float *c, ptrdiff_t ldc, const bytes_mat *x, const tlk_packed *w, int t0, int t1, int panel, int j0,
                    int width);

// ---- lowrank.c
// s (T, r) = R z of the row's variant, or z R when transposed; active[t]: the row has a term at all
void OP(lowrank_s)(float *s, uint8_t *active, const float *z, const tlk_lowrank *lr, int T, int transposed);
// z (T, r) = A (r, K) x, each number in an order fixed by K
void OP(rows_dot)(float *z, tlk_mat x, const float *A, int r, int T, int K);

// ---- linear_bwd.c
void OP(sum_parts)(float *out, const float *part, int n_parts, int n);  // out (n) += the rows of part (n_parts, n), in order

// ---- head.c
enum { HEAD_BLOCK = 512 };
typedef struct {
  float max, sum, weighted;  // of a block: max l, sum e^(l - max), sum e^(l - max) (l - max)
} head_stats;
head_stats OP(head_block_stats)(float *l, int n, float inv_temp);  // l *= inv_temp first
typedef struct {  // the hidden rows as the head's weight takes them
  tlk_mat act;
  bytes_mat bytes;
} head_rows;
head_rows OP(head_rows_of)(tlk_mat h, int T, const tlk_packed *w);
// logits of rows t0..t1 by one block into c (t1 - t0, ld); returns the block's number of tokens
int OP(head_logits)(float *c, ptrdiff_t ld, const head_rows *h, const tlk_packed *w, int t0, int t1, int block);
// Folds n blocks, stride apart, in order.
void OP(head_finish)(const head_stats *s, int n, size_t stride, float *lse, float *entropy);

#define TLK_CPU_OPS(X)                                                                                                        \
  X(pack) X(repack) X(unpack) X(packed_free) X(packed_bytes) X(packed_dims) X(linear_fwd) X(linear_fwd_group) X(linear_swiglu_fwd) X(linear_rope_fwd) \
  X(linear_bwd_x) X(linear_bwd_swiglu) X(linear_bwd_w)                                                                                             \
  X(colsum) X(lowrank_bwd) X(rmsnorm_fwd) X(rmsnorm_bwd) X(rope_fwd) X(rope_bwd) X(cast) X(gather) X(attn_fwd) X(attn_bwd)    \
  X(swiglu_fwd) X(swiglu_bwd) X(embed_fwd) X(embed_bwd) X(head_fwd) X(head_bwd) X(head_sample) X(adamw) X(sumsq) X(scale)     \
  X(round_to)
#ifdef TLK_ISA
#define TLK_DECLARE(name) extern __typeof__(*((tlk_ops *)0)->name) OP(name);
TLK_CPU_OPS(TLK_DECLARE)
#endif
#endif
