// clone.c: another adapter of the same family, on the same A and B, and whether two adapters are of one family: then a number of
// the one means what it means in the other, and points between them are adapters too. TinyLoRA and LoRA-XS only, whose A, B and P
// are frozen.
#include "adapter.h"

tl_status tl_adapter_same_basis(const tl_adapter *a, const tl_adapter *b, const char *which) {
  if (b->kind != TL_TINYLORA && b->kind != TL_LORA_XS)
    return tl_fail(TL_E_ARG, "%s trains more than R; only TinyLoRA and LoRA-XS share their A and B", which);
  if (a->model != b->model) return tl_fail(TL_E_ARG, "%s belongs to another model than the first", which);
  if (a->n_modules != b->n_modules)
    return tl_fail(TL_E_SHAPE, "%s has %d target modules, the first has %d", which, b->n_modules, a->n_modules);
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i], *o = &b->modules[i];
    char name[128];
    tl_module_name(name, sizeof name, m->module);
    if (m->module != o->module) return tl_fail(TL_E_SHAPE, "the first targets %s, %s does not", name, which);
    if (m->rank != o->rank) return tl_fail(TL_E_SHAPE, "rank %d of %s in %s, %d in the first", o->rank, name, which, m->rank);
    size_t row = sizeof(float) * (size_t)m->rank;
    size_t nA = row * (size_t)tl_linear_in(&a->model->cfg, m->module % TL_N_KINDS);
    size_t nB = row * (size_t)tl_linear_out(&a->model->cfg, m->module % TL_N_KINDS);
    if ((m->A != o->A && memcmp(m->A, o->A, nA)) || (m->B != o->B && memcmp(m->B, o->B, nB)))
      return tl_fail(TL_E_ARG, "A and B of %s in %s are not those of the first (another sigma, or from a file)", name, which);
  }
  return TL_OK;
}

tl_status tl_adapter_alike(const tl_adapter *a, const tl_adapter *b) {
  TL_TRY(tl_adapter_same_basis(a, a, "the first adapter"));
  TL_TRY(tl_adapter_same_basis(a, b, "the other adapter"));
  if (a->kind != b->kind) return tl_fail(TL_E_ARG, "the adapters are of different kinds");
  if (a->n_params != b->n_params)
    return tl_fail(TL_E_SHAPE, "the adapters have %lld and %lld numbers", (long long)a->n_params, (long long)b->n_params);
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i], *o = &b->modules[i];
    size_t nP = sizeof(float) * (size_t)a->u * (size_t)m->rank * (size_t)m->rank;
    if (m->off != o->off || m->scale != o->scale) return tl_fail(TL_E_ARG, "the adapters tie or scale their modules differently");
    if (a->kind == TL_TINYLORA && memcmp(m->P, o->P, nP))
      return tl_fail(TL_E_ARG, "the adapters have different projections P (another seed): their numbers do not mean the same");
  }
  return TL_OK;
}

tl_status tl_adapter_clone(const tl_adapter *a, tl_adapter **out) {
  *out = NULL;
  TL_TRY(tl_adapter_same_basis(a, a, "the adapter"));
  size_t n = (size_t)a->n_modules;
  int32_t *ints = malloc(3 * n * sizeof *ints);
  float *scales = malloc(n * sizeof *scales);
  tl_status s = ints && scales ? TL_OK : tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (size_t i = 0; s == TL_OK && i < n; i++) {
    ints[i] = a->modules[i].module, ints[n + i] = a->modules[i].group, ints[2 * n + i] = a->modules[i].rank;
    scales[i] = a->modules[i].scale;
  }
  tl_adapter_options o = {.kind = a->kind, .modules = ints, .groups = ints + n, .ranks = ints + 2 * n, .scales = scales, .n_modules = (int)n,
                          .u = a->u, .sigma = a->sigma, .storage = (tl_dtype)a->storage, .seed = a->seed, .basis_of = (tl_adapter *)a};
  if (s == TL_OK) s = tl_adapter_create(a->model, &o, out);
  free(ints);
  free(scales);
  if (s != TL_OK) return s;
  tl_adapter *c = *out;
  c->projection = a->projection;
  for (size_t i = 0; a->kind == TL_TINYLORA && i < n; i++) {
    size_t rr = (size_t)a->modules[i].rank * (size_t)a->modules[i].rank;
    memcpy(c->modules[i].P, a->modules[i].P, sizeof(float) * (size_t)a->u * rr);
  }
  memcpy(c->master, a->master, sizeof(float) * (size_t)a->n_params);
  return tl_adapter_refresh(c);
}
