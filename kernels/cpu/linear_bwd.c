// linear_bwd.c: the gradients of a linear: dx = dy W + ((dy B) R) A, dW += a^T b, db += sum of dy; and those of silu(gate) up
// before a linear, from its dx.
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

enum { N_BLOCK = 1024, T_BLOCK = 512, COLUMNS_BLOCK = 4096, DH_ROWS = 48, SUM_ROWS = 64 };

typedef struct {
  tlk_mat dx, dy;
  tlk_mat dgate, dup, gate, up;  // of linear_bwd_swiglu, which has no dx
  const tlk_packed *w;
  const float *s, *A;  // s (T, r) = g R
  const uint8_t *active;
  int r, T, accumulate, parts;
  uint32_t *turned;  // a thread's piece of the transposed weight, then of A
  size_t words;
  float *dh;         // a thread's 64 columns of dh_rows rows
  int dh_rows;
} dx_job;

typedef struct {
  const dx_job *q;
  uint32_t *turned;
  float *a;                 // columns k0 .. k0 + cols of A
  int t0, t1, k0, cols;
} dx_part;

static dx_part part_of(const dx_job *q, int item, int thread) {
  dx_part p = {.q = q, .turned = q->turned + q->words * thread, .k0 = item / q->parts * PANEL};
  p.a = (float *)p.turned + q->words - (size_t)q->r * PANEL;
  p.cols = min_int(PANEL, q->w->K - p.k0);
  share(q->T, item % q->parts, q->parts, &p.t0, &p.t1);
  if (q->r) OP(panel_of_columns)(p.a, 0, (tlk_mat){(void *)(uintptr_t)q->A, TLK_F32, q->w->K}, 0, q->r, p.k0, p.cols);
  return p;
}

// out += the low-rank term of rows t0 .. t1
static void add_low(const dx_part *p, int t0, int t1, float *out, ptrdiff_t ld) {
  const dx_job *q = p->q;
  for (int i = t0; q->r && i < t1;) {
    int j = i;
    while (j < t1 && q->active[j] == q->active[i]) j++;
    if (q->active[i])
      OP(gemm_out)(0, j - i, q->s + (size_t)i * q->r, (ptrdiff_t)q->r * 4, 4, p->a, q->r, p->cols, out + (i - t0) * ld, ld, 1);
    i = j;
  }
}

// out = 64 columns of dx for rows t0 .. t1. turned: the weight's outputs are one piece, which is transposed already
static void add_pieces(const dx_part *p, int t0, int t1, float *out, ptrdiff_t ld, int accumulate, int turned) {
  const dx_job *q = p->q;
  const tlk_packed *w = q->w;
  int bf16 = w->compute == TLK_BF16, size = bf16 ? 2 : 4;
  for (int n = 0; n < w->N; n += N_BLOCK) {
    int n1 = min_int(n + N_BLOCK, w->N);
    if (!turned) OP(panel_transposed)(p->turned, w, p->k0, n, n1);
    OP(gemm_out)(bf16, t1 - t0, (const char *)mat_row(q->dy, t0) + (size_t)n * size, (ptrdiff_t)q->dy.ld * size, 4, p->turned, n1 - n,
                 p->cols, out, ld, accumulate || n > 0);
  }
  add_low(p, t0, t1, out, ld);
}

static void dx_item(const void *ctx, int item, int thread) {
  const dx_job *q = ctx;
  dx_part p = part_of(q, item, thread);
  add_pieces(&p, p.t0, p.t1, (float *)mat_row_out(q->dx, p.t0) + p.k0, q->dx.ld, q->accumulate, 0);
}

// dgate and dup of rows t0 .. t1, from 64 columns of dh; dtype: of all four
INLINE void swiglu_back(const dx_part *p, const float *dh, int t0, int t1, int cols, const int dtype) {
  const dx_job *q = p->q;
  for (int t = t0; t < t1; t++, dh += PANEL) {
    const void *gate = mat_row(q->gate, t), *up = mat_row(q->up, t);
    void *dgate = mat_row_out(q->dgate, t), *dup = mat_row_out(q->dup, t);
    for (int j = 0; j < cols; j += VL) {
      int n = p->k0 + j, rest = cols - j;
      vf d_up, d_gate = v_swiglu_back(v_load_as(gate, dtype, n, rest), v_load_as(up, dtype, n, rest), v_load(dh + j), &d_up);
      v_store_as(dgate, dtype, n, d_gate, rest);
      v_store_as(dup, dtype, n, d_up, rest);
    }
  }
}

// 64 columns of dh, never in memory as a whole: a few rows at a time, or all where the weight's outputs are in several pieces
static void dx_swiglu_item(const void *ctx, int item, int thread) {
  const dx_job *q = ctx;
  dx_part p = part_of(q, item, thread);
  float *dh = q->dh + (size_t)q->dh_rows * PANEL * thread;
  int once = q->w->N <= N_BLOCK;
  if (once) OP(panel_transposed)(p.turned, q->w, p.k0, 0, q->w->N);
  for (int t = p.t0, end; t < p.t1; t = end) {
    end = min_int(t + q->dh_rows, p.t1);
    add_pieces(&p, t, end, dh, PANEL, 0, once);
    if (q->gate.dtype == TLK_BF16 && p.cols == PANEL) swiglu_back(&p, dh, t, end, PANEL, TLK_BF16);
    else swiglu_back(&p, dh, t, end, p.cols, q->gate.dtype);
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

// what is made once for all items: g, and unless only that is wanted, s and scratch
static void prepare(dx_job *q, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int only_g) {
  int r = lr ? lr->r : 0, panels = n_panels(w->K), threads = tlk_cpu_threads();
  q->w = w, q->r = r, q->T = T, q->parts = 1;
  q->dy = OP(as_act)(dy, T, w->N, w->compute);
  if (r) low_g(g, q->dy, lr, T, w->N);
  if (only_g) return;
  if (r) {
    float *s = tlk_cpu_scratch(SCRATCH_A, (size_t)T * r * 4 + (size_t)T);
    uint8_t *active = (uint8_t *)(s + (size_t)T * r);
    OP(lowrank_s)(s, active, g, lr, T, 1);
    q->s = s, q->active = active, q->A = lr->A;
  }
  q->words = (size_t)(n_steps(min_int(div_up(w->N, PANEL) * PANEL, N_BLOCK), w->compute == TLK_BF16) + r) * PANEL;
  q->turned = tlk_cpu_scratch(SCRATCH_B, q->words * 4 * threads);
  if (panels % threads && panels < 8 * threads) q->parts = min_int(threads, T);
}

void OP(linear_bwd_x)(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate) {
  if (T <= 0) return;
  dx_job q = {.dx = dx, .accumulate = accumulate};
  prepare(&q, g, dy, w, lr, T, !dx.p);
  if (dx.p) tlk_run(n_panels(w->K) * q.parts, (double)T * w->N * w->K / 16, dx_item, &q);
}

void OP(linear_bwd_swiglu)(tlk_mat dgate, tlk_mat dup, tlk_mat dh, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr,
                           tlk_mat gate, tlk_mat up, int T) {
  if (T <= 0) return;
  dx_job q = {.dgate = dgate, .dup = dup, .gate = gate, .up = up};
  prepare(&q, g, dy, w, lr, T, 0);
  q.dh_rows = w->N <= N_BLOCK ? DH_ROWS : T;
  q.dh = tlk_cpu_scratch(SCRATCH_C, sizeof(float) * PANEL * (size_t)q.dh_rows * tlk_cpu_threads());
  tlk_run(n_panels(w->K) * q.parts, (double)T * w->N * w->K / 16, dx_swiglu_item, &q);
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
