// attention_bwd.c: gradients of attention, with the probabilities computed again from lse.
//   p = exp(scale q k - lse),  dv += p^T do,  dp = do v^T,  ds = p (dp - delta) scale,  delta = sum(do o),
//   dq = ds k,  dk += ds^T q.
// One item is a unit's rows for one key/value head: it alone touches its dk and dv, tile after tile and block after block in
// order, so threads may take items as they are free. When the operands are bf16 all five products are, and p and ds are rounded
// to bf16 for them, as in flash-attention; every sum is fp32.
#include "attention.h"

typedef struct {
  tlk_mat dq, dk, dv, d_o, o;
  const float *lse;
} grads;

typedef struct {
  char *q, *d_o, *keys;          // rows x D as they are multiplied; 64 keys of K
  uint32_t *panel;               // one panel of K or V along d
  uint32_t *k, *q_rows, *o_rows; // panels over d, the reduction along rows: the keys; the tile's q and do
  float *p, *ds;                 // rows x 64: scores and dp, then p and ds as panels with the reduction along rows
  uint16_t *ds_rows;             // ds by rows in bf16
  float *dq;                     // rows x width
  float *out;                    // 64 x width
  float *lse, *delta;            // rows
} space;

enum { N_PARTS = 13, BWD_ROWS = 2 * TILE_ROWS };

// carves one thread's part; returns its size
static size_t carve(space *sp, char *base, int rows, int D) {
  size_t n = (size_t)rows, width = (size_t)n_panels(D) * PANEL, q = n * D * 4;
  size_t sizes[N_PARTS] = {q, q, (size_t)PANEL * D * 4, (size_t)D * STEP_BYTES, PANEL * width * 4, n * width * 4, n * width * 4,
                           (n + 1) * STEP_BYTES, (n + 1) * STEP_BYTES, n * PANEL * 2, n * width * 4, PANEL * width * 4, n * 8};
  char *at[N_PARTS];
  size_t total = 0;
  for (int i = 0; i < N_PARTS; i++) {
    at[i] = base + total;
    total += (sizes[i] + 63) / 64 * 64;
  }
  *sp = (space){at[0], at[1], at[2], (uint32_t *)at[3], (uint32_t *)at[4], (uint32_t *)at[5], (uint32_t *)at[6], (float *)at[7],
                (float *)at[8], (uint16_t *)at[9], (float *)at[10], (float *)at[11], (float *)at[12], (float *)at[12] + n};
  return total;
}

static float row_delta(const void *d_o, int d_o_dtype, const void *o, int o_dtype, int D) {
  vf s = {0};
  for (int d = 0; d < D; d += VL) s = v_fma(v_load_as(d_o, d_o_dtype, d, D - d), v_load_as(o, o_dtype, d, D - d), s);
  return v_sum(s);
}

// a query row's keys in a block: positions first .. last of it, -lse and delta
typedef struct {
  int first, last;
  float lse, delta;
} row_range;

// p = exp(scale s - lse) at block positions c .. c + VL within the row's range, else 0;  ds = p (dp - delta) scale
INLINE vf probs(const row_range *r, int c, vf s, vf dp, float scale, vf *ds) {
  if (c + VL <= r->first || c >= r->last) return *ds = (vf){0};
  vf e = v_exp(v_fma(s, v_set(scale), v_set(-r->lse)));
  vf d = e * (dp - v_set(r->delta)) * v_set(scale);
  if (c < r->first || c + VL > r->last) {
    vi pos;
    for (int l = 0; l < VL; l++) pos[l] = l + c;
    vi out = (pos < r->first) | (pos >= r->last);
    e = v_select(out, v_set(0), e);
    d = v_select(out, v_set(0), d);
  }
  *ds = d;
  return e;
}

static void row_probs(float *p, float *ds, const row_range *r, float scale) {
  for (int c = 0; c < PANEL; c += VL) {
    vf d, e = probs(r, c, v_load(p + c), v_load(ds + c), scale, &d);
    v_store(p + c, e);
    v_store(ds + c, d);
  }
}

// The same for two rows from p and ds on, in bf16: p and ds as a step of pairs at p_pair and ds_pair (which may be the first row's
// place), ds also by rows. r[1].last 0: there is no second row
static void pair_probs(const float *p, const float *ds, const row_range r[2], float scale, float *p_pair, float *ds_pair,
                       uint16_t *ds_rows) {
  for (int c = 0; c < PANEL; c += VL) {
    vf d[2], e[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) e[i] = probs(r + i, c, v_load(p + i * PANEL + c), v_load(ds + i * PANEL + c), scale, d + i);
    vh low = v_to_bf16(d[0]), high = v_to_bf16(d[1]);
    *(vh_mem *)(ds_rows + c) = low;
    *(vh_mem *)(ds_rows + PANEL + c) = high;
    v_store(ds_pair + c, v_pair(low, high));
    v_store(p_pair + c, v_pair(v_to_bf16(e[0]), v_to_bf16(e[1])));
  }
}

// panels over d of rows x D numbers, ld apart, the reduction along the rows
static void panels_over_d(uint32_t *dst, const void *src, int ld, int rows, const attn *a) {
  tlk_mat m = {(void *)(uintptr_t)src, a->bf16 ? TLK_BF16 : TLK_F32, ld};
  for (int p = 0; p < n_panels(a->D); p++)
    OP(panel_of_columns)(dst + (size_t)p * n_steps(rows, a->bf16) * PANEL, a->bf16, m, 0, rows, p * PANEL,
                         min_int(PANEL, a->D - p * PANEL));
}

// out (n, D) = left (n, rows) right (rows, D), of panels over d, or += when add
static void times_panels(float *out, ptrdiff_t ld, const attn *a, int n, const void *left, ptrdiff_t row_stride, ptrdiff_t step_stride,
                         const uint32_t *right, int rows, int add) {
  for (int p = 0; p < n_panels(a->D); p++)
    OP(gemm)(a->bf16, n, left, row_stride, step_stride, right + (size_t)p * n_steps(rows, a->bf16) * PANEL, rows,
             min_int(PANEL, a->D - p * PANEL), out + p * PANEL, ld, add);
}

// whether the keys at positions j .. j + n of row t's list are neighbours in memory
static int neighbours(const attn *a, int t, int j, int n) {
  const int32_t *list = a->map->kv_rows + a->map->kv_off[t] + j;
  for (int i = 1; i < n; i++)
    if (list[i] != list[0] + i) return 0;
  return 1;
}

// d (keys of the block) += left^T right over the tile's rows. in_line: the keys are neighbours
static void add_keys(tlk_mat d, const attn *a, const float *left, const uint32_t *right, int rows, int t, int g, int j, int n,
                     int in_line, float *out) {
  int D = a->D, width = n_panels(D) * PANEL;
  const int32_t *list = a->map->kv_rows + a->map->kv_off[t] + j;
  if (in_line && D == width) {
    times_panels((float *)mat_row_out(d, list[0]) + (size_t)g * D, d.ld, a, n, left, 4, STEP_BYTES, right, rows, 1);
    return;
  }
  times_panels(out, width, a, n, left, 4, STEP_BYTES, right, rows, 0);
  for (int i = 0; i < n; i++) {
    float *to = (float *)mat_row_out(d, list[i]) + (size_t)g * D;
    for (int c = 0; c < D; c += VL) v_storen(to + c, v_loadn(to + c, D - c, 0) + v_load(out + (size_t)i * width + c), D - c);
  }
}

static void load_tile(const grads *gr, const attn *a, int t0, int t1, int g, const space *sp) {
  int heads = a->H / a->G, rows = (t1 - t0) * heads, D = a->D, size = item_size(a);
  gather_heads(sp->q, a->q, a, t0, t1, g);
  gather_heads(sp->d_o, gr->d_o, a, t0, t1, g);
  panels_over_d(sp->q_rows, sp->q, D, rows, a);
  panels_over_d(sp->o_rows, sp->d_o, D, rows, a);
  for (int i = 0; i < rows; i++) {
    int t = t0 + i / heads, h = g * heads + i % heads;
    const char *o = (const char *)mat_row(gr->o, t) + (size_t)h * D * tlk_dtype_size(gr->o.dtype);
    sp->lse[i] = gr->lse[(size_t)t * a->H + h];
    sp->delta[i] = row_delta(sp->d_o + (size_t)i * D * size, a->bf16 ? TLK_BF16 : TLK_F32, o, gr->o.dtype, D);
  }
}

static row_range range_of(const attn *a, const space *sp, int t0, int i, int rows, int j) {
  if (i >= rows) return (row_range){0};
  int t = t0 + i / (a->H / a->G);
  return (row_range){first_key(a->map, t) - j, a->map->kv_len[t] - j, sp->lse[i], sp->delta[i]};
}

// one tile against the keys at j .. j + n; sp->dq += its part
static void block(const grads *gr, const attn *a, int t0, int t1, int g, int j, int n, const space *sp) {
  int heads = a->H / a->G, rows = (t1 - t0) * heads, D = a->D, width = n_panels(D) * PANEL, in_line = neighbours(a, t0, j, n);
  ptrdiff_t stride = (ptrdiff_t)D * item_size(a);
  const void *keys[PANEL];
  key_rows(keys, a->v, a, t0, g, j, n);
  scores_panel(sp->panel, widened(keys, (float *)sp->keys, keys, n, a), n, a);
  OP(gemm)(a->bf16, rows, sp->d_o, stride, 4, sp->panel, D, n, sp->ds, PANEL, 0);
  key_rows(keys, a->k, a, t0, g, j, n);
  scores_panel(sp->panel, widened(keys, (float *)sp->keys, keys, n, a), n, a);
  OP(gemm)(a->bf16, rows, sp->q, stride, 4, sp->panel, D, n, sp->p, PANEL, 0);
  for (int i = 0; i < rows; i += a->bf16 ? 2 : 1) {
    float *p = sp->p + (size_t)i * PANEL, *ds = sp->ds + (size_t)i * PANEL;
    row_range r[2] = {range_of(a, sp, t0, i, rows, j), range_of(a, sp, t0, i + 1, rows, j)};
    if (a->bf16)
      pair_probs(p, ds, r, a->scale, sp->p + (size_t)i / 2 * PANEL, sp->ds + (size_t)i / 2 * PANEL, sp->ds_rows + (size_t)i * PANEL);
    else
      row_probs(p, ds, r, a->scale);
  }
  add_keys(gr->dv, a, sp->p, sp->o_rows, rows, t0, g, j, n, in_line, sp->out);
  if (in_line && a->dtype != TLK_F16) {
    panels_over_d(sp->k, keys[0], a->k.ld, n, a);
  } else {
    for (int i = 0; i < n && a->dtype != TLK_F16; i++) memcpy(sp->keys + i * stride, keys[i], (size_t)stride);  // fp16: they are there
    panels_over_d(sp->k, sp->keys, D, n, a);
  }
  const void *by_rows = a->bf16 ? (const void *)sp->ds_rows : sp->ds;
  times_panels(sp->dq, width, a, rows, by_rows, PANEL * item_size(a), 4, sp->k, n, 1);
  add_keys(gr->dk, a, sp->ds, sp->q_rows, rows, t0, g, j, n, in_line, sp->out);
}

static void store_dq(const grads *gr, const attn *a, int t0, int t1, int g, const space *sp) {
  int heads = a->H / a->G, D = a->D, width = n_panels(D) * PANEL;
  for (int i = 0; i < (t1 - t0) * heads; i++)
    memcpy((float *)mat_row_out(gr->dq, t0 + i / heads) + (size_t)(g * heads + i % heads) * D, sp->dq + (size_t)i * width,
           sizeof(float) * (size_t)D);
}

static void unit(const grads *gr, const attn *a, int u0, int u1, int g, const space *sp) {
  for (int t = u0, end; t < u1; t = end) {
    int last = 0, first = INT32_MAX;
    end = tile_end(a, t, u1, BWD_ROWS);
    for (int i = t; i < end; i++) {
      last = max_int(last, a->map->kv_len[i]);
      first = min_int(first, first_key(a->map, i));
    }
    if (last == 0) {
      size_t width = (size_t)(a->H / a->G) * a->D;
      for (int i = t; i < end; i++) memset((float *)mat_row_out(gr->dq, i) + g * width, 0, sizeof(float) * width);
      continue;
    }
    load_tile(gr, a, t, end, g, sp);
    memset(sp->dq, 0, sizeof(float) * (size_t)((end - t) * (a->H / a->G)) * (size_t)(n_panels(a->D) * PANEL));
    for (int j = first / PANEL * PANEL; j < last; j += PANEL) block(gr, a, t, end, g, j, min_int(PANEL, last - j), sp);
    store_dq(gr, a, t, end, g, sp);
  }
}

typedef struct {
  attn a;
  grads gr;
  const int32_t *unit_off;
  char *base;
  size_t each;
  int rows;
} job;

static void item(const void *ctx, int i, int thread) {
  const job *q = ctx;
  space sp;
  carve(&sp, q->base + q->each * thread, q->rows, q->a.D);
  unit(&q->gr, &q->a, q->unit_off[i / q->a.G], q->unit_off[i / q->a.G + 1], i % q->a.G, &sp);
}

void OP(attn_bwd)(tlk_mat dq, tlk_mat dk, tlk_mat dv, tlk_mat d_o, tlk_mat o, const float *lse, tlk_mat q, tlk_mat k, tlk_mat v,
                  const tlk_attn_map *map, const int32_t *unit_off, int n_units, float scale, int T, int H, int G, int D) {
  job j = {attn_of(q, k, v, map, scale, H, G, D), {dq, dk, dv, d_o, o, lse}, unit_off, NULL, 0, 0};
  space sp;
  j.rows = max_int(BWD_ROWS, H / G);
  j.each = carve(&sp, NULL, j.rows, D);
  j.base = tlk_cpu_scratch(SCRATCH_A, j.each * tlk_cpu_threads());
  tlk_run(n_units * G, (double)T * H * D * 8, item, &j);
}
