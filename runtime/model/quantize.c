// quantize.c: a copy of a model to sample from whose linears and head are int8: one scale a row (kernels/ops.h, pack). The
// embedding, norms and biases are the model's own; activations keep its dtype. A quarter of fp32's, half of bf16's bytes are
// read per decoded token. What it samples differs a little from the model: the trainer corrects with importance weights.
#include "load.h"

typedef struct scratch {
  float *p;
  size_t n;
} scratch;

// w (rows, cols) as int8; NULL when out of memory
static tlk_packed *as_int8(const tlk_packed *w, int rows, int cols, scratch *tmp) {
  size_t n = (size_t)rows * cols;
  if (n > tmp->n) {
    free(tmp->p);
    tmp->p = tl_aligned_alloc(n * sizeof(float));
    tmp->n = tmp->p ? n : 0;
  }
  if (!tmp->p)
    return NULL;
  tl_ops()->unpack(tmp->p, w, 0, rows);
  return tl_ops()->pack(tmp->p, TL_F32, rows, cols, TL_I8);
}

static bool fill(tl_model *q, const tl_weights *from, scratch *tmp) {
  const tl_config *c = &q->local;
  for (int i = 0; i < c->n_layers * TL_N_KINDS; i++) {
    tlk_packed *w =
        as_int8(tl_weights_module(from, i)->w, tl_linear_out(c, i % TL_N_KINDS), tl_linear_in(c, i % TL_N_KINDS), tmp);
    if (!w)
      return false;
    tl_weights_module(&q->w, i)->w = w;
    q->w.owned_lin[i] = 1;
  }
  tlk_packed *head = as_int8(from->head, c->vocab, c->width, tmp);
  if (!head)
    return false;
  q->w.head = head;
  q->w.owned_head = true;
  return true;
}

tl_status tl_model_quantize(const tl_model *m, tl_model **out) {
  int compute;
  *out = NULL;
  tl_ops()->packed_dims(m->w.head, &(int){0}, &(int){0}, &compute);
  if (compute == TL_I8)
    return tl_fail(TL_E_ARG, "the model is int8 already");
  tl_model *q;
  TL_TRY(tl_model_derive((tl_model *)m, &q));
  scratch tmp = {0};
  bool ok = fill(q, &m->w, &tmp);
  free(tmp.p);
  if (!ok) {
    tl_model_free(q);
    return tl_fail(TL_E_MEMORY, "out of memory: an int8 copy of %s", m->path);
  }
  *out = q;
  return TL_OK;
}
