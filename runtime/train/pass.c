// pass.c: a batch through the model, forward and backward, in micro-batches that fit a memory budget.
//
// Packing. The rows of a micro-batch are, prompt by prompt, the prompt's tokens and then, for each of its completions, all
// tokens but the last (nothing is predicted from that one). A completion attends to its prompt's rows and its own, so a shared
// prompt is computed once, forward and backward. Token i of a completion is predicted from row i - 1 of it, token 0 from the
// prompt's last row. Rows of one prompt form a "unit": units share no keys, and TinyLoRA's gradient is summed unit by unit,
// so how units fall into micro-batches does not change its bits.
//
// Memory. One arena, sized before the first row is computed for the largest micro-batch. Either every layer's activations are
// kept (keep), or only each layer's input, and a layer is computed again right before its backward (recompute). keep is chosen
// when micro-batches of reasonable size fit the budget. A unit that does not fit is cut into smaller ones with the same prompt.
// Without a budget, micro-batches take DEFAULT_BYTES, since larger ones are no faster, and up to MOST_BYTES where a unit needs
// more to be computed only once.
//
// What the sampler kept (runtime/model/kept.h). When every completion is there, layers from first_kept on are not computed: right
// before a layer's backward its activations are gathered into one set that these layers share, and logprob, lse and entropy are
// the sampler's. Only the layers below run forward, and none when first_kept is 0.
#include "pass.h"
#include "../adapter/adapter.h"
#include "../base/profile.h"
#include "../comm/comm.h"
#include "../model/kept.h"

static const int64_t DEFAULT_BYTES = (int64_t)768 << 20, MOST_BYTES = (int64_t)2 << 30;
enum { MIN_LOGITS_ROWS = 512 };  // below this so much more cutting does not repay logits that are kept
enum { MIN_KEEP_ROWS = 256 };  // below this a product is bound by reading the weights: recomputing in larger cuts is cheaper

typedef struct unit {
  int prompt, first, count;  // completions first .. first + count - 1
  int rows, out;             // rows computed, tokens predicted
} unit;

typedef struct micro {
  int first_unit, n_units, first, count, rows, out;
} micro;

struct tl_pass {
  tl_model *model;
  tl_adapter *adapter;       // or opt.population, or neither
  tl_batch *batch;
  tl_pass_options opt;
  tl_net net;
  tl_grad_sink sink;
  unit *units;
  micro *micros;
  int n_units, n_micro, max_rows, max_out, current;
  bool recompute, keep_logits;
  int first_kept;            // layers from here on come from what the sampler kept; n_layers: none does
  const tl_kept_sequence **kept;  // (the batch's sequences), when some do
  int64_t planned;
  tl_arena arena;
  // index arrays of the current micro-batch, and per-token numbers on their way: host addresses in pairs
  tl_pair index, tokens;
  int32_t *ids, *pos, *kv_off, *kv_len, *kv_rows, *unit_off, *targets, *head_rows, *kept_list, *variant;
  int32_t *unit_member;      // (n_units) whose the units of the current micro-batch are; the host's alone
  // activations
  tl_acts *acts;             // (n_layers): keep: each its own; recompute: one shared set but for x_in. Kept layers share one
  tl_fwd_scratch fwd;
  tl_bwd_scratch bwd;
  float *x, *rstd, *dx, *dxf, *dh, *lse, *logits;
  float *logprob, *entropy, *dlogprob, *dentropy;  // (max_out) each, in tokens
  tlk_mat xf, h;
  tl_rows rows;
};

static size_t plan_bytes(const tl_pass *p, int rows, int out, bool recompute) {
  const tl_config *c = &p->model->cfg;
  size_t T = (size_t)rows, O = (size_t)out, act = tlk_dtype_size(p->net.act), C = (size_t)c->width, slack = 64 * 16;
  bool back = p->opt.backward;
  int low = p->first_kept, any = low < c->n_layers, sets = back && !recompute ? low + any : 1;
  size_t n = (size_t)sets * tl_acts_bytes(&p->net, rows, back, true) + tl_fwd_scratch_bytes(&p->net, rows);
  n += T * C * 4 + T * 4 + T * C * act + O * C * act + O * 4;                  // x, rstd, xf, h, lse
  if (back) n += tl_bwd_scratch_bytes(&p->net, rows) + 2 * T * C * 4 + O * C * 4;  // dx, dxf, dh
  if (p->keep_logits) n += tl_align64(O * (size_t)p->model->cfg.vocab * 4);
  if (back && recompute) n += (size_t)(low + any - 1) * tl_align64(T * C * 4);
  return n + slack;
}

static void measure(const tl_batch *b, unit *u) {
  u->rows = b->prompts[u->prompt].n;
  u->out = 0;
  for (int i = u->first; i < u->first + u->count; i++) {
    u->rows += b->sequences[i].n - 1;
    u->out += b->sequences[i].n;
  }
}

// Whole prompts as units; one that does not fit even alone and recomputed is halved until it does.
static tl_status make_units(tl_pass *p) {
  const tl_batch *b = p->batch;
  p->units = calloc((size_t)b->n_sequences + 1, sizeof *p->units);
  if (!p->units) return tl_fail(TL_E_MEMORY, "out of memory");
  for (int i = 0; i < b->n_prompts; i++) {
    int first = b->prompts[i].first, left = b->prompts[i].count;
    while (left > 0) {
      unit u = {.prompt = i, .first = first, .count = left};
      for (measure(b, &u); u.count > 1 && plan_bytes(p, u.rows, u.out, true) > (size_t)p->opt.memory_bytes; measure(b, &u))
        u.count = (u.count + 1) / 2;
      size_t need = plan_bytes(p, u.rows, u.out, true);
      if (need > (size_t)p->opt.memory_bytes)
        return tl_fail(TL_E_MEMORY, "completion %d with its prompt (%d tokens) needs %.0f MiB of activations, the budget is %.0f MiB",
                       u.first, u.rows + 1, (double)need / (1 << 20), (double)p->opt.memory_bytes / (1 << 20));
      p->units[p->n_units++] = u;
      first += u.count;
      left -= u.count;
    }
  }
  return TL_OK;
}

static int cut(tl_pass *p, bool recompute, micro *out) {
  int n = 0;
  micro m = {0};
  for (int i = 0; i < p->n_units; i++) {
    const unit *u = &p->units[i];
    if (m.n_units && plan_bytes(p, m.rows + u->rows, m.out + u->out, recompute) > (size_t)p->opt.memory_bytes) {
      if (out) out[n] = m;
      n++;
      m = (micro){0};
    }
    if (!m.n_units) m.first_unit = i, m.first = u->first;
    m.n_units++;
    m.count += u->count;
    m.rows += u->rows;
    m.out += u->out;
  }
  if (m.n_units) {
    if (out) out[n] = m;
    n++;
  }
  return n;
}

// the budget of a pass that was given none
static int64_t default_bytes(const tl_pass *p) {
  int64_t n = DEFAULT_BYTES;
  for (int i = 0; i < p->n_units && n < MOST_BYTES; i++) {
    int64_t need = (int64_t)plan_bytes(p, p->units[i].rows, p->units[i].out, false);
    if (need > n) n = need < MOST_BYTES ? need : MOST_BYTES;
  }
  return n;
}

// Logits of the forward direction stay for the backward, where that leaves micro-batches of reasonable size.
static void keep_logits(tl_pass *p, int64_t rows) {
  p->keep_logits = true;
  int n = cut(p, false, NULL);
  bool fits = n <= 1 || rows / n >= MIN_LOGITS_ROWS;
  for (int i = 0; i < p->n_units; i++)
    fits = fits && plan_bytes(p, p->units[i].rows, p->units[i].out, false) <= (size_t)p->opt.memory_bytes;
  p->keep_logits = fits;
}

static tl_status plan(tl_pass *p) {
  bool given = p->opt.memory_bytes > 0;
  if (!given) p->opt.memory_bytes = MOST_BYTES;
  TL_TRY(make_units(p));
  if (!given) p->opt.memory_bytes = default_bytes(p);
  int64_t rows = 0;
  bool fits = true;
  for (int i = 0; i < p->n_units; i++) {
    rows += p->units[i].rows;
    fits = fits && plan_bytes(p, p->units[i].rows, p->units[i].out, false) <= (size_t)p->opt.memory_bytes;
  }
  int n_keep = cut(p, false, NULL);
  p->recompute = p->opt.backward && (!fits || (n_keep > 1 && rows / n_keep < MIN_KEEP_ROWS));
  if (p->opt.backward && !p->recompute && tl_ops()->host && p->first_kept == p->model->cfg.n_layers) keep_logits(p, rows);
  p->n_micro = cut(p, p->recompute, NULL);
  p->micros = calloc((size_t)p->n_micro + 1, sizeof *p->micros);
  if (!p->micros) return tl_fail(TL_E_MEMORY, "out of memory");
  cut(p, p->recompute, p->micros);
  for (int i = 0; i < p->n_micro; i++) {
    if (p->micros[i].rows > p->max_rows) p->max_rows = p->micros[i].rows;
    if (p->micros[i].out > p->max_out) p->max_out = p->micros[i].out;
    size_t need = plan_bytes(p, p->micros[i].rows, p->micros[i].out, p->recompute);
    if ((int64_t)need > p->planned) p->planned = (int64_t)need;
  }
  return TL_OK;
}

static tl_status allocate_index(tl_pass *p) {
  size_t T = (size_t)p->max_rows, O = (size_t)p->max_out, lists = 0;
  for (int i = 0; i < p->n_micro; i++) {
    size_t n = 0;
    for (int k = p->micros[i].first_unit; k < p->micros[i].first_unit + p->micros[i].n_units; k++)
      n += (size_t)p->units[k].rows + (size_t)p->units[k].count * (size_t)p->batch->prompts[p->units[k].prompt].n;
    if (n > lists) lists = n;
  }
  TL_TRY(tl_pair_init(&p->index, sizeof(int32_t) * (6 * T + lists + (T + 1) + 2 * O), "a pass's index"));
  TL_TRY(tl_pair_init(&p->tokens, sizeof(float) * 4 * O, "a pass's tokens"));
  p->logprob = p->tokens.host;
  p->entropy = p->logprob + O, p->dlogprob = p->entropy + O, p->dentropy = p->dlogprob + O;
  p->ids = p->index.host;
  p->pos = p->ids + T;
  p->kv_off = p->pos + T;
  p->kv_len = p->kv_off + T;
  p->kv_rows = p->kv_len + T;
  p->unit_off = p->kv_rows + lists;
  p->targets = p->unit_off + T + 1;
  p->head_rows = p->targets + O;
  p->kept_list = p->head_rows + O;
  p->variant = p->kept_list + T;
  if (p->opt.population) p->net.variant = tl_pair_ops(&p->index, p->variant);
  p->unit_member = malloc(sizeof(int32_t) * (size_t)p->n_units);
  return p->unit_member ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory");
}

static tl_status allocate(tl_pass *p) {
  int L = p->model->cfg.n_layers;
  TL_TRY(allocate_index(p));
  TL_TRY(tl_arena_reuse(&p->arena, (size_t)p->planned + 4096 * (size_t)(L + 8), TLK_MEM_OPS, "a training pass"));
  p->acts = calloc((size_t)L, sizeof *p->acts);
  return p->acts ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory");
}

// Lays the arena out for a micro-batch. Each has its own layout: one with the most rows and one with the most tokens may be two, and
// together they were not planned.
static void lay_out(tl_pass *p, const micro *m) {
  const tl_config *c = &p->model->cfg;
  int T = m->rows, O = m->out, L = c->n_layers;
  bool back = p->opt.backward;
  tl_arena_reset(&p->arena);
  tl_acts_take(&p->acts[0], &p->net, T, back, true, &p->arena);
  for (int l = 1; l < L; l++) {
    if (l > p->first_kept) {
      p->acts[l] = p->acts[p->first_kept];
    } else if (back && !p->recompute) {
      tl_acts_take(&p->acts[l], &p->net, T, true, true, &p->arena);
    } else {
      p->acts[l] = p->acts[0];
      if (back) p->acts[l].x_in = tl_arena_take(&p->arena, sizeof(float) * (size_t)T * c->width);
    }
  }
  tl_fwd_scratch_take(&p->fwd, &p->net, T, &p->arena);
  size_t row = sizeof(float) * (size_t)c->width;
  p->x = tl_arena_take(&p->arena, (size_t)T * row);
  p->rstd = tl_arena_take(&p->arena, sizeof(float) * (size_t)T);
  p->xf = tl_mat_take(&p->arena, p->net.act, T, c->width);
  p->h = tl_mat_take(&p->arena, p->net.act, O, c->width);
  p->lse = tl_arena_take(&p->arena, sizeof(float) * (size_t)O);
  if (p->keep_logits) p->logits = tl_arena_take(&p->arena, sizeof(float) * (size_t)O * (size_t)c->vocab);
  if (!back) return;
  tl_bwd_scratch_take(&p->bwd, &p->net, T, &p->arena);
  p->dx = tl_arena_take(&p->arena, (size_t)T * row);
  p->dxf = tl_arena_take(&p->arena, (size_t)T * row);
  p->dh = tl_arena_take(&p->arena, (size_t)O * row);
}

static bool sink_trains(void *ctx, int module) { return tl_adapter_trains_module(ctx, module); }
static void sink_linear(void *ctx, const tl_linear_grad *g) { tl_adapter_linear_grad(ctx, g); }
static float *sink_norm(void *ctx, int layer, int which) { return tl_adapter_grad_norm(ctx, layer, which); }

// a population's: the context is the pass, which knows whose the units are; only R is trained
static bool members_train(void *ctx, int module) {
  const tl_pass *p = ctx;
  return tl_population_trains_module(p->opt.population, module);
}
static void members_linear(void *ctx, const tl_linear_grad *g) {
  tl_pass *p = ctx;
  tl_population_linear_grad(p->opt.population, g, p->unit_member);
}
static float *members_norm(void *ctx, int layer, int which) {
  (void)ctx, (void)layer, (void)which;
  return NULL;
}

static tl_grad_sink sink_of(tl_pass *p) {
  tl_adapter *a = p->adapter;
  if (p->opt.population)
    return (tl_grad_sink){.ctx = p, .trains = members_train, .linear = members_linear, .norm = members_norm,
                          .lowest = tl_population_lowest_layer(p->opt.population)};
  if (!a) return (tl_grad_sink){0};
  return (tl_grad_sink){.ctx = a, .trains = sink_trains, .linear = sink_linear, .norm = sink_norm,
                        .needs_x = a->kind == TL_LORA || a->kind == TL_FULL, .lowest = tl_adapter_lowest_layer(a),
                        .embeddings = tl_adapter_grad_embed(a) != NULL};
}

// Whether the sampler kept this sequence as the batch has it, beside the others of its prompt.
static bool is_kept(const tl_pass *p, int i) {
  const tl_sequence *q = &p->batch->sequences[i];
  const tl_prompt *pr = &p->batch->prompts[q->prompt];
  const tl_kept_sequence *k = q->sampled ? tl_kept_find(p->opt.kept, p->opt.population ? pr->member : 0, q->id) : NULL;
  p->kept[i] = k;
  return k && k->n == q->n - 1 && k->temperature == p->opt.temperature && p->opt.kept->sequences[k->prompt].n == pr->n &&
         p->kept[pr->first]->prompt == k->prompt;
}

static tl_status find_kept(tl_pass *p) {
  const tl_kept *k = p->opt.kept;
  int64_t version = p->opt.population ? p->opt.population->version : p->adapter ? p->adapter->version : 0;
  p->first_kept = p->model->cfg.n_layers;
  if (!k || !p->opt.backward || k->model != p->model || k->version != version) return TL_OK;
  p->kept = calloc((size_t)p->batch->n_sequences + 1, sizeof(*p->kept));
  if (!p->kept) return tl_fail(TL_E_MEMORY, "out of memory");
  for (int i = 0; i < p->batch->n_sequences; i++)
    if (!is_kept(p, i)) return TL_OK;
  p->first_kept = k->first_layer;
  return TL_OK;
}

static tl_status set_up(tl_pass *p) {
  const tl_batch *b = p->batch;
  tl_population *pop = p->opt.population;
  if (p->adapter && pop) return tl_fail(TL_E_ARG, "a pass takes an adapter or a population, not both");
  if (p->opt.backward && !p->adapter && !pop) return tl_fail(TL_E_ARG, "a backward pass needs an adapter: nothing else is trained");
  int stored = 0;
  tl_ops()->packed_dims(p->model->w.head, &(int){0}, &(int){0}, &stored);
  if (p->opt.backward && stored == TL_I8)
    return tl_fail(TL_E_ARG, "an int8 model is to sample from and cannot be trained: give the trainer the model that it was made of (rollouts = \"int8\")");
  const tl_model *of = p->adapter ? p->adapter->model : pop ? pop->model : p->model;
  if (of != p->model && of != p->model->parent) return tl_fail(TL_E_ARG, "the adapter belongs to another model");
  int longest;
  TL_TRY(tl_batch_check(b, &p->model->cfg, &longest));
  for (int i = 0; pop && i < b->n_prompts; i++)
    if (b->prompts[i].member < -1 || b->prompts[i].member >= pop->n)
      return tl_fail(TL_E_ARG, "prompt %d belongs to member %d of a population of %d", i, b->prompts[i].member, pop->n);
  TL_TRY(tl_model_need_positions(p->model, longest));
  tl_net_init(&p->net, p->model, pop ? tl_population_get_view(pop) : p->adapter ? tl_adapter_get_view(p->adapter) : NULL);
  p->sink = sink_of(p);
  p->sink.loss_scale = p->net.act == TL_F16 && p->opt.loss_scale > 0 ? p->opt.loss_scale : 1;
  TL_TRY(find_kept(p));
  TL_TRY(plan(p));
  if (p->opt.ranks && (!p->opt.backward || !p->adapter)) return tl_fail(TL_E_ARG, "a pass for all ranks trains an adapter");
  if (pop) TL_TRY(tl_whole_only(p->model, "a population"));
  if (p->opt.backward && p->net.split && !p->opt.ranks && p->adapter->kind == TL_LORA)
    return tl_fail(TL_E_UNSUPPORTED, "LoRA on a model that ranks share is trained by a pass for all ranks");
  if (p->opt.ranks || (p->opt.backward && p->net.split)) TL_TRY(tl_adapter_ranks_begin(p->adapter, p->n_units));
  return p->n_micro ? allocate(p) : TL_OK;
}

tl_status tl_pass_create(tl_model *m, tl_adapter *a, tl_batch *b, const tl_pass_options *o, tl_pass **out) {
  TL_SECTION("pass: planning");
  *out = NULL;
  tl_pass *p = calloc(1, sizeof *p);
  if (!p) return tl_fail(TL_E_MEMORY, "out of memory");
  p->model = tl_model_retain(m);
  p->adapter = a ? tl_adapter_retain(a) : NULL;
  p->batch = tl_batch_retain(b);
  p->opt = *o;
  if (p->opt.kept) tl_kept_retain(p->opt.kept);
  if (p->opt.population) tl_population_retain(p->opt.population);
  p->current = -1;
  if (p->opt.temperature <= 0) p->opt.temperature = 1;
  tl_status s = set_up(p);
  if (s != TL_OK) {
    tl_pass_free(p);
    return s;
  }
  *out = p;
  return TL_OK;
}

void tl_pass_free(tl_pass *p) {
  if (!p) return;
  if ((p->opt.ranks || (p->opt.backward && p->net.split)) && p->adapter) p->adapter->by_unit = false;
  free(p->kept);
  free(p->unit_member);
  tl_kept_free(p->opt.kept);
  tl_population_free(p->opt.population);
  free(p->units);
  free(p->micros);
  tl_pair_free(&p->index);
  tl_pair_free(&p->tokens);
  free(p->acts);
  tl_arena_leave(&p->arena);
  tl_batch_free(p->batch);
  tl_adapter_free(p->adapter);
  tl_model_free(p->model);
  free(p);
}

int tl_pass_n_micro(const tl_pass *p) { return p->n_micro; }
int tl_pass_first_kept(const tl_pass *p) { return p->first_kept; }
bool tl_pass_recomputes(const tl_pass *p) { return p->recompute; }
int64_t tl_pass_planned_bytes(const tl_pass *p) { return p->planned; }

void tl_pass_micro_range(const tl_pass *p, int i, int *first, int *count) {
  bool in = i >= 0 && i < p->n_micro;
  *first = in ? p->micros[i].first : 0;
  *count = in ? p->micros[i].count : 0;
}

static void *seen(const tl_pass *p, const void *index) { return tl_pair_ops(&p->index, index); }
static float *seen_tokens(const tl_pass *p, const float *tokens) { return tl_pair_ops(&p->tokens, tokens); }

// Fills and sends the index arrays of a micro-batch; the order of rows is described at the top.
static void pack_rows(tl_pass *p, const micro *m) {
  const tl_batch *b = p->batch;
  int t = 0, o = 0, list = 0, longest = 0;
  tl_ops()->sync();
  bool from_kept = p->first_kept < p->model->cfg.n_layers;
  for (int k = 0; k < m->n_units; k++) {
    const unit *u = &p->units[m->first_unit + k];
    const tl_prompt *pr = &b->prompts[u->prompt];
    int row0 = t, list0 = list;
    longest = pr->n > longest ? pr->n : longest;
    p->unit_off[k] = t;
    p->unit_member[k] = pr->member;
    for (int i = 0; i < pr->n; i++, t++) {
      p->ids[t] = b->tokens[pr->ids + i];
      p->pos[t] = i;
      p->kv_off[t] = list0;
      p->kv_len[t] = i + 1;
      p->kv_rows[list++] = t;
      if (from_kept) p->kept_list[t] = p->opt.kept->sequences[p->kept[u->first]->prompt].rows[i];
    }
    for (int s = u->first; s < u->first + u->count; s++) {
      const tl_sequence *q = &b->sequences[s];
      int mine = list, own = t;
      longest = pr->n + q->n - 1 > longest ? pr->n + q->n - 1 : longest;
      for (int i = 0; i < pr->n; i++) p->kv_rows[list++] = row0 + i;
      for (int i = 0; i < q->n - 1; i++, t++) {
        p->ids[t] = b->tokens[q->ids + i];
        p->pos[t] = pr->n + i;
        p->kv_off[t] = mine;
        p->kv_len[t] = pr->n + i + 1;
        p->kv_rows[list++] = t;
        if (from_kept) p->kept_list[t] = p->kept[s]->rows[i];
      }
      for (int i = 0; i < q->n; i++, o++) {
        p->targets[o] = b->tokens[q->ids + i];
        p->head_rows[o] = i ? own + i - 1 : row0 + pr->n - 1;
      }
    }
    for (int i = row0; i < t; i++) p->variant[i] = pr->member;
  }
  p->unit_off[m->n_units] = t;
  TL_ASSERT(t == m->rows && o == m->out);
  tl_pair_send(&p->index, p->ids, p->index.bytes);
  p->rows = (tl_rows){.T = t, .pos = seen(p, p->pos),
                      .map = {.kv_off = seen(p, p->kv_off), .kv_len = seen(p, p->kv_len), .kv_rows = seen(p, p->kv_rows),
                              .longest = longest}};
}

// The last layer's output, and each token's logprob, lse and entropy, as the sampler kept them.
static void take_kept(tl_pass *p, const micro *m) {
  const tlk_ops *ops = tl_ops();
  int C = p->model->cfg.width, o = 0;
  ops->gather(tl_mat_f32(p->x, C), tl_mat_f32(p->opt.kept->x_out, C), seen(p, p->kept_list), m->rows, C);
  for (int s = m->first; s < m->first + m->count; o += p->batch->sequences[s++].n) {
    size_t bytes = sizeof(float) * (size_t)p->batch->sequences[s].n;
    memcpy(p->logprob + o, p->kept[s]->logprob, bytes);
    memcpy(p->entropy + o, p->kept[s]->entropy, bytes);
    ops->copy(p->lse + o, p->kept[s]->lse, bytes);
  }
  tl_pair_send(&p->tokens, p->logprob, sizeof(float) * (size_t)m->out);
  tl_pair_send(&p->tokens, p->entropy, sizeof(float) * (size_t)m->out);
}

tl_status tl_pass_forward(tl_pass *p, int i, float *logprobs, float *entropy) {
  TL_SECTION("pass: forward");
  if (i < 0 || i >= p->n_micro) return tl_fail(TL_E_ARG, "micro-batch %d of %d", i, p->n_micro);
  const tlk_ops *ops = tl_ops();
  const tl_config *c = &p->model->cfg;
  const micro *m = &p->micros[i];
  p->current = -1;
  p->net.rope = p->model->rope;  // the table may have grown since
  lay_out(p, m);
  pack_rows(p, m);
  bool from_kept = p->first_kept < c->n_layers, want = p->opt.want_entropy;
  if (p->net.split) TL_TRY(tl_comm_agree("tokens to train on", p->ids, (int64_t)sizeof *p->ids * m->rows));
  int layers = from_kept && p->first_kept <= p->sink.lowest ? 0 : p->first_kept;
  if (layers) ops->embed_fwd(p->x, p->net.w->embed, seen(p, p->ids), m->rows);
  for (int l = 0; l < layers; l++) {
    if (tl_interrupted()) return tl_fail(TL_E_INTERRUPTED, "interrupted");
    tl_layer_fwd(&p->net, l, &p->rows, p->x, &p->acts[l], &p->fwd);
  }
  if (from_kept) take_kept(p, m);
  ops->rmsnorm_fwd(p->xf, p->rstd, p->x, p->net.w->final_norm, c->norm_eps, m->rows, c->width);
  ops->gather(p->h, p->xf, seen(p, p->head_rows), m->out, c->width);
  int64_t at = p->batch->sequences[m->first].out;
  if (!from_kept)
    ops->head_fwd(seen_tokens(p, p->logprob), p->lse, want ? seen_tokens(p, p->entropy) : NULL, p->logits, p->h, p->net.w->head,
                  seen(p, p->targets), 1.0f / p->opt.temperature, m->out);
  ops->copy(logprobs + at, seen_tokens(p, p->logprob), sizeof(float) * (size_t)m->out);
  if (entropy && want) ops->copy(entropy + at, seen_tokens(p, p->entropy), sizeof(float) * (size_t)m->out);
  p->current = i;
  return TL_OK;
}

// The gradients of a micro-batch's tokens to where head_bwd reads them, times the loss scale.
static void send_tokens(tl_pass *p, float *to, const float *from, int n) {
  float scale = p->sink.loss_scale;
  if (scale == 1) {
    tl_ops()->copy(seen_tokens(p, to), from, sizeof(float) * (size_t)n);
    return;
  }
  for (int i = 0; i < n; i++) to[i] = from[i] * scale;
  tl_pair_send(&p->tokens, to, sizeof(float) * (size_t)n);
}

tl_status tl_pass_backward(tl_pass *p, int i, const float *dlogprob, const float *dentropy) {
  TL_SECTION("pass: backward");
  if (!p->opt.backward) return tl_fail(TL_E_ARG, "this pass was created for the forward direction only");
  if (i < 0 || i != p->current) return tl_fail(TL_E_ARG, "backward of micro-batch %d must follow its forward", i);
  if (dentropy && !p->opt.want_entropy) return tl_fail(TL_E_ARG, "the gradient of the entropy needs want_entropy");
  const tlk_ops *ops = tl_ops();
  const tl_config *c = &p->model->cfg;
  const micro *m = &p->micros[i];
  int64_t at = p->batch->sequences[m->first].out;
  size_t rows_bytes = sizeof(float) * (size_t)m->rows * c->width;
  p->current = -1;
  p->net.rope = p->model->rope;
  if (p->net.split) TL_TRY(tl_comm_agree("gradients of logprobs", dlogprob + at, (int64_t)sizeof *dlogprob * m->out));
  if (p->adapter) p->adapter->first_unit = m->first_unit;
  send_tokens(p, p->dlogprob, dlogprob + at, m->out);
  if (dentropy) send_tokens(p, p->dentropy, dentropy + at, m->out);
  bool whole = p->sink.loss_scale != 1 && p->adapter && p->adapter->kind == TL_FULL;  // sums of gradients are sums of scaled ones meanwhile
  if (whole) tl_full_scale_gradient(p->adapter, p->sink.loss_scale);
  ops->head_bwd(p->dh, p->adapter ? tl_adapter_grad_head(p->adapter) : NULL, p->logits, p->h, p->net.w->head, seen(p, p->targets), p->lse,
                dentropy ? seen_tokens(p, p->entropy) : NULL, seen_tokens(p, p->dlogprob), dentropy ? seen_tokens(p, p->dentropy) : NULL,
                1.0f / p->opt.temperature, m->out);
  ops->zero(p->dxf, rows_bytes);
  ops->embed_bwd(p->dxf, p->dh, seen(p, p->head_rows), m->out, c->width);  // a scatter-add over rows
  ops->zero(p->dx, rows_bytes);
  ops->rmsnorm_bwd(p->dx, p->sink.norm(p->sink.ctx, c->n_layers, TL_NORM_1), p->dxf, p->x, p->net.w->final_norm, p->rstd, m->rows,
                   c->width);
  int lowest = p->sink.embeddings ? 0 : p->sink.lowest;
  for (int l = c->n_layers - 1; l >= lowest; l--) {
    if (tl_interrupted()) return tl_fail(TL_E_INTERRUPTED, "interrupted");
    if (l >= p->first_kept) {
      tl_kept_gather(p->opt.kept, &p->net, l, seen(p, p->kept_list), m->rows, &p->acts[l]);
    } else if (p->recompute) {
      ops->copy(p->dxf, p->acts[l].x_in, rows_bytes);  // dxf is free by now
      tl_layer_fwd(&p->net, l, &p->rows, p->dxf, &p->acts[l], &p->fwd);
    }
    tl_layer_bwd(&p->net, l, &p->rows, seen(p, p->unit_off), m->n_units, p->dx, &p->acts[l], &p->fwd, &p->bwd, &p->sink);
  }
  if (p->sink.embeddings) ops->embed_bwd(tl_adapter_grad_embed(p->adapter), p->dx, seen(p, p->ids), m->rows, c->width);
  if (whole) tl_full_scale_gradient(p->adapter, 1 / p->sink.loss_scale);
  return p->net.split && !p->opt.ranks ? tl_shards_reduce(p->adapter, m->first_unit, m->n_units) : TL_OK;
}

tl_status tl_pass_reduce(tl_pass *p) {
  TL_SECTION("pass: ranks");
  if (!p->opt.ranks) return tl_fail(TL_E_ARG, "this pass was not created for all ranks");
  int64_t *places = malloc(sizeof *places * ((size_t)p->n_units + 1));
  if (!places) return tl_fail(TL_E_MEMORY, "out of memory");
  for (int i = 0; i < p->n_units; i++) places[i] = p->batch->prompts[p->units[i].prompt].place;
  tl_status s = tl_adapter_ranks_reduce(p->adapter, places);
  free(places);
  return s;
}

tl_status tl_logprobs(tl_model *m, tl_adapter *a, const int32_t *ids, int n, float temperature, float *logprobs) {
  if (n < 2) return tl_fail(TL_E_ARG, "logprobs need at least two tokens, %d given", n);
  tl_batch *b = NULL;
  tl_pass *p = NULL;
  TL_TRY(tl_batch_create(&b));
  tl_pass_options o = {.temperature = temperature, .memory_bytes = (int64_t)1 << 50};
  tl_status s = tl_batch_prompt(b, ids, 1, NULL);
  if (s == TL_OK) s = tl_batch_completion(b, 0, ids + 1, n - 1, NULL);
  if (s == TL_OK) s = tl_pass_create(m, a, b, &o, &p);
  if (s == TL_OK) s = tl_pass_forward(p, 0, logprobs, NULL);
  tl_pass_free(p);
  tl_batch_free(b);
  return s;
}

tl_status tl_logits(tl_model *m, tl_adapter *a, const int32_t *ids, int n, float *logits) {
  if (n < 1) return tl_fail(TL_E_ARG, "logits need at least one token");
  tl_batch *b = NULL;
  tl_pass *p = NULL;
  TL_TRY(tl_batch_create(&b));
  tl_pass_options o = {.memory_bytes = (int64_t)1 << 50};
  float lp;
  tl_status s = tl_batch_prompt(b, ids, n, NULL);
  if (s == TL_OK) s = tl_batch_completion(b, 0, ids, 1, NULL);  // one token predicted from the last row: all n rows are computed
  if (s == TL_OK) s = tl_pass_create(m, a, b, &o, &p);
  if (s == TL_OK) s = tl_pass_forward(p, 0, &lp, NULL);
  tl_pair rows = {0};
  size_t bytes = sizeof(float) * (size_t)n * (size_t)m->cfg.vocab;
  if (s == TL_OK) s = tl_pair_init(&rows, bytes, "logits");
  if (s == TL_OK) {
    tl_ops()->linear_fwd(tl_mat_f32(rows.ops, m->cfg.vocab), NULL, p->xf, p->net.w->head, NULL, NULL, n, 0);
    tl_ops()->copy(logits, rows.ops, bytes);
  }
  tl_pair_free(&rows);
  tl_pass_free(p);
  tl_batch_free(b);
  return s;
}
