// linear.c: y (T, N) = x W^T + bias + B (R (A x)), over a packed weight.
//
// Work is cut into items of one panel (64 outputs) by up to 48 rows; a thread takes runs of neighbouring items, panel by panel,
// so that a panel is read from memory once. An item's 48 x 64 results are made in a small fp32 buffer, in pieces of K_BLOCK
// inputs added in order (a piece of a panel fits L2); low-rank term, bias, accumulation and rounding follow while it is in L1.
// z = A x and s = R z come first, for all rows: r numbers a row.
//
// Cost: 2 T N K flop; memory read once: N K weights, T K activations per panel from L2/L3.
#include "cpu.h"

enum { ROW_BLOCK = 48, K_BLOCK = 2048 };

// c (n, 64) += s B^T for the panel's columns of B, on the rows that have a term. bt (r, 64)
static void add_lowrank(float *c, const float *bt, const float *s, const uint8_t *active, int r, int n) {
  for (int i = 0; i < n;) {
    int j = i;
    while (j < n && active[j] == active[i]) j++;
    if (active[i])
      OP(gemm)(0, j - i, s + (size_t)i * r, (ptrdiff_t)r * 4, 4, bt, r, PANEL, c + (size_t)i * PANEL, PANEL, 1);
    i = j;
  }
}

static void store_rows(tlk_mat y, const float *c, const float *bias, int t0, int t1, int n0, int n, int accumulate) {
  int bf16 = y.dtype == TLK_BF16;
  for (int t = t0; t < t1; t++, c += PANEL) {
    void *row = mat_row_out(y, t);
    for (int j = 0; j < n; j += VL) {
      vf v = v_load(c + j);
      if (bias) v += v_loadn(bias + n0 + j, n - j, 0);
      if (accumulate) v += v_load_as(row, bf16, n0 + j, n - j);
      v_store_as(row, bf16, n0 + j, v, n - j);
    }
  }
}

typedef struct {
  tlk_mat y, x;
  const tlk_packed *w;
  const float *bias, *B, *s;
  const uint8_t *active;
  int r, T, accumulate, row_blocks;
  float *bts;   // a thread's B^T of one panel: (r, 64)
  int *turned;  // and which panel that is; 16 ints apart
} job;

static void block(const job *q, int panel, int part, const float *bt) {
  float c[ROW_BLOCK * PANEL] __attribute__((aligned(64)));
  const tlk_packed *w = q->w;
  int t0, t1, bf16 = w->compute == TLK_BF16, n0 = panel * PANEL;
  share(q->T, part, q->row_blocks, &t0, &t1);
  const char *a = mat_row(q->x, t0);
  ptrdiff_t stride = (ptrdiff_t)q->x.ld * (bf16 ? 2 : 4);
  for (int k = 0; k < w->K; k += K_BLOCK)
    OP(gemm_weight)(bf16, t1 - t0, a + (size_t)k * (bf16 ? 2 : 4), stride, w->data + panel * w->panel_words +
                    (size_t)n_steps(k, bf16) * PANEL, min_int(K_BLOCK, w->K - k), c, PANEL, k > 0);
  if (q->r) add_lowrank(c, bt, q->s + (size_t)t0 * q->r, q->active + t0, q->r, t1 - t0);
  store_rows(q->y, c, q->bias, t0, t1, n0, min_int(PANEL, w->N - n0), q->accumulate);
}

// bt (r, 64): the columns of B^T that belong to a panel
static void turn_b(float *bt, const float *B, int r, int n0, int n) {
  const void *rows[PANEL];
  for (int i = 0; i < n; i++) rows[i] = B + (size_t)(n0 + i) * r;
  OP(panel_of_rows)((uint32_t *)bt, rows, n, r);
}

static void item(const void *ctx, int i, int thread) {
  const job *q = ctx;
  int panel = i / q->row_blocks;
  float *bt = q->r ? q->bts + (size_t)thread * q->r * PANEL : NULL;
  if (q->r && q->turned[thread * 16] != panel) {
    turn_b(bt, q->B, q->r, panel * PANEL, min_int(PANEL, q->w->N - panel * PANEL));
    q->turned[thread * 16] = panel;
  }
  block(q, panel, i % q->row_blocks, bt);
}

void OP(linear_fwd)(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T,
                    int accumulate) {
  if (T <= 0) return;
  int r = lr ? lr->r : 0, panels = n_panels(w->N), threads = tlk_cpu_threads();
  job q = {.y = y, .w = w, .bias = bias, .r = r, .T = T, .accumulate = accumulate, .row_blocks = div_up(T, ROW_BLOCK)};
  q.x = OP(as_act)(x, T, w->K, w->compute);
  if (r) {
    OP(rows_dot)(z, q.x, lr->A, r, T, w->K);
    float *s = tlk_cpu_scratch(SCRATCH_A, (size_t)T * r * 4 + (size_t)T);
    uint8_t *active = (uint8_t *)(s + (size_t)T * r);
    OP(lowrank_s)(s, active, z, lr, T, 0);
    q.B = lr->B, q.s = s, q.active = active;
    q.bts = tlk_cpu_scratch(SCRATCH_B, (size_t)r * STEP_BYTES * threads);
    q.turned = tlk_cpu_scratch(SCRATCH_C, sizeof(int) * 16 * threads);
    for (int i = 0; i < threads; i++) q.turned[i * 16] = -1;
  }
  if (panels * q.row_blocks % threads && T > 1) q.row_blocks = min_int(q.row_blocks * threads, T);
  tlk_run(panels * q.row_blocks, (double)T * w->N * w->K / 16, item, &q);
}
