// compare.c: two adapters held against each other, through their small factors: dW = B R A is never formed.
//
//   <dW, dW'> = tr(A^T R^T B^T B' R' A') = sum of (B^T B') R' (A' A^T) * R over its entries: O((out + in) r r')
//
// and an adapter whose A and B came from a file put onto this program's own SVD basis (tl_adapter_rebase): PEFT takes its A and
// B from another LAPACK, whose singular pairs are ours up to the sign of each, and that sign is all that has to be kept.
#include "adapter.h"
#include <math.h>

// out (p, q) = x (n, p)^T y (n, q)
static void gram(double *out, const float *x, int p, const float *y, int q, int n, bool transposed) {
  for (int i = 0; i < p; i++)
    for (int j = 0; j < q; j++) {
      double sum = 0;
      for (int t = 0; t < n; t++)
        sum += transposed ? (double)x[(size_t)i * n + t] * y[(size_t)j * n + t]
                          : (double)x[(size_t)t * p + i] * y[(size_t)t * q + j];
      out[i * q + j] = sum;
    }
}

// <dW of m, dW of k> of one linear (out, in)
static tl_status inner(const tl_adapter_module *m, const tl_adapter_module *k, int out, int in, double *value) {
  int r = m->rank, s = k->rank;
  double *bb = malloc(sizeof(double) * 3 * (size_t)r * s);
  if (!bb) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  double *aa = bb + r * s, *mid = aa + r * s;  // bb (r, s) = B^T B', aa (r, s) = A A'^T, mid (r, s) = bb R'
  gram(bb, m->B, r, k->B, s, out, false);
  gram(aa, m->A, r, k->A, s, in, true);
  *value = 0;
  for (int i = 0; i < r; i++)
    for (int j = 0; j < s; j++) {
      mid[i * s + j] = 0;
      for (int t = 0; t < s; t++) mid[i * s + j] += bb[i * s + t] * k->R[t * s + j];
    }
  for (int i = 0; i < r; i++)  // sum_ij R_ij (mid aa^T)_ij
    for (int j = 0; j < r; j++) {
      double sum = 0;
      for (int t = 0; t < s; t++) sum += mid[i * s + t] * aa[j * s + t];
      *value += m->R[i * r + j] * sum;
    }
  free(bb);
  return TL_OK;
}

tl_status tl_adapter_compare(const tl_adapter *a, const tl_adapter *b, int module, double *aa, double *bb, double *ab) {
  const tl_config *c = &a->model->cfg;
  if (a->kind == TL_FULL || b->kind == TL_FULL)
    return tl_fail(TL_E_UNSUPPORTED, "compare: full finetuning has no low-rank update");
  if (a->model->cfg.n_layers != b->model->cfg.n_layers || a->model->cfg.width != b->model->cfg.width)
    return tl_fail(TL_E_ARG, "compare: the adapters are of models of different sizes");
  if (module < 0 || module >= c->n_layers * TL_N_KINDS)
    return tl_fail(TL_E_ARG, "compare: module index %d, the model has 0 to %d", module, c->n_layers * TL_N_KINDS - 1);
  int out = tl_linear_out(c, module % TL_N_KINDS), in = tl_linear_in(c, module % TL_N_KINDS);
  const tl_adapter_module *x = a->slot[module] >= 0 ? &a->modules[a->slot[module]] : NULL;
  const tl_adapter_module *y = b->slot[module] >= 0 ? &b->modules[b->slot[module]] : NULL;
  *aa = *bb = *ab = 0;
  if (x) TL_TRY(inner(x, x, out, in, aa));
  if (y) TL_TRY(inner(y, y, out, in, bb));
  return x && y ? inner(x, y, out, in, ab) : TL_OK;
}

// ---------------------------------------------------------------- onto our own basis
// |x - sign y| / |x| over strided vectors
static double distance(const float *x, const float *y, int n, int stride, int sign) {
  double d = 0, norm = 0;
  for (int i = 0; i < n; i++) {
    double a = x[(size_t)i * stride], e = a - sign * (double)y[(size_t)i * stride];
    d += e * e;
    norm += a * a;
  }
  return norm > 0 ? sqrt(d / norm) : sqrt(d);
}

// The sign that turns pair q of `own` into that of `from`, and how far it is then.
static int turned(const tl_adapter_module *from, tl_adapter_module *own, int q, int out, int in, double *worst) {
  double best = INFINITY;
  int sign = 1, r = own->rank;
  for (int s = -1; s <= 1; s += 2) {
    double d = fmax(distance(from->A + (size_t)q * in, own->A + (size_t)q * in, in, 1, s),
                    distance(from->B + q, own->B + q, out, r, s));
    if (d < best) best = d, sign = s;
  }
  *worst = best;
  for (int j = 0; sign < 0 && j < in; j++) own->A[(size_t)q * in + j] *= -1;
  for (int i = 0; sign < 0 && i < out; i++) own->B[(size_t)i * r + q] *= -1;
  return sign;
}

static tl_status align(const tl_adapter *from, tl_adapter *own, double tolerance, double *worst) {
  size_t at = 0, n = 0;
  for (int i = 0; i < own->n_modules; i++) n += (size_t)own->modules[i].rank;
  free(own->signs);
  own->signs = malloc(n);
  if (!own->signs) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  *worst = 0;
  for (int i = 0; i < own->n_modules; i++) {
    tl_adapter_module *m = &own->modules[i];
    int out = tl_linear_out(&own->model->cfg, m->module % TL_N_KINDS),
        in = tl_linear_in(&own->model->cfg, m->module % TL_N_KINDS);
    for (int q = 0; q < m->rank; q++) {
      double d;
      char name[128];
      own->signs[at++] = (int8_t)turned(&from->modules[i], m, q, out, in, &d);
      if (d > *worst) *worst = d;
      tl_module_name(name, sizeof name, m->module);
      if (!(d <= tolerance))
        return tl_fail(TL_E_UNSUPPORTED,
                       "singular pair %d of %s in the file is %.2g of its size away from this model's own (at most "
                       "%.2g): made on other weights, or two singular values are nearly equal; the file can carry its basis",
                       q, name, d, tolerance);
    }
  }
  return TL_OK;
}

static tl_status same_adapter(const tl_adapter *from, const char *cache_dir, tl_adapter **out) {
  int n = from->n_modules;
  int32_t *list = malloc(3 * sizeof(int32_t) * (size_t)n);
  float *scales = malloc(sizeof(float) * (size_t)n);
  tl_status s = list && scales ? TL_OK : tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (int i = 0; s == TL_OK && i < n; i++) {
    list[i] = from->modules[i].module;
    list[n + i] = from->modules[i].group;
    list[2 * n + i] = from->modules[i].rank;
    scales[i] = from->modules[i].scale;
  }
  tl_adapter_options o = {.kind = from->kind, .modules = list, .groups = list + n, .ranks = list + 2 * n, .scales = scales,
                          .n_modules = n, .u = from->u, .sigma = from->sigma, .projection = from->projection,
                          .storage = (tl_dtype)from->storage, .seed = from->seed, .cache_dir = cache_dir};
  if (s == TL_OK) s = tl_adapter_create(from->model, &o, out);
  free(list);
  free(scales);
  return s;
}

tl_status tl_adapter_rebase(const tl_adapter *from, const char *cache_dir, double tolerance, double *worst, tl_adapter **out) {
  tl_adapter *a = NULL;
  *out = NULL;
  *worst = 0;
  if (from->kind != TL_TINYLORA && from->kind != TL_LORA_XS)
    return tl_fail(TL_E_ARG, "only TinyLoRA and LoRA-XS stand on a singular basis");
  if (from->projection == TL_PROJECTION_STORED)
    return tl_fail(TL_E_UNSUPPORTED,
                   "the projections P in the file are not those that its seed %llu draws (a torch without AVX2, or "
                   "another adapter of the same model, draws others); the file can carry them",
                   (unsigned long long)from->seed);
  TL_TRY(same_adapter(from, cache_dir, &a));
  tl_status s = align(from, a, tolerance, worst);
  if (s == TL_OK) memcpy(a->master, from->master, sizeof(float) * (size_t)a->n_params);
  a->basis_sent = false;  // align turned some of it
  if (s == TL_OK) s = tl_adapter_refresh(a);
  if (s == TL_OK) *out = a;
  else tl_adapter_free(a);
  return s;
}
