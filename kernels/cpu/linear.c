// linear.c: y = x W^T + bias + B (R (A x)).
//
// Work is cut into items of (panel of 64 outputs, block of rows); a thread's items follow each other along the rows of a panel, so
// that the panel stays in its L2. A block's products land in a small tile in L1/L2, and the epilogue (bias, low-rank term,
// accumulation, rounding to the output's dtype) reads them from there. Few rows: items are half panels, for balance.
#include "cpu.h"

enum { ROW_BLOCK = 96 };

typedef struct {
  tlk_mat y;
  const float *bias, *s, *Bt;  // s (T, r), Bt (r, N padded)
  const uint8_t *active;
  int r, bt_stride, accumulate;
} epilogue;

// row t, columns n0.. of y from the tile's row
INLINE void finish_row(const epilogue *e, const float *c, int t, int n0, int cols) {
  void *row = mat_row_out(e->y, t);
  int bf16 = e->y.dtype == TLK_BF16;
  for (int j = 0; j < cols; j += VL) {
    int left = cols - j;
    vf v = v_load(c + j);
    if (e->bias) v += v_loadn(e->bias + n0 + j, left, 0);
    if (e->s && e->active[t])
      for (int a = 0; a < e->r; a++)
        v = v_fma(v_set(e->s[(size_t)t * e->r + a]), v_load(e->Bt + (size_t)a * e->bt_stride + n0 + j), v);
    if (e->accumulate) v = v_loadn((const float *)row + n0 + j, left, 0) + v;
    v_store_as(row, bf16, n0 + j, v, left);
  }
}

// B (N, r) -> Bt (r, stride), zeros beyond N
static float *transpose_b(const float *B, int N, int r, int stride) {
  float *bt = tlk_cpu_scratch(SCRATCH_B, (size_t)r * stride * sizeof *bt);
  for (int a = 0; a < r; a++) {
    for (int n = 0; n < N; n++) bt[(size_t)a * stride + n] = B[(size_t)n * r + a];
    memset(bt + (size_t)a * stride + N, 0, sizeof(float) * (size_t)(stride - N));
  }
  return bt;
}

void OP(linear_fwd)(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T,
                    int accumulate) {
  if (T <= 0) return;
  int N = w->N, K = w->K, bf16 = w->compute == TLK_BF16;
  epilogue e = {.y = y, .bias = bias, .accumulate = accumulate};
  x = OP(as_act)(x, T, K, w->compute);
  if (lr) {
    OP(rows_dot)(z, x, lr->A, lr->r, T, K);
    e.r = lr->r;
    e.bt_stride = n_panels(N) * PANEL;
    float *s = tlk_cpu_scratch(SCRATCH_C, (size_t)T * (size_t)lr->r * sizeof *s + (size_t)T);
    uint8_t *active = (uint8_t *)(s + (size_t)T * lr->r);
    OP(lowrank_s)(s, active, z, lr, 0, T, 0);
    int any = 0;
    for (int t = 0; t < T; t++) any |= active[t];
    if (any) e.s = s, e.active = active, e.Bt = transpose_b(lr->B, N, lr->r, e.bt_stride);
  }
  ptrdiff_t stride = (ptrdiff_t)x.ld * (bf16 ? 2 : 4);
  int blocks = div_up(T, ROW_BLOCK), threads = threads_for((double)T * N * K), step = blocks == 1 && threads > 1 ? PANEL / 2 : PANEL;
  int strips = div_up(N, step);
#pragma omp parallel num_threads(threads)
  {
    float tile[ROW_BLOCK * PANEL] __attribute__((aligned(64)));
    int a, b;
    share(strips * blocks, omp_get_thread_num(), threads, &a, &b);
    for (int i = a; i < b; i++) {
      int n0 = i / blocks * step, t0 = i % blocks * ROW_BLOCK, rows = min_int(ROW_BLOCK, T - t0), cols = min_int(step, N - n0);
      const uint32_t *panel = w->data + (size_t)(n0 / PANEL) * w->panel_words + n0 % PANEL;
      OP(gemm)(bf16, rows, mat_row(x, t0), stride, 4, panel, K, cols, tile, PANEL, 0);
      for (int r = 0; r < rows; r++) finish_row(&e, tile + r * PANEL, t0 + r, n0, cols);
    }
  }
}
