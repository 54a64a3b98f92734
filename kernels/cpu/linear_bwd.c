// linear_bwd.c: the gradients of a linear: dx = dy W + ((dy B) R) A, dW += a^T b, db += sum of dy.
//
// dx. The weight exists once, packed for the forward pass. For 64 inputs (columns of dx) a thread transposes N_BLOCK outputs of
// it at a time into its scratch (128 kB in bf16: L2) and multiplies all rows by that piece; pieces are added in order. The
// transposition costs about 0.3 ns per weight and is repaid from a few dozen rows on.
//
// dW. Both operands are packed as panels with the reduction along t, T_BLOCK rows at a time; the panel of a serves as the left
// operand. A 64 x 64 block of dW belongs to one thread, and blocks of T are added in order: the number of threads changes
// nothing. When K < 64 <= N the roles are exchanged, so that a narrow factor (LoRA's dB) does not waste most of a panel. Products
// are of bf16 pairs when both operands are bf16, otherwise of fp32.
#include "cpu.h"

enum { N_BLOCK = 1024, T_BLOCK = 512, COLUMNS_BLOCK = 4096, SUM_ROWS = 64 };

typedef struct {
  tlk_mat dx, dy;
  const tlk_packed *w;
  const float *s, *A;  // s (T, r) = g R
  const uint8_t *active;
  int r, T, accumulate;
} dx_job;

static void dx_item(const dx_job *q, int panel, int t0, int t1, uint32_t *turned) {
  const tlk_packed *w = q->w;
  int bf16 = w->compute == TLK_BF16, k0 = panel * PANEL, cols = min_int(PANEL, w->K - k0), size = bf16 ? 2 : 4;
  float *out = (float *)mat_row_out(q->dx, t0) + k0;
  const char *dy = mat_row(q->dy, t0);
  for (int n = 0; n < w->N; n += N_BLOCK) {
    int n1 = min_int(n + N_BLOCK, w->N);
    OP(panel_transposed)(turned, w, k0, n, n1);
    OP(gemm_out)(bf16, t1 - t0, dy + (size_t)n * size, (ptrdiff_t)q->dy.ld * size, 4, turned, n1 - n, cols, out, q->dx.ld,
                 q->accumulate || n > 0);
  }
  if (!q->r) return;
  float *a = (float *)turned;
  tlk_mat A = {(void *)(uintptr_t)q->A, TLK_F32, w->K};
  OP(panel_of_columns)(a, 0, A, 0, q->r, k0, cols);
  for (int i = t0; i < t1;) {
    int j = i;
    while (j < t1 && q->active[j] == q->active[i]) j++;
    if (q->active[i])
      OP(gemm_out)(0, j - i, q->s + (size_t)i * q->r, (ptrdiff_t)q->r * 4, 4, a, q->r, cols,
                   (float *)mat_row_out(q->dx, i) + k0, q->dx.ld, 1);
    i = j;
  }
}

// g (T, r) = dy B: B (N, r) is turned once so that its columns are rows
static void low_g(float *g, tlk_mat dy, const tlk_lowrank *lr, int T, int N) {
  float *bt = tlk_cpu_scratch(SCRATCH_B, sizeof(float) * (size_t)N * lr->r);
  for (int n = 0; n < N; n++)
    for (int i = 0; i < lr->r; i++) bt[(size_t)i * N + n] = lr->B[(size_t)n * lr->r + i];
  OP(rows_dot)(g, dy, bt, lr->r, T, N);
}

void OP(linear_bwd_x)(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate) {
  if (T <= 0) return;
  int r = lr ? lr->r : 0, panels = n_panels(w->K), threads = threads_for((double)T * w->N * w->K);
  dx_job q = {dx, OP(as_act)(dy, T, w->N, w->compute), w, NULL, NULL, NULL, r, T, accumulate};
  if (r) low_g(g, q.dy, lr, T, w->N);
  if (!dx.p) return;
  if (r) {
    float *s = tlk_cpu_scratch(SCRATCH_A, (size_t)T * r * 4 + (size_t)T);
    uint8_t *active = (uint8_t *)(s + (size_t)T * r);
    OP(lowrank_s)(s, active, g, lr, 0, T, 1);
    q.s = s, q.active = active, q.A = lr->A;
  }
  size_t words = (size_t)max_int(n_steps(min_int(div_up(w->N, PANEL) * PANEL, N_BLOCK), w->compute == TLK_BF16), r) * PANEL;
  uint32_t *turned = tlk_cpu_scratch(SCRATCH_B, words * 4 * threads);
  int parts = panels % threads == 0 || panels >= 8 * threads ? 1 : min_int(threads, T);
#pragma omp parallel num_threads(threads)
  {
    int thread = omp_get_thread_num(), i0, i1, t0, t1;
    share(panels * parts, thread, omp_get_num_threads(), &i0, &i1);
    for (int i = i0; i < i1; i++) {
      share(T, i % parts, parts, &t0, &t1);
      dx_item(&q, i / parts, t0, t1, turned + words * thread);
    }
  }
}

// the 64 x 64 block (i, j) of dw += a^T b, or with `swap` of its transposition, from panels over n steps of t
static void dw_block(float *dw, int N, int K, const void *pa, const void *pb, int bf16, int n_t, int n0, int k0, int swap) {
  int rows = min_int(PANEL, N - n0), cols = min_int(PANEL, K - k0);
  if (!swap) {
    OP(gemm_out)(bf16, rows, pa, 4, STEP_BYTES, pb, n_t, cols, dw + (size_t)n0 * K + k0, K, 1);
    return;
  }
  float c[PANEL * PANEL] __attribute__((aligned(64)));
  OP(gemm)(bf16, cols, pb, 4, STEP_BYTES, pa, n_t, rows, c, PANEL, 0);
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < cols; j++) dw[(size_t)(n0 + i) * K + k0 + j] += c[j * PANEL + i];
}

void OP(linear_bwd_w)(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K) {
  int bf16 = a.dtype == TLK_BF16 && b.dtype == TLK_BF16, swap = K < PANEL && N > K;
  int pk = n_panels(K), threads = threads_for((double)T * N * K);
  size_t panel_bytes = (size_t)n_steps(min_int(T_BLOCK, T), bf16) * STEP_BYTES;
  char *pb = tlk_cpu_scratch(SCRATCH_B, panel_bytes * pk);
  char *pa = tlk_cpu_scratch(SCRATCH_A, panel_bytes * n_panels(min_int(N, COLUMNS_BLOCK)));
#pragma omp parallel num_threads(threads)
  for (int t = 0; t < T; t += T_BLOCK) {
    int t1 = min_int(T, t + T_BLOCK);
#pragma omp for schedule(static)
    for (int j = 0; j < pk; j++)
      OP(panel_of_columns)(pb + panel_bytes * j, bf16, b, t, t1, j * PANEL, min_int(PANEL, K - j * PANEL));
    for (int n = 0; n < N; n += COLUMNS_BLOCK) {
      int pn = n_panels(min_int(COLUMNS_BLOCK, N - n));
#pragma omp for schedule(static)
      for (int i = 0; i < pn; i++)
        OP(panel_of_columns)(pa + panel_bytes * i, bf16, a, t, t1, n + i * PANEL, min_int(PANEL, N - n - i * PANEL));
#pragma omp for schedule(static)
      for (int i = 0; i < pn * pk; i++)
        dw_block(dw, N, K, pa + panel_bytes * (i / pk), pb + panel_bytes * (i % pk), bf16, t1 - t, n + i / pk * PANEL,
                 i % pk * PANEL, swap);
    }
  }
}

// Partial sums over blocks of 64 rows, then over blocks in order.
void OP(colsum)(float *db, tlk_mat dy, int T, int N) {
  int blocks = div_up(T, SUM_ROWS), bf16 = dy.dtype == TLK_BF16, threads = threads_for((double)T * N);
  float *part = tlk_cpu_scratch(SCRATCH_A, sizeof(float) * (size_t)blocks * N);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int i = 0; i < blocks; i++)
      for (int n = 0; n < N; n += VL) {
        vf s = {0};
        for (int t = i * SUM_ROWS; t < min_int(T, (i + 1) * SUM_ROWS); t++)
          s += v_load_as(mat_row(dy, t), bf16, n, N - n);
        v_storen(part + (size_t)i * N + n, s, N - n);
      }
#pragma omp for schedule(static)
    for (int n = 0; n < N; n++) {
      float s = 0;
      for (int i = 0; i < blocks; i++) s += part[(size_t)i * N + n];
      db[n] += s;
    }
  }
}
