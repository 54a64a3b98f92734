// linear.c: y (T, N) = x W^T + bias + B (R (A x)), over packed weights; several weights of the same x at once.
//
// Work is cut into items of one panel (64 outputs) by up to 48 rows; a thread takes runs of neighbouring items, panel by panel,
// so that a panel is read from memory once. With few rows reading the weights is all the work: a thread then takes one even share
// of neighbouring panels, down to half a one, since the panel that is fetched ahead would else often be another thread's. An
// item's 48 x 64 results are made in a small fp32 buffer, in pieces of K_BLOCK inputs added in order (a piece of a panel fits L2);
// low-rank term, bias, accumulation and rounding follow while it is in L1, and so do silu(gate) up (a panel of each is an item)
// and the rotation of whole heads. z = A x and s = R z come first, for all rows: r numbers a row.
//
// Cost: 2 T N K flop; memory read once: N K weights, T K activations per panel from L2/L3.
#include "cpu.h"
#define COMPOSE(op) OP(op)
#include "../compose.h"

enum { ROW_BLOCK = 48, K_BLOCK = 2048, FEW_ROWS = 8, MOST_GROUP = 8, BTS = 2 };

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

INLINE void store_as(tlk_mat y, const int dtype, const float *c, const float *bias, int t0, int t1, int n0, int j0, int j1,
                     const int accumulate) {
  for (int t = t0; t < t1; t++, c += PANEL) {
    void *row = mat_row_out(y, t);
    for (int j = j0; j < j1; j += VL) {
      vf v = v_load(c + j);
      if (bias) v += v_loadn(bias + n0 + j, j1 - j, 0);
      if (accumulate) v += v_load_as(row, dtype, n0 + j, j1 - j);
      v_store_as(row, dtype, n0 + j, v, j1 - j);
    }
  }
}

// columns j0 .. j1 of c (rows, 64), whose first is output n0
static void store_rows(tlk_mat y, const float *c, const float *bias, int t0, int t1, int n0, int j0, int j1, int accumulate) {
  if (!bias && j0 == 0 && j1 == PANEL && y.dtype == TLK_BF16 && !accumulate)
    store_as(y, TLK_BF16, c, NULL, t0, t1, n0, 0, PANEL, 0);
  else if (!bias && j0 == 0 && j1 == PANEL && y.dtype == TLK_F32 && accumulate)
    store_as(y, TLK_F32, c, NULL, t0, t1, n0, 0, PANEL, 1);
  else
    store_as(y, y.dtype, c, bias, t0, t1, n0, j0, j1, accumulate);
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
  tlk_mat x, h;     // h: of linear_swiglu_fwd
  int keep;         // and whether gate and up are stored
  const tlk_rotated *rotated;  // of linear_rope_fwd, with what follows
  const int32_t *pos;
  const float *table;
  int D;
  bytes_mat bytes;  // x for an int8 weight
  float *bts;   // a thread's B^T of BTS panels: (r, 64) each
  int *turned;  // and which panels those are; 16 ints apart
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

// bt (r, 64): the columns of B^T that belong to a panel
static void turn_b(float *bt, const float *B, int r, int n0, int n) {
  const void *rows[PANEL];
  for (int i = 0; i < n; i++) rows[i] = B + (size_t)(n0 + i) * r;
  OP(panel_of_rows)((uint32_t *)bt, rows, n, r);
}

// Columns j0 .. j0 + width of panel `all` for rows t0 .. t1, with the low-rank term, which is turned into the thread's `slot`. Returns
// the part, and its panel.
static const part *panel_sums(float *c, const job *q, int all, int j0, int width, int t0, int t1, int thread, int slot, int *panel) {
  const part *p = q->parts;
  while (p + 1 < q->parts + q->n_parts && all >= p[1].first) p++;
  *panel = all - p->first;
  products(c, q, p, *panel, j0, width, t0, t1);
  if (!p->r) return p;
  float *bt = q->bts + (size_t)(thread * BTS + slot) * q->rank * PANEL;
  int *turned = &q->turned[thread * 16 + slot];
  if (*turned != all) {
    turn_b(bt, p->B, p->r, *panel * PANEL, min_int(PANEL, p->w->N - *panel * PANEL));
    *turned = all;
  }
  add_lowrank(c, bt, p->s + (size_t)t0 * p->r, p->active + t0, p->r, t1 - t0, j0, width);
  return p;
}

// columns j0 .. j0 + width of panel `all`
static void panel_item(const job *q, int all, int j0, int width, int rows, int thread) {
  float c[ROW_BLOCK * PANEL] __attribute__((aligned(64)));
  int t0, t1, panel;
  share(q->T, rows, q->row_blocks, &t0, &t1);
  const part *p = panel_sums(c, q, all, j0, width, t0, t1, thread, 0, &panel);
  int n = min_int(PANEL, p->w->N - panel * PANEL);
  store_rows(p->y, c, p->bias, t0, t1, panel * PANEL, j0, min_int(n, j0 + width), q->accumulate);
}

// x + bias (VL of `rest` columns) as a row of that dtype holds it, and there if it is kept
INLINE vf act_of(void *row, const int dtype, const float *bias, int n, vf x, int rest, int keep) {
  if (bias) x += v_loadn(bias + n, rest, 0);
  if (keep) v_store_as(row, dtype, n, x, rest);
  return v_as(x, dtype);
}

// h of rows t0 .. t1 and columns n0 .. n0 + n from the sums of gate and up (rows of 64); dtype: of all three
INLINE void swiglu_rows(const job *q, const float *gate, const float *up, int t0, int t1, int n0, int n, const int dtype) {
  const part *p = q->parts;
  const float *bias[2] = {p[0].bias, p[1].bias};
  int keep = q->keep;
  for (int t = t0; t < t1; t++, gate += PANEL, up += PANEL) {
    void *g_row = mat_row_out(p[0].y, t), *u_row = mat_row_out(p[1].y, t), *h_row = mat_row_out(q->h, t);
    for (int j = 0; j < n; j += VL) {
      vf g = act_of(g_row, dtype, bias[0], n0 + j, v_load(gate + j), n - j, keep);
      vf u = act_of(u_row, dtype, bias[1], n0 + j, v_load(up + j), n - j, keep);
      v_store_as(h_row, dtype, n0 + j, v_swiglu(g, u), n - j);
    }
  }
}

// a panel of gate and the same of up, and h of them
static void swiglu_item(const void *ctx, int i, int thread) {
  const job *q = ctx;
  float c[2][ROW_BLOCK * PANEL] __attribute__((aligned(64)));
  int all = i / q->row_blocks, t0, t1, panel;
  share(q->T, i % q->row_blocks, q->row_blocks, &t0, &t1);
  panel_sums(c[0], q, all, 0, PANEL, t0, t1, thread, 0, &panel);
  panel_sums(c[1], q, all + q->parts[1].first, 0, PANEL, t0, t1, thread, 1, &panel);
  int n0 = panel * PANEL, n = min_int(PANEL, q->parts[0].w->N - n0);
  if (q->h.dtype == TLK_BF16 && n == PANEL) swiglu_rows(q, c[0], c[1], t0, t1, n0, PANEL, TLK_BF16);
  else swiglu_rows(q, c[0], c[1], t0, t1, n0, n, q->h.dtype);
}

// y = head of c (D wide) rotated by pairs of (cos, sin)
INLINE void rotate_head(void *y, const int dtype, int n0, const float *c, const float *pairs, int D) {
  int half = D / 2;
  vi even, odd;
  for (int l = 0; l < VL; l++) even[l] = 2 * l, odd[l] = 2 * l + 1;
  for (int i = 0; i < half; i += VL) {
    vf p = v_load(pairs + 2 * i), q = v_load(pairs + 2 * i + VL), a = v_load(c + i), b = v_load(c + half + i);
    vf second, first = v_rotate(a, b, __builtin_shuffle(p, q, even), __builtin_shuffle(p, q, odd), &second);
    v_store_as(y, dtype, n0 + i, first, VL);
    v_store_as(y, dtype, n0 + half + i, second, VL);
  }
}

// rows t0 .. t1 of c (cols from n0 on, with bias) to their rows of y, rotated or only converted
INLINE void store_rotated(const job *q, const tlk_rotated *r, const int dtype, float *c, int t0, int t1, int n0, int cols) {
  const float *bias = r->linear.bias;
  for (int t = t0; t < t1; t++, c += PANEL) {
    if (r->out_rows && r->out_rows[t] < 0) continue;
    void *row = mat_row_out(r->y, r->out_rows ? r->out_rows[t] : t);
    if (bias)
      for (int j = 0; j < cols; j += VL) v_store(c + j, v_load(c + j) + v_loadn(bias + n0 + j, cols - j, 0));
    if (r->heads)
      for (int h = 0; h < cols; h += q->D) rotate_head(row, dtype, n0 + h, c + h, q->table + (size_t)q->pos[t] * q->D, q->D);
    else
      for (int j = 0; j < cols; j += VL) v_store_as(row, dtype, n0 + j, v_load(c + j), cols - j);
  }
}

// a panel of whole heads
static void rope_item(const void *ctx, int i, int thread) {
  const job *q = ctx;
  float c[ROW_BLOCK * PANEL] __attribute__((aligned(64)));
  int t0, t1, panel;
  share(q->T, i % q->row_blocks, q->row_blocks, &t0, &t1);
  const part *p = panel_sums(c, q, i / q->row_blocks, 0, PANEL, t0, t1, thread, 0, &panel);
  const tlk_rotated *r = q->rotated + (p - q->parts);
  int n0 = panel * PANEL, cols = min_int(PANEL, p->w->N - n0);
  if (r->y.dtype == TLK_BF16) store_rotated(q, r, TLK_BF16, c, t0, t1, n0, cols);
  else store_rotated(q, r, r->y.dtype, c, t0, t1, n0, cols);
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
  q->bts = tlk_cpu_scratch(SCRATCH_B, (size_t)q->rank * STEP_BYTES * BTS * threads);
  q->turned = tlk_cpu_scratch(SCRATCH_C, sizeof(int) * 16 * threads);
  for (int i = 0; i < threads * 16; i++) q->turned[i] = -1;
}

// the job of n linears of one compute dtype; returns its cost
static double prepare(job *q, const tlk_linear *l, int n, tlk_mat x, int T) {
  int bytes = 0, K = l->w->K, threads = tlk_cpu_threads();
  double cost = 0;
  q->n_parts = n, q->T = T, q->row_blocks = div_up(T, ROW_BLOCK), q->shares = threads;
  for (int i = 0; i < n; i++) {
    q->parts[i] = (part){.y = l[i].y, .w = l[i].w, .bias = l[i].bias, .first = q->panels};
    q->panels += n_panels(l[i].w->N);
    bytes |= l[i].w->scale != NULL;
    cost += (double)T * l[i].w->N * K / 16;
  }
  low_rank(q, l, n, x);
  if (bytes) q->bytes = OP(as_bytes)(x, T, K);
  else q->x = OP(as_act)(x, T, K, l->w->compute);
  return cost;
}

static void run_items(job *q, int panels, double cost, tlk_task *fn) {
  int threads = tlk_cpu_threads();
  if (panels * q->row_blocks % threads) q->row_blocks = min_int(q->row_blocks * threads, q->T);
  tlk_run(panels * q->row_blocks, cost, fn, q);
}

static void group(const tlk_linear *l, int n, tlk_mat x, int T, int accumulate) {
  job q = {.accumulate = accumulate};
  double cost = prepare(&q, l, n, x, T);
  if (T <= FEW_ROWS) tlk_run(q.shares, cost, share_item, &q);
  else run_items(&q, q.panels, cost, item);
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

void OP(linear_swiglu_fwd)(tlk_mat h, const tlk_linear *gate_up, int keep, tlk_mat x, int T) {
  if (T <= FEW_ROWS || gate_up[0].w->compute != gate_up[1].w->compute) {
    composed_linear_swiglu_fwd(h, gate_up, keep, x, T);
    return;
  }
  job q = {.h = h, .keep = keep};
  double cost = prepare(&q, gate_up, 2, x, T);
  run_items(&q, q.parts[1].first, cost, swiglu_item);
}

void OP(linear_rope_fwd)(const tlk_rotated *r, int n, const int32_t *pos, const float *table, tlk_mat x, int T, int D) {
  int together = T > FEW_ROWS && n <= MOST_GROUP && PANEL % D == 0 && D / 2 % VL == 0;
  for (int i = 1; i < n; i++) together = together && r[i].linear.w->compute == r[0].linear.w->compute;
  if (!together) {
    if (T > 0) composed_linear_rope_fwd(r, n, pos, table, x, T, D);
    return;
  }
  tlk_linear l[MOST_GROUP];
  for (int i = 0; i < n; i++) l[i] = r[i].linear;
  job q = {.rotated = r, .pos = pos, .table = table, .D = D};
  double cost = prepare(&q, l, n, x, T);
  run_items(&q, q.panels, cost, rope_item);
}
