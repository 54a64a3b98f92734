// linear_bwd.c: gradients of a linear: dx = dy W + ((dy B) R) A, dw += a^T b, and column sums.
//
// dx. The packed weight is laid out for sums over k; dx sums over n. So each panel of 64 columns of dx builds the transposed piece
// of W in scratch (64 x up to 1024 n, in L2) and runs the same product. Pieces of n are added in order, whatever T, so the bits of
// a row do not depend on the batch. With several threads each panel's rows are shared: items are (panel, part of the rows).
//
// dw. Reduction over T, in pieces of 512 rows that are added in order: both operands are packed into panels, and every tile of 64 x
// 64 of dw is one product with a panel as its left operand.
#include "cpu.h"

enum { N_BLOCK = 1024, T_BLOCK = 512 };

static float *transpose_b(const float *B, int N, int r) {
  float *bt = tlk_cpu_scratch(SCRATCH_B, (size_t)r * N * sizeof *bt);
  for (int n = 0; n < N; n++)
    for (int a = 0; a < r; a++) bt[(size_t)a * N + n] = B[(size_t)n * r + a];
  return bt;
}

// rows t0..t1, columns k0..k0+cols of dx
static void panel_dx(tlk_mat dx, tlk_mat dy, const tlk_packed *w, uint32_t *piece, int k0, int cols, int t0, int t1,
                     int accumulate) {
  int bf16 = w->compute == TLK_BF16;
  ptrdiff_t stride = (ptrdiff_t)dy.ld * (bf16 ? 2 : 4);
  for (int n0 = 0; n0 < w->N; n0 += N_BLOCK) {
    int n1 = min_int(n0 + N_BLOCK, w->N);
    OP(panel_transposed)(piece, w, k0, n0, n1);
    OP(gemm_out)(bf16, t1 - t0, (const char *)mat_row(dy, t0) + (size_t)n0 * (bf16 ? 2 : 4), stride, 4, piece, n1 - n0, cols,
                 (float *)mat_row_out(dx, t0) + k0, dx.ld, accumulate || n0 > 0);
  }
}

static void add_lowrank(tlk_mat dx, const float *s, const uint8_t *active, const tlk_lowrank *lr, int t0, int t1, int k0, int cols,
                        int K) {
  for (int t = t0; t < t1; t++) {
    if (!active[t]) continue;
    float *row = (float *)mat_row_out(dx, t) + k0;
    for (int j = 0; j < cols; j += VL) {
      vf v = v_loadn(row + j, cols - j, 0);
      for (int a = 0; a < lr->r; a++)
        v = v_fma(v_set(s[(size_t)t * lr->r + a]), v_loadn(lr->A + (size_t)a * K + k0 + j, cols - j, 0), v);
      v_storen(row + j, v, cols - j);
    }
  }
}

void OP(linear_bwd_x)(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate) {
  if (T <= 0) return;
  int N = w->N, K = w->K;
  dy = OP(as_act)(dy, T, N, w->compute);
  float *s = NULL;
  uint8_t *active = NULL;
  if (lr) {
    OP(rows_dot)(g, dy, transpose_b(lr->B, N, lr->r), lr->r, T, N);
    s = tlk_cpu_scratch(SCRATCH_C, (size_t)T * (size_t)lr->r * sizeof *s + (size_t)T);
    active = (uint8_t *)(s + (size_t)T * lr->r);
    OP(lowrank_s)(s, active, g, lr, 0, T, 1);
  }
  if (!dx.p) return;
  int threads = threads_for((double)T * N * K), panels = n_panels(K);
  size_t words = (size_t)PANEL * N_BLOCK;
  uint32_t *pieces = tlk_cpu_scratch(SCRATCH_A, words * 4 * (size_t)threads);
#pragma omp parallel num_threads(threads)
  {
    int me = omp_get_thread_num(), a, b;
    share(panels * threads, me, threads, &a, &b);
    for (int i = a; i < b;) {  // an item is one of `threads` parts of a panel's rows; parts of one panel are taken together
      int panel = i / threads, first = i % threads, last = min_int(threads, first + b - i), t0, t1, unused;
      share(T, first, threads, &t0, &unused);
      share(T, last - 1, threads, &unused, &t1);
      int k0 = panel * PANEL, cols = min_int(PANEL, K - k0);
      i += last - first;
      if (t1 <= t0) continue;
      panel_dx(dx, dy, w, pieces + words * (size_t)me, k0, cols, t0, t1, accumulate);
      if (lr) add_lowrank(dx, s, active, lr, t0, t1, k0, cols, K);
    }
  }
}

void OP(linear_bwd_w)(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K) {
  int bf16 = a.dtype == TLK_BF16 && b.dtype == TLK_BF16, an = n_panels(N), bn = n_panels(K);
  int threads = threads_for((double)T * N * K);
  size_t words = (size_t)PANEL * T_BLOCK / (bf16 ? 2 : 1);
  uint32_t *ap = tlk_cpu_scratch(SCRATCH_A, words * 4 * (size_t)an), *bp = tlk_cpu_scratch(SCRATCH_B, words * 4 * (size_t)bn);
#pragma omp parallel num_threads(threads)
  for (int t0 = 0; t0 < T; t0 += T_BLOCK) {
    int t1 = min_int(t0 + T_BLOCK, T);
#pragma omp for schedule(static)
    for (int i = 0; i < an + bn; i++) {
      if (i < an) OP(panel_of_columns)(ap + words * (size_t)i, bf16, a, t0, t1, i * PANEL, min_int(PANEL, N - i * PANEL));
      else OP(panel_of_columns)(bp + words * (size_t)(i - an), bf16, b, t0, t1, (i - an) * PANEL, min_int(PANEL, K - (i - an) * PANEL));
    }
#pragma omp for schedule(static)
    for (int i = 0; i < an * bn; i++) {
      int n0 = i / bn * PANEL, k0 = i % bn * PANEL;
      OP(gemm_out)(bf16, min_int(PANEL, N - n0), ap + words * (size_t)(i / bn), 4, STEP_BYTES, bp + words * (size_t)(i % bn),
                   t1 - t0, min_int(PANEL, K - k0), dw + (size_t)n0 * K + k0, K, 1);
    }
  }
}

void OP(colsum)(float *db, tlk_mat dy, int T, int N) {
#pragma omp parallel for num_threads(threads_for((double)T * N)) schedule(static)
  for (int n = 0; n < N; n += VL) {
    vf sum = v_loadn(db + n, N - n, 0);
    for (int t = 0; t < T; t++) sum += v_load_as(mat_row(dy, t), dy.dtype == TLK_BF16, n, N - n);
    v_storen(db + n, sum, N - n);
  }
}
