// lowrank.c: TinyLoRA, LoRA-XS and LoRA: y += B (R (A x)) beside the frozen product, W (out, in) ~ U S V^T at rank r.
//
//   TinyLoRA (Morris et al. 2026, arXiv:2602.04118)   A, B from the SVD, frozen; R = sum_i v_i P_i, v (u) trained, shared by a
//            group; P (u, r, r) ~ normal(0, 1/sqrt(r)), frozen, drawn per module (tl_lowrank_projection)
//   LoRA-XS (Balazy et al. 2024, arXiv:2405.17604)    A, B from the SVD, frozen; R (r, r) trained, times alpha / r
//   LoRA (Hu et al. 2021, arXiv:2106.09685)           A (r, in), B (out, r) trained; R = (alpha / r) I
// Sigma: paper A = V^T, B = U S; PEFT A = sqrt(S) V^T, B = U sqrt(S).
//
// Gradients, with z = A x and g = dy B (rows t):
//   dR[a][b] = sum_t g[t][a] z[t][b]; TinyLoRA dv_i = sum over the group's modules of <dR, P_i>; LoRA-XS dR * alpha / r;
//   LoRA dB = sum_t dy_t (R z_t)^T, dA = sum_t (R^T g_t) x_t^T.
// dR is summed per unit (a prompt with its completions) in double and units are added in their order, so the result is the
// same bits however a batch was cut into micro-batches of whole units.
#include "../tensor/svd.h"
#include "adapter.h"
#include "torch_random.h"
#include <math.h>

static void dims(const tl_adapter *a, int module, int *out, int *in) {
  *out = tl_linear_out(&a->model->cfg, module % TL_N_KINDS);
  *in = tl_linear_in(&a->model->cfg, module % TL_N_KINDS);
}

// Numbers of the parameter vector that belong to module i alone or to its group, and its place in dR.
static void set_offsets(tl_adapter *a) {
  int64_t at = 0;
  a->rank = 0;
  a->n_dR = 0;
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    int64_t r = m->rank, rr = r * r;
    int out, in;
    dims(a, m->module, &out, &in);
    if (m->rank > a->rank) a->rank = m->rank;
    m->off_dR = a->n_dR;
    a->n_dR += (size_t)rr;
    if (a->kind == TL_TINYLORA) {
      m->off = (int64_t)m->group * a->u;
    } else if (a->kind == TL_LORA_XS) {
      m->off = at;
      at += rr;
    } else {
      m->off = at;
      m->off_b = at + r * in;
      at = m->off_b + out * r;
    }
  }
  a->n_params = a->kind == TL_TINYLORA ? (int64_t)a->n_groups * a->u : at;
}

tl_status tl_lowrank_layout(tl_adapter *a) {
  int total = a->model->cfg.n_layers * TL_N_KINDS;
  set_offsets(a);
  a->lowrank = calloc((size_t)total, sizeof *a->lowrank);
  a->slot = malloc(sizeof(int32_t) * (size_t)total);
  if (!a->lowrank || !a->slot) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (int i = 0; i < total; i++) a->slot[i] = -1;
  TL_TRY(tl_pair_init(&a->R, a->n_dR * sizeof(float), "an adapter's R"));
  memset(a->R.host, 0, a->R.bytes);
  if (a->kind != TL_LORA) {
    TL_TRY(tl_pair_init(&a->dR, a->n_dR * sizeof(double), "the gradient of an adapter's R"));
    tl_ops()->zero(a->dR.ops, a->dR.bytes);
  }
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    size_t r = (size_t)m->rank, rr = r * r;
    int out, in;
    dims(a, m->module, &out, &in);
    a->slot[m->module] = i;
    m->R = (float *)a->R.host + m->off_dR;
    bool ok = a->kind != TL_TINYLORA || (m->P = malloc(sizeof(float) * (size_t)a->u * rr)) != NULL;
    size_t nA = tl_align64(sizeof(float) * r * in), nB = sizeof(float) * r * out;
    if (ok && a->basis_owner) {  // A and B are another adapter's
      m->A = a->basis_owner->modules[i].A;
      m->B = a->basis_owner->modules[i].B;
      continue;
    }
    if (ok && a->kind != TL_LORA) ok = tl_pair_init(&m->basis, nA + nB, "an adapter's basis") == TL_OK;
    if (ok) ok = tl_shards_room(a, m) == TL_OK;
    if (!ok) return tl_fail(TL_E_MEMORY, "adapter: out of memory for %d modules of rank %d", a->n_modules, a->rank);
    if (a->kind == TL_LORA) continue;  // A and B lie in the value vector
    m->A = m->basis.host;
    m->B = (float *)((char *)m->basis.host + nA);
    memset(m->basis.host, 0, m->basis.bytes);
  }
  return TL_OK;
}

// A (r, in) and B (out, r) from the whole weight's SVD; signs (r) or NULL
static tl_status svd_basis(tl_adapter *a, tl_whole *weights, tl_adapter_module *m, const int8_t *signs, const char *cache_dir) {
  int out, in, r = m->rank;
  dims(a, m->module, &out, &in);
  float *w = malloc(sizeof(float) * (size_t)out * in), *V = malloc(sizeof(float) * (size_t)in * r);
  float *S = malloc(sizeof(float) * (size_t)r);
  tl_status s = TL_OK;
  if (!w || !V || !S) s = tl_fail(TL_E_MEMORY, "adapter: out of memory for a (%d, %d) weight", out, in);
  if (s == TL_OK) s = tl_whole_weight(weights, m->module, w);
  if (s == TL_OK) s = tl_svd_cached(w, out, in, r, cache_dir, m->B, S, V, NULL, NULL);
  for (int q = 0; s == TL_OK && q < r; q++) {
    float root = sqrtf(S[q]), to_b = a->sigma == TL_SIGMA_PAPER ? S[q] : root, to_a = a->sigma == TL_SIGMA_PAPER ? 1 : root;
    if (signs && signs[q] < 0) to_a = -to_a, to_b = -to_b;
    for (int i = 0; i < out; i++) m->B[(size_t)i * r + q] *= to_b;
    for (int j = 0; j < in; j++) m->A[(size_t)q * in + j] = to_a * V[(size_t)j * r + q];
  }
  free(w);
  free(V);
  free(S);
  return s;
}

// Every module's SVD, several at a time, of a model that ranks share this rank's; the first failure's message is brought back to
// this thread.
static tl_status svd_all(tl_adapter *a, const int8_t *signs, const char *cache_dir) {
  tl_whole *weights;
  TL_TRY(tl_whole_open(a->model, false, &weights));
  int *at = malloc(sizeof(int) * (size_t)a->n_modules);  // where each module's signs start
  if (!at) {
    tl_whole_close(weights);
    return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  }
  for (int i = 0, sum = 0; i < a->n_modules; sum += a->modules[i++].rank) at[i] = sum;
  tl_status first = TL_OK;
  char message[1024] = "";
#pragma omp parallel for schedule(dynamic) num_threads(tl_threads())
  for (int i = 0; i < a->n_modules; i++) {
    tl_status s;
#pragma omp atomic read
    s = first;
    if (s != TL_OK || !tl_shards_mine(a, i)) continue;
    s = tl_interrupted() ? tl_fail(TL_E_INTERRUPTED, "interrupted")
                         : svd_basis(a, weights, &a->modules[i], signs ? signs + at[i] : NULL, cache_dir);
    if (s == TL_OK) continue;
#pragma omp critical(tl_svd_failure)
    if (first == TL_OK) {
      char name[128];
      tl_module_name(name, sizeof name, a->modules[i].module);
      snprintf(message, sizeof message, "%s: %s", name, tl_last_error());
#pragma omp atomic write
      first = s;
    }
  }
  free(at);
  tl_whole_close(weights);
  if (first != TL_OK) return tl_fail(first, "%s", message);
  return a->model->shards > 1 ? tl_shards_share_basis(a) : TL_OK;
}

void tl_lowrank_projection(const tl_adapter *a, int i, tl_projection generator, float *P) {
  const tl_adapter_module *m = &a->modules[i];
  size_t n = (size_t)a->u * m->rank * m->rank;
  if (generator == TL_PROJECTION_TORCH) {
    tl_torch_normal(P, n, a->seed + (uint64_t)i, 1 / sqrt(m->rank));
    return;
  }
  float scale = 1.0f / sqrtf((float)m->rank);
  tl_normal_fill(P, n, a->seed, TL_STREAM_P + (uint64_t)m->module);
  for (size_t j = 0; j < n; j++) P[j] *= scale;
}

static tl_status keep_signs(tl_adapter *a, const int8_t *signs) {
  size_t n = 0;
  for (int i = 0; i < a->n_modules; i++) n += (size_t)a->modules[i].rank;
  a->signs = malloc(n);
  if (!a->signs) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  memcpy(a->signs, signs, n);
  return TL_OK;
}

tl_status tl_lowrank_build(tl_adapter *a, const tl_adapter_options *o) {
  a->modules = calloc((size_t)a->n_modules, sizeof *a->modules);
  if (!a->modules) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    m->module = o->modules[i];
    m->group = a->kind == TL_TINYLORA && o->groups ? o->groups[i] : i;
    m->rank = o->ranks ? o->ranks[i] : o->rank;
    m->scale = a->kind == TL_TINYLORA ? 1 : o->scales ? o->scales[i] : o->alpha / (float)m->rank;
  }
  if (o->basis_of) a->basis_owner = tl_adapter_retain(o->basis_of->basis_owner ? o->basis_of->basis_owner : o->basis_of);
  TL_TRY(tl_lowrank_layout(a));
  if (a->kind == TL_LORA) return TL_OK;
  for (int i = 0; a->kind == TL_TINYLORA && i < a->n_modules; i++)
    tl_lowrank_projection(a, i, a->projection, a->modules[i].P);
  if (a->basis_owner && a->basis_owner->signs) TL_TRY(keep_signs(a, a->basis_owner->signs));
  if (a->basis_from_file || a->basis_owner) return TL_OK;
  if (o->signs) TL_TRY(keep_signs(a, o->signs));
  return svd_all(a, a->signs, o->cache_dir);
}

void tl_lowrank_init(tl_adapter *a, float init_std) {
  if (a->kind == TL_TINYLORA) {
    for (int64_t i = 0; init_std > 0 && i < a->n_params; i++)
      a->master[i] = init_std * (2 * tl_uniform(a->seed, TL_STREAM_V, (uint64_t)i) - 1);
    return;
  }
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    int out, in;
    dims(a, m->module, &out, &in);
    if (a->kind == TL_LORA_XS) {
      size_t n = (size_t)m->rank * m->rank;
      tl_normal_fill(a->master + m->off, n, a->seed, TL_STREAM_R + (uint64_t)m->module);
      for (size_t j = 0; j < n; j++) a->master[m->off + (int64_t)j] *= init_std;
    } else {  // kaiming_uniform with a = sqrt(5): bound 1 / sqrt(in). B stays zero
      float bound = 1.0f / sqrtf((float)in);
      for (int64_t j = 0; j < (int64_t)m->rank * in; j++)
        a->master[m->off + j] = bound * (2 * tl_uniform(a->seed, TL_STREAM_LORA_A + (uint64_t)m->module, (uint64_t)j) - 1);
    }
  }
}

// A and B of the SVD kinds reach the ops once: they are frozen.
void tl_lowrank_refresh(tl_adapter *a) {
  tl_ops()->sync();  // R may still be on its way from the last time
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    int r = m->rank, rr = r * r;
    const float *value = a->value + m->off;
    if (a->kind == TL_TINYLORA) {
      for (int j = 0; j < rr; j++) {
        double sum = 0;
        for (int k = 0; k < a->u; k++) sum += (double)value[k] * m->P[(size_t)k * rr + j];
        m->R[j] = (float)sum;
      }
    } else if (a->kind == TL_LORA_XS) {
      for (int j = 0; j < rr; j++) m->R[j] = m->scale * value[j];
    } else {
      for (int j = 0; j < r; j++) m->R[j * r + j] = m->scale;
      m->A = a->value + m->off;
      m->B = a->value + m->off_b;
    }
    const tl_pair *from = a->kind == TL_LORA ? &a->value_pair : a->basis_owner ? &a->basis_owner->modules[i].basis : &m->basis;
    bool send = !a->basis_owner && !a->basis_sent;
    if (a->kind != TL_LORA && send) tl_pair_send(&m->basis, m->A, m->basis.bytes);
    if (a->kind == TL_LORA || send) tl_shards_send(a, m);
    a->lowrank[m->module] = (tlk_lowrank){.r = r, .A = tl_pair_ops(from, m->A), .B = tl_pair_ops(from, m->B), .R = tl_pair_ops(&a->R, m->R)};
    tl_shards_view(a, m, &a->lowrank[m->module]);
  }
  a->basis_sent = true;
  tl_pair_send(&a->R, a->R.host, a->R.bytes);
  a->view = (tl_adapter_view){.lowrank = a->lowrank, .max_rank = a->rank};
}

// ---------------------------------------------------------------- gradient
static float *scaled_room(tl_adapter *a, size_t n) {
  if (a->scaled_n >= n) return a->scaled;
  const tlk_ops *ops = tl_ops();
  if (a->scaled) ops->release(a->scaled);
  a->scaled = ops->alloc(n * sizeof(float), TLK_MEM_OPS);
  TL_ASSERT(a->scaled != NULL);
  a->scaled_n = n;
  return a->scaled;
}

static void lora_grad(tl_adapter *a, tl_adapter_module *m, const tl_linear_grad *g) {
  int out = tl_linear_out(&a->model->local, m->module % TL_N_KINDS), in = tl_linear_in(&a->model->local, m->module % TL_N_KINDS), r = m->rank;
  float *dA, *dB;
  tl_shards_lora_grad(a, m, &dA, &dB);
  size_t n = (size_t)g->T * r;
  float *z = scaled_room(a, 2 * n), *d = z + n;
  const tlk_ops *ops = tl_ops();
  ops->copy(z, g->z, n * sizeof(float));
  ops->copy(d, g->g, n * sizeof(float));
  ops->scale(z, m->scale, 2 * n);
  if (g->loss_scale != 1) ops->scale(z, 1 / g->loss_scale, n);
  ops->linear_bwd_w(dB, g->dy, (tlk_mat){z, TLK_F32, r}, g->T, out, r);
  ops->linear_bwd_w(dA, (tlk_mat){d, TLK_F32, r}, g->x, g->T, r, in);
}

void tl_lowrank_grad(tl_adapter *a, const tl_linear_grad *g) {
  tl_adapter_module *m = &a->modules[a->slot[g->module]];
  if (a->kind == TL_LORA) lora_grad(a, m, g);
  else if (a->by_unit) tl_lowrank_unit_grads(a, m, g);
  else tl_ops()->lowrank_bwd((double *)a->dR.ops + m->off_dR, g->g, g->z, g->unit_off, g->n_units, m->rank);
}

// The host makes grad of dR; the ops get their copy, since the optimiser works there.
void tl_lowrank_finish(tl_adapter *a) {
  const double *all = a->dR.host;
  tl_pair_fetch(&a->dR, a->dR.host, a->dR.bytes);
  for (int i = 0; a->kind == TL_LORA_XS && i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    for (int64_t j = 0; j < (int64_t)m->rank * m->rank; j++)
      a->grad[m->off + j] = (float)((double)m->scale * all[m->off_dR + (size_t)j]);
  }
  for (int64_t at = 0; a->kind == TL_TINYLORA && at < a->n_params; at++) {
    int group = (int)(at / a->u), k = (int)(at % a->u);
    double sum = 0;
    for (int i = 0; i < a->n_modules; i++) {
      const tl_adapter_module *m = &a->modules[i];
      if (m->group != group) continue;
      size_t rr = (size_t)m->rank * m->rank;
      const float *P = m->P + (size_t)k * rr;
      const double *dR = all + m->off_dR;
      for (size_t j = 0; j < rr; j++) sum += dR[j] * P[j];
    }
    a->grad[at] = (float)sum;
  }
  tl_pair_send(&a->grad_pair, a->grad, a->grad_pair.bytes);
}
