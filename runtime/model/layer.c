// layer.c: see layer.h. Hand-written forward and backward of one layer over packed rows.
#include "layer.h"
#include "../comm/comm.h"
#include <math.h>

void tl_net_init(tl_net *net, const tl_model *m, const tl_adapter_view *view) {
  *net = (tl_net){.model = m, .cfg = &m->local, .w = &m->w, .act = m->compute, .rope = m->rope,
                  .scale = 1.0f / sqrtf((float)m->cfg.head_dim), .split = m->shards > 1};
  if (!view) return;
  if (view->weights) net->w = view->weights;
  net->lowrank = view->lowrank;
  net->max_rank = view->lowrank ? view->max_rank : 0;
}

static const tlk_lowrank *lowrank_of(const tl_net *net, int module, tlk_lowrank *with_variant) {
  if (!net->lowrank || net->lowrank[module].r == 0) return NULL;
  if (!net->variant) return &net->lowrank[module];
  *with_variant = net->lowrank[module];
  with_variant->variant = net->variant;
  return with_variant;
}

static size_t mat_bytes(int dtype, int T, int width) { return tl_align64((size_t)T * width * tlk_dtype_size(dtype)); }

tlk_mat tl_mat_take(tl_arena *arena, int dtype, int T, int width) {
  return (tlk_mat){tl_arena_take(arena, (size_t)T * width * tlk_dtype_size(dtype)), dtype, width};
}

size_t tl_acts_bytes(const tl_net *net, int T, bool for_backward, bool own_kv) {
  const tl_config *c = net->cfg;
  int hd = c->n_heads * c->head_dim, gd = c->n_kv_heads * c->head_dim;
  size_t n = 2 * mat_bytes(TLK_F32, T, 1) + mat_bytes(TLK_F32, T, c->n_heads) + 2 * mat_bytes(net->act, T, hd) +
             2 * mat_bytes(net->act, T, c->ffn) + TL_N_KINDS * mat_bytes(TLK_F32, T, net->max_rank);
  if (own_kv) n += 2 * mat_bytes(net->act, T, gd);
  if (c->family->qk_norm)
    n += mat_bytes(net->act, T, hd) + mat_bytes(net->act, T, gd) + mat_bytes(TLK_F32, T, c->n_heads) +
         mat_bytes(TLK_F32, T, c->n_kv_heads);
  if (for_backward) n += 2 * mat_bytes(TLK_F32, T, c->width);
  return n;
}

void tl_acts_take(tl_acts *a, const tl_net *net, int T, bool for_backward, bool own_kv, tl_arena *arena) {
  const tl_config *c = net->cfg;
  int hd = c->n_heads * c->head_dim, gd = c->n_kv_heads * c->head_dim;
  *a = (tl_acts){0};
  a->rstd1 = tl_arena_take(arena, sizeof(float) * (size_t)T);
  a->rstd2 = tl_arena_take(arena, sizeof(float) * (size_t)T);
  a->lse = tl_arena_take(arena, sizeof(float) * (size_t)T * c->n_heads);
  a->q = tl_mat_take(arena, net->act, T, hd);
  a->o = tl_mat_take(arena, net->act, T, hd);
  a->gate = tl_mat_take(arena, net->act, T, c->ffn);
  a->up = tl_mat_take(arena, net->act, T, c->ffn);
  for (int k = 0; k < TL_N_KINDS; k++) a->z[k] = tl_arena_take(arena, sizeof(float) * (size_t)T * net->max_rank);
  if (own_kv) {
    a->k = tl_mat_take(arena, net->act, T, gd);
    a->v = tl_mat_take(arena, net->act, T, gd);
  }
  if (c->family->qk_norm) {
    a->q_raw = tl_mat_take(arena, net->act, T, hd);
    a->k_raw = tl_mat_take(arena, net->act, T, gd);
    a->rstd_q = tl_arena_take(arena, sizeof(float) * (size_t)T * c->n_heads);
    a->rstd_k = tl_arena_take(arena, sizeof(float) * (size_t)T * c->n_kv_heads);
  }
  if (for_backward) {
    a->x_in = tl_arena_take(arena, sizeof(float) * (size_t)T * c->width);
    a->x_mid = tl_arena_take(arena, sizeof(float) * (size_t)T * c->width);
  }
}

size_t tl_fwd_scratch_bytes(const tl_net *net, int T) {
  const tl_config *c = net->cfg;
  int hd = c->n_heads * c->head_dim, gd = c->n_kv_heads * c->head_dim;
  size_t q = mat_bytes(TLK_F32, T, hd), kv = mat_bytes(TLK_F32, T, gd);
  return mat_bytes(net->act, T, c->width) + q + 2 * kv + mat_bytes(net->act, T, c->ffn) + (c->family->qk_norm ? q : 0);
}

void tl_fwd_scratch_take(tl_fwd_scratch *s, const tl_net *net, int T, tl_arena *arena) {
  const tl_config *c = net->cfg;
  s->xn = tl_mat_take(arena, net->act, T, c->width);
  s->q = tl_mat_take(arena, TLK_F32, T, c->n_heads * c->head_dim);
  s->k = tl_mat_take(arena, TLK_F32, T, c->n_kv_heads * c->head_dim);
  s->v = tl_mat_take(arena, TLK_F32, T, c->n_kv_heads * c->head_dim);
  s->h = tl_mat_take(arena, net->act, T, c->ffn);
  s->normed = (tlk_mat){0};
  if (c->family->qk_norm) s->normed = tl_mat_take(arena, TLK_F32, T, c->n_heads * c->head_dim);
}

static int dy_width(const tl_config *c) {
  int hd = c->n_heads * c->head_dim;
  return hd > c->width ? hd : c->width;
}

size_t tl_bwd_scratch_bytes(const tl_net *net, int T) {
  const tl_config *c = net->cfg;
  int hd = c->n_heads * c->head_dim, gd = c->n_kv_heads * c->head_dim;
  return mat_bytes(net->act, T, dy_width(c)) + mat_bytes(TLK_F32, T, c->width) + mat_bytes(TLK_F32, T, c->ffn) +
         2 * mat_bytes(net->act, T, c->ffn) + mat_bytes(TLK_F32, T, hd) + 2 * mat_bytes(TLK_F32, T, gd) +
         mat_bytes(net->act, T, hd) + 2 * mat_bytes(net->act, T, gd) + mat_bytes(TLK_F32, T, net->max_rank);
}

void tl_bwd_scratch_take(tl_bwd_scratch *s, const tl_net *net, int T, tl_arena *arena) {
  const tl_config *c = net->cfg;
  int hd = c->n_heads * c->head_dim, gd = c->n_kv_heads * c->head_dim;
  s->dy = tl_mat_take(arena, net->act, T, dy_width(c));
  s->dxn = tl_mat_take(arena, TLK_F32, T, c->width);
  s->dh = tl_mat_take(arena, TLK_F32, T, c->ffn);
  s->dgate = tl_mat_take(arena, net->act, T, c->ffn);
  s->dup = tl_mat_take(arena, net->act, T, c->ffn);
  s->dq = tl_mat_take(arena, TLK_F32, T, hd);
  s->dk = tl_mat_take(arena, TLK_F32, T, gd);
  s->dv = tl_mat_take(arena, TLK_F32, T, gd);
  s->dq_act = tl_mat_take(arena, net->act, T, hd);
  s->dk_act = tl_mat_take(arena, net->act, T, gd);
  s->dv_act = tl_mat_take(arena, net->act, T, gd);
  s->g = tl_arena_take(arena, sizeof(float) * (size_t)T * net->max_rank);
}

// a linear of a layer with its low-rank term, if it has one: tmp holds it when rows differ in theirs
static tlk_linear linear_of(const tl_net *net, int layer, int kind, tlk_mat y, const tl_acts *a, tlk_lowrank *tmp) {
  const tl_linear *l = &net->w->layers[layer].lin[kind];
  const tlk_lowrank *lr = lowrank_of(net, layer * TL_N_KINDS + kind, tmp);
  return (tlk_linear){y, lr ? a->z[kind] : NULL, l->w, l->bias, lr};
}

static void linear(const tl_net *net, int layer, int kind, tlk_mat y, tlk_mat x, const tl_acts *a, int T, int accumulate) {
  tlk_lowrank tmp;
  tlk_linear l = linear_of(net, layer, kind, y, a, &tmp);
  tl_ops()->linear_fwd(y, l.z, x, l.w, l.bias, l.lr, T, accumulate);
}

// x (T, C) += a linear's output; over all ranks when they share the model
static void add_output(const tl_net *net, int layer, int kind, float *x, tlk_mat in, const tl_acts *a, int T) {
  linear(net, layer, kind, tl_mat_f32(x, net->cfg->width), in, a, T, net->model->shard == 0);
  if (net->split) tl_comm_sum(x, (int64_t)T * net->cfg->width);
}

// q and k of a layer: which (TL_Q or TL_K), its number of heads and, in families that norm them, what is kept for backward
typedef struct {
  int layer, kind, heads;
  tlk_mat raw;         // (T, heads*D) act
  float *rstd;         // (T, heads)
  const float *gain;   // (D); NULL: no norm
} rotated;

static rotated rotated_of(const tl_net *net, int layer, int kind, const tl_acts *a) {
  const tl_layer *w = &net->w->layers[layer];
  if (kind == TL_Q) return (rotated){layer, kind, net->cfg->n_heads, a->q_raw, a->rstd_q, w->norm_q};
  return (rotated){layer, kind, net->cfg->n_kv_heads, a->k_raw, a->rstd_k, w->norm_k};
}

// the table by which a layer rotates
static const float *rope_of(const tl_net *net, int layer) {
  return net->cfg->unrotated && net->cfg->unrotated[layer] ? net->model->no_rope : net->rope;
}

// y (row out_rows[t] for t, or t) = the rotated, normed rows of the raw ones; wide (T, heads*D) F32 is scratch
static void normed_fwd(const tl_net *net, rotated r, tlk_mat y, tlk_mat wide, const int32_t *out_rows, const tl_rows *rows,
                       const tl_fwd_scratch *s) {
  const tlk_ops *ops = tl_ops();
  int T = rows->T, D = net->cfg->head_dim, width = r.heads * D;
  ops->cast(wide, NULL, r.raw, T, width);
  ops->rmsnorm_fwd(tl_mat_f32(s->normed.p, D), r.rstd, wide.p, r.gain, net->cfg->norm_eps, T * r.heads, D);
  ops->rope_fwd(y, out_rows, tl_mat_f32(s->normed.p, width), rows->pos, rope_of(net, r.layer), T, r.heads, D);
}

// q, and k and v where the layer keeps them: rotated at once, or, in families with norms on q and k, raw and then normed
static void qkv_fwd(const tl_net *net, int layer, const tl_rows *rows, const tl_acts *a, const tl_fwd_scratch *s) {
  rotated q = rotated_of(net, layer, TL_Q, a), k = rotated_of(net, layer, TL_K, a);
  tlk_lowrank tmp[3];
  const tlk_rotated parts[] = {
    {linear_of(net, layer, TL_Q, s->q, a, &tmp[0]), q.gain ? q.raw : a->q, NULL, q.gain ? 0 : q.heads},
    {linear_of(net, layer, TL_K, s->k, a, &tmp[1]), k.gain ? k.raw : a->k, k.gain ? NULL : rows->kv_out, k.gain ? 0 : k.heads},
    {linear_of(net, layer, TL_V, s->v, a, &tmp[2]), a->v, rows->kv_out, 0},
  };
  tl_ops()->linear_rope_fwd(parts, 3, rows->pos, rope_of(net, layer), s->xn, rows->T, net->cfg->head_dim);
  if (q.gain) normed_fwd(net, q, a->q, s->q, NULL, rows, s);
  if (k.gain) normed_fwd(net, k, a->k, s->k, rows->kv_out, rows, s);
}

// the layer's attention map: the rows', with the layer's window
static tlk_attn_map map_of(const tl_net *net, int layer, const tl_rows *rows) {
  tlk_attn_map map = rows->map;
  map.window = tl_config_window(net->cfg, layer);
  return map;
}

void tl_layer_fwd(const tl_net *net, int layer, const tl_rows *rows, float *x, tl_acts *a, const tl_fwd_scratch *s) {
  const tlk_ops *ops = tl_ops();
  const tl_config *c = net->cfg;
  const tl_layer *w = &net->w->layers[layer];
  int T = rows->T, C = c->width, H = c->n_heads, G = c->n_kv_heads, D = c->head_dim;
  tlk_attn_map map = map_of(net, layer, rows);
  tlk_lowrank tmp[2];
  if (a->x_in) ops->copy(a->x_in, x, sizeof(float) * (size_t)T * C);
  ops->rmsnorm_fwd(s->xn, a->rstd1, x, w->norm1, c->norm_eps, T, C);
  qkv_fwd(net, layer, rows, a, s);
  ops->attn_fwd(a->o, a->lse, a->q, a->k, a->v, &map, net->scale, T, H, G, D);
  add_output(net, layer, TL_O, x, a->o, a, T);
  if (a->x_mid) ops->copy(a->x_mid, x, sizeof(float) * (size_t)T * C);
  ops->rmsnorm_fwd(s->xn, a->rstd2, x, w->norm2, c->norm_eps, T, C);
  const tlk_linear gate_up[] = {linear_of(net, layer, TL_GATE, a->gate, a, &tmp[0]), linear_of(net, layer, TL_UP, a->up, a, &tmp[1])};
  ops->linear_swiglu_fwd(s->h, gate_up, a->x_mid != NULL, s->xn, T);
  add_output(net, layer, TL_DOWN, x, s->h, a, T);
}

typedef struct {
  const tl_net *net;
  const tl_acts *a;
  const tl_bwd_scratch *s;
  const tl_grad_sink *sink;
  const int32_t *unit_off;
  int layer, n_units, T;
} bwd;

// a linear's gradient, if it is trained, after its g was made. x.p may be NULL when the sink does not need it.
static void train_linear(const bwd *b, int kind, const tlk_lowrank *lr, tlk_mat x, tlk_mat dy) {
  int module = b->layer * TL_N_KINDS + kind;
  if (!b->sink->trains(b->sink->ctx, module)) return;
  float scale = b->sink->loss_scale;
  if (lr && scale != 1) tl_ops()->scale(b->s->g, 1 / scale, (size_t)b->T * (size_t)lr->r);
  tl_linear_grad g = {.loss_scale = scale, .module = module, .x = x, .dy = dy, .z = lr ? b->a->z[kind] : NULL, .g = lr ? b->s->g : NULL,
                      .unit_off = b->unit_off, .n_units = b->n_units, .T = b->T};
  b->sink->linear(b->sink->ctx, &g);
}

// One linear's backward: dx (unless dx.p is NULL) and, if it is trained, its gradient.
static void linear_back(const bwd *b, int kind, tlk_mat dx, tlk_mat x, tlk_mat dy, int accumulate) {
  int module = b->layer * TL_N_KINDS + kind;
  tlk_lowrank tmp;
  const tlk_lowrank *lr = lowrank_of(b->net, module, &tmp);
  if (dx.p || lr)
    tl_ops()->linear_bwd_x(dx, lr ? b->s->g : NULL, dy, b->net->w->layers[b->layer].lin[kind].w, lr, b->T, accumulate);
  train_linear(b, kind, lr, x, dy);
}

// the same for the linear after silu(gate) up, through which dy goes on to dgate and dup
static void down_back(const bwd *b, tlk_mat h, tlk_mat dy) {
  const tl_bwd_scratch *s = b->s;
  tlk_lowrank tmp;
  const tlk_lowrank *lr = lowrank_of(b->net, b->layer * TL_N_KINDS + TL_DOWN, &tmp);
  tl_ops()->linear_bwd_swiglu(s->dgate, s->dup, s->dh, lr ? s->g : NULL, dy, b->net->w->layers[b->layer].lin[TL_DOWN].w, lr, b->a->gate,
                              b->a->up, b->T);
  train_linear(b, TL_DOWN, lr, h, dy);
}

// dxn (T, C), the sum of what came back through linears of the same input, over all ranks when they share the model
static void sum_input_gradient(const bwd *b) {
  if (b->net->split) tl_comm_sum(b->s->dxn.p, (int64_t)b->T * b->net->cfg->width);
}

static void ffn_back(const bwd *b, float *dx, const tl_fwd_scratch *f) {
  const tlk_ops *ops = tl_ops();
  const tl_config *c = b->net->cfg;
  const tl_layer *w = &b->net->w->layers[b->layer];
  const tl_bwd_scratch *s = b->s;
  const tl_acts *a = b->a;
  int T = b->T, C = c->width;
  tlk_mat dy = {s->dy.p, s->dy.dtype, C};
  tlk_mat h = {0}, xn = {0};
  if (b->sink->needs_x) {
    h = f->h, xn = f->xn;
    ops->swiglu_fwd(h, a->gate, a->up, T, c->ffn);
    ops->rmsnorm_fwd(xn, a->rstd2, a->x_mid, w->norm2, c->norm_eps, T, C);
  }
  ops->cast(dy, NULL, tl_mat_f32(dx, C), T, C);
  down_back(b, h, dy);
  linear_back(b, TL_GATE, s->dxn, xn, s->dgate, 0);
  linear_back(b, TL_UP, s->dxn, xn, s->dup, 1);
  sum_input_gradient(b);
  ops->rmsnorm_bwd(dx, b->sink->norm(b->sink->ctx, b->layer, TL_NORM_2), s->dxn.p, a->x_mid, w->norm2, a->rstd2, T, C);
}

// d_raw (T, heads*D) act = gradient of xn W^T, given dy (T, heads*D) F32 of the rotated rows, which is used up
static void rotated_back(const bwd *b, rotated r, const tl_rows *rows, tlk_mat d_raw, tlk_mat dy, const tl_fwd_scratch *f) {
  const tlk_ops *ops = tl_ops();
  int T = b->T, D = b->net->cfg->head_dim, width = r.heads * D;
  if (!r.gain) {
    ops->rope_bwd(d_raw, dy, rows->pos, rope_of(b->net, b->layer), T, r.heads, D);
    return;
  }
  tlk_mat d_normed = tl_mat_f32(f->normed.p, width), raw = tl_mat_f32(f->q.p, width);
  ops->rope_bwd(d_normed, dy, rows->pos, rope_of(b->net, b->layer), T, r.heads, D);
  ops->cast(raw, NULL, r.raw, T, width);
  ops->zero(dy.p, sizeof(float) * (size_t)T * (size_t)width);
  float *dgain = b->sink->norm(b->sink->ctx, b->layer, r.kind == TL_Q ? TL_NORM_Q : TL_NORM_K);
  ops->rmsnorm_bwd(dy.p, dgain, d_normed.p, raw.p, r.gain, r.rstd, T * r.heads, D);
  ops->cast(d_raw, NULL, dy, T, width);
}

static void attention_back(const bwd *b, const tl_rows *rows, float *dx, const tl_fwd_scratch *f) {
  const tlk_ops *ops = tl_ops();
  const tl_config *c = b->net->cfg;
  const tl_layer *w = &b->net->w->layers[b->layer];
  const tl_bwd_scratch *s = b->s;
  const tl_acts *a = b->a;
  int T = b->T, C = c->width, H = c->n_heads, G = c->n_kv_heads, D = c->head_dim;
  tlk_mat dy = {s->dy.p, s->dy.dtype, C}, d_o = {s->dy.p, s->dy.dtype, H * D}, xn = {0};
  if (b->sink->needs_x) {
    xn = f->xn;
    ops->rmsnorm_fwd(xn, a->rstd1, a->x_in, w->norm1, c->norm_eps, T, C);
  }
  ops->cast(dy, NULL, tl_mat_f32(dx, C), T, C);
  linear_back(b, TL_O, s->dq, a->o, dy, 0);  // dq holds d_o in fp32 until it is converted
  ops->cast(d_o, NULL, s->dq, T, H * D);
  ops->zero(s->dk.p, sizeof(float) * (size_t)T * G * D);
  ops->zero(s->dv.p, sizeof(float) * (size_t)T * G * D);
  tlk_attn_map map = map_of(b->net, b->layer, rows);
  ops->attn_bwd(s->dq, s->dk, s->dv, d_o, a->o, a->lse, a->q, a->k, a->v, &map, b->unit_off, b->n_units, b->net->scale, T, H, G,
                D);
  rotated_back(b, rotated_of(b->net, b->layer, TL_Q, a), rows, s->dq_act, s->dq, f);
  rotated_back(b, rotated_of(b->net, b->layer, TL_K, a), rows, s->dk_act, s->dk, f);
  ops->cast(s->dv_act, NULL, s->dv, T, G * D);
  float *dgain = b->sink->norm(b->sink->ctx, b->layer, TL_NORM_1);
  bool below = b->layer > b->sink->lowest || b->sink->embeddings || dgain;
  tlk_mat dxn = s->dxn;
  if (!below) dxn.p = NULL;
  linear_back(b, TL_Q, dxn, xn, s->dq_act, 0);
  linear_back(b, TL_K, dxn, xn, s->dk_act, 1);
  linear_back(b, TL_V, dxn, xn, s->dv_act, 1);
  if (!below) return;
  sum_input_gradient(b);
  ops->rmsnorm_bwd(dx, dgain, s->dxn.p, a->x_in, w->norm1, a->rstd1, T, C);
}

void tl_layer_bwd(const tl_net *net, int layer, const tl_rows *rows, const int32_t *unit_off, int n_units, float *dx,
                  const tl_acts *a, const tl_fwd_scratch *f, const tl_bwd_scratch *s, const tl_grad_sink *sink) {
  TL_ASSERT(rows->kv_out == NULL && a->x_in && a->x_mid);
  bwd b = {.net = net, .a = a, .s = s, .sink = sink, .unit_off = unit_off, .layer = layer, .n_units = n_units, .T = rows->T};
  ffn_back(&b, dx, f);
  attention_back(&b, rows, dx, f);
}
