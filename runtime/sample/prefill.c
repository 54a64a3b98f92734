// prefill.c: the prompts of a sampler's step. Those that were admitted and not yet computed go through the layers in passes of at most
// prefill_tokens rows, long ones cut by cut, several short ones in one pass, with the rows of what they begin with taken from the
// prefix cache where it has them. In whatever pieces: a row's bits are the same (the kernels' contract).
#include "sampler.h"

// n rows of a prompt from its at-th token on, as rows `first` and on of a pass; the prompt's list of keys begins at `list`.
static void take_prompt_rows(tl_sampler *s, tl_request *r, int first, int list, int at, int n) {
  for (int i = 0; i < n; i++) {
    s->ids[first + i] = r->prompt[at + i];
    s->pos[first + i] = at + i;
    s->kv_off[first + i] = list;
    s->kv_len[first + i] = at + i + 1;
    s->kv_out[first + i] = r->kv[at + i];
    s->variant[first + i] = r->p.member;
    s->kept_at[first + i] = &r->kept[at + i];
  }
}

static void prompt_done(tl_sampler *s, tl_request *r, int last_row) {
  tl_sampler_final_norm(s, (tlk_mat){r->h, s->net.act, s->net.cfg->width}, s->x + (size_t)last_row * s->net.cfg->width, 1);
  r->n_computed = r->n_prompt;
  s->stats.prompt_tokens += r->n_prompt;
  if (s->opt.prefix_cache) tl_prefix_keep(s, r->p.member, r->prompt, r->n_prompt, NULL, r->kv, r->n_prompt);
}

// A prompt that is longer than a pass, cut by cut, as far as `left` rows go; how many are left.
static tl_status prefill_long(tl_sampler *s, tl_request *r, int cut, int *left) {
  tl_ops()->sync();  // the lists of the prompt before are on their way
  TL_TRY(tl_sampler_lists_room(s, r->n_prompt));
  memcpy(s->kv_rows, r->kv, sizeof(int32_t) * (size_t)r->n_prompt);
  while (*left > 0 && !tl_request_prefilled(r)) {
    if (tl_interrupted()) return tl_fail(TL_E_INTERRUPTED, "interrupted");
    tl_ops()->sync();
    int at = r->n_computed, T = r->n_prompt - at < cut ? r->n_prompt - at : cut;
    if (T > *left) T = *left;
    take_prompt_rows(s, r, 0, 0, at, T);
    if (s->net.split) TL_TRY(tl_sampler_agree(s, T));
    tl_sampler_run_prompts(s, T, r->n_prompt);
    TL_TRY(tl_sampler_score_prompt(s, r, 0, at, T));
    r->n_computed += T;
    *left -= T;
    if (r->n_computed == r->n_prompt) prompt_done(s, r, T - 1);
  }
  return TL_OK;
}

// What of a prompt is to be computed, now that it is its turn.
static int wanted(tl_sampler *s, tl_request *r) {
  if (s->opt.prefix_cache && !r->n_computed && !r->p.prompt_logprobs) tl_prefix_use(s, r);  // their hidden states are gone
  return r->n_prompt - r->n_computed;
}

// Short prompts from r on, as many as one pass takes; the first that it does not.
static tl_status prefill_short(tl_sampler *s, tl_request *r, int most, tl_request **end, int *rows) {
  int T = 0, lists = 0, row = 0;
  tl_ops()->sync();
  for (*end = r; *end && (*end)->n_started && !tl_request_prefilled(*end) && T + wanted(s, *end) <= most; *end = (*end)->next) {
    int n = (*end)->n_prompt, m = n - (*end)->n_computed;
    TL_TRY(tl_sampler_lists_room(s, lists + n));
    memcpy(s->kv_rows + lists, (*end)->kv, sizeof(int32_t) * (size_t)n);
    take_prompt_rows(s, *end, T, lists, n - m, m);
    T += m;
    lists += n;
  }
  *rows = T;
  if (!T) return TL_OK;
  if (s->net.split) TL_TRY(tl_sampler_agree(s, T));
  tl_sampler_run_prompts(s, T, lists);
  for (; r != *end; r = r->next) {
    int at = r->n_computed, n = r->n_prompt - at;
    TL_TRY(tl_sampler_score_prompt(s, r, row, at, n));
    row += n;
    prompt_done(s, r, row - 1);
  }
  return TL_OK;
}

// Prompts that were admitted and not yet computed, several in one pass when they are short; at most prefill_per_step rows of them, so that
// what is being decoded need not wait for long. The index arrays are filled again for every pass, so what was sent is waited for.
tl_status tl_sampler_prefill(tl_sampler *s) {
  double t0 = tl_seconds();
  int left = s->opt.prefill_per_step > 0 ? s->opt.prefill_per_step : INT32_MAX;
  int cut = s->opt.prefill_tokens < left ? s->opt.prefill_tokens : left;
  for (tl_request *r = s->first; r && left > 0;) {
    if (!r->n_started || tl_request_prefilled(r)) {
      r = r->next;
    } else if (wanted(s, r) > cut) {
      TL_TRY(prefill_long(s, r, cut, &left));
    } else {
      int rows;
      TL_TRY(prefill_short(s, r, cut < left ? cut : left, &r, &rows));
      if (!rows) break;  // the next one is for the next step
      left -= rows;
    }
  }
  s->stats.prefill_seconds += tl_seconds() - t0;
  return TL_OK;
}
