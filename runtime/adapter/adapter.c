// adapter.c: what every adapter has: creation with checked options, the parameter vectors, refresh, gradient, delta.
//
// An adapter is a vector of trained numbers and a way to turn them into what a forward pass reads:
//   master  (n_params) fp32, what the optimiser changes
//   value   (n_params) master rounded to the storage dtype: what the outputs depend on (the same memory when storage is fp32)
//   grad    (n_params) fp32
// each a pair: the ops compute with one copy, the host reads and changes the other; on a CPU they are the same memory.
// lowrank.c knows TinyLoRA, LoRA-XS and LoRA (y += B R A x beside the frozen product); full.c knows full finetuning (its own
// weights). The base model's weights are never written.
//
// Memory: everything is allocated at creation, but for scratch that grows to the largest micro-batch and stays.
#include "adapter.h"
#include <math.h>

enum { max_rank = 1024, max_u = 1 << 20 };

static const char *const kind_names[] = {"tinylora", "lora_xs", "lora", "full"};

static tl_status check_modules(const tl_model *m, const tl_adapter_options *o) {
  int total = m->cfg.n_layers * TL_N_KINDS;
  if (!o->modules || o->n_modules < 1) return tl_fail(TL_E_ARG, "adapter: no target modules");
  if (o->n_modules > total) return tl_fail(TL_E_ARG, "adapter: %d target modules, the model has %d", o->n_modules, total);
  for (int i = 0; i < o->n_modules; i++) {
    int id = o->modules[i];
    if (id < 0 || id >= total) return tl_fail(TL_E_ARG, "adapter: module index %d, the model has 0 to %d", id, total - 1);
    if (i && id <= o->modules[i - 1])
      return tl_fail(TL_E_ARG, "adapter: module indices must rise: %d stands after %d", id, o->modules[i - 1]);
    int out = tl_linear_out(&m->cfg, id % TL_N_KINDS), in = tl_linear_in(&m->cfg, id % TL_N_KINDS);
    char name[128];
    tl_module_name(name, sizeof name, id);
    int rank = o->ranks ? o->ranks[i] : o->rank;
    if (rank < 1 || rank > max_rank) return tl_fail(TL_E_ARG, "adapter: rank %d of %s; wanted 1 to %d", rank, name, max_rank);
    if (o->kind != TL_LORA && (rank > out || rank > in))  // singular pairs; a LoRA's rank may exceed its matrix's, as in PEFT
      return tl_fail(TL_E_SHAPE, "adapter: rank %d is more than %s (%d, %d) has; at most %d", rank, name, out, in,
                     out < in ? out : in);
    if (o->scales && !(fabsf(o->scales[i]) < 1e6f))
      return tl_fail(TL_E_ARG, "adapter: scale %g of %s", (double)o->scales[i], name);
  }
  return TL_OK;
}

static tl_status check_basis_of(const tl_model *m, const tl_adapter_options *o) {
  const tl_adapter *b = o->basis_of;
  if (o->kind == TL_LORA || (b->kind != TL_TINYLORA && b->kind != TL_LORA_XS))
    return tl_fail(TL_E_ARG, "adapter: basis_of: only TinyLoRA and LoRA-XS have an A and B to share");
  if (b->model != m) return tl_fail(TL_E_ARG, "adapter: basis_of is an adapter of another model");
  bool same = b->n_modules == o->n_modules && (b->basis_from_file || b->sigma == o->sigma) && !o->signs;
  for (int i = 0; same && i < o->n_modules; i++)
    same = b->modules[i].module == o->modules[i] && b->modules[i].rank == (o->ranks ? o->ranks[i] : o->rank);
  return same ? TL_OK : tl_fail(TL_E_SHAPE, "adapter: basis_of has other target modules, ranks, sigma or signs");
}

bool tl_adapter_basis_fits(const tl_model *m, const tl_adapter_options *o, tl_adapter *basis) {
  tl_adapter_options on = *o;
  on.basis_of = basis;
  return check_basis_of(m, &on) == TL_OK;
}

// groups must be 0 .. n-1 without holes
static tl_status count_groups(const tl_adapter_options *o, int *n_groups) {
  int top = -1;
  for (int i = 0; i < o->n_modules; i++) {
    int g = o->groups ? o->groups[i] : i;
    if (g < 0 || g >= o->n_modules)
      return tl_fail(TL_E_ARG, "adapter: group %d of module %d is outside 0 to %d", g, o->modules[i], o->n_modules - 1);
    if (g > top) top = g;
  }
  uint8_t *seen = calloc((size_t)top + 1, 1);
  if (!seen) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (int i = 0; i < o->n_modules; i++) seen[o->groups ? o->groups[i] : i] = 1;
  int hole = 0;
  while (hole <= top && seen[hole]) hole++;
  free(seen);
  if (hole <= top) return tl_fail(TL_E_ARG, "adapter: groups run to %d, but no module is in group %d", top, hole);
  *n_groups = top + 1;
  return TL_OK;
}

static tl_status check_options(const tl_model *m, const tl_adapter_options *o) {
  if ((int)o->kind < TL_TINYLORA || (int)o->kind > TL_FULL) return tl_fail(TL_E_ARG, "adapter: kind %d is none", (int)o->kind);
  if (o->storage != TL_F32 && o->storage != TL_BF16 && o->storage != TL_F16)
    return tl_fail(TL_E_ARG, "adapter: storage dtype %s; wanted F32, BF16 or F16", tl_dtype_name((int)o->storage));
  if (o->kind == TL_FULL) return tl_whole_only(m, "full finetuning");
  if (o->kind == TL_TINYLORA && (o->u < 1 || o->u > max_u))
    return tl_fail(TL_E_ARG, "adapter: u %d; wanted 1 to %d", o->u, max_u);
  if (o->kind != TL_TINYLORA && !o->scales && !(o->alpha > 0 && o->alpha < 1e6f))
    return tl_fail(TL_E_ARG, "adapter: alpha %g; %s wants a positive number", (double)o->alpha, kind_names[o->kind]);
  if (o->sigma != TL_SIGMA_PAPER && o->sigma != TL_SIGMA_PEFT)
    return tl_fail(TL_E_ARG, "adapter: sigma placement %d is neither paper nor peft", (int)o->sigma);
  if (o->projection != TL_PROJECTION_PHILOX && o->projection != TL_PROJECTION_TORCH)
    return tl_fail(TL_E_ARG, "adapter: projection generator %d is neither philox nor torch", (int)o->projection);
  if (!(o->init_std >= 0 && o->init_std < 1e3f))
    return tl_fail(TL_E_ARG, "adapter: init_std %g; wanted 0 or more", (double)o->init_std);
  TL_TRY(check_modules(m, o));
  return o->basis_of ? check_basis_of(m, o) : TL_OK;
}

tl_status tl_adapter_vectors(tl_adapter *a) {
  size_t bytes = sizeof(float) * (size_t)a->n_params;
  tl_pair *pairs[] = {&a->master_pair, &a->grad_pair, &a->value_pair};
  for (int i = 0; i < (a->storage == TL_F32 ? 2 : 3); i++) {
    if (tl_pair_init(pairs[i], bytes, "an adapter's vectors") != TL_OK)
      return tl_fail(TL_E_MEMORY, "adapter: out of memory: %lld parameters need %.1f MiB in three vectors",
                     (long long)a->n_params, 3.0 * (double)bytes / (1 << 20));
    memset(pairs[i]->host, 0, bytes);
    tl_ops()->zero(pairs[i]->ops, bytes);
  }
  if (a->storage == TL_F32) a->value_pair = a->master_pair;
  a->master = a->master_pair.host;
  a->grad = a->grad_pair.host;
  a->value = a->value_pair.host;
  return TL_OK;
}

static tl_status build(tl_adapter *a, const tl_adapter_options *o) {
  if (a->kind == TL_FULL) {
    a->train_embeddings = o->train_embeddings;
    TL_TRY(tl_full_build(a));
    TL_TRY(tl_adapter_vectors(a));
    TL_TRY(tl_full_init(a));
  } else {
    a->n_groups = a->n_modules = o->n_modules;
    if (a->kind == TL_TINYLORA) TL_TRY(count_groups(o, &a->n_groups));
    TL_TRY(tl_lowrank_build(a, o));
    TL_TRY(tl_adapter_vectors(a));
    tl_lowrank_init(a, o->init_std);
  }
  return tl_adapter_refresh(a);
}

tl_status tl_adapter_create_on(tl_model *m, const tl_adapter_options *o, bool basis_from_file, tl_adapter **out) {
  *out = NULL;
  TL_TRY(check_options(m, o));
  tl_adapter *a = calloc(1, sizeof *a);
  if (!a) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  *a = (tl_adapter){.refs = 1,
                    .model = tl_model_retain(m),
                    .kind = o->kind,
                    .u = o->u,
                    .sigma = o->sigma,
                    .projection = o->projection,
                    .basis_from_file = basis_from_file,
                    .storage = (int)o->storage,
                    .seed = o->seed};
  tl_status s = build(a, o);
  if (s != TL_OK) {
    tl_adapter_free(a);
    return s;
  }
  *out = a;
  return TL_OK;
}

tl_status tl_adapter_create(tl_model *m, const tl_adapter_options *o, tl_adapter **out) {
  return tl_adapter_create_on(m, o, false, out);
}

tl_adapter *tl_adapter_retain(tl_adapter *a) {
  if (a) __atomic_add_fetch(&a->refs, 1, __ATOMIC_RELAXED);
  return a;
}

void tl_adapter_free(tl_adapter *a) {
  if (!a || __atomic_sub_fetch(&a->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  for (int i = 0; a->modules && i < a->n_modules; i++) {
    tl_pair_free(&a->modules[i].basis);
    tl_pair_free(&a->modules[i].columns);
    tl_ops()->release(a->modules[i].dA);
    free(a->modules[i].P);
  }
  if (a->kind == TL_FULL && a->full.layers) tl_weights_free(&a->full);
  if (a->value != a->master) tl_pair_free(&a->value_pair);
  tl_pair_free(&a->master_pair);
  tl_pair_free(&a->grad_pair);
  tl_pair_free(&a->R);
  tl_pair_free(&a->dR);
  tl_pair_free(&a->units);
  free(a->modules);
  free(a->signs);
  free(a->lowrank);
  free(a->slot);
  free(a->full_off_w);
  free(a->full_off_b);
  if (a->scaled) tl_ops()->release(a->scaled);
  tl_adapter_free(a->basis_owner);
  tl_model_free(a->model);
  free(a);
}

tl_adapter_kind tl_adapter_get_kind(const tl_adapter *a) { return a->kind; }
int64_t tl_adapter_n_parameters(const tl_adapter *a) { return a->n_params; }
int64_t tl_adapter_n_bytes(const tl_adapter *a) { return a->n_params * (int64_t)tlk_dtype_size(a->storage); }
float *tl_adapter_parameters(tl_adapter *a) {
  a->master_given = true;
  return a->master;
}
const tl_adapter_view *tl_adapter_get_view(const tl_adapter *a) { return &a->view; }

int64_t tl_adapter_next_version(void) {
  static int64_t versions;
  return __atomic_add_fetch(&versions, 1, __ATOMIC_RELAXED);
}

void tl_adapter_apply(tl_adapter *a) {
  if (a->value != a->master) {
    tl_ops()->round_to(a->value_pair.ops, a->master_pair.ops, (size_t)a->n_params, a->storage);
    tl_pair_fetch(&a->value_pair, a->value, a->value_pair.bytes);
  }
  if (a->kind == TL_FULL) tl_full_refresh(a);
  else tl_lowrank_refresh(a);
  a->version = tl_adapter_next_version();
}

tl_status tl_adapter_refresh(tl_adapter *a) {
  tl_pair_send(&a->master_pair, a->master, a->master_pair.bytes);
  tl_adapter_apply(a);
  return TL_OK;
}

// ---------------------------------------------------------------- gradient
void tl_adapter_linear_grad(tl_adapter *a, const tl_linear_grad *g) {
  a->pending = true;
  a->grad_given = false;
  if (a->kind == TL_FULL) tl_full_grad(a, g);
  else if (a->slot[g->module] >= 0) tl_lowrank_grad(a, g);
}

static void finish_gradient(tl_adapter *a) {
  if (a->pending && (a->kind == TL_TINYLORA || a->kind == TL_LORA_XS)) tl_lowrank_finish(a);
  else if (a->pending) a->grad_on_ops = true;
  a->pending = false;
}

float *tl_adapter_gradient(tl_adapter *a) {
  finish_gradient(a);
  if (a->grad_on_ops) tl_pair_fetch(&a->grad_pair, a->grad, a->grad_pair.bytes);
  a->grad_on_ops = false;
  a->grad_given = true;
  return a->grad;
}

float *tl_adapter_ops_gradient(tl_adapter *a) {
  finish_gradient(a);
  if (a->grad_given) tl_pair_send(&a->grad_pair, a->grad, a->grad_pair.bytes);
  a->grad_given = false;
  return a->grad_pair.ops;
}

double tl_adapter_gradient_norm(tl_adapter *a) { return sqrt(tl_ops()->sumsq(tl_adapter_ops_gradient(a), (size_t)a->n_params)); }

void tl_adapter_zero_gradient(tl_adapter *a) {
  memset(a->grad, 0, a->grad_pair.bytes);
  tl_ops()->zero(a->grad_pair.ops, a->grad_pair.bytes);
  if (a->dR.ops) tl_ops()->zero(a->dR.ops, a->dR.bytes);
  for (int i = 0; i < a->n_modules && a->kind == TL_LORA; i++)
    if (a->modules[i].dA) tl_ops()->zero(a->modules[i].dA, a->modules[i].columns.bytes);
  a->pending = a->grad_on_ops = a->grad_given = false;
}

int tl_adapter_lowest_layer(const tl_adapter *a) { return a->kind == TL_FULL ? 0 : a->modules[0].module / TL_N_KINDS; }

bool tl_adapter_trains_module(const tl_adapter *a, int module) {
  return a->kind == TL_FULL ? a->full_off_w[module] >= 0 : a->slot[module] >= 0;
}

// ---------------------------------------------------------------- delta
// dw (out, in) = B R A in double, rounded once
static tl_status lowrank_delta(const tl_adapter *a, const tl_adapter_module *m, int out, int in, float *dw) {
  int r = m->rank;
  double *row = malloc(sizeof(double) * (size_t)(r + in));
  if (!row) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  double *sum = row + r;
  for (int i = 0; i < out; i++) {
    for (int q = 0; q < r; q++) {
      row[q] = 0;
      for (int p = 0; p < r; p++) row[q] += (double)m->B[(size_t)i * r + p] * m->R[p * r + q];
    }
    memset(sum, 0, sizeof(double) * (size_t)in);
    for (int q = 0; q < r; q++)
      for (int j = 0; j < in; j++) sum[j] += row[q] * m->A[(size_t)q * in + j];
    for (int j = 0; j < in; j++) dw[(size_t)i * in + j] = (float)sum[j];
  }
  free(row);
  return TL_OK;
}

tl_status tl_adapter_delta(const tl_adapter *a, int module, float *dw) {
  const tl_config *c = &a->model->cfg;
  if (module < 0 || module >= c->n_layers * TL_N_KINDS)
    return tl_fail(TL_E_ARG, "adapter: module index %d, the model has 0 to %d", module, c->n_layers * TL_N_KINDS - 1);
  int out = tl_linear_out(c, module % TL_N_KINDS), in = tl_linear_in(c, module % TL_N_KINDS);
  size_t n = (size_t)out * in;
  if (a->kind != TL_FULL) {
    if (a->slot[module] >= 0) return lowrank_delta(a, &a->modules[a->slot[module]], out, in, dw);
    memset(dw, 0, sizeof(float) * n);
    return TL_OK;
  }
  float *base = malloc(sizeof(float) * n);
  if (!base) return tl_fail(TL_E_MEMORY, "adapter: out of memory for a (%d, %d) weight", out, in);
  const tlk_ops *ops = tl_ops();
  ops->unpack(base, tl_weights_module(&a->model->w, module)->w, 0, out);
  ops->unpack(dw, tl_weights_module(&a->full, module)->w, 0, out);
  for (size_t i = 0; i < n; i++) dw[i] -= base[i];
  free(base);
  return TL_OK;
}
