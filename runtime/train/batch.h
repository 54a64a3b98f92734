// batch.h: the inside of a tl_batch, for pass.c.
#ifndef TL_BATCH_H
#define TL_BATCH_H
#include "../model/model.h"

typedef struct tl_prompt {
  int64_t ids;             // where its tokens start in tokens
  int n;
  int first, count;        // its completions
  int member;              // of a population
  int64_t place;           // among the step's prompts of all ranks
} tl_prompt;

typedef struct tl_sequence {
  int64_t ids;             // where its tokens start in tokens
  int n, prompt;
  int64_t out;             // where its tokens start in the per-token arrays
  bool sampled;            // id is the sequence id it was sampled with
  uint64_t id;
} tl_sequence;

struct tl_batch {
  int refs;
  int32_t *tokens;
  int64_t n_tokens, cap_tokens;
  tl_prompt *prompts;
  int n_prompts, cap_prompts;
  tl_sequence *sequences;
  int n_sequences, cap_sequences;
  int64_t n_out;           // completion tokens in all
  int member;              // of the prompts to come
};

// Whether a model of that shape has all token ids and its context holds every completion with its prompt. *longest: the most tokens of a
// completion with its prompt, or of a prompt, at least 1.
tl_status tl_batch_check(const tl_batch *b, const tl_config *c, int *longest);
#endif
