// adamw.c: AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) over an adapter's parameter vector, with clipping by the
// global norm as torch.nn.utils.clip_grad_norm_ does it (factor max_norm / (norm + 1e-6), at most 1).
//
// State: m, v (n_params) fp32 and the step count. The file also holds the fp32 master copy, because an adapter's own file has
// only the rounded values: with both, a run continues with the bits it stopped with.
//   safetensors: adamw.m, adamw.v, adamw.master, each F32 (n); metadata: step, format
#include "../adapter/adapter.h"
#include "../base/profile.h"
#include "../base/safetensors.h"
#include <errno.h>
#include <math.h>

struct tl_adamw {
  tl_adapter *adapter;
  float beta1, beta2, eps, weight_decay;
  float *m, *v;  // in the ops' memory
  int step;
};

tl_status tl_adamw_create(tl_adapter *a, float beta1, float beta2, float eps, float weight_decay, tl_adamw **out) {
  *out = NULL;
  if (!(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1))
    return tl_fail(TL_E_ARG, "adamw: betas %g and %g; both must be in [0, 1)", (double)beta1, (double)beta2);
  if (!(eps >= 0) || !(weight_decay >= 0))
    return tl_fail(TL_E_ARG, "adamw: eps %g, weight_decay %g; both must be 0 or more", (double)eps, (double)weight_decay);
  tl_adamw *o = calloc(1, sizeof *o);
  if (!o) return tl_fail(TL_E_MEMORY, "adamw: out of memory");
  *o = (tl_adamw){.adapter = tl_adapter_retain(a), .beta1 = beta1, .beta2 = beta2, .eps = eps, .weight_decay = weight_decay};
  size_t bytes = sizeof(float) * (size_t)a->n_params;
  o->m = tl_ops()->alloc(bytes, TLK_MEM_OPS);
  o->v = tl_ops()->alloc(bytes, TLK_MEM_OPS);
  if (!o->m || !o->v) {
    tl_adamw_free(o);
    return tl_fail(TL_E_MEMORY, "adamw: out of memory: the moments of %lld parameters", (long long)a->n_params);
  }
  tl_ops()->zero(o->m, bytes);
  tl_ops()->zero(o->v, bytes);
  *out = o;
  return TL_OK;
}

void tl_adamw_free(tl_adamw *o) {
  if (!o) return;
  tl_ops()->release(o->m);
  tl_ops()->release(o->v);
  tl_adapter_free(o->adapter);
  free(o);
}

tl_status tl_adamw_step(tl_adamw *o, float lr, float max_norm, double *grad_norm) {
  TL_SECTION("optimiser");
  tl_adapter *a = o->adapter;
  const tlk_ops *ops = tl_ops();
  float *grad = tl_adapter_ops_gradient(a);
  if (a->master_given) tl_pair_send(&a->master_pair, a->master, a->master_pair.bytes);
  size_t n = (size_t)a->n_params;
  double norm = tl_adapter_gradient_norm(a);
  if (grad_norm) *grad_norm = norm;
  if (!isfinite(norm)) return tl_fail(TL_E_ARG, "adamw: the gradient's norm is %g; nothing was changed", norm);
  if (!isfinite(lr)) return tl_fail(TL_E_ARG, "adamw: the learning rate is %g; nothing was changed", (double)lr);
  if (max_norm > 0 && norm + 1e-6 > max_norm) {
    ops->scale(grad, (float)(max_norm / (norm + 1e-6)), n);
    a->grad_on_ops = true;
  }
  o->step++;
  ops->adamw(a->master_pair.ops, o->m, o->v, grad, n, lr, o->beta1, o->beta2, o->eps, o->weight_decay, o->step);
  tl_pair_fetch(&a->master_pair, a->master, a->master_pair.bytes);
  tl_adapter_apply(a);
  return TL_OK;
}

tl_status tl_adamw_save(const tl_adamw *o, const char *path) {
  int64_t n = o->adapter->n_params;
  size_t bytes = sizeof(float) * (size_t)n;
  float *m = tl_aligned_alloc(bytes), *v = tl_aligned_alloc(bytes);
  if (!m || !v) {
    free(m);
    free(v);
    return tl_fail(TL_E_MEMORY, "%s: out of memory: the moments of %lld parameters", path, (long long)n);
  }
  tl_ops()->copy(m, o->m, bytes);
  tl_ops()->copy(v, o->v, bytes);
  char step[32];
  snprintf(step, sizeof step, "%d", o->step);
  tl_st_entry entries[] = {
    {.name = "adamw.m", .dtype = TL_F32, .n_dims = 1, .shape = {n}, .data = m},
    {.name = "adamw.master", .dtype = TL_F32, .n_dims = 1, .shape = {n}, .data = o->adapter->master},
    {.name = "adamw.v", .dtype = TL_F32, .n_dims = 1, .shape = {n}, .data = v},
  };
  const char *metadata[] = {"format", "pt", "step", step, NULL};
  tl_status st = tl_safetensors_write(path, entries, sizeof entries / sizeof *entries, NULL, NULL, metadata);
  free(m);
  free(v);
  return st;
}

static tl_status find_vector(const tl_safetensors *s, const char *path, const char *name, int64_t n, const tl_st_tensor **out) {
  const tl_st_tensor *t = tl_safetensors_find(s, name);
  if (!t) return tl_fail(TL_E_FORMAT, "%s: no %s: not an optimiser's state", path, name);
  if (t->type != TL_F32 || t->n_dims != 1)
    return tl_fail(TL_E_FORMAT, "%s: %s is %s with %d dims; wanted F32 (n)", path, name, t->dtype, t->n_dims);
  if (t->n != n)
    return tl_fail(TL_E_SHAPE, "%s: %s has %lld numbers, the adapter %lld", path, name, (long long)t->n, (long long)n);
  *out = t;
  return TL_OK;
}

static tl_status read_state(tl_adamw *o, const tl_safetensors *s, const char *path) {
  const tl_st_tensor *m = NULL, *v = NULL, *master = NULL;
  int64_t n = o->adapter->n_params;
  TL_TRY(find_vector(s, path, "adamw.m", n, &m));
  TL_TRY(find_vector(s, path, "adamw.v", n, &v));
  TL_TRY(find_vector(s, path, "adamw.master", n, &master));
  const char *text = tl_safetensors_metadata(s, "step");
  char *end = NULL;
  errno = 0;
  long step = text ? strtol(text, &end, 10) : -1;
  if (!text || end == text || *end || errno || step < 0 || step > INT32_MAX)
    return tl_fail(TL_E_FORMAT, "%s: metadata field step is %s; wanted a count", path, text ? text : "missing");
  tl_ops()->copy(o->m, m->data, m->bytes);
  tl_ops()->copy(o->v, v->data, v->bytes);
  memcpy(o->adapter->master, master->data, master->bytes);
  o->step = (int)step;
  return tl_adapter_refresh(o->adapter);
}

tl_status tl_adamw_load(tl_adamw *o, const char *path) {
  tl_safetensors s;
  TL_TRY(tl_safetensors_open(&s, path));
  tl_status st = read_state(o, &s, path);
  tl_safetensors_close(&s);
  return st;
}
