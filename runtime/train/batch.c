// batch.c: prompts and their completions as token ids. A prompt's tokens are stored once; its completions follow it, so that
// the completions of one prompt are consecutive and a micro-batch is a range of them.
#include "batch.h"
#include "pass.h"

tl_status tl_batch_create(tl_batch **out) {
  *out = calloc(1, sizeof **out);
  if (!*out) return tl_fail(TL_E_MEMORY, "out of memory");
  (*out)->refs = 1;
  return TL_OK;
}

tl_batch *tl_batch_retain(tl_batch *b) {
  b->refs++;
  return b;
}

void tl_batch_free(tl_batch *b) {
  if (!b || --b->refs) return;
  free(b->tokens);
  free(b->prompts);
  free(b->sequences);
  free(b);
}

// Makes room for one more of `size` bytes each.
static bool grow(void **p, int64_t n, int64_t *cap, size_t size) {
  if (n <= *cap) return true;
  int64_t want = *cap ? *cap * 2 : 64;
  while (want < n) want *= 2;
  void *q = realloc(*p, (size_t)want * size);
  if (!q) return false;
  *p = q;
  *cap = want;
  return true;
}

static tl_status add_tokens(tl_batch *b, const int32_t *ids, int n, const char *what, int64_t *at) {
  if (n < 1) return tl_fail(TL_E_ARG, "a %s needs at least one token", what);
  if (!grow((void **)&b->tokens, b->n_tokens + n, &b->cap_tokens, sizeof *b->tokens)) return tl_fail(TL_E_MEMORY, "out of memory");
  memcpy(b->tokens + b->n_tokens, ids, sizeof *ids * (size_t)n);
  *at = b->n_tokens;
  b->n_tokens += n;
  return TL_OK;
}

tl_status tl_batch_prompt(tl_batch *b, const int32_t *ids, int n, int *prompt) {
  int64_t cap = b->cap_prompts, at;
  if (!grow((void **)&b->prompts, b->n_prompts + 1, &cap, sizeof *b->prompts)) return tl_fail(TL_E_MEMORY, "out of memory");
  b->cap_prompts = (int)cap;
  TL_TRY(add_tokens(b, ids, n, "prompt", &at));
  b->prompts[b->n_prompts] = (tl_prompt){.ids = at, .n = n, .first = b->n_sequences, .member = b->member, .place = b->n_prompts};
  if (prompt) *prompt = b->n_prompts;
  b->n_prompts++;
  return TL_OK;
}

tl_status tl_batch_completion(tl_batch *b, int prompt, const int32_t *ids, int n, int *completion) {
  if (b->n_prompts == 0) return tl_fail(TL_E_ARG, "a completion follows its prompt; the batch has none yet");
  if (prompt != b->n_prompts - 1)
    return tl_fail(TL_E_ARG, "completions must follow their prompt: prompt %d was given, the last one added is %d", prompt,
                   b->n_prompts - 1);
  int64_t cap = b->cap_sequences, at;
  if (!grow((void **)&b->sequences, b->n_sequences + 1, &cap, sizeof *b->sequences)) return tl_fail(TL_E_MEMORY, "out of memory");
  b->cap_sequences = (int)cap;
  TL_TRY(add_tokens(b, ids, n, "completion", &at));
  b->sequences[b->n_sequences] = (tl_sequence){.ids = at, .n = n, .prompt = prompt, .out = b->n_out};
  b->n_out += n;
  b->prompts[prompt].count++;
  if (completion) *completion = b->n_sequences;
  b->n_sequences++;
  return TL_OK;
}

tl_status tl_batch_place(tl_batch *b, int prompt, int64_t place) {
  if (prompt < 0 || prompt >= b->n_prompts) return tl_fail(TL_E_ARG, "the batch has %d prompts, there is no prompt %d", b->n_prompts, prompt);
  b->prompts[prompt].place = place;
  return TL_OK;
}

void tl_batch_member(tl_batch *b, int member) { b->member = member; }

tl_status tl_batch_sampled(tl_batch *b, int completion, uint64_t sequence_id) {
  if (completion < 0 || completion >= b->n_sequences)
    return tl_fail(TL_E_ARG, "the batch has %d completions, there is no completion %d", b->n_sequences, completion);
  b->sequences[completion].sampled = true;
  b->sequences[completion].id = sequence_id;
  return TL_OK;
}

int tl_batch_n_completions(const tl_batch *b) { return b->n_sequences; }
int64_t tl_batch_n_tokens(const tl_batch *b) { return b->n_out; }
int64_t tl_batch_offset(const tl_batch *b, int completion) {
  if (completion < 0) return 0;
  return completion < b->n_sequences ? b->sequences[completion].out : b->n_out;
}

tl_status tl_batch_check(const tl_batch *b, const tl_config *c, int *longest) {
  int context = tl_config_context(c);
  for (int64_t i = 0; i < b->n_tokens; i++)
    if (b->tokens[i] < 0 || b->tokens[i] >= c->vocab)
      return tl_fail(TL_E_ARG, "token id %d is outside the model's vocabulary of %d", b->tokens[i], c->vocab);
  *longest = 1;
  for (int i = 0; i < b->n_prompts; i++)
    if (b->prompts[i].n > *longest) *longest = b->prompts[i].n;
  for (int i = 0; i < b->n_sequences; i++) {
    int prompt = b->prompts[b->sequences[i].prompt].n, n = b->sequences[i].n;
    if (n > context - prompt)
      return tl_fail(TL_E_ARG, "completion %d has %d tokens after a prompt of %d; the model's context has %d", i, n, prompt, context);
    if (prompt + n > *longest) *longest = prompt + n;
  }
  return TL_OK;
}
