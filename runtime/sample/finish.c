// finish.c: when a completion ends (end-of-sequence token, stop string, length), and what becomes of it then.
#include "sampler.h"

static bool is_eos(const tl_config *c, int32_t id) {
  for (int i = 0; i < c->n_eos; i++)
    if (c->eos[i] == id) return true;
  return false;
}

// Adds the token's bytes to the tail and looks for a stop string that ends within them, once there are enough tokens. The tail
// keeps as many bytes as the longest stop string minus one.
static bool hit_stop(tl_sampler *s, tl_slot *slot, int32_t id) {
  const tl_request *r = slot->req;
  int n = 0;
  const char *bytes = r->p.n_stop ? tl_tokenizer_bytes(s->tokenizer, id, &n) : NULL;
  if (!bytes) return false;
  tl_str_add(&slot->tail, bytes, (size_t)n);
  bool hit = false;
  for (int i = 0; i < r->p.n_stop && !hit && slot->n > r->p.min_new_tokens; i++) {
    size_t length = strlen(r->stop[i]), reach = (size_t)n + (length ? length - 1 : 0);
    size_t from = slot->tail.n > reach ? slot->tail.n - reach : 0;
    hit = memmem(slot->tail.p + from, slot->tail.n - from, r->stop[i], length) != NULL;
  }
  size_t keep = (size_t)(r->longest_stop > 0 ? r->longest_stop - 1 : 0);
  if (slot->tail.n > keep) {
    memmove(slot->tail.p, slot->tail.p + slot->tail.n - keep, keep);
    slot->tail.n = keep;
  }
  return hit;
}

const char *tl_slot_append(tl_sampler *s, tl_slot *slot, int32_t id, float logprob, float entropy) {
  const tl_sampling *p = &slot->req->p;
  slot->ids[slot->n] = id;
  slot->logprobs[slot->n] = logprob;
  slot->entropy[slot->n] = entropy;
  slot->n++;
  s->stats.new_tokens++;
  if (!p->ignore_eos && is_eos(s->net.cfg, id)) return "stop";
  if (hit_stop(s, slot, id)) return "stop";
  return slot->n >= p->max_new_tokens ? "length" : NULL;
}

void tl_request_free(tl_request *r) {
  if (!r) return;
  for (int i = 0; i < r->p.n_stop && r->stop; i++) free(r->stop[i]);
  free(r->stop);
  free(r->prompt);
  free(r->kv);
  free(r->kept);
  free(r->prompt_logprobs);
  tl_ops()->release(r->h);
  free(r);
}

void tl_done_free(tl_done *d) {
  if (!d) return;
  free(d->ids);
  free(d->logprobs);
  free(d->entropy);
  free(d->top_ids);
  free(d->more);
  free(d);
}

static void unlink_request(tl_sampler *s, tl_request *r) {
  tl_request **link = &s->first, *before = NULL;
  while (*link != r) before = *link, link = &(*link)->next;
  *link = r->next;
  if (s->last == r) s->last = before;
  tl_request_free(r);
}

// A request whose completions have all finished gives its prompt's rows back and leaves the queue.
static void retire(tl_sampler *s, tl_request *r) {
  tl_kv_give(&s->cache, r->kv, r->n_prompt);
  s->reserved -= r->n_prompt;
  unlink_request(s, r);
}

// Gives back what a slot has, but for its tokens, and with the last one what its request has.
static void vacate(tl_sampler *s, tl_slot *slot) {
  tl_request *r = slot->req;
  tl_kv_give(&s->cache, slot->kv + r->n_prompt, r->p.max_new_tokens);
  s->reserved -= r->p.max_new_tokens;
  free(slot->kv);
  free(slot->kept);
  free(slot->lse);
  tl_str_free(&slot->tail);
  *slot = (tl_slot){0};
  s->n_running--;
  s->pending--;
  if (++r->n_finished == r->n) retire(s, r);
}

bool tl_sampler_cancel(tl_sampler *s, int64_t request) {
  tl_request *r = s->first;
  while (r && r->id != request) r = r->next;
  if (!r) return false;
  bool runs = false;
  for (int i = 0; i < s->opt.max_sequences; i++) runs = runs || s->slots[i].req == r;
  s->pending -= r->n - r->n_started;
  r->n = r->n_started;  // no more of them start
  for (int i = 0; i < s->opt.max_sequences; i++) {
    tl_slot *slot = &s->slots[i];
    if (slot->req != r) continue;
    free(slot->ids), free(slot->logprobs), free(slot->entropy), free(slot->top_ids);
    vacate(s, slot);
  }
  if (!runs && r->n) retire(s, r);
  else if (!runs) unlink_request(s, r);  // it took no rows yet
  return true;
}

static bool all_kept(const int32_t *rows, int n) {
  for (int i = 0; i < n; i++)
    if (rows[i] < 0) return false;
  return true;
}

// Tells what is kept which rows belong to this completion, and before that to its prompt.
static void note_kept(tl_kept *k, tl_slot *slot) {
  tl_request *r = slot->req;
  if (!k->capacity || !all_kept(r->kept, r->n_prompt) || !all_kept(slot->kept, slot->n - 1)) return;
  if (r->kept_part < 0) r->kept_part = tl_kept_add(k, &(tl_kept_sequence){.n = r->n_prompt, .rows = r->kept, .prompt = -1});
  if (r->kept_part < 0) return;
  tl_kept_sequence c = {.id = r->sequence_id + (uint64_t)slot->index, .member = r->p.member, .n = slot->n - 1, .rows = slot->kept, .prompt = r->kept_part,
                        .temperature = r->p.temperature > 0 ? r->p.temperature : 1, .logprob = slot->logprobs, .lse = slot->lse,
                        .entropy = slot->entropy};
  tl_kept_add(k, &c);
}

// What a request asked for beside its tokens: the slot's own, which goes over to d, and the prompt's, which every completion has a copy of.
static void hand_over(tl_done *d, const tl_slot *slot) {
  const tl_request *r = slot->req;
  size_t k = (size_t)r->p.n_top, n = (size_t)r->n_prompt;
  d->c.n_top = r->p.n_top;
  d->c.n_prompt = r->n_prompt;
  d->c.top_ids = d->top_ids = slot->top_ids;
  d->c.top_logprobs = slot->top_logprobs;
  if (!r->prompt_logprobs) return;
  float *f = malloc(sizeof(float) * n * (1 + 2 * k));
  TL_ASSERT(f != NULL);
  memcpy(f, r->prompt_logprobs, sizeof(float) * n * (1 + 2 * k));
  d->more = f;
  d->c.prompt_logprobs = f;
  if (k) d->c.prompt_top_logprobs = f + n, d->c.prompt_top_ids = (int32_t *)(f + n + n * k);
}

void tl_slot_finish(tl_sampler *s, tl_slot *slot, const char *reason) {
  tl_request *r = slot->req;
  tl_done *d = calloc(1, sizeof *d);
  TL_ASSERT(d != NULL);
  if (s->opt.kept) note_kept(s->opt.kept, slot);
  if (s->opt.prefix_cache) tl_prefix_keep(s, r->p.member, r->prompt, r->n_prompt, slot->ids, slot->kv, slot->n_kv);
  *d = (tl_done){.ids = slot->ids, .logprobs = slot->logprobs, .entropy = slot->entropy};
  d->c = (tl_completion){.request = r->id, .index = slot->index, .ids = d->ids, .logprobs = d->logprobs, .entropy = d->entropy,
                         .n_tokens = slot->n, .finish = reason};
  hand_over(d, slot);
  if (s->done_last) s->done_last->next = d;
  else s->done_first = d;
  s->done_last = d;
  vacate(s, slot);
}
