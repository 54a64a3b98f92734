// attention_bwd.c: gradients of attention, with the probabilities computed again from lse.
//   p = exp(scale q k - lse),  dv += p^T do,  dp = do v^T,  ds = p (dp - delta) scale,  delta = sum(do o),
//   dq = ds k,  dk += ds^T q.
// One item is a unit's rows for one key/value head: it alone touches its dk and dv, tile after tile and block after block in
// order, so threads may take items as they are free. Scores and dp use bf16 products when the operands are bf16, the sums over
// keys and over queries fp32.
#include "attention.h"

typedef struct {
  tlk_mat dq, dk, dv, d_o, o;
  const float *lse;
} grads;

typedef struct {
  char *q, *d_o, *o;          // rows x D in the operands' dtype
  uint32_t *panel;            // one panel of K or V along d
  float *k, *qf, *of;         // panels over d: 64 keys of K; the tile's q and do, in fp32
  float *p, *ds;              // rows x 64
  float *out;                 // max(rows, 64) x width
  float *lse, *delta;         // rows
} space;

enum { N_PARTS = 11 };

// carves one thread's part; returns its size
static size_t carve(space *sp, char *base, int rows, int D) {
  size_t width = (size_t)n_panels(D) * PANEL, q = (size_t)rows * D * 4, tall = (size_t)max_int(rows, PANEL);
  size_t sizes[N_PARTS + 1] = {q, q, q, (size_t)D * STEP_BYTES, PANEL * width * 4, rows * width * 4, rows * width * 4,
                               (size_t)rows * STEP_BYTES, (size_t)rows * STEP_BYTES, tall * width * 4, (size_t)rows * 4,
                               (size_t)rows * 4};
  char *at[N_PARTS + 1];
  size_t total = 0;
  for (int i = 0; i <= N_PARTS; i++) {
    at[i] = base + total;
    total += (sizes[i] + 63) / 64 * 64;
  }
  *sp = (space){at[0], at[1], at[2], (uint32_t *)at[3], (float *)at[4], (float *)at[5], (float *)at[6], (float *)at[7],
                (float *)at[8], (float *)at[9], (float *)at[10], (float *)at[11]};
  return total;
}

static float row_delta(const void *d_o, const void *o, int bf16, int D) {
  vf s = {0};
  for (int d = 0; d < D; d += VL) s = v_fma(v_load_as(d_o, bf16, d, D - d), v_load_as(o, bf16, d, D - d), s);
  return v_sum(s);
}

// p = exp(scale p - lse) within the row's range, else 0;  ds = p (ds - delta) scale
static void row_probs(float *p, float *ds, int j, int first, int last, float lse, float delta, float scale) {
  vi lane;
  for (int l = 0; l < VL; l++) lane[l] = l;
  for (int c = 0; c < PANEL; c += VL) {
    vi pos = lane + (j + c);
    vi out = (pos < first) | (pos >= last);
    vf e = v_select(out, v_set(0), v_exp(v_fma(v_load(p + c), v_set(scale), v_set(-lse))));
    v_store(p + c, e);
    v_store(ds + c, v_select(out, v_set(0), e * (v_load(ds + c) - v_set(delta)) * v_set(scale)));
  }
}

// d (keys of the block) += left^T right over the tile's rows
static void add_keys(tlk_mat d, const attn *a, const float *left, const float *right, int rows, int t, int g, int j, int n,
                     float *out) {
  int D = a->D, width = n_panels(D) * PANEL;
  const int32_t *list = a->map->kv_rows + a->map->kv_off[t] + j;
  for (int p = 0; p < n_panels(D); p++)
    OP(gemm)(0, n, left, 4, STEP_BYTES, right + (size_t)p * rows * PANEL, rows, min_int(PANEL, D - p * PANEL), out + p * PANEL,
             width, 0);
  for (int i = 0; i < n; i++) {
    float *to = (float *)mat_row_out(d, list[i]) + (size_t)g * D;
    for (int c = 0; c < D; c += VL) v_storen(to + c, v_loadn(to + c, D - c, 0) + v_load(out + (size_t)i * width + c), D - c);
  }
}

// panels over d of the tile's rows, in fp32
static void widen(float *dst, const char *src, int rows, const attn *a) {
  size_t stride = (size_t)a->D * (a->bf16 ? 2 : 4);
  for (int r = 0; r < rows; r += PANEL) {
    const void *at[PANEL];
    int n = min_int(PANEL, rows - r);
    for (int i = 0; i < n; i++) at[i] = src + (r + i) * stride;
    value_panels(dst + (size_t)r * PANEL, at, n, rows, a->D, a->bf16);
  }
}

static void load_tile(const grads *gr, const attn *a, int t0, int t1, int g, const space *sp) {
  int heads = a->H / a->G, rows = (t1 - t0) * heads, D = a->D, size = a->bf16 ? 2 : 4;
  gather_heads(sp->q, a->q, a, t0, t1, g);
  gather_heads(sp->d_o, gr->d_o, a, t0, t1, g);
  gather_heads(sp->o, gr->o, a, t0, t1, g);
  widen(sp->qf, sp->q, rows, a);
  widen(sp->of, sp->d_o, rows, a);
  for (int i = 0; i < rows; i++) {
    sp->lse[i] = gr->lse[(size_t)(t0 + i / heads) * a->H + g * heads + i % heads];
    sp->delta[i] = row_delta(sp->d_o + (size_t)i * D * size, sp->o + (size_t)i * D * size, a->bf16, D);
  }
}

// one tile against the keys at j .. j + n
static void block(const grads *gr, const attn *a, int t0, int t1, int g, int j, int n, int add_dq, const space *sp) {
  int heads = a->H / a->G, rows = (t1 - t0) * heads, D = a->D, width = n_panels(D) * PANEL;
  ptrdiff_t stride = (ptrdiff_t)D * (a->bf16 ? 2 : 4);
  const void *keys[PANEL];
  key_rows(keys, a->v, a, t0, g, j, n);
  scores_panel(sp->panel, keys, n, a);
  OP(gemm)(a->bf16, rows, sp->d_o, stride, 4, sp->panel, D, PANEL, sp->ds, PANEL, 0);
  key_rows(keys, a->k, a, t0, g, j, n);
  scores_panel(sp->panel, keys, n, a);
  OP(gemm)(a->bf16, rows, sp->q, stride, 4, sp->panel, D, PANEL, sp->p, PANEL, 0);
  for (int i = 0; i < rows; i++) {
    int t = t0 + i / heads;
    row_probs(sp->p + (size_t)i * PANEL, sp->ds + (size_t)i * PANEL, j, first_key(a->map, t), a->map->kv_len[t], sp->lse[i],
              sp->delta[i], a->scale);
  }
  add_keys(gr->dv, a, sp->p, sp->of, rows, t0, g, j, n, sp->out);
  add_keys(gr->dk, a, sp->ds, sp->qf, rows, t0, g, j, n, sp->out);
  value_panels(sp->k, keys, n, PANEL, D, a->bf16);
  for (int p = 0; p < n_panels(D); p++)
    OP(gemm)(0, rows, sp->ds, STEP_BYTES, 4, sp->k + (size_t)p * PANEL * PANEL, n, min_int(PANEL, D - p * PANEL),
             sp->out + p * PANEL, width, 0);
  for (int i = 0; i < rows; i++) {
    float *to = (float *)mat_row_out(gr->dq, t0 + i / heads) + (size_t)(g * heads + i % heads) * D;
    for (int d = 0; d < D; d += VL) {
      vf x = v_load(sp->out + (size_t)i * width + d);
      v_storen(to + d, add_dq ? v_loadn(to + d, D - d, 0) + x : x, D - d);
    }
  }
}

static void unit(const grads *gr, const attn *a, int u0, int u1, int g, const space *sp) {
  for (int t = u0, end; t < u1; t = end) {
    int last = 0, first = INT32_MAX;
    end = tile_end(a, t, u1);
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
  job j = {{q, k, v, map, scale, H, G, D, q.dtype == TLK_BF16}, {dq, dk, dv, d_o, o, lse}, unit_off, NULL, 0, 0};
  space sp;
  j.rows = max_int(TILE_ROWS, H / G);
  j.each = carve(&sp, NULL, j.rows, D);
  j.base = tlk_cpu_scratch(SCRATCH_A, j.each * tlk_cpu_threads());
  tlk_run(n_units * G, (double)T * H * D * 8, item, &j);
}
