// sampler.c: batched generation with continuous batching.
//
// A step: (1) admit waiting completions while there are slots and cache rows for their whole length; (2) prefill the prompts
// that came in, in cuts of at most prefill_tokens rows, once per request; (3) one forward pass over the last token of every
// running completion; (4) sample: new completions from their prompt's last hidden state, the others from their own; (5) finished
// ones leave and make room at once.
//
// What a completion draws at its i-th token is uniform(seed, sequence_id, i) and every row's bits are independent of the batch
// (the kernels' contract), so its tokens do not depend on what runs beside it, nor on when it was admitted.
//
// On a device the parts of a step that come again are recorded and replayed (record.c); then the host waits for the sampled tokens
// and for nothing else, and reads nothing else back.
//
// Memory: the cache is allocated for the budget (or for max_sequences of the longest request so far) and reallocated only while
// nothing is in it; step buffers are an arena for the widest step; a completion's own arrays are allocated when it is admitted.
#include "sampler.h"
#include "../base/profile.h"
#include "../comm/comm.h"
#include "../text/tokenizer.h"
#include <math.h>

enum { N_INTS = 7 };  // index arrays of a step

static tl_status allocate_step(tl_sampler *s) {
  int T = s->opt.prefill_tokens > s->opt.max_sequences ? s->opt.prefill_tokens : s->opt.max_sequences, C = s->net.cfg->width;
  size_t act = tlk_dtype_size(s->net.act), n = (size_t)T;
  bool own = s->opt.kept && tl_ops()->records() && !s->net.split;  // what a recorded step leaves for training passes through buffers of its own
  size_t bytes = tl_acts_bytes(&s->net, T, own, false) + tl_fwd_scratch_bytes(&s->net, T) + n * C * (4 + act) + n * 4 + 4096 * 4;
  TL_TRY(tl_arena_init(&s->arena, bytes, "the sampler's step"));
  s->max_rows = T;
  tl_acts_take(&s->acts, &s->net, T, own, false, &s->arena);
  s->x_in = s->acts.x_in, s->x_mid = s->acts.x_mid;
  s->acts.x_in = s->acts.x_mid = NULL;
  tl_fwd_scratch_take(&s->scratch, &s->net, T, &s->arena);
  s->x = tl_arena_take(&s->arena, (size_t)T * C * 4);
  s->h = tl_mat_take(&s->arena, s->net.act, T, C);
  s->rstd = tl_arena_take(&s->arena, n * 4);
  tl_ops()->zero(s->h.p, n * C * act);
  TL_TRY(tl_pair_init(&s->in, n * (N_INTS * sizeof(int32_t) + sizeof *s->rows), "the sampler's step"));
  TL_TRY(tl_pair_init(&s->out, n * 16, "the sampler's step"));
  int32_t **ints[N_INTS] = {&s->ids, &s->pos, &s->kv_off, &s->kv_len, &s->kv_out, &s->variant, &s->kept_out};
  for (size_t i = 0; i < N_INTS; i++) *ints[i] = (int32_t *)s->in.host + i * n;
  s->rows = (tlk_sample_row *)((int32_t *)s->in.host + N_INTS * n);
  s->tokens = s->out.host;
  s->logprobs = (float *)s->tokens + n;
  s->entropy = s->logprobs + n;
  s->lse = s->entropy + n;
  s->row_slot = malloc(n * sizeof *s->row_slot);
  s->kept_at = malloc(n * sizeof *s->kept_at);
  return s->row_slot && s->kept_at ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory");
}

// The model seen through the adapter, or through the members as they are now; a row's variant is its member.
static void init_net(tl_sampler *s) {
  tl_population *p = s->opt.population;
  tl_net_init(&s->net, s->model, p ? tl_population_get_view(p) : s->adapter ? tl_adapter_get_view(s->adapter) : NULL);
  if (p && s->variant) s->net.variant = tl_pair_ops(&s->in, s->variant);
}

tl_status tl_sampler_create(tl_model *m, tl_adapter *a, tl_tokenizer *t, const tl_sampler_options *o, tl_sampler **out) {
  *out = NULL;
  tl_sampler *s = calloc(1, sizeof *s);
  if (!s) return tl_fail(TL_E_MEMORY, "out of memory");
  s->model = tl_model_retain(m);
  s->adapter = a ? tl_adapter_retain(a) : NULL;
  s->tokenizer = tl_tokenizer_retain(t);
  if (o) s->opt = *o;
  if (s->opt.kept) tl_kept_retain(s->opt.kept);
  if (s->opt.population) tl_population_retain(s->opt.population);
  if (s->opt.max_sequences <= 0) s->opt.max_sequences = 64;
  if (s->opt.prefill_tokens <= 0) s->opt.prefill_tokens = 512;
  s->next_request = 1;
  s->slots = calloc((size_t)s->opt.max_sequences, sizeof *s->slots);
  init_net(s);
  tl_status st = s->slots ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory");
  const tl_model *of = a ? a->model : s->opt.population ? s->opt.population->model : m;
  if (st == TL_OK && s->opt.kept && s->opt.prefix_cache) st = tl_fail(TL_E_ARG, "a sampler keeps activations or prefixes, not both");
  if (st == TL_OK && a && s->opt.population) st = tl_fail(TL_E_ARG, "a sampler takes an adapter or a population, not both");
  if (st == TL_OK && of != m && of != m->parent) st = tl_fail(TL_E_ARG, "the adapter belongs to another model");
  if (st == TL_OK) st = allocate_step(s);
  if (st != TL_OK) {
    tl_sampler_free(s);
    return st;
  }
  *out = s;
  return TL_OK;
}

void tl_sampler_free(tl_sampler *s) {
  if (!s) return;
  for (int i = 0; s->slots && i < s->opt.max_sequences; i++) {
    tl_slot *q = &s->slots[i];
    free(q->kv);
    free(q->ids);
    free(q->logprobs);
    free(q->entropy);
    free(q->lse);
    free(q->top_ids);
    free(q->kept);
    tl_str_free(&q->tail);
  }
  for (tl_request *r = s->first, *next; r; r = next) next = r->next, tl_request_free(r);
  for (tl_done *d = s->done_first, *next; d; d = next) next = d->next, tl_done_free(d);
  tl_done_free(s->popped);
  while (tl_prefix_evict(s)) {}
  free(s->slots);
  tl_record_drop(s);
  tl_top_free(s->top);
  free(s->row_slot);
  free(s->kept_at);
  tl_pair_free(&s->lists);
  tl_pair_free(&s->in);
  tl_pair_free(&s->out);
  tl_kv_cache_free(&s->cache);
  tl_arena_free(&s->arena);
  tl_kept_free(s->opt.kept);
  tl_population_free(s->opt.population);
  tl_adapter_free(s->adapter);
  tl_tokenizer_free(s->tokenizer);
  tl_model_free(s->model);
  free(s);
}

// so many new tokens at most, after a prompt that the context holds with one of them
static int within_context(const tl_sampler *s, int n_prompt, int max_new_tokens) {
  int left = tl_config_context(&s->model->cfg) - n_prompt;
  return max_new_tokens < left ? max_new_tokens : left;
}

static tl_status check(const tl_sampler *s, const int32_t *prompt, int n_prompt, int n, const tl_sampling *p) {
  if (n_prompt < 1) return tl_fail(TL_E_ARG, "the prompt is empty");
  if (n_prompt >= tl_config_context(&s->model->cfg))
    return tl_fail(TL_E_ARG, "the prompt has %d tokens; the model's context has %d, one of them for the answer", n_prompt, tl_config_context(&s->model->cfg));
  if (n < 1) return tl_fail(TL_E_ARG, "n is %d, at least 1 completion is needed", n);
  if (p->max_new_tokens < 1) return tl_fail(TL_E_ARG, "max_new_tokens is %d, at least 1 is needed", p->max_new_tokens);
  if (p->min_new_tokens < 0 || p->min_new_tokens > p->max_new_tokens)
    return tl_fail(TL_E_ARG, "min_new_tokens is %d, it must be within 0 and max_new_tokens, %d", p->min_new_tokens, p->max_new_tokens);
  if (p->min_new_tokens && s->net.cfg->n_eos >= s->net.cfg->vocab)
    return tl_fail(TL_E_ARG, "min_new_tokens is %d, but the model's %d tokens may all end the sequence", p->min_new_tokens, s->net.cfg->vocab);
  if (!(p->temperature >= 0 && p->temperature <= 1e6f) || (p->temperature > 0 && p->temperature < 1e-6f))
    return tl_fail(TL_E_ARG, "temperature is %g, it must be 0 (greedy) or within 1e-6 and 1e6", p->temperature);
  if (!(p->top_p >= 0 && p->top_p <= 1)) return tl_fail(TL_E_ARG, "top_p is %g, it must be within 0 and 1", p->top_p);
  if (!(p->min_p >= 0 && p->min_p <= 1)) return tl_fail(TL_E_ARG, "min_p is %g, it must be within 0 and 1", p->min_p);
  if (p->top_k < 0) return tl_fail(TL_E_ARG, "top_k is %d, it must be 0 (off) or more", p->top_k);
  int members = s->opt.population ? s->opt.population->n : 0;
  if (s->opt.population ? p->member < -1 || p->member >= members : p->member != 0)
    return tl_fail(TL_E_ARG, "member %d of a population of %d", p->member, members);
  if (p->n_top < 0 || p->n_top > TL_MOST_TOP) return tl_fail(TL_E_ARG, "n_top is %d, it must be within 0 and %d", p->n_top, TL_MOST_TOP);
  if (p->n_stop && !s->tokenizer) return tl_fail(TL_E_ARG, "stop strings need the model's tokenizer");
  for (int i = 0; i < n_prompt; i++)
    if (prompt[i] < 0 || prompt[i] >= s->net.cfg->vocab)
      return tl_fail(TL_E_ARG, "token id %d is outside the model's vocabulary of %d", prompt[i], s->net.cfg->vocab);
  int64_t rows = (int64_t)n_prompt + within_context(s, n_prompt, p->max_new_tokens);
  if (rows > INT32_MAX / 4) return tl_fail(TL_E_ARG, "a prompt of %d tokens and %d new ones are too many", n_prompt, p->max_new_tokens);
  if (s->opt.memory_bytes > 0 && rows * tl_kv_row_bytes(&s->net) > s->opt.memory_bytes)
    return tl_fail(TL_E_MEMORY, "one completion of %lld tokens needs %.1f MiB of key/value cache, the budget is %.1f MiB",
                   (long long)rows, (double)rows * tl_kv_row_bytes(&s->net) / (1 << 20), (double)s->opt.memory_bytes / (1 << 20));
  return TL_OK;
}

static bool room_for_prompt_logprobs(tl_request *r) {
  size_t n = (size_t)r->n_prompt, k = (size_t)r->p.n_top;
  float *f = malloc(sizeof(float) * n * (1 + 2 * k));
  if (!f) return false;
  r->prompt_logprobs = f;
  r->prompt_top_logprobs = f + n;
  r->prompt_top_ids = (int32_t *)(f + n + n * k);
  f[0] = NAN;
  for (size_t i = 0; i < k; i++) r->prompt_top_logprobs[i] = NAN, r->prompt_top_ids[i] = -1;
  return true;
}

tl_status tl_sampler_submit(tl_sampler *s, const int32_t *prompt, int n_prompt, int n, uint64_t sequence_id,
                            const tl_sampling *p, int64_t *request) {
  TL_TRY(check(s, prompt, n_prompt, n, p));
  int most = within_context(s, n_prompt, p->max_new_tokens);
  TL_TRY(tl_model_need_positions(s->model, n_prompt + most));
  s->net.rope = s->model->rope;
  tl_request *r = calloc(1, sizeof *r);
  if (!r) return tl_fail(TL_E_MEMORY, "out of memory");
  *r = (tl_request){.n_prompt = n_prompt, .n = n, .sequence_id = sequence_id, .p = *p};
  r->p.max_new_tokens = most;
  r->p.stop = NULL;
  r->prompt = malloc(sizeof(int32_t) * (size_t)n_prompt);
  r->kv = malloc(sizeof(int32_t) * (size_t)n_prompt);
  r->h = tl_ops()->alloc((size_t)s->net.cfg->width * tlk_dtype_size(s->net.act), TLK_MEM_OPS);
  r->kept = malloc(sizeof(int32_t) * (size_t)n_prompt);
  r->kept_part = -1;
  r->stop = calloc((size_t)p->n_stop + 1, sizeof *r->stop);
  bool ok = r->prompt && r->kv && r->kept && r->h && r->stop && (!p->prompt_logprobs || room_for_prompt_logprobs(r));
  for (int i = 0; ok && i < p->n_stop; i++) {
    ok = (r->stop[i] = strdup(p->stop[i])) != NULL;
    if (ok && (int)strlen(p->stop[i]) > r->longest_stop) r->longest_stop = (int)strlen(p->stop[i]);
  }
  if (!ok) {
    tl_request_free(r);
    return tl_fail(TL_E_MEMORY, "out of memory");
  }
  memcpy(r->prompt, prompt, sizeof(int32_t) * (size_t)n_prompt);
  r->id = s->next_request++;
  if (s->last) s->last->next = r;
  else s->first = r;
  s->last = r;
  s->pending += n;
  if (request) *request = r->id;
  return TL_OK;
}

// Called while no row is in use: makes the cache large enough for what waits, within the budget.
static tl_status size_cache(tl_sampler *s) {
  int64_t want = 0, n = 0, longest = 0, budget = s->opt.memory_bytes / tl_kv_row_bytes(&s->net);
  for (tl_request *r = s->first; r; r = r->next) {  // all that could run together, oldest first
    if (r->n_prompt + r->p.max_new_tokens > longest) longest = r->n_prompt + r->p.max_new_tokens;
    int64_t m = r->n < s->opt.max_sequences - n ? r->n : s->opt.max_sequences - n;
    if (m > 0) want += r->n_prompt + m * r->p.max_new_tokens;
    n += m;
  }
  if (want < longest) want = longest;
  if (s->opt.memory_bytes > 0 && (want > budget || s->opt.whole_cache)) want = budget < INT32_MAX / 4 ? budget : INT32_MAX / 4;
  if (want > INT32_MAX / 4) return tl_fail(TL_E_MEMORY, "a cache of %lld rows is too large: give the sampler a budget (memory), or fewer sequences at once", (long long)want);
  if (s->cache.rows >= want) return TL_OK;
  while (tl_prefix_evict(s)) {}
  tl_kv_cache_free(&s->cache);
  return tl_kv_cache_init(&s->cache, &s->net, (int)want);
}

static tl_slot *free_slot(tl_sampler *s) {
  for (int i = 0; i < s->opt.max_sequences; i++)
    if (!s->slots[i].req) return &s->slots[i];
  return NULL;
}

static int32_t take_row(tl_sampler *s) {
  while (!s->cache.n_free && tl_prefix_evict(s)) {}
  return tl_kv_take(&s->cache);
}

static tl_status start(tl_sampler *s, tl_request *r, tl_slot *slot) {
  size_t m = (size_t)r->p.max_new_tokens;
  tl_slot q = {.req = r, .index = r->n_started, .n_kv = r->n_prompt};
  q.kv = malloc(sizeof(int32_t) * ((size_t)r->n_prompt + m));
  q.ids = malloc(sizeof(int32_t) * m);
  q.logprobs = malloc(sizeof(float) * m);
  q.entropy = malloc(sizeof(float) * m);
  q.lse = malloc(sizeof(float) * m);
  q.kept = malloc(sizeof(int32_t) * m);
  size_t k = m * (size_t)r->p.n_top;
  if (k) q.top_ids = malloc((sizeof(int32_t) + sizeof(float)) * k);
  if (q.top_ids) q.top_logprobs = (float *)(q.top_ids + k);
  if (!q.kv || !q.ids || !q.logprobs || !q.entropy || !q.lse || !q.kept || (k && !q.top_ids)) {
    free(q.kv), free(q.ids), free(q.logprobs), free(q.entropy), free(q.lse), free(q.kept), free(q.top_ids);
    return tl_fail(TL_E_MEMORY, "out of memory");
  }
  if (!r->n_started) {
    for (int i = 0; i < r->n_prompt; i++) r->kv[i] = take_row(s);
    s->reserved += r->n_prompt;
  }
  memcpy(q.kv, r->kv, sizeof(int32_t) * (size_t)r->n_prompt);
  for (size_t i = 0; i < m; i++) q.kv[(size_t)r->n_prompt + i] = take_row(s);  // all at once: neighbours in memory
  s->reserved += r->p.max_new_tokens;
  *slot = q;
  s->lists_stand = false;
  r->n_started++;
  s->n_running++;
  return TL_OK;
}

static tl_status admit(tl_sampler *s) {
  if (!s->reserved) TL_TRY(size_cache(s));  // nothing runs, and no prompt waits for more of its completions to start
  for (tl_request *r = s->first; r; r = r->next)
    while (r->n_started < r->n) {
      int need = r->p.max_new_tokens + (r->n_started ? 0 : r->n_prompt);
      tl_slot *slot = free_slot(s);
      if (!slot || s->reserved + need > s->cache.rows) return TL_OK;  // in order: nothing overtakes the oldest request
      TL_TRY(start(s, r, slot));
    }
  return TL_OK;
}

tl_status tl_sampler_lists_room(tl_sampler *s, int n) {
  if (n <= s->max_lists) return TL_OK;
  int size = s->max_lists ? s->max_lists : 1024;
  while (size < n) size = size > INT32_MAX / 2 ? INT32_MAX : size * 2;
  tl_pair p;
  TL_TRY(tl_pair_init(&p, sizeof(int32_t) * (size_t)size, "the lists of keys"));
  if (s->max_lists) memcpy(p.host, s->kv_rows, sizeof(int32_t) * (size_t)s->max_lists);
  tl_pair_free(&s->lists);
  s->lists = p;
  s->kv_rows = p.host;
  s->max_lists = size;
  return TL_OK;
}

static void *seen(const tl_sampler *s, const void *in) { return tl_pair_ops(&s->in, in); }

// Where what rows leave for training goes: to rows from some number on, nowhere, or to the rows that kept_out names.
enum { NOT_KEPT = -1, BY_INDEX = -2 };

static void run_layer(tl_sampler *s, int l, const tl_rows *rows, int to) {
  tl_acts *a = &s->acts, kept = {0}, own;
  bool direct = to >= 0 && tl_kept_layer(s->opt.kept, &s->net, l, to, &kept);
  bool by_index = to == BY_INDEX && s->opt.kept && l >= s->opt.kept->first_layer;
  tlk_mat k = kept.k, v = kept.v;
  if (direct) a = &kept;
  if (by_index) own = s->acts, own.x_in = s->x_in, own.x_mid = s->x_mid, a = &own;
  a->k = s->cache.k[l];
  a->v = s->cache.v[l];
  tl_layer_fwd(&s->net, l, rows, s->x, a, &s->scratch);
  if (by_index) tl_kept_scatter(s->opt.kept, &s->net, l, a, rows->kv_out, seen(s, s->kept_out), rows->T);
  if (!direct) return;
  tl_ops()->gather(k, a->k, rows->kv_out, rows->T, k.ld);
  tl_ops()->gather(v, a->v, rows->kv_out, rows->T, v.ld);
}

// Takes room for T rows in what is kept and notes each row's place; the first, or NOT_KEPT when there is none.
static int keep(tl_sampler *s, int T) {
  tl_kept *k = s->opt.kept;
  int at = k && k->used + T <= k->capacity ? k->used : NOT_KEPT;
  for (int t = 0; t < T; t++) *s->kept_at[t] = s->kept_out[t] = at < 0 ? -1 : at + t;
  if (at >= 0) k->used += T;
  return at;
}

// x = hidden states of the T rows described by the index arrays, keys and values written to the cache. longest: no list is longer
static void run_layers(tl_sampler *s, int T, int longest, int to) {
  const tlk_ops *ops = tl_ops();
  const tl_config *c = s->net.cfg;
  tl_rows rows = {.T = T, .pos = seen(s, s->pos), .kv_out = seen(s, s->kv_out),
                  .map = {.kv_off = seen(s, s->kv_off), .kv_len = seen(s, s->kv_len), .kv_rows = s->lists.ops, .longest = longest}};
  ops->embed_fwd(s->x, s->net.w->embed, seen(s, s->ids), T);
  for (int l = 0; l < c->n_layers; l++) run_layer(s, l, &rows, to);
  tl_kept *k = s->opt.kept;
  if (to >= 0) ops->copy(k->x_out + (size_t)to * c->width, s->x, sizeof(float) * (size_t)T * c->width);
  else if (to == BY_INDEX && k && k->first_layer < c->n_layers)
    ops->cast(tl_mat_f32(k->x_out, c->width), seen(s, s->kept_out), tl_mat_f32(s->x, c->width), T, c->width);
}

static int longest_of(const tl_sampler *s, int T) {
  int n = 0;
  for (int t = 0; t < T; t++) n = s->kv_len[t] > n ? s->kv_len[t] : n;
  return n;
}

// the rows of prompts, whose lists have so many entries
void tl_sampler_run_prompts(tl_sampler *s, int T, int lists) {
  int to = keep(s, T);
  tl_pair_send(&s->in, s->ids, (size_t)((char *)s->rows - (char *)s->in.host));
  tl_pair_send(&s->lists, s->kv_rows, sizeof(int32_t) * (size_t)lists);
  run_layers(s, T, longest_of(s, T), to);
  s->lists_stand = false;
}

void tl_sampler_final_norm(tl_sampler *s, tlk_mat out, const float *x, int T) {
  tl_ops()->rmsnorm_fwd(out, s->rstd, x, s->net.w->final_norm, s->net.cfg->norm_eps, T, s->net.cfg->width);
}

// ---- ranks that share the model draw the same tokens each by itself, from hidden states that are the same bits on all of them.
// Whether they did is found out before the next rows are computed, which a rank that has others would compute to no purpose.

static void note_drawn(tl_sampler *s, int T) {
  uint64_t h[4][2] = {{s->drawn[0], s->drawn[1]}};
  tl_hash128(s->tokens, sizeof *s->tokens * (size_t)T, h[1]);
  tl_hash128(s->logprobs, sizeof *s->logprobs * (size_t)T, h[2]);
  tl_hash128(s->lse, sizeof *s->lse * (size_t)T, h[3]);
  tl_hash128(h, sizeof h, s->drawn);
}

// T: rows to compute, 0 when all is done
tl_status tl_sampler_agree(const tl_sampler *s, int T) {
  uint64_t h[2][2] = {{s->drawn[0], s->drawn[1]}};
  tl_hash128(s->ids, sizeof *s->ids * (size_t)T, h[1]);
  return tl_comm_agree("tokens", h, sizeof h);
}

// The lists of keys of all running completions, each for its whole length, one after another. They stand until a completion is
// admitted or prompts take the room.
static tl_status lay_out_lists(tl_sampler *s) {
  if (s->lists_stand) return TL_OK;
  int64_t n = 0;
  for (int pass = 0; pass < 2; pass++) {
    if (pass && n > INT32_MAX / 2) return tl_fail(TL_E_MEMORY, "out of memory: lists of %lld keys", (long long)n);
    if (pass) TL_TRY(tl_sampler_lists_room(s, (int)n));
    n = 0;
    for (int i = 0; i < s->opt.max_sequences; i++) {
      tl_slot *q = &s->slots[i];
      if (!q->req) continue;
      int rows = q->req->n_prompt + q->req->p.max_new_tokens;
      if (pass) memcpy(s->kv_rows + n, q->kv, sizeof(int32_t) * (size_t)rows), q->list = (int)n;
      n += rows;
    }
  }
  tl_pair_send(&s->lists, s->kv_rows, sizeof(int32_t) * (size_t)n);
  s->lists_stand = true;
  return TL_OK;
}

// What the sampling op is told of a slot's next token.
static tlk_sample_row sample_row(const tl_config *c, const tl_slot *q) {
  const tl_sampling *p = &q->req->p;
  tlk_sample_row row = {.temperature = p->temperature, .top_p = p->top_p, .min_p = p->min_p, .top_k = p->top_k,
                        .u = tl_uniform(p->seed, q->req->sequence_id + (uint64_t)q->index, (uint64_t)q->n)};
  TL_ASSERT(c->n_eos <= TLK_BANNED);
  for (int i = 0; q->n < p->min_new_tokens && i < c->n_eos; i++)
    if (c->eos[i] >= 0 && c->eos[i] < c->vocab) row.banned[row.n_banned++] = c->eos[i];
  return row;
}

// Rows of this step: first the completions that continue (their last token goes through the layers), then the new ones (their
// prompt's hidden state).
static void take_rows(tl_sampler *s, int *n_rows, int *n_continued) {
  int T = 0;
  for (int i = 0; i < s->opt.max_sequences; i++) {
    tl_slot *q = &s->slots[i];
    if (!q->req || !q->n) continue;
    q->n_kv = q->req->n_prompt + q->n;  // not one more: a step that failed is made again
    s->ids[T] = q->ids[q->n - 1];
    s->pos[T] = q->n_kv - 1;
    s->kv_off[T] = q->list;
    s->kv_len[T] = q->n_kv;
    s->kv_out[T] = q->kv[q->n_kv - 1];
    s->variant[T] = q->req->p.member;
    s->kept_at[T] = &q->kept[q->n - 1];
    s->row_slot[T++] = i;
  }
  *n_continued = T;
  for (int i = 0; i < s->opt.max_sequences; i++)
    if (s->slots[i].req && !s->slots[i].n && tl_request_prefilled(s->slots[i].req)) s->row_slot[T++] = i;
  *n_rows = T;
  for (int t = 0; t < T; t++) s->rows[t] = sample_row(s->net.cfg, &s->slots[s->row_slot[t]]);
}

// Rows first .. n of the step go nowhere: they are the first row at its first key, and what they write is dropped.
static void fill_up(tl_sampler *s, int first, int n) {
  for (int t = first; t < n; t++) {
    s->ids[t] = s->ids[0], s->pos[t] = 0, s->kv_off[t] = s->kv_off[0], s->kv_len[t] = 1;
    s->kv_out[t] = s->variant[t] = s->kept_out[t] = -1;
  }
}

static void decode(tl_sampler *s, int T, int longest, int to) {
  run_layers(s, T, longest, to);
  tl_sampler_final_norm(s, s->h, s->x, T);
}
static void decode_by_index(tl_sampler *s, int T, int longest) { decode(s, T, longest, BY_INDEX); }

static void choose(tl_sampler *s, int T, int longest) {
  (void)longest;
  size_t n = (size_t)s->max_rows;
  float *out = s->out.ops;
  tl_ops()->head_sample(s->out.ops, out + n, out + 3 * n, out + 2 * n, s->h, s->net.w->head, seen(s, s->rows), T);
}

// h = the hidden states of all rows, and their tokens, logprobs and entropies in `out`
static tl_status forward(tl_sampler *s, int *n_rows, int *n_continued) {
  tl_ops()->sync();  // prompts may still be on their way; else nothing is
  TL_TRY(lay_out_lists(s));
  take_rows(s, n_rows, n_continued);
  int T = *n_rows, continued = *n_continued, most = s->opt.max_sequences;
  if (!T) return TL_OK;  // prompts alone
  bool on = s->recordings.on;
  if (continued && s->net.split) TL_TRY(tl_sampler_agree(s, continued));
  int to = keep(s, continued), filled = on && continued ? tl_record_rows(continued, most) : continued, all = on ? tl_record_rows(T, most) : T;
  fill_up(s, continued, filled);
  for (int t = T; t < all; t++) s->rows[t] = (tlk_sample_row){.top_p = 1};
  tl_pair_send(&s->in, s->ids, (size_t)((char *)(s->rows + all) - (char *)s->in.host));
  if (on) tl_record_check(s);
  if (continued && on) tl_record_run(s, TL_RECORD_LAYERS, filled, tl_record_longest(longest_of(s, continued)), decode_by_index);
  else if (continued) decode(s, continued, longest_of(s, continued), to);
  size_t row = (size_t)s->net.cfg->width * tlk_dtype_size(s->net.act);
  for (int t = continued; t < T; t++) tl_ops()->copy((char *)s->h.p + (size_t)t * row, s->slots[s->row_slot[t]].req->h, row);
  tl_record_run(s, TL_RECORD_HEAD, all, 0, choose);
  return TL_OK;
}

static tl_status step(tl_sampler *s) {
  TL_TRY(admit(s));
  TL_TRY(tl_sampler_prefill(s));
  double t0 = tl_seconds();
  int T, continued;
  TL_TRY(forward(s, &T, &continued));
  if (!T) return TL_OK;
  size_t n = (size_t)s->max_rows;
  tl_pair_fetch(&s->out, s->tokens, n * 12 + (size_t)T * 4);
  if (s->net.split) note_drawn(s, T);
  TL_TRY(tl_sampler_top(s, T));
  for (int t = 0; t < T; t++) {
    tl_slot *q = &s->slots[s->row_slot[t]];
    q->lse[q->n] = s->lse[t];
    const char *reason = tl_slot_append(s, q, s->tokens[t], s->logprobs[t], s->entropy[t]);
    if (reason) tl_slot_finish(s, q, reason);
  }
  double seconds = tl_seconds() - t0;
  s->stats.decode_steps++;
  s->stats.decode_seconds += seconds;
  if (continued > s->widest_step || (continued == s->widest_step && seconds < s->stats.fastest_step_seconds))
    s->widest_step = continued, s->stats.fastest_step_seconds = seconds;
  return TL_OK;
}

// Room for everything that is submitted by the first step; what comes later is not kept.
static tl_status plan_kept(tl_sampler *s) {
  int64_t rows = 0;
  for (const tl_request *r = s->first; r; r = r->next) rows += r->n_prompt + (int64_t)r->n * (r->p.max_new_tokens - 1);
  s->planned = true;
  int64_t version = s->opt.population ? s->opt.population->version : s->adapter ? s->adapter->version : 0;
  return tl_kept_plan(s->opt.kept, &s->net, version, rows);
}

tl_status tl_sampler_run(tl_sampler *s, int max_steps, int *pending) {
  TL_SECTION("sampler");
  init_net(s);  // an adapter may have been refreshed
  // sums over ranks that share the model are no ops: they wait for the host
  s->recordings.on = tl_ops()->records() && (s->x_in || !s->opt.kept) && !s->net.split;
  if (s->opt.kept && !s->planned) TL_TRY(plan_kept(s));
  for (int i = 0; i < max_steps && s->pending && !s->done_first; i++) {
    if (tl_interrupted()) return tl_fail(TL_E_INTERRUPTED, "interrupted");
    TL_TRY(step(s));
  }
  if (s->net.split && !s->pending) TL_TRY(tl_sampler_agree(s, 0));
  if (pending) *pending = s->pending;
  return TL_OK;
}

tl_status tl_sampler_set_population(tl_sampler *s, tl_population *p) {
  tl_population *old = s->opt.population;
  if (!old) return tl_fail(TL_E_ARG, "the sampler was made without a population");
  if (p->n < old->n) return tl_fail(TL_E_ARG, "the sampler's population has %d members, the new one %d: members cannot leave", old->n, p->n);
  for (int k = 0; k < old->n; k++) TL_TRY(tl_adapter_same_basis(old->members[k], p->members[k], "the new population's member"));
  s->opt.population = tl_population_retain(p);
  init_net(s);
  tl_population_free(old);
  return TL_OK;
}

bool tl_sampler_pop(tl_sampler *s, tl_completion *out) {
  tl_done_free(s->popped);
  s->popped = s->done_first;
  if (!s->popped) return false;
  s->done_first = s->popped->next;
  if (!s->done_first) s->done_last = NULL;
  *out = s->popped->c;
  return true;
}

static const tl_slot *slot_of(const tl_sampler *s, int64_t request, int index) {
  for (int i = 0; i < s->opt.max_sequences; i++) {
    const tl_slot *slot = &s->slots[i];
    if (slot->req && slot->req->id == request && slot->index == index) return slot;
  }
  return NULL;
}

int tl_sampler_peek(const tl_sampler *s, int64_t request, int index, int from, int32_t *ids, float *logprobs, int capacity) {
  const tl_slot *slot = slot_of(s, request, index);
  int n = slot && from >= 0 && from < slot->n ? slot->n - from : 0, m = n < capacity ? n : capacity;
  if (m > 0) memcpy(ids, slot->ids + from, (size_t)m * sizeof *ids);
  if (m > 0 && logprobs) memcpy(logprobs, slot->logprobs + from, (size_t)m * sizeof *logprobs);
  return n;
}

int tl_sampler_peek_top(const tl_sampler *s, int64_t request, int index, int from, int32_t *ids, float *logprobs, int capacity) {
  const tl_slot *slot = slot_of(s, request, index);
  int k = slot ? slot->req->p.n_top : 0, n = k && from >= 0 && from < slot->n ? slot->n - from : 0, m = n < capacity ? n : capacity;
  if (m > 0) memcpy(ids, slot->top_ids + (size_t)from * (size_t)k, (size_t)m * (size_t)k * sizeof *ids);
  if (m > 0) memcpy(logprobs, slot->top_logprobs + (size_t)from * (size_t)k, (size_t)m * (size_t)k * sizeof *logprobs);
  return n;
}

int tl_sampler_peek_prompt(const tl_sampler *s, int64_t request, int index, float *logprobs, int32_t *top_ids, float *top_logprobs,
                           int capacity) {
  const tl_slot *slot = slot_of(s, request, index);
  const tl_request *r = slot && slot->n ? slot->req : NULL;  // with its first token all of its prompt is computed
  if (!r || !r->prompt_logprobs) return 0;
  size_t n = (size_t)(r->n_prompt < capacity ? r->n_prompt : capacity), k = (size_t)r->p.n_top;
  memcpy(logprobs, r->prompt_logprobs, sizeof *logprobs * n);
  if (k) memcpy(top_ids, r->prompt_top_ids, sizeof *top_ids * n * k);
  if (k) memcpy(top_logprobs, r->prompt_top_logprobs, sizeof *top_logprobs * n * k);
  return r->n_prompt;
}

void tl_sampler_get_stats(const tl_sampler *s, tl_sampler_stats *out) {
  *out = s->stats;
  out->kv_bytes = s->cache.bytes;
}
