// lowrank.c: TinyLoRA, LoRA-XS and LoRA: y += B (R (A x)) beside the frozen product, W (out, in) ~ U S V^T at rank r.
//
//   TinyLoRA (Morris et al. 2026, arXiv:2602.04118)   A, B from the SVD, frozen; R = sum_i v_i P_i, v (u) trained, shared by a
//            group; P (u, r, r) ~ normal(0, 1/sqrt(r)), frozen, drawn per module by Philox (stream: the module's index)
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
#include <math.h>

static void dims(const tl_adapter *a, int module, int *out, int *in) {
  *out = tl_linear_out(&a->model->cfg, module % TL_N_KINDS);
  *in = tl_linear_in(&a->model->cfg, module % TL_N_KINDS);
}

// Numbers of the parameter vector that belong to module i alone or to its group.
static void set_offsets(tl_adapter *a) {
  int64_t at = 0, rr = (int64_t)a->rank * a->rank;
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    int out, in;
    dims(a, m->module, &out, &in);
    if (a->kind == TL_TINYLORA) {
      m->off = (int64_t)m->group * a->u;
    } else if (a->kind == TL_LORA_XS) {
      m->off = at;
      at += rr;
    } else {
      m->off = at;
      m->off_b = at + (int64_t)a->rank * in;
      at = m->off_b + (int64_t)out * a->rank;
    }
  }
  a->n_params = a->kind == TL_TINYLORA ? (int64_t)a->n_groups * a->u : at;
}

tl_status tl_lowrank_layout(tl_adapter *a) {
  int total = a->model->cfg.n_layers * TL_N_KINDS;
  size_t rr = (size_t)a->rank * a->rank;
  a->lowrank = calloc((size_t)total, sizeof *a->lowrank);
  a->slot = malloc(sizeof(int32_t) * (size_t)total);
  if (!a->lowrank || !a->slot) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (int i = 0; i < total; i++) a->slot[i] = -1;
  if (a->kind != TL_LORA) {
    a->dR = calloc((size_t)a->n_modules * rr, sizeof(double));
    if (!a->dR) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  }
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    int out, in;
    dims(a, m->module, &out, &in);
    a->slot[m->module] = i;
    bool ok = (m->R = calloc(rr, sizeof(float))) != NULL;
    if (ok && a->kind == TL_TINYLORA) ok = (m->P = malloc(sizeof(float) * (size_t)a->u * rr)) != NULL;
    if (ok && a->kind != TL_LORA)
      ok = (m->A = malloc(sizeof(float) * (size_t)a->rank * in)) && (m->B = malloc(sizeof(float) * (size_t)a->rank * out));
    if (!ok) return tl_fail(TL_E_MEMORY, "adapter: out of memory for %d modules of rank %d", a->n_modules, a->rank);
  }
  set_offsets(a);
  return TL_OK;
}

// A (r, in) and B (out, r) from the weight's SVD
static tl_status svd_basis(tl_adapter *a, tl_adapter_module *m, const char *cache_dir) {
  int out, in, r = a->rank;
  dims(a, m->module, &out, &in);
  float *w = malloc(sizeof(float) * (size_t)out * in), *V = malloc(sizeof(float) * (size_t)in * r);
  float *S = malloc(sizeof(float) * (size_t)r);
  tl_status s = TL_OK;
  if (!w || !V || !S) s = tl_fail(TL_E_MEMORY, "adapter: out of memory for a (%d, %d) weight", out, in);
  if (s == TL_OK) {
#pragma omp critical(tl_unpack)  // a backend's scratch is not for two callers
    tl_ops()->unpack(w, tl_weights_module(&a->model->w, m->module)->w, 0, out);
    s = tl_svd_cached(w, out, in, r, cache_dir, m->B, S, V, NULL, NULL);
  }
  for (int q = 0; s == TL_OK && q < r; q++) {
    float root = sqrtf(S[q]), to_b = a->sigma == TL_SIGMA_PAPER ? S[q] : root, to_a = a->sigma == TL_SIGMA_PAPER ? 1 : root;
    for (int i = 0; i < out; i++) m->B[(size_t)i * r + q] *= to_b;
    for (int j = 0; j < in; j++) m->A[(size_t)q * in + j] = to_a * V[(size_t)j * r + q];
  }
  free(w);
  free(V);
  free(S);
  return s;
}

// Every module's SVD, several at a time; the first failure's message is brought back to this thread.
static tl_status svd_all(tl_adapter *a, const char *cache_dir) {
  tl_status first = TL_OK;
  char message[1024] = "";
#pragma omp parallel for schedule(dynamic) num_threads(tl_threads())
  for (int i = 0; i < a->n_modules; i++) {
    tl_status s;
#pragma omp atomic read
    s = first;
    if (s != TL_OK) continue;
    s = tl_interrupted() ? tl_fail(TL_E_INTERRUPTED, "interrupted") : svd_basis(a, &a->modules[i], cache_dir);
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
  return first == TL_OK ? TL_OK : tl_fail(first, "%s", message);
}

tl_status tl_lowrank_build(tl_adapter *a, const tl_adapter_options *o) {
  a->modules = calloc((size_t)a->n_modules, sizeof *a->modules);
  if (!a->modules) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  for (int i = 0; i < a->n_modules; i++) {
    a->modules[i].module = o->modules[i];
    a->modules[i].group = a->kind == TL_TINYLORA && o->groups ? o->groups[i] : i;
  }
  TL_TRY(tl_lowrank_layout(a));
  if (a->kind == TL_LORA) return TL_OK;
  size_t n = (size_t)a->u * a->rank * a->rank;
  float scale = 1.0f / sqrtf((float)a->rank);
  for (int i = 0; a->kind == TL_TINYLORA && i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    tl_normal_fill(m->P, n, a->seed, TL_STREAM_P + (uint64_t)m->module);
    for (size_t j = 0; j < n; j++) m->P[j] *= scale;
  }
  return svd_all(a, o->cache_dir);
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
      size_t n = (size_t)a->rank * a->rank;
      tl_normal_fill(a->master + m->off, n, a->seed, TL_STREAM_R + (uint64_t)m->module);
      for (size_t j = 0; j < n; j++) a->master[m->off + (int64_t)j] *= init_std;
    } else {  // kaiming_uniform with a = sqrt(5): bound 1 / sqrt(in). B stays zero
      float bound = 1.0f / sqrtf((float)in);
      for (int64_t j = 0; j < (int64_t)a->rank * in; j++)
        a->master[m->off + j] = bound * (2 * tl_uniform(a->seed, TL_STREAM_LORA_A + (uint64_t)m->module, (uint64_t)j) - 1);
    }
  }
}

void tl_lowrank_refresh(tl_adapter *a) {
  int r = a->rank, rr = r * r;
  float scale = a->alpha / (float)r;
  for (int i = 0; i < a->n_modules; i++) {
    tl_adapter_module *m = &a->modules[i];
    const float *value = a->value + m->off;
    if (a->kind == TL_TINYLORA) {
      for (int j = 0; j < rr; j++) {
        double sum = 0;
        for (int k = 0; k < a->u; k++) sum += (double)value[k] * m->P[(size_t)k * rr + j];
        m->R[j] = (float)sum;
      }
    } else if (a->kind == TL_LORA_XS) {
      for (int j = 0; j < rr; j++) m->R[j] = scale * value[j];
    } else {
      for (int j = 0; j < r; j++) m->R[j * r + j] = scale;
      m->A = a->value + m->off;
      m->B = a->value + m->off_b;
    }
    a->lowrank[m->module] = (tlk_lowrank){.r = r, .A = m->A, .B = m->B, .R = m->R};
  }
  a->view = (tl_adapter_view){.lowrank = a->lowrank, .max_rank = r};
}

// ---------------------------------------------------------------- gradient
static void *grown(void *p, size_t *have, size_t want, size_t size) {
  if (*have >= want) return p;
  free(p);
  p = tl_aligned_alloc(want * size);
  TL_ASSERT(p != NULL);
  *have = want;
  return p;
}

static void lora_grad(tl_adapter *a, tl_adapter_module *m, const tl_linear_grad *g) {
  int out, in, r = a->rank;
  dims(a, m->module, &out, &in);
  size_t n = (size_t)g->T * r;
  float scale = a->alpha / (float)r;
  a->scaled = grown(a->scaled, &a->scaled_n, 2 * n, sizeof(float));
  float *z = a->scaled, *d = a->scaled + n;
  for (size_t i = 0; i < n; i++) z[i] = scale * g->z[i], d[i] = scale * g->g[i];
  const tlk_ops *ops = tl_ops();
  ops->linear_bwd_w(a->grad + m->off_b, g->dy, (tlk_mat){z, TLK_F32, r}, g->T, out, r);
  ops->linear_bwd_w(a->grad + m->off, (tlk_mat){d, TLK_F32, r}, g->x, g->T, r, in);
}

void tl_lowrank_grad(tl_adapter *a, const tl_linear_grad *g) {
  int slot = a->slot[g->module];
  if (a->kind == TL_LORA) {
    lora_grad(a, &a->modules[slot], g);
    return;
  }
  size_t rr = (size_t)a->rank * a->rank, n = rr * (size_t)g->n_units;
  a->unit_dR = grown(a->unit_dR, &a->unit_dR_n, n, sizeof(double));
  memset(a->unit_dR, 0, sizeof(double) * n);
  tl_ops()->lowrank_bwd(a->unit_dR, g->g, g->z, g->unit_off, g->n_units, a->rank);
  double *sum = a->dR + (size_t)slot * rr;
  for (int i = 0; i < g->n_units; i++)
    for (size_t j = 0; j < rr; j++) sum[j] += a->unit_dR[(size_t)i * rr + j];
  a->pending = true;
}

void tl_lowrank_finish(tl_adapter *a) {
  size_t rr = (size_t)a->rank * a->rank;
  if (a->kind == TL_LORA_XS) {
    double scale = (double)a->alpha / a->rank;
    for (size_t i = 0; i < rr * (size_t)a->n_modules; i++) a->grad[i] = (float)(scale * a->dR[i]);
    return;
  }
  for (int64_t at = 0; at < a->n_params; at++) {
    int group = (int)(at / a->u), k = (int)(at % a->u);
    double sum = 0;
    for (int i = 0; i < a->n_modules; i++) {
      if (a->modules[i].group != group) continue;
      const float *P = a->modules[i].P + (size_t)k * rr;
      const double *dR = a->dR + (size_t)i * rr;
      for (size_t j = 0; j < rr; j++) sum += dR[j] * P[j];
    }
    a->grad[at] = (float)sum;
  }
}
