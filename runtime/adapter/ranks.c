// ranks.c: the gradient of an adapter whose prompts are shared by several ranks.
//
// The sum must not depend on how many ranks there are. Alone, TinyLoRA and LoRA-XS add the (r, r) sums of unit after unit (a unit: a
// prompt with its completions) to dR, in double and in the order of the batch. So each rank keeps its units' sums apart, all ranks
// give theirs to all, and every rank adds them in the order of the prompts' places: the very same additions. What travels is small:
// n_dR doubles a prompt (7B, r = 2: 6 kB). Where ranks share a model, their group has the prompt: its sums are made over the group first
// (shards.c), then exchanged with one rank of every other group.
//
// LoRA and full finetuning have no such sums: there the ranks' gradients (n_params floats) are added rank by rank, on the devices where
// they are connected (comm/device.c), else through the host, piece by piece; to the same bits. A run repeats its bits with the same number of ranks, with another it differs by rounding.
#include "../comm/comm.h"
#include "adapter.h"

enum { PIECE = 1 << 22 };  // floats of the gradient that are exchanged at a time

tl_status tl_adapter_ranks_begin(tl_adapter *a, int n_units) {
  a->by_unit = a->kind == TL_TINYLORA || a->kind == TL_LORA_XS;
  if (!a->by_unit) return TL_OK;
  a->n_units = n_units;
  a->first_unit = 0;
  tl_pair_free(&a->units);
  TL_TRY(tl_pair_init(&a->units, sizeof(double) * ((size_t)n_units * a->n_dR + 1), "the gradient's sums of every prompt"));
  tl_ops()->zero(a->units.ops, a->units.bytes);
  return TL_OK;
}

void tl_lowrank_unit_grads(tl_adapter *a, const tl_adapter_module *m, const tl_linear_grad *g) {
  for (int u = 0; u < g->n_units; u++) {
    TL_ASSERT(a->first_unit + u < a->n_units);
    double *to = (double *)a->units.ops + (size_t)(a->first_unit + u) * a->n_dR + m->off_dR;
    tl_ops()->lowrank_bwd(to, g->g, g->z, g->unit_off + u, 1, m->rank);
  }
}

// One unit as it travels: its place, then its sums. Units of the same place (parts of one prompt) are of one rank and stay in order.
typedef struct record {
  int64_t place;
  int order;
  const double *dR;
} record;

static int by_place(const void *x, const void *y) {
  const record *a = x, *b = y;
  if (a->place != b->place) return a->place < b->place ? -1 : 1;
  return a->order - b->order;
}

static tl_status add_in_order(tl_adapter *a, const char *all, int64_t bytes) {
  size_t one = sizeof(int64_t) + sizeof(double) * a->n_dR, n = (size_t)bytes / one;
  record *list = malloc(sizeof *list * (n + 1));
  if (!list) return tl_fail(TL_E_MEMORY, "out of memory");
  for (size_t i = 0; i < n; i++) {
    list[i] = (record){.order = (int)i, .dR = (const double *)(all + i * one + sizeof(int64_t))};
    memcpy(&list[i].place, all + i * one, sizeof(int64_t));
  }
  qsort(list, n, sizeof *list, by_place);
  double *sum = a->dR.host;
  memset(sum, 0, a->dR.bytes);
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < a->n_dR; j++) sum[j] += list[i].dR[j];
  free(list);
  tl_pair_send(&a->dR, sum, a->dR.bytes);
  tl_ops()->sync();
  a->pending = true;
  a->grad_given = false;
  return TL_OK;
}

static tl_status reduce_units(tl_adapter *a, const int64_t *places) {
  size_t one = sizeof(int64_t) + sizeof(double) * a->n_dR;
  char *mine = malloc(one * (size_t)a->n_units + 1), *all = NULL;
  int64_t *sizes = malloc(sizeof *sizes * (size_t)tl_comm_size(TL_COMM_PARTS)), bytes = 0;
  tl_status s = mine && sizes ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory");
  if (s == TL_OK && a->model->shards > 1) s = tl_shards_sum_units(a, 0, a->n_units);
  else if (s == TL_OK) tl_pair_fetch(&a->units, a->units.host, a->units.bytes);
  for (int u = 0; s == TL_OK && u < a->n_units; u++) {
    memcpy(mine + (size_t)u * one, &places[u], sizeof(int64_t));
    memcpy(mine + (size_t)u * one + sizeof(int64_t), (double *)a->units.host + (size_t)u * a->n_dR, sizeof(double) * a->n_dR);
  }
  if (s == TL_OK) s = tl_comm_gather(TL_COMM_PARTS, "the gradient of every prompt", mine, (int64_t)(one * (size_t)a->n_units), &all, sizes);
  for (int r = 0; s == TL_OK && r < tl_comm_size(TL_COMM_PARTS); r++) bytes += sizes[r];
  if (s == TL_OK) s = add_in_order(a, all, bytes);
  free(mine), free(sizes), free(all);
  return s;
}

// whether all ranks are here for this gradient
static tl_status meet(const tl_adapter *a) {
  char *all = NULL;
  int64_t *sizes = malloc(sizeof *sizes * (size_t)tl_comm_size(TL_COMM_PARTS));
  if (!sizes) return tl_fail(TL_E_MEMORY, "out of memory");
  tl_status s = tl_comm_gather(TL_COMM_PARTS, "the gradient", &a->n_params, sizeof a->n_params, &all, sizes);
  free(all), free(sizes);
  return s;
}

static tl_status reduce_whole(tl_adapter *a) {
  if (a->model->shards > 1) TL_TRY(tl_shards_lora_finish(a));
  TL_TRY(meet(a));
  if (tl_comm_parts_sum(tl_adapter_ops_gradient(a), a->n_params)) {
    a->grad_on_ops = true;
    return TL_OK;
  }
  float *grad = tl_adapter_gradient(a);
  int64_t *sizes = malloc(sizeof *sizes * (size_t)tl_comm_size(TL_COMM_PARTS));
  tl_status s = sizes ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory");
  for (int64_t at = 0; s == TL_OK && at < a->n_params; at += PIECE) {
    int64_t n = a->n_params - at < PIECE ? a->n_params - at : PIECE;
    char *all = NULL;
    s = tl_comm_gather(TL_COMM_PARTS, "the gradient", grad + at, n * (int64_t)sizeof(float), &all, sizes);
    if (s != TL_OK) break;
    memcpy(grad + at, all, sizeof(float) * (size_t)n);
    for (int r = 1; r < tl_comm_size(TL_COMM_PARTS); r++) {
      const float *other = (const float *)all + (int64_t)r * n;
      for (int64_t i = 0; i < n; i++) grad[at + i] += other[i];
    }
    free(all);
  }
  free(sizes);
  return s;
}

tl_status tl_adapter_ranks_reduce(tl_adapter *a, const int64_t *places) {
  tl_status s = a->by_unit ? reduce_units(a, places) : reduce_whole(a);
  a->by_unit = false;
  tl_pair_free(&a->units);
  return s;
}
