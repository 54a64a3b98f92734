// linear.c: y (T, N) = x W^T + bias + B (R (A x)), over packed weights; several weights of the same x at once.
//
// Work is cut into items of one panel (64 outputs) by up to 48 rows; a thread takes runs of neighbouring items, panel by panel,
// so that a panel is read from memory once. With few rows reading the weights is all the work: a thread then takes one even share
// of neighbouring panels, down to half a one, since the panel that is fetched ahead would else often be another thread's. An
// item's 48 x 64 results are
// made in a small fp32 buffer, in pieces of K_BLOCK inputs added in order (a piece of a panel fits L2); low-rank term, bias, accumulation and
// rounding follow while it is in L1. z = A x and s = R z come first, for all rows: r numbers a row.
//
// Cost: 2 T N K flop; memory read once: N K weights, T K activations per panel from L2/L3.
#include "cpu.h"

enum { ROW_BLOCK = 48, K_BLOCK = 2048, FEW_ROWS = 8, MOST_GROUP = 8 };

// columns j0 .. j0 + width of c (n, 64) += s B^T for the panel's columns of B, on the rows that have a term. bt (r, 64)
static void add_lowrank(float *c, const float *bt, const float *s, const uint8_t *active, int r, int n, int j0, int width) {
  for (int i = 0; i < n;) {
    int j = i;
    while (j < n && active[j] == active[i]) j++;
    if (active[i])
      OP(gemm)(0, j - i, s + (size_t)i * r, (ptrdiff_t)r * 4, 4, bt + j0, r, width, c + (size_t)i * PANEL + j0, PANEL, 1);
    i = j;
  }
}

// columns j0 .. j1 of c (rows, 64), whose first is output n0
static void store_rows(tlk_mat y, const float *c, const float *bias, int t0, int t1, int n0, int j0, int j1, int accumulate) {
  for (int t = t0; t < t1; t++, c += PANEL) {
    void *row = mat_row_out(y, t);
    for (int j = j0; j < j1; j += VL) {
      vf v = v_load(c + j);
      if (bias) v += v_loadn(bias + n0 + j, j1 - j, 0);
      if (accumulate) v += v_load_as(row, y.dtype, n0 + j, j1 - j);
      v_store_as(row, y.dtype, n0 + j, v, j1 - j);
    }
  }
}

// one of the linears
typedef struct {
  tlk_mat y;
  const tlk_packed *w;
  const float *bias, *B, *s;
  const uint8_t *active;
  int r, first;  // first: its first panel among all
} part;

typedef struct {
  part parts[MOST_GROUP];
  int n_parts, T, accumulate, row_blocks, panels, shares, rank;  // shares: of panels (few rows); rank: the largest r
  tlk_mat x;
  bytes_mat bytes;  // x for an int8 weight
  float *bts;   // a thread's B^T of one panel: (r, 64)
  int *turned;  // and which panel that is; 16 ints apart
} job;

// columns j0 .. j0 + width of a panel's products
static void products(float *c, const job *q, const part *p, int panel, int j0, int width, int t0, int t1) {
  const tlk_packed *w = p->w;
  if (w->scale) {
    OP(gemm_bytes)(c, PANEL, &q->bytes, w, t0, t1, panel, j0, width);
    return;
  }
  int bf16 = w->compute == TLK_BF16;
  const char *a = mat_row(q->x, t0);
  ptrdiff_t stride = (ptrdiff_t)q->x.ld * (bf16 ? 2 : 4);
  for (int k = 0; k < w->K; k += K_BLOCK) {
    const char *ak = a + (size_t)k * (bf16 ? 2 : 4);
    const uint32_t *b = w->data + panel * w->panel_words + (size_t)n_steps(k, bf16) * PANEL;
    int n = min_int(K_BLOCK, w->K - k);
    OP(gemm_weight)(bf16, t1 - t0, ak, stride, b + j0, n, width, c + j0, PANEL, k > 0);
  }
}

static void block(const job *q, const part *p, int panel, int j0, int width, int rows, const float *bt) {
  float c[ROW_BLOCK * PANEL] __attribute__((aligned(64)));
  int t0, t1, n0 = panel * PANEL, n = min_int(PANEL, p->w->N - n0);
  share(q->T, rows, q->row_blocks, &t0, &t1);
  products(c, q, p, panel, j0, width, t0, t1);
  if (p->r) add_lowrank(c, bt, p->s + (size_t)t0 * p->r, p->active + t0, p->r, t1 - t0, j0, width);
  store_rows(p->y, c, p->bias, t0, t1, n0, j0, min_int(n, j0 + width), q->accumulate);
}

// bt (r, 64): the columns of B^T that belong to a panel
static void turn_b(float *bt, const float *B, int r, int n0, int n) {
  const void *rows[PANEL];
  for (int i = 0; i < n; i++) rows[i] = B + (size_t)(n0 + i) * r;
  OP(panel_of_rows)((uint32_t *)bt, rows, n, r);
}

// columns j0 .. j0 + width of panel `all`
static void panel_item(const job *q, int all, int j0, int width, int rows, int thread) {
  const part *p = q->parts;
  while (p + 1 < q->parts + q->n_parts && all >= p[1].first) p++;
  int panel = all - p->first;
  float *bt = p->r ? q->bts + (size_t)thread * q->rank * PANEL : NULL;
  if (p->r && q->turned[thread * 16] != all) {
    turn_b(bt, p->B, p->r, panel * PANEL, min_int(PANEL, p->w->N - panel * PANEL));
    q->turned[thread * 16] = all;
  }
  block(q, p, panel, j0, width, rows, bt);
}

static void item(const void *ctx, int i, int thread) {
  const job *q = ctx;
  panel_item(q, i / q->row_blocks, 0, PANEL, i % q->row_blocks, thread);
}

// an even share of the panels, in halves
static void share_item(const void *ctx, int i, int thread) {
  const job *q = ctx;
  int a, b;
  share(2 * q->panels, i, q->shares, &a, &b);
  for (int n; a < b; a += n) {
    n = a % 2 || a + 1 == b ? 1 : 2;
    panel_item(q, a / 2, a % 2 * PANEL / 2, n * PANEL / 2, 0, thread);
  }
}

// z and s of the linears that have a low-rank term
static void low_rank(job *q, const tlk_linear *l, int n, tlk_mat x) {
  size_t numbers = 0, T = (size_t)q->T;
  int threads = tlk_cpu_threads();
  for (int i = 0; i < n; i++)
    if (l[i].lr) numbers += (size_t)l[i].lr->r * T, q->rank = max_int(q->rank, l[i].lr->r);
  if (!q->rank) return;
  float *s = tlk_cpu_scratch(SCRATCH_A, numbers * 4 + T * (size_t)n);
  uint8_t *active = (uint8_t *)(s + numbers);
  for (int i = 0; i < n; i++, active += T) {
    const tlk_lowrank *lr = l[i].lr;
    if (!lr || !lr->r) continue;
    part *p = &q->parts[i];
    OP(rows_dot)(l[i].z, x, lr->A, lr->r, q->T, p->w->K);
    OP(lowrank_s)(s, active, l[i].z, lr, q->T, 0);
    p->r = lr->r, p->B = lr->B, p->s = s, p->active = active;
    s += T * (size_t)lr->r;
  }
  q->bts = tlk_cpu_scratch(SCRATCH_B, (size_t)q->rank * STEP_BYTES * threads);
  q->turned = tlk_cpu_scratch(SCRATCH_C, sizeof(int) * 16 * threads);
  for (int i = 0; i < threads; i++) q->turned[i * 16] = -1;
}

static void group(const tlk_linear *l, int n, tlk_mat x, int T, int accumulate) {
  int panels = 0, threads = tlk_cpu_threads(), bytes = 0, K = l->w->K, compute = l->w->compute;
  job q = {.n_parts = n, .T = T, .accumulate = accumulate, .row_blocks = div_up(T, ROW_BLOCK), .shares = threads};
  double cost = 0;
  for (int i = 0; i < n; i++) {
    q.parts[i] = (part){.y = l[i].y, .w = l[i].w, .bias = l[i].bias, .first = panels};
    panels += n_panels(l[i].w->N);
    bytes |= l[i].w->scale != NULL;
    cost += (double)T * l[i].w->N * K / 16;
  }
  low_rank(&q, l, n, x);
  if (bytes) q.bytes = OP(as_bytes)(x, T, K);
  else q.x = OP(as_act)(x, T, K, compute);
  q.panels = panels;
  if (T <= FEW_ROWS) {
    tlk_run(threads, cost, share_item, &q);
    return;
  }
  if (panels * q.row_blocks % threads) q.row_blocks = min_int(q.row_blocks * threads, T);
  tlk_run(panels * q.row_blocks, cost, item, &q);
}

void OP(linear_fwd)(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T,
                    int accumulate) {
  if (T > 0) group(&(tlk_linear){y, z, w, bias, lr}, 1, x, T, accumulate);
}

void OP(linear_fwd_group)(const tlk_linear *l, int n, tlk_mat x, int T) {
  for (int i = 0; i < n && T > 0;) {  // as many at a time as have the same compute dtype
    int m = 1;
    while (i + m < n && m < MOST_GROUP && l[i + m].w->compute == l[i].w->compute) m++;
    group(l + i, m, x, T, 0);
    i += m;
  }
}
