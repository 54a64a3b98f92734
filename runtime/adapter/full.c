// full.c: full finetuning as an adapter: the parameter vector holds every weight, the forward pass reads a weight set of the
// adapter's own, and the base model stays as it is (so the reference policy of a run is still there).
//
// Layout of the parameter vector (each part row-major; parts that are not trained are absent):
//   embedding (V, C) | per module, in index order: weight (out, in), bias (out) | all norms' gains, as tl_norm_offset says
//   | head (V, C) unless tied to the embedding
// train_embeddings false leaves the linears with their biases only.
//
// Values start as the base computes with them. refresh rounds the master copy to the storage dtype and packs it anew; norms
// and biases are read by the forward pass where they lie, in the ops' copy of the value vector.
#include "adapter.h"

tl_status tl_full_build(tl_adapter *a) {
  const tl_config *c = &a->model->cfg;
  int total = c->n_layers * TL_N_KINDS;
  int64_t at = 0, table = (int64_t)c->vocab * c->width;
  a->full_off_w = malloc(sizeof(int64_t) * (size_t)total);
  a->full_off_b = malloc(sizeof(int64_t) * (size_t)total);
  if (!a->full_off_w || !a->full_off_b) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  a->n_modules = 0;
  a->off_embed = a->off_head = a->off_norms = -1;
  if (a->train_embeddings) {
    a->off_embed = at;
    at += table;
  }
  for (int i = 0; i < total; i++) {
    int out = tl_linear_out(c, i % TL_N_KINDS), in = tl_linear_in(c, i % TL_N_KINDS);
    a->full_off_w[i] = at;
    at += (int64_t)out * in;
    a->full_off_b[i] = tl_weights_module(&a->model->w, i)->bias ? at : -1;
    if (a->full_off_b[i] >= 0) at += out;
  }
  if (a->train_embeddings) {
    a->off_norms = at;
    at += tl_norms_size(c);
    a->off_head = c->tied ? a->off_embed : at;
    if (!c->tied) at += table;
  }
  a->n_params = at;
  return TL_OK;
}

static tl_status own(tl_adapter *a, tlk_packed **slot, uint8_t *owned, int64_t off, int out, int in) {
  const tlk_ops *ops = tl_ops();
  ops->unpack(a->master + off, *slot, 0, out);
  tlk_packed *mine = ops->pack(a->master + off, TLK_F32, out, in, a->model->compute);
  if (!mine) return tl_fail(TL_E_MEMORY, "adapter: out of memory for an own (%d, %d) weight", out, in);
  *slot = mine;
  *owned = 1;
  return TL_OK;
}

static float *own_vector(tl_adapter *a, const float *from, int64_t off, int n) {
  tl_ops()->copy(a->master + off, from, sizeof(float) * (size_t)n);
  return tl_value_ops(a, off);
}

static tl_status own_norms(tl_adapter *a) {
  const tl_config *c = &a->model->cfg;
  tl_part *parts;
  int n;
  TL_TRY(tl_parts_list(c, &parts, &n));
  for (int i = 0; i < n; i++) {
    float **v = tl_weights_vector(&a->full, &parts[i]);
    if (!v || parts[i].role == TL_PART_BIAS) continue;
    *v = own_vector(a, *v, a->off_norms + tl_norm_part_offset(c, &parts[i]), parts[i].rows);
  }
  free(parts);
  return TL_OK;
}

tl_status tl_full_init(tl_adapter *a) {
  const tl_config *c = &a->model->cfg;
  TL_TRY(tl_weights_share(&a->model->w, &a->full));
  uint8_t owned;
  for (int i = 0; i < c->n_layers * TL_N_KINDS; i++) {
    int out = tl_linear_out(c, i % TL_N_KINDS), in = tl_linear_in(c, i % TL_N_KINDS);
    tl_linear *l = tl_weights_module(&a->full, i);
    TL_TRY(own(a, &l->w, &a->full.owned_lin[i], a->full_off_w[i], out, in));
    if (a->full_off_b[i] >= 0) l->bias = own_vector(a, l->bias, a->full_off_b[i], out);
  }
  if (a->train_embeddings) {
    TL_TRY(own(a, &a->full.embed, &owned, a->off_embed, c->vocab, c->width));
    a->full.owned_embed = true;
    if (c->tied) {
      a->full.head = a->full.embed;
    } else {
      TL_TRY(own(a, &a->full.head, &owned, a->off_head, c->vocab, c->width));
      a->full.owned_head = true;
    }
    TL_TRY(own_norms(a));
  }
  a->view = (tl_adapter_view){.weights = &a->full};
  return TL_OK;
}

void tl_full_refresh(tl_adapter *a) {
  const tlk_ops *ops = tl_ops();
  for (int i = 0; i < a->model->cfg.n_layers * TL_N_KINDS; i++)
    ops->repack(tl_weights_module(&a->full, i)->w, tl_value_ops(a, a->full_off_w[i]));
  if (!a->train_embeddings) return;
  ops->repack(a->full.embed, tl_value_ops(a, a->off_embed));
  if (a->full.owned_head) ops->repack(a->full.head, tl_value_ops(a, a->off_head));
}

void tl_full_grad(tl_adapter *a, const tl_linear_grad *g) {
  const tl_config *c = &a->model->cfg;
  int kind = g->module % TL_N_KINDS, out = tl_linear_out(c, kind);
  const tlk_ops *ops = tl_ops();
  ops->linear_bwd_w(tl_grad_ops(a, a->full_off_w[g->module]), g->dy, g->x, g->T, out, tl_linear_in(c, kind));
  if (a->full_off_b[g->module] >= 0) ops->colsum(tl_grad_ops(a, a->full_off_b[g->module]), g->dy, g->T, out);
}

void tl_full_scale_gradient(tl_adapter *a, float factor) { tl_ops()->scale(a->grad_pair.ops, factor, (size_t)a->n_params); }

float *tl_adapter_grad_norm(tl_adapter *a, int layer, int which) {
  const tl_config *c = &a->model->cfg;
  if (a->kind != TL_FULL || a->off_norms < 0) return NULL;
  return tl_grad_ops(a, a->off_norms + tl_norm_offset(c, layer, which));
}

float *tl_adapter_grad_embed(tl_adapter *a) { return a->kind == TL_FULL && a->off_embed >= 0 ? tl_grad_ops(a, a->off_embed) : NULL; }
float *tl_adapter_grad_head(tl_adapter *a) { return a->kind == TL_FULL && a->off_head >= 0 ? tl_grad_ops(a, a->off_head) : NULL; }
