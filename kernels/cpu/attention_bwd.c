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
  char *q, *d_o, *o, *keys;      // rows x D as they are multiplied; 64 keys of K
  uint32_t *panel;               // one panel of K or V along d
  uint32_t *k, *q_rows, *o_rows; // panels over d, the reduction along rows: the keys; the tile's q and do
  float *p, *ds;                 // rows x 64; then panels with the reduction along rows
  uint16_t *ds_rows;             // ds by rows in bf16
  float *out;                    // max(rows, 64) x width
  float *lse, *delta;            // rows
} space;

enum { N_PARTS = 14, BWD_ROWS = 2 * TILE_ROWS };

// carves one thread's part; returns its size
static size_t carve(space *sp, char *base, int rows, int D) {
  size_t n = (size_t)rows, width = (size_t)n_panels(D) * PANEL, q = n * D * 4, tall = (size_t)max_int(rows, PANEL);
  size_t sizes[N_PARTS] = {q, q, q, (size_t)PANEL * D * 4, (size_t)D * STEP_BYTES, PANEL * width * 4, n * width * 4, n * width * 4,
                           n * STEP_BYTES, n * STEP_BYTES, n * PANEL * 2, tall * width * 4, n * 4, n * 4};
  char *at[N_PARTS];
  size_t total = 0;
  for (int i = 0; i < N_PARTS; i++) {
    at[i] = base + total;
    total += (sizes[i] + 63) / 64 * 64;
  }
  *sp = (space){at[0], at[1], at[2], at[3], (uint32_t *)at[4], (uint32_t *)at[5], (uint32_t *)at[6], (uint32_t *)at[7],
                (float *)at[8], (float *)at[9], (uint16_t *)at[10], (float *)at[11], (float *)at[12], (float *)at[13]};
  return total;
}

static float row_delta(const void *d_o, const void *o, int dtype, int D) {
  vf s = {0};
  for (int d = 0; d < D; d += VL) s = v_fma(v_load_as(d_o, dtype, d, D - d), v_load_as(o, dtype, d, D - d), s);
  return v_sum(s);
}

// p = exp(scale p - lse) within the row's range, else 0;  ds = p (ds - delta) scale
static void row_probs(float *p, float *ds, int j, int first, int last, float lse, float delta, float scale) {
  vi lane;
  for (int l = 0; l < VL; l++) lane[l] = l;
  for (int c = 0; c < PANEL; c += VL) {
    int from = j + c;
    if (from + VL <= first || from >= last) {
      v_store(p + c, (vf){0});
      v_store(ds + c, (vf){0});
      continue;
    }
    vf e = v_exp(v_fma(v_load(p + c), v_set(scale), v_set(-lse)));
    vf d = e * (v_load(ds + c) - v_set(delta)) * v_set(scale);
    if (from < first || from + VL > last) {
      vi pos = lane + from, out = (pos < first) | (pos >= last);
      e = v_select(out, v_set(0), e);
      d = v_select(out, v_set(0), d);
    }
    v_store(p + c, e);
    v_store(ds + c, d);
  }
}

// x (rows, 64) turned to a panel of bf16 pairs along the rows, in place, an odd last row paired with zero
static void pair_rows(float *x, int rows) {
  for (int i = 0; i < rows; i += 2)
    for (int c = 0; c < PANEL; c += VL) {
      vh low = v_to_bf16(v_load(x + i * PANEL + c));
      vh high = i + 1 < rows ? v_to_bf16(v_load(x + (i + 1) * PANEL + c)) : (vh){0};
      vu pair = __builtin_convertvector(low, vu) | __builtin_convertvector(high, vu) << 16;
      v_store(x + i / 2 * PANEL + c, (vf)pair);
    }
}

// panels over d of rows x D numbers, the reduction along the rows
static void panels_over_d(uint32_t *dst, char *src, int rows, const attn *a) {
  tlk_mat m = {src, a->bf16 ? TLK_BF16 : TLK_F32, a->D};
  for (int p = 0; p < n_panels(a->D); p++)
    OP(panel_of_columns)(dst + (size_t)p * n_steps(rows, a->bf16) * PANEL, a->bf16, m, 0, rows, p * PANEL,
                         min_int(PANEL, a->D - p * PANEL));
}

// out (n, D) = left (n, rows) right (rows, D), of panels over d
static void times_panels(float *out, const attn *a, int n, const void *left, ptrdiff_t row_stride, ptrdiff_t step_stride,
                         const uint32_t *right, int rows) {
  int D = a->D, width = n_panels(D) * PANEL;
  for (int p = 0; p < n_panels(D); p++)
    OP(gemm)(a->bf16, n, left, row_stride, step_stride, right + (size_t)p * n_steps(rows, a->bf16) * PANEL, rows,
             min_int(PANEL, D - p * PANEL), out + p * PANEL, width, 0);
}

// d (keys of the block) += left^T right over the tile's rows
static void add_keys(tlk_mat d, const attn *a, const float *left, const uint32_t *right, int rows, int t, int g, int j, int n,
                     float *out) {
  int D = a->D, width = n_panels(D) * PANEL;
  const int32_t *list = a->map->kv_rows + a->map->kv_off[t] + j;
  times_panels(out, a, n, left, 4, STEP_BYTES, right, rows);
  for (int i = 0; i < n; i++) {
    float *to = (float *)mat_row_out(d, list[i]) + (size_t)g * D;
    for (int c = 0; c < D; c += VL) v_storen(to + c, v_loadn(to + c, D - c, 0) + v_load(out + (size_t)i * width + c), D - c);
  }
}

static void load_tile(const grads *gr, const attn *a, int t0, int t1, int g, const space *sp) {
  int heads = a->H / a->G, rows = (t1 - t0) * heads, D = a->D, size = item_size(a);
  gather_heads(sp->q, a->q, a, t0, t1, g);
  gather_heads(sp->d_o, gr->d_o, a, t0, t1, g);
  gather_heads(sp->o, gr->o, a, t0, t1, g);
  panels_over_d(sp->q_rows, sp->q, rows, a);
  panels_over_d(sp->o_rows, sp->d_o, rows, a);
  for (int i = 0; i < rows; i++) {
    sp->lse[i] = gr->lse[(size_t)(t0 + i / heads) * a->H + g * heads + i % heads];
    sp->delta[i] = row_delta(sp->d_o + (size_t)i * D * size, sp->o + (size_t)i * D * size, a->bf16 ? TLK_BF16 : TLK_F32, D);
  }
}

// one tile against the keys at j .. j + n
static void block(const grads *gr, const attn *a, int t0, int t1, int g, int j, int n, int add_dq, const space *sp) {
  int heads = a->H / a->G, rows = (t1 - t0) * heads, D = a->D, width = n_panels(D) * PANEL;
  ptrdiff_t stride = (ptrdiff_t)D * item_size(a);
  const void *keys[PANEL];
  key_rows(keys, a->v, a, t0, g, j, n);
  scores_panel(sp->panel, widened(keys, (float *)sp->keys, keys, n, a), n, a);
  OP(gemm)(a->bf16, rows, sp->d_o, stride, 4, sp->panel, D, n, sp->ds, PANEL, 0);
  key_rows(keys, a->k, a, t0, g, j, n);
  scores_panel(sp->panel, widened(keys, (float *)sp->keys, keys, n, a), n, a);
  OP(gemm)(a->bf16, rows, sp->q, stride, 4, sp->panel, D, n, sp->p, PANEL, 0);
  for (int i = 0; i < rows; i++) {
    int t = t0 + i / heads;
    row_probs(sp->p + (size_t)i * PANEL, sp->ds + (size_t)i * PANEL, j, first_key(a->map, t), a->map->kv_len[t], sp->lse[i],
              sp->delta[i], a->scale);
  }
  if (a->bf16) {
    for (int i = 0; i < rows; i++) OP(convert)(sp->ds_rows + (size_t)i * PANEL, TLK_BF16, sp->ds + (size_t)i * PANEL, TLK_F32, PANEL);
    pair_rows(sp->p, rows);
  }
  add_keys(gr->dv, a, sp->p, sp->o_rows, rows, t0, g, j, n, sp->out);
  for (int i = 0; i < n && a->dtype != TLK_F16; i++) memcpy(sp->keys + i * stride, keys[i], (size_t)stride);  // fp16: they are there
  panels_over_d(sp->k, sp->keys, n, a);
  if (!a->bf16) {
    times_panels(sp->out, a, rows, sp->ds, STEP_BYTES, 4, sp->k, n);
  } else {
    times_panels(sp->out, a, rows, sp->ds_rows, PANEL * 2, 4, sp->k, n);
    pair_rows(sp->ds, rows);
  }
  for (int i = 0; i < rows; i++) {
    float *to = (float *)mat_row_out(gr->dq, t0 + i / heads) + (size_t)(g * heads + i % heads) * D;
    for (int d = 0; d < D; d += VL) {
      vf x = v_load(sp->out + (size_t)i * width + d);
      v_storen(to + d, add_dq ? v_loadn(to + d, D - d, 0) + x : x, D - d);
    }
  }
  add_keys(gr->dk, a, sp->ds, sp->q_rows, rows, t0, g, j, n, sp->out);
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
    int j0 = first / PANEL * PANEL;
    for (int j = j0; j < last; j += PANEL) block(gr, a, t, end, g, j, min_int(PANEL, last - j), j > j0, sp);
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
