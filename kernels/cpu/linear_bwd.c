// linear_bwd.c: the gradients of a linear: dx = dy W + ((dy B) R) A, dW += a^T b, db += sum of dy.
//
// dx. The weight exists once, packed for the forward pass. For 64 inputs (columns of dx) a thread transposes N_BLOCK outputs of
// it at a time into its scratch (128 kB in bf16: L2) and multiplies all rows by that piece; pieces are added in order. The
// transposition costs about 0.3 ns per weight and is repaid from a few dozen rows on.
//
// dW. Both operands are packed as panels with the reduction along t, T_BLOCK rows at a time; the panel of a serves as the left
// operand. A 64 x 64 block of dW belongs to one thread, and blocks of T are added in order: the number of threads changes
// nothing. When K < 64 and K < N the roles are exchanged, so that a narrow factor (LoRA's dB) does not waste most of a panel.
// Products are of bf16 pairs when both operands are bf16, otherwise of fp32.
#include "cpu.h"

enum { N_BLOCK = 1024, T_BLOCK = 512, COLUMNS_BLOCK = 4096, SUM_ROWS = 64 };

typedef struct {
  tlk_mat dx, dy;
  const tlk_packed *w;
  const float *s, *A;  // s (T, r) = g R
  const uint8_t *active;
  int r, T, accumulate, parts;
  uint32_t *turned;  // a thread's piece of the transposed weight
  size_t words;
} dx_job;

static void dx_item(const void *ctx, int item, int thread) {
  const dx_job *q = ctx;
  const tlk_packed *w = q->w;
  uint32_t *turned = q->turned + q->words * thread;
  int panel = item / q->parts, t0, t1;
  share(q->T, item % q->parts, q->parts, &t0, &t1);
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
  for (int n0 = 0; n0 < N; n0 += PANEL)  // 64 rows of B stay in L1 while their columns are gathered
    for (int i = 0; i < lr->r; i++)
      for (int n = n0; n < min_int(N, n0 + PANEL); n++) bt[(size_t)i * N + n] = lr->B[(size_t)n * lr->r + i];
  OP(rows_dot)(g, dy, bt, lr->r, T, N);
}

void OP(linear_bwd_x)(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate) {
  if (T <= 0) return;
  int r = lr ? lr->r : 0, panels = n_panels(w->K), threads = tlk_cpu_threads();
  dx_job q = {.dx = dx, .w = w, .r = r, .T = T, .accumulate = accumulate, .parts = 1};
  q.dy = OP(as_act)(dy, T, w->N, w->compute);
  if (r) low_g(g, q.dy, lr, T, w->N);
  if (!dx.p) return;
  if (r) {
    float *s = tlk_cpu_scratch(SCRATCH_A, (size_t)T * r * 4 + (size_t)T);
    uint8_t *active = (uint8_t *)(s + (size_t)T * r);
    OP(lowrank_s)(s, active, g, lr, T, 1);
    q.s = s, q.active = active, q.A = lr->A;
  }
  q.words = (size_t)max_int(n_steps(min_int(div_up(w->N, PANEL) * PANEL, N_BLOCK), w->compute == TLK_BF16), r) * PANEL;
  q.turned = tlk_cpu_scratch(SCRATCH_B, q.words * 4 * threads);
  if (panels % threads && panels < 8 * threads) q.parts = min_int(threads, T);
  tlk_run(panels * q.parts, (double)T * w->N * w->K / 16, dx_item, &q);
}

typedef struct {
  float *dw;
  tlk_mat a, b;
  char *pa, *pb;       // panels of a and b over n_t rows from t
  size_t panel_bytes;
  int bf16, swap, N, K, t, n_t, n;  // n: first of a's columns in pa
} dw_job;

static void pack_a(const void *ctx, int i, int thread) {
  const dw_job *q = ctx;
  int c = q->n + i * PANEL;
  OP(panel_of_columns)(q->pa + q->panel_bytes * i, q->bf16, q->a, q->t, q->t + q->n_t, c, min_int(PANEL, q->N - c));
}

static void pack_b(const void *ctx, int i, int thread) {
  const dw_job *q = ctx;
  int c = i * PANEL;
  OP(panel_of_columns)(q->pb + q->panel_bytes * i, q->bf16, q->b, q->t, q->t + q->n_t, c, min_int(PANEL, q->K - c));
}

// a 64 x 64 block of dw += a^T b, or with `swap` of its transposition
static void dw_block(const void *ctx, int item, int thread) {
  const dw_job *q = ctx;
  int pk = n_panels(q->K), i = item / pk, j = item % pk, n0 = q->n + i * PANEL, k0 = j * PANEL, K = q->K;
  int rows = min_int(PANEL, q->N - n0), cols = min_int(PANEL, K - k0);
  const char *pa = q->pa + q->panel_bytes * i, *pb = q->pb + q->panel_bytes * j;
  if (!q->swap) {
    OP(gemm_out)(q->bf16, rows, pa, 4, STEP_BYTES, pb, q->n_t, cols, q->dw + (size_t)n0 * K + k0, K, 1);
    return;
  }
  float c[PANEL * PANEL] __attribute__((aligned(64)));
  OP(gemm)(q->bf16, cols, pb, 4, STEP_BYTES, pa, q->n_t, rows, c, PANEL, 0);
  for (int r = 0; r < rows; r++)
    for (int k = 0; k < cols; k++) q->dw[(size_t)(n0 + r) * K + k0 + k] += c[k * PANEL + r];
}

void OP(linear_bwd_w)(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K) {
  dw_job q = {.dw = dw, .a = a, .b = b, .N = N, .K = K, .bf16 = a.dtype == TLK_BF16 && b.dtype == TLK_BF16};
  q.swap = K < PANEL && N > K;
  q.panel_bytes = (size_t)n_steps(min_int(T_BLOCK, T), q.bf16) * STEP_BYTES;
  q.pa = tlk_cpu_scratch(SCRATCH_A, q.panel_bytes * n_panels(min_int(N, COLUMNS_BLOCK)));
  q.pb = tlk_cpu_scratch(SCRATCH_B, q.panel_bytes * n_panels(K));
  for (q.t = 0; q.t < T; q.t += T_BLOCK) {
    q.n_t = min_int(T_BLOCK, T - q.t);
    tlk_run(n_panels(K), (double)q.n_t * K, pack_b, &q);
    for (q.n = 0; q.n < N; q.n += COLUMNS_BLOCK) {
      int n = min_int(COLUMNS_BLOCK, N - q.n);
      tlk_run(n_panels(n), (double)q.n_t * n, pack_a, &q);
      tlk_run(n_panels(n) * n_panels(K), (double)q.n_t * n * K / 16, dw_block, &q);
    }
  }
}

typedef struct {
  float *db, *part;
  tlk_mat dy;
  int T, N, blocks;
} sum_job;

static void sum_block(const void *ctx, int i, int thread) {
  const sum_job *q = ctx;
  int N = q->N;
  for (int n = 0; n < N; n += VL) {
    vf s = {0};
    for (int t = i * SUM_ROWS; t < min_int(q->T, (i + 1) * SUM_ROWS); t++) s += v_load_as(mat_row(q->dy, t), q->dy.dtype, n, N - n);
    v_storen(q->part + (size_t)i * N + n, s, N - n);
  }
}

void OP(sum_parts)(float *out, const float *part, int n_parts, int n) {
  for (int i = 0; i < n_parts; i++)
    for (int c = 0; c < n; c += VL)
      v_storen(out + c, v_loadn(out + c, n - c, 0) + v_loadn(part + (size_t)i * n + c, n - c, 0), n - c);
}

// Partial sums over blocks of 64 rows, then over blocks in order.
void OP(colsum)(float *db, tlk_mat dy, int T, int N) {
  int blocks = div_up(T, SUM_ROWS);
  sum_job q = {db, tlk_cpu_scratch(SCRATCH_A, sizeof(float) * (size_t)blocks * N), dy, T, N, blocks};
  tlk_run(blocks, (double)T * N, sum_block, &q);
  OP(sum_parts)(db, q.part, blocks, N);
}
