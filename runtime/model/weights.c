// weights.c: a weight set: packed linears, the embedding, norms and biases. Weights are packed once, part by part, and live as
// long as their set; a set that shares another's releases only what its `owned` flags name.
#include "load.h"

tl_linear *tl_weights_module(const tl_weights *w, int module) {
  return &w->layers[module / TL_N_KINDS].lin[module % TL_N_KINDS];
}

tl_status tl_weights_alloc(tl_weights *w, const tl_config *c) {
  *w = (tl_weights){.n_layers = c->n_layers, .owned_embed = true, .owned_head = !c->tied, .owned_vec = true};
  size_t n = (size_t)c->n_layers * TL_N_KINDS;
  w->layers = calloc((size_t)c->n_layers, sizeof *w->layers);
  w->owned_lin = malloc(n);
  if (!w->layers || !w->owned_lin) return tl_fail(TL_E_MEMORY, "out of memory: %d layers", c->n_layers);
  memset(w->owned_lin, 1, n);
  return TL_OK;
}

tl_status tl_weights_share(const tl_weights *base, tl_weights *out) {
  size_t n = (size_t)base->n_layers;
  *out = *base;
  out->owned_embed = out->owned_head = out->owned_vec = false;
  out->layers = malloc(n * sizeof *out->layers);
  out->owned_lin = calloc(n, TL_N_KINDS);
  if (!out->layers || !out->owned_lin) {
    free(out->layers);
    free(out->owned_lin);
    *out = (tl_weights){0};
    return tl_fail(TL_E_MEMORY, "out of memory: %zu layers", n);
  }
  memcpy(out->layers, base->layers, n * sizeof *out->layers);
  return TL_OK;
}

static void free_packed(tlk_packed *p) {
  if (p) tl_ops()->packed_free(p);
}

void tl_weights_free(tl_weights *w) {
  for (int i = 0; w->layers && w->owned_lin && i < w->n_layers * TL_N_KINDS; i++) {
    if (w->owned_lin[i]) free_packed(tl_weights_module(w, i)->w);
    if (w->owned_vec) tl_ops()->release(tl_weights_module(w, i)->bias);
  }
  for (int l = 0; w->layers && w->owned_vec && l < w->n_layers; l++) {
    tl_ops()->release(w->layers[l].norm1);
    tl_ops()->release(w->layers[l].norm2);
    tl_ops()->release(w->layers[l].norm_q);
    tl_ops()->release(w->layers[l].norm_k);
  }
  if (w->owned_vec) tl_ops()->release(w->final_norm);
  if (w->owned_head && w->head != w->embed) free_packed(w->head);
  if (w->owned_embed) free_packed(w->embed);
  free(w->layers);
  free(w->owned_lin);
  *w = (tl_weights){0};
}

int64_t tl_weights_bytes(const tl_weights *w, const tl_config *c) {
  const tlk_ops *ops = tl_ops();
  size_t n = ops->packed_bytes(w->embed) + (w->head != w->embed ? ops->packed_bytes(w->head) : 0);
  size_t floats = (size_t)tl_norms_size(c);
  for (int i = 0; i < w->n_layers * TL_N_KINDS; i++) {
    const tl_linear *l = tl_weights_module(w, i);
    n += ops->packed_bytes(l->w);
    if (l->bias) floats += (size_t)tl_linear_out(c, i % TL_N_KINDS);
  }
  return (int64_t)(n + floats * sizeof(float));
}

static tlk_packed **matrix_of(tl_weights *w, const tl_part *p) {
  switch (p->role) {
  case TL_PART_EMBED: return &w->embed;
  case TL_PART_HEAD: return &w->head;
  case TL_PART_WEIGHT: return &w->layers[p->layer].lin[p->kind].w;
  default: return NULL;
  }
}

float **tl_weights_vector(tl_weights *w, const tl_part *p) {
  switch (p->role) {
  case TL_PART_NORM1: return &w->layers[p->layer].norm1;
  case TL_PART_NORM2: return &w->layers[p->layer].norm2;
  case TL_PART_NORM_Q: return &w->layers[p->layer].norm_q;
  case TL_PART_NORM_K: return &w->layers[p->layer].norm_k;
  case TL_PART_BIAS: return &w->layers[p->layer].lin[p->kind].bias;
  case TL_PART_FINAL_NORM: return &w->final_norm;
  default: return NULL;
  }
}

// values: a matrix in dtype; a vector in fp32, which is copied
tl_status tl_weights_put(tl_weights *w, const tl_config *c, const tl_part *p, const void *values, int dtype, int compute) {
  size_t bytes = tl_part_size(p) * sizeof(float);
  bool ok;
  if (p->cols) {
    tlk_packed **m = matrix_of(w, p);
    *m = tl_ops()->pack(values, dtype, p->rows, p->cols, compute);
    ok = *m != NULL;
    if (p->role == TL_PART_EMBED && c->tied) w->head = w->embed;
  } else {
    float **v = tl_weights_vector(w, p);
    TL_ASSERT(dtype == TL_F32);
    *v = tl_ops()->alloc(bytes, TLK_MEM_OPS);
    ok = *v != NULL;
    if (ok) tl_ops()->copy(*v, values, bytes);
  }
  if (ok) return TL_OK;
  char name[128];
  tl_part_name(name, sizeof name, p);
  return tl_fail(TL_E_MEMORY, "out of memory: %s (%d, %d) needs about %.1f MiB", name, p->rows, p->cols ? p->cols : 1,
                 (double)bytes / (1 << 20));
}

void tl_weights_part(const tl_weights *w, const tl_part *p, float *out) {
  tl_weights *m = (tl_weights *)w;  // the pointers are only read through
  if (p->cols) tl_ops()->unpack(out, *matrix_of(m, p), 0, p->rows);
  else tl_ops()->copy(out, *tl_weights_vector(m, p), tl_part_size(p) * sizeof(float));
}
