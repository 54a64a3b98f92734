// population.c: several adapters of one model computed with at once: every row of a batch says whose it is.
//
// TinyLoRA and LoRA-XS change a module only by R (r, r): the rest of B (R (A x)), as the product with W, is the same for all
// adapters on the same A and B. So a population is a table of R, (n members, r, r) for each module, and a row's `variant` in it
// (tlk_lowrank); the ops, the sampler and the trainer are those of a single adapter. A row's bits do not depend on the rows
// beside it (the kernels' contract), hence neither do a member's completions, logprobs and gradients: they are those of the
// member alone. Gradients are the members' own: a unit's rows belong to one member, and their sum goes to that member's dR.
//
// LoRA trains A and B themselves, and full finetuning W: they cannot be members.
//
// Memory: the table. It is made again, before a forward pass, when a member has changed.
#include "adapter.h"

static tl_status build(tl_population *p, tl_adapter *const *members, int n) {
  tl_adapter *first = members[0];
  for (int k = 0; k < n; k++) {
    char which[32];
    snprintf(which, sizeof which, "member %d", k);
    TL_TRY(tl_adapter_same_basis(first, members[k], which));
  }
  p->model = tl_model_retain(first->model);
  p->members = calloc((size_t)n, sizeof(*p->members));
  p->versions = calloc((size_t)n, sizeof *p->versions);
  p->lowrank = calloc((size_t)(first->model->cfg.n_layers * TL_N_KINDS), sizeof *p->lowrank);
  if (!p->members || !p->versions || !p->lowrank)
    return tl_fail(TL_E_MEMORY, "population: out of memory for %d members", n);
  for (; p->n < n; p->n++)
    p->members[p->n] = tl_adapter_retain(members[p->n]);
  TL_TRY(tl_pair_init(&p->R, sizeof(float) * first->n_dR * (size_t)n, "a population's R"));
  for (int i = 0; i < first->n_modules; i++) {
    const tl_adapter_module *m = &first->modules[i];
    p->lowrank[m->module] = first->lowrank[m->module];
    p->lowrank[m->module].R = (float *)p->R.ops + m->off_dR * (size_t)n;
  }
  p->view = (tl_adapter_view){.lowrank = p->lowrank, .max_rank = first->rank};
  return TL_OK;
}

tl_status tl_population_create(tl_adapter *const *members, int n, tl_population **out) {
  *out = NULL;
  if (n < 1)
    return tl_fail(TL_E_ARG, "population: no members");
  tl_population *p = calloc(1, sizeof *p);
  if (!p)
    return tl_fail(TL_E_MEMORY, "population: out of memory");
  p->refs = 1;
  tl_status s = build(p, members, n);
  if (s != TL_OK) {
    tl_population_free(p);
    return s;
  }
  *out = p;
  return TL_OK;
}

tl_population *tl_population_retain(tl_population *p) {
  p->refs++;
  return p;
}

void tl_population_free(tl_population *p) {
  if (!p || --p->refs)
    return;
  for (int k = 0; k < p->n; k++)
    tl_adapter_free(p->members[k]);
  free(p->members);
  free(p->versions);
  free(p->lowrank);
  tl_pair_free(&p->R);
  tl_model_free(p->model);
  free(p);
}

int tl_population_n_members(const tl_population *p) {
  return p->n;
}

const tl_adapter_view *tl_population_get_view(tl_population *p) {
  bool changed = false;
  for (int k = 0; k < p->n; k++)
    changed = changed || p->versions[k] != p->members[k]->version;
  if (!changed)
    return &p->view;
  tl_ops()->sync(); // R may still be read, or be on its way from the last time
  for (int k = 0; k < p->n; k++) {
    const tl_adapter *a = p->members[k];
    for (int i = 0; i < a->n_modules; i++) {
      const tl_adapter_module *m = &a->modules[i];
      size_t rr = (size_t)m->rank * m->rank;
      memcpy((float *)p->R.host + m->off_dR * (size_t)p->n + (size_t)k * rr, m->R, sizeof(float) * rr);
    }
    p->versions[k] = a->version;
  }
  tl_pair_send(&p->R, p->R.host, p->R.bytes);
  p->version = tl_adapter_next_version();
  return &p->view;
}

int tl_population_lowest_layer(const tl_population *p) {
  return tl_adapter_lowest_layer(p->members[0]);
}

bool tl_population_trains_module(const tl_population *p, int module) {
  return tl_adapter_trains_module(p->members[0], module);
}

void tl_population_linear_grad(tl_population *p, const tl_linear_grad *g, const int32_t *unit_member) {
  for (int first = 0, next; first < g->n_units; first = next) {
    for (next = first + 1; next < g->n_units && unit_member[next] == unit_member[first];)
      next++;
    if (unit_member[first] < 0)
      continue; // rows of the base model
    tl_linear_grad own = *g;
    own.unit_off = g->unit_off + first;
    own.n_units = next - first;
    tl_adapter_linear_grad(p->members[unit_member[first]], &own);
  }
}
