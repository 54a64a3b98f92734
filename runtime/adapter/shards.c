// shards.c: TinyLoRA, LoRA-XS and LoRA on a model that N ranks share (tensor parallelism; runtime/model/split.c).
//
// With W ~ U S V^T at rank r, A (r, in) = V^T and B (out, r) = U S of the WHOLE module (or with sqrt(S) in both), y = W x + B R A x. The
// singular vectors of a rank's part of W are others, so each module's SVD is of its whole weight, and a rank takes its part of the factors:
//
//   q k v gate up   split by outputs:  y_p = W_p x + B_p R A x               B_p: rank p's rows of B;  A whole
//   o down          by inputs:         y = sum_p (W_p x_p + B R A_p x_p)     A_p: its columns of A;    B whole
//
// so the forward pass needs no sum beyond those of the frozen product: B and R are linear, B R sum_p(A_p x_p) = sum_p B R A_p x_p.
// Backward, with z = A x and g = dy B, dx = dy W + g R A and dR = sum_t g_t^T z_t:
//
//   q k v gate up   g = sum_p g_p, g_p = dy_p B_p;  z whole      dx = sum_p (dy_p W_p + g_p R A)
//   o down          g whole;  z = sum_p z_p, z_p = A_p x_p       dx_p = dy W_p + g R A_p, the rank's own
//
// dx is the sum that layer.c makes; dR is bilinear in g and z, of which one is whole, so dR = sum_p dR_p with dR_p from what rank p
// has. That sum is made here once a step, over r^2 numbers a module, in double and in the order of ranks, for each unit (a prompt
// with its completions) apart, so that the sums over units are those of ranks.c. v, or R, and AdamW's state are whole on every rank,
// and the gradient is the same bits there: an adapter's files do not know of ranks.
//
// LoRA has the same two factors, but trains them: dB = sum_t dy_t^T (R z_t), dA = sum_t (R^T g_t)^T x_t. In q k v gate up a rank has
// dB_p, rows of dB, and a term of dA; in o and down a term of dB, and dA_p, columns of dA. Every rank keeps the whole parameter vector
// and its moments; a gradient has zeros where another rank's rows or columns are, and the sum over ranks is the whole gradient, once a
// step.
//
// Memory: the host has A and B whole (the files are made of them), and so have the ops: r (in + out) floats a module.
#include "../comm/comm.h"
#include "adapter.h"

static void dims(const tl_adapter *a, int module, size_t *out, size_t *in) {
  *out = (size_t)tl_linear_out(&a->model->cfg, module % TL_N_KINDS);
  *in = (size_t)tl_linear_in(&a->model->cfg, module % TL_N_KINDS);
}

bool tl_shards_mine(const tl_adapter *a, int i) { return i % a->model->shards == a->model->shard; }

// Calls copy for A and for B of every module that a rank took the SVD of, with their place in what it gives; returns its bytes
static int64_t each_basis(tl_adapter *a, int rank, char *at, void (*copy)(char *at, float *own, size_t bytes)) {
  int64_t n = 0;
  for (int i = rank; i < a->n_modules; i += a->model->shards) {
    size_t out, in, row = sizeof(float) * (size_t)a->modules[i].rank;
    dims(a, a->modules[i].module, &out, &in);
    if (copy) copy(at + n, a->modules[i].A, row * in);
    if (copy) copy(at + n + row * in, a->modules[i].B, row * out);
    n += (int64_t)(row * (in + out));
  }
  return n;
}

static void give(char *at, float *own, size_t bytes) { memcpy(at, own, bytes); }
static void take(char *at, float *own, size_t bytes) { memcpy(own, at, bytes); }

tl_status tl_shards_share_basis(tl_adapter *a) {
  int64_t n = each_basis(a, a->model->shard, NULL, NULL), *sizes = malloc(sizeof *sizes * (size_t)a->model->shards);
  char *mine = malloc((size_t)n + 1), *all = NULL;
  tl_status s = mine && sizes ? TL_OK : tl_fail(TL_E_MEMORY, "adapter: out of memory");
  if (s == TL_OK) each_basis(a, a->model->shard, mine, give);
  if (s == TL_OK) s = tl_comm_gather(TL_COMM_GROUP, "singular vectors", mine, n, &all, sizes);
  int64_t at = 0;
  for (int r = 0; s == TL_OK && r < a->model->shards; at += sizes[r++]) {
    if (sizes[r] != each_basis(a, r, NULL, NULL)) s = tl_fail(TL_E_ARG, "ranks that share a model make other adapters of it");
    else if (r != a->model->shard) each_basis(a, r, all + at, take);
  }
  free(mine), free(all), free(sizes);
  return s;
}

tl_status tl_shards_room(tl_adapter *a, tl_adapter_module *m) {
  size_t out, in;
  dims(a, m->module, &out, &in);
  if (a->model->shards == 1 || tl_split_by_rows(m->module % TL_N_KINDS)) return TL_OK;
  TL_TRY(tl_pair_init(&m->columns, sizeof(float) * (size_t)m->rank * in / (size_t)a->model->shards, "an adapter's basis"));
  if (a->kind != TL_LORA) return TL_OK;
  m->dA = tl_ops()->alloc(m->columns.bytes, TLK_MEM_OPS);
  if (!m->dA) return tl_fail(TL_E_MEMORY, "adapter: out of memory");
  tl_ops()->zero(m->dA, m->columns.bytes);
  return TL_OK;
}

void tl_shards_send(const tl_adapter *a, const tl_adapter_module *m) {
  size_t out, in, mine = m->columns.bytes / sizeof(float) / (size_t)m->rank;
  if (!m->columns.host) return;
  dims(a, m->module, &out, &in);
  for (size_t q = 0; q < (size_t)m->rank; q++)
    memcpy((float *)m->columns.host + q * mine, m->A + q * in + (size_t)a->model->shard * mine, sizeof(float) * mine);
  tl_pair_send(&m->columns, m->columns.host, m->columns.bytes);
}

void tl_shards_view(const tl_adapter *a, const tl_adapter_module *m, tlk_lowrank *view) {
  size_t out, in, shards = (size_t)a->model->shards;
  const tl_adapter *owner = a->basis_owner ? a->basis_owner : a;
  dims(a, m->module, &out, &in);
  if (shards == 1) return;
  if (tl_split_by_rows(m->module % TL_N_KINDS)) view->B += (size_t)a->model->shard * (out / shards) * (size_t)m->rank;
  else view->A = owner->modules[m - a->modules].columns.ops;
}

tl_status tl_shards_sum_units(tl_adapter *a, int first, int n) {
  size_t count = (size_t)n * a->n_dR;
  double *mine = (double *)a->units.host + (size_t)first * a->n_dR;
  int64_t *sizes = malloc(sizeof *sizes * (size_t)a->model->shards);
  char *all = NULL;
  if (!sizes) return tl_fail(TL_E_MEMORY, "out of memory");
  tl_pair_fetch(&a->units, mine, sizeof(double) * count);
  tl_status s = tl_comm_gather(TL_COMM_GROUP, "the gradient's terms", mine, (int64_t)(sizeof(double) * count), &all, sizes);
  for (int r = 0; s == TL_OK && r < a->model->shards; r++)
    if (sizes[r] != sizes[0]) s = tl_fail(TL_E_ARG, "ranks that share a model train on other prompts");
  for (size_t i = 0; s == TL_OK && i < count; i++) {
    mine[i] = ((double *)all)[i];
    for (size_t r = 1; r < (size_t)a->model->shards; r++) mine[i] += ((double *)all)[r * count + i];
  }
  free(sizes), free(all);
  return s;
}

tl_status tl_shards_reduce(tl_adapter *a, int first, int n) {
  TL_TRY(tl_shards_sum_units(a, first, n));
  double *sum = a->dR.host;
  tl_pair_fetch(&a->dR, sum, a->dR.bytes);
  for (int u = first; u < first + n; u++)
    for (size_t j = 0; j < a->n_dR; j++) sum[j] += ((double *)a->units.host)[(size_t)u * a->n_dR + j];
  tl_pair_send(&a->dR, sum, a->dR.bytes);
  tl_ops()->sync();
  return TL_OK;
}

void tl_shards_lora_grad(tl_adapter *a, const tl_adapter_module *m, float **dA, float **dB) {
  int kind = m->module % TL_N_KINDS;
  *dA = m->dA ? m->dA : tl_grad_ops(a, m->off);
  *dB = tl_grad_ops(a, m->off_b);
  if (a->model->shards > 1 && tl_split_by_rows(kind))
    *dB += (size_t)a->model->shard * (size_t)tl_linear_out(&a->model->local, kind) * (size_t)m->rank;
}

tl_status tl_shards_lora_finish(tl_adapter *a) {
  TL_TRY(tl_comm_agree("numbers of trained parameters", &a->n_params, sizeof a->n_params));
  for (int i = 0; i < a->n_modules; i++) {
    const tl_adapter_module *m = &a->modules[i];
    size_t out, in, row = m->columns.bytes / (size_t)m->rank;
    dims(a, m->module, &out, &in);
    for (int q = 0; q < m->rank && m->dA; q++)
      tl_ops()->copy((char *)tl_grad_ops(a, m->off + q * (int64_t)in) + (size_t)a->model->shard * row, (char *)m->dA + (size_t)q * row, row);
  }
  tl_comm_sum(a->grad_pair.ops, a->n_params);
  a->grad_on_ops = true;
  a->grad_given = false;
  return TL_OK;
}
