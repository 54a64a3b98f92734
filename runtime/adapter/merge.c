// merge.c: an adapter put into the weights: as a model to sample from (tl_model_merge), or part by part for files (export.c). The base is
// never changed. Each merged value is W + dW in fp32, rounded once: to the compute dtype in a merged model, to the file's dtype
// in a saved one. A full adapter's values are its own parameters.
//
// Of a model that ranks share, each merges its part of W + dW, whose dW it makes whole: A and B are (shards.c).
//
// Memory: merging holds one weight and one delta in fp32 at a time; the merged model owns the weights that differ.
#include "adapter.h"

static tl_status check_pair(const tl_model *m, const tl_adapter *a) {
  return !a || a->model == m ? TL_OK : tl_fail(TL_E_ARG, "merge: the adapter was made for another model");
}

// w, this rank's part of the module's weight, += the adapter's update of it
static tl_status add_delta(const tl_adapter *a, int module, float *w) {
  const tl_model *m = a->model;
  int kind = module % TL_N_KINDS;
  size_t out = (size_t)tl_linear_out(&m->cfg, kind), in = (size_t)tl_linear_in(&m->cfg, kind);
  size_t rows = (size_t)tl_linear_out(&m->local, kind), cols = (size_t)tl_linear_in(&m->local, kind);
  size_t row = rows < out ? (size_t)m->shard * rows : 0, col = cols < in ? (size_t)m->shard * cols : 0;
  float *dw = tl_aligned_alloc(out * in * sizeof(float));
  if (!dw) return tl_fail(TL_E_MEMORY, "merge: out of memory for a delta of %zu elements", out * in);
  tl_status st = tl_adapter_delta(a, module, dw);
  for (size_t i = 0; st == TL_OK && i < rows; i++)
    for (size_t j = 0; j < cols; j++) w[i * cols + j] += dw[(row + i) * in + col + j];
  free(dw);
  return st;
}

// where a part starts in a full adapter's parameters; -1: not trained
static int64_t full_offset(const tl_adapter *a, const tl_part *p) {
  int module = p->layer * TL_N_KINDS + p->kind;
  switch (p->role) {
  case TL_PART_EMBED: return a->off_embed;
  case TL_PART_HEAD: return a->off_head;
  case TL_PART_WEIGHT: return a->full_off_w[module];
  case TL_PART_BIAS: return a->full_off_b[module];
  default: return a->off_norms < 0 ? -1 : a->off_norms + tl_norm_part_offset(&a->model->cfg, p);
  }
}

tl_status tl_merged_part(void *ctx, const tl_part *p, float *out) {
  const tl_merged *s = ctx;
  int64_t off = s->a && s->a->kind == TL_FULL ? full_offset(s->a, p) : -1;
  if (off >= 0) {
    memcpy(out, s->a->value + off, tl_part_size(p) * sizeof(float));
    return TL_OK;
  }
  tl_weights_part(&s->m->w, p, out);
  int module = p->layer * TL_N_KINDS + p->kind;
  bool changed = s->a && s->a->kind != TL_FULL && p->role == TL_PART_WEIGHT && tl_adapter_trains_module(s->a, module);
  return changed ? add_delta(s->a, module, out) : TL_OK;
}

// packs the merged values of one linear into the copy
static tl_status merge_module(tl_model *copy, const tl_merged *s, int module, float *tmp) {
  const tl_config *c = &copy->local;
  int kind = module % TL_N_KINDS;
  tl_part p = {.role = TL_PART_WEIGHT, .layer = module / TL_N_KINDS, .kind = kind, .rows = tl_linear_out(c, kind),
               .cols = tl_linear_in(c, kind)};
  TL_TRY(tl_merged_part((void *)s, &p, tmp));
  tlk_packed *w = tl_ops()->pack(tmp, TLK_F32, p.rows, p.cols, copy->compute);
  if (!w) return tl_fail(TL_E_MEMORY, "merge: out of memory for a (%d, %d) weight", p.rows, p.cols);
  tl_weights_module(&copy->w, module)->w = w;
  copy->w.owned_lin[module] = 1;
  return TL_OK;
}

static tl_status copy_vector(float **v, const tl_merged *s, tl_part p) {
  size_t bytes = tl_part_size(&p) * sizeof(float);
  float *host = tl_aligned_alloc(bytes);
  *v = host ? tl_ops()->alloc(bytes, TLK_MEM_OPS) : NULL;
  tl_status st = *v ? tl_merged_part((void *)s, &p, host) : tl_fail(TL_E_MEMORY, "merge: out of memory");
  if (st == TL_OK) tl_ops()->copy(*v, host, bytes);
  free(host);
  return st;
}

// A full adapter also changes embeddings, head, norms and biases. Vectors are owned all or none, so all are copied; the set
// is emptied of them first, so that a failure on the way frees only what was copied.
static tl_status merge_vectors(tl_model *copy, const tl_merged *s) {
  const tl_config *c = &copy->cfg;
  tl_weights *w = &copy->w;
  tl_part *parts;
  int n;
  TL_TRY(tl_parts_list(c, &parts, &n));
  for (int i = 0; i < n; i++)
    if (tl_weights_vector(w, &parts[i])) *tl_weights_vector(w, &parts[i]) = NULL;
  w->owned_vec = true;
  tl_status st = TL_OK;
  for (int i = 0; i < n && st == TL_OK; i++) {
    float **v = tl_weights_vector(w, &parts[i]);
    if (v) st = copy_vector(v, s, parts[i]);
  }
  free(parts);
  return st;
}

static tl_status merge_table(tl_model *copy, const tl_merged *s, tl_role role, float *tmp) {
  const tl_config *c = &copy->cfg;
  tl_part p = {.role = role, .rows = c->vocab, .cols = c->width};
  TL_TRY(tl_merged_part((void *)s, &p, tmp));
  tlk_packed *t = tl_ops()->pack(tmp, TLK_F32, p.rows, p.cols, copy->compute);
  if (!t) return tl_fail(TL_E_MEMORY, "merge: out of memory for a (%d, %d) table", p.rows, p.cols);
  if (role == TL_PART_HEAD) {
    copy->w.head = t;
    copy->w.owned_head = true;
  } else {
    copy->w.embed = t;
    copy->w.owned_embed = true;
    if (c->tied) copy->w.head = t;
  }
  return TL_OK;
}

static tl_status merge_all(tl_model *copy, const tl_merged *s) {
  const tl_config *c = &copy->cfg;
  bool full = s->a->kind == TL_FULL, tables = full && s->a->off_embed >= 0;
  size_t largest = tables ? (size_t)c->vocab * (size_t)c->width : 0;
  for (int k = 0; k < TL_N_KINDS; k++) {
    size_t n = (size_t)tl_linear_out(c, k) * (size_t)tl_linear_in(c, k);
    if (n > largest) largest = n;
  }
  float *tmp = tl_aligned_alloc(largest * sizeof(float));
  if (!tmp) return tl_fail(TL_E_MEMORY, "merge: out of memory");
  tl_status st = TL_OK;
  for (int i = 0; i < c->n_layers * TL_N_KINDS && st == TL_OK; i++)
    if (full || tl_adapter_trains_module(s->a, i)) st = merge_module(copy, s, i, tmp);
  if (st == TL_OK && tables) st = merge_table(copy, s, TL_PART_EMBED, tmp);
  if (st == TL_OK && tables && !c->tied) st = merge_table(copy, s, TL_PART_HEAD, tmp);
  free(tmp);
  return st == TL_OK && full ? merge_vectors(copy, s) : st;
}

tl_status tl_model_merge(const tl_model *m, const tl_adapter *a, tl_model **out) {
  *out = NULL;
  if (!a) return tl_fail(TL_E_ARG, "merge: no adapter given");
  TL_TRY(check_pair(m, a));
  tl_model *copy;
  TL_TRY(tl_model_derive((tl_model *)m, &copy));
  tl_merged s = {m, a};
  tl_status st = merge_all(copy, &s);
  if (st == TL_OK) *out = copy;
  else tl_model_free(copy);
  return st;
}

void tl_model_relax(tl_model *m) {
  for (int i = 0; m->parent && tl_ops()->relax && i < m->cfg.n_layers * TL_N_KINDS; i++)
    if (m->w.owned_lin[i]) tl_ops()->relax(tl_weights_module(&m->w, i)->w);
}
