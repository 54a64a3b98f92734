// products.c: how fast this model's matrix products alone run, in its own shapes and the order of its layers: the limit that a
// decode step or a forward pass can come close to and not exceed. Weights come from memory as in a real pass, since between two
// uses of one all others are read.
#include "model.h"

static double one(tlk_mat y, tlk_mat x, const tlk_packed *w, int T) {
  double t0 = tl_seconds();
  tl_ops()->linear_fwd(y, NULL, x, w, NULL, NULL, T, 0);
  return tl_seconds() - t0;
}

// best (n_modules + 1): the least time of each linear, then of the head
static void run(const tl_model *m, tlk_mat x, tlk_mat y, int T, int passes, double *best) {
  const tl_config *c = &m->local;
  int n = c->n_layers * TL_N_KINDS;
  for (int p = 0; p < passes && !tl_interrupted(); p++)
    for (int i = 0; i <= n; i++) {
      int kind = i % TL_N_KINDS, in = i < n ? tl_linear_in(c, kind) : c->width, out = i < n ? tl_linear_out(c, kind) : c->vocab;
      tlk_mat xi = {x.p, x.dtype, in}, yi = {y.p, TL_F32, out};
      double s = one(yi, xi, i < n ? tl_weights_module(&m->w, i)->w : m->w.head, T);
      if (p == 0 || s < best[i])
        best[i] = s;
    }
}

tl_status tl_model_products(const tl_model *m, int rows, int passes, double *seconds) {
  const tl_config *c = &m->local;
  if (rows < 1 || passes < 1)
    return tl_fail(TL_E_ARG, "products: %d rows, %d passes; at least one of each", rows, passes);
  size_t n = (size_t)c->n_layers * TL_N_KINDS + 1, in = (size_t)c->width, out = (size_t)c->vocab;
  if (in < (size_t)c->ffn)
    in = (size_t)c->ffn;
  if (in < (size_t)c->n_heads * c->head_dim)
    in = (size_t)c->n_heads * c->head_dim;
  if (out < in)
    out = in;
  void *x = tl_aligned_alloc(in * (size_t)rows * 4);
  float *y = tl_aligned_alloc(out * (size_t)rows * 4);
  double *best = calloc(n, sizeof *best);
  bool ok = x && y && best;
  *seconds = 0;
  if (ok) {
    memset(x, 0, in * (size_t)rows * 4);
    run(m, (tlk_mat){x, m->compute, 0}, (tlk_mat){y, TL_F32, 0}, rows, passes, best);
    for (size_t i = 0; i < n; i++)
      *seconds += best[i];
  }
  free(x), free(y), free(best);
  if (!ok)
    return tl_fail(TL_E_MEMORY, "products: out of memory for %d rows", rows);
  return tl_interrupted() ? tl_fail(TL_E_INTERRUPTED, "interrupted") : TL_OK;
}
