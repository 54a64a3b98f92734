// sampler.h: the sampler's inside: requests (a prompt and its completions), the slots they are decoded in, and the queues.
#ifndef TL_SAMPLER_H
#define TL_SAMPLER_H
#include "../adapter/adapter.h"
#include "../model/kept.h"
#include "cache.h"

typedef struct tl_request {
  int64_t id;
  int32_t *prompt;
  int n_prompt, n;               // n completions
  int n_started, n_finished;
  uint64_t sequence_id;
  tl_sampling p;                 // p.stop is our own copy
  char **stop;
  int longest_stop;              // bytes
  int n_computed;                // of its prompt's tokens
  int32_t *kv;                   // (n_prompt) rows of the prompt
  int32_t *kept;                 // (n_prompt) rows in the sampler's tl_kept
  int kept_part;                 // its part there; -1: not kept
  void *h;                       // (C) act, ops' memory: the hidden state that predicts every completion's first token
  float *prompt_logprobs;        // (n_prompt) when p.prompt_logprobs, of each token but the first, whose is NaN; else NULL
  int32_t *prompt_top_ids;       // (n_prompt, n_top); the first row is -1. prompt_top_logprobs: NaN there
  float *prompt_top_logprobs;
  struct tl_request *next;
} tl_request;

static inline bool tl_request_prefilled(const tl_request *r) { return r->n_computed == r->n_prompt; }

typedef struct tl_slot {         // one completion being decoded
  tl_request *req;               // NULL: the slot is free
  int index;                     // which completion of the request
  int32_t *kv;                   // (n_prompt + max_new) rows: the prompt's, then its own
  int list;                      // where they stand in the sampler's lists
  int n_kv;                      // rows in use
  int32_t *ids;
  float *logprobs, *entropy;     // (max_new)
  float *lse;                    // (max_new), when something is kept
  int32_t *top_ids;              // (max_new, n_top) when the request has n_top; else NULL
  float *top_logprobs;
  int32_t *kept;                 // (max_new) rows of its tokens in the sampler's tl_kept, -1: not kept
  int n;                         // tokens so far
  tl_str tail;                   // last bytes of the text, for stop strings
} tl_slot;

// ---- top.c: logits of the rows that are asked about
typedef struct tl_top tl_top;

// ---- prefix.c: sequences whose keys and values are still there
typedef struct tl_prefix tl_prefix;

// ---- record.c: runs of ops that come again in every step, as recordings
typedef struct tl_recorded {
  int part, rows, longest;       // what it computes: TL_RECORD_..., over how many rows, of lists of at most how many keys
  int64_t used;                  // when it last was
  tlk_recording *recording;      // NULL: it came once so far
} tl_recorded;
// where a run finds what it is given: recordings are good while this stays
typedef struct tl_places {
  const void *weights, *lowrank, *variant, *rope, *cache, *lists, *kept;
  int64_t version;               // of the adapter or population
} tl_places;
enum { TL_RECORD_LAYERS, TL_RECORD_HEAD, TL_RECORD_MOST = 64 };
typedef struct tl_recordings {
  bool on;                       // the backend records, and no profile looks at single ops
  tl_places places;
  tl_recorded list[TL_RECORD_MOST];
  int n;
  int64_t clock;
} tl_recordings;

typedef struct tl_done {
  tl_completion c;
  int32_t *ids;
  float *logprobs, *entropy;
  int32_t *top_ids;              // with top_logprobs behind them
  float *more;                   // the copy of the request's prompt_logprobs, with what stands behind them
  struct tl_done *next;
} tl_done;

struct tl_sampler {
  tl_model *model;
  tl_adapter *adapter;           // or opt.population, or neither
  tl_tokenizer *tokenizer;
  tl_sampler_options opt;
  tl_net net;
  tl_kv_cache cache;
  int reserved;                  // cache rows promised to running completions and prompts
  tl_prefix *prefixes;           // remembered, when opt.prefix_cache
  int n_prefixes;
  int64_t prefix_clock;
  tl_request *first, *last;      // waiting or running, oldest first
  tl_slot *slots;                // (max_sequences)
  int n_running, pending;
  tl_done *done_first, *done_last, *popped;
  int64_t next_request;
  // step buffers for max_rows rows: what the ops alone use, what goes to them, what comes back, and the lists of keys
  tl_arena arena;
  tl_pair in, out, lists;
  int max_rows, max_lists;
  int32_t *ids, *pos, *kv_off, *kv_len, *kv_out, *kv_rows, *variant, *kept_out, *tokens;  // host addresses
  float *logprobs, *entropy, *lse;
  float *x, *rstd;
  int32_t **kept_at;             // (rows) where the place of each row in tl_kept is noted
  bool planned;                  // kept has been sized for what was submitted
  tlk_mat h;
  tl_acts acts;
  tl_fwd_scratch scratch;
  tlk_sample_row *rows;          // in `in`
  int *row_slot;                 // the host's alone
  tl_recordings recordings;
  float *x_in, *x_mid;           // (rows, C) of the layer being kept, when steps are recorded; else NULL
  tl_top *top;                   // NULL: no request asked for it yet
  bool lists_stand;              // the running completions' lists of keys are in `lists`
  tl_sampler_stats stats;
  uint64_t drawn[2];             // of a split model: a hash of all tokens so far and their logprobs
  int widest_step;               // completions that continued in the steps of stats.fastest_step_seconds
};

// sampler.c, for prefill.c: room for n keys in the lists; the layers over T rows of prompts whose lists have so many keys; the final norm;
// whether ranks that share the model have the same rows before them
tl_status tl_sampler_lists_room(tl_sampler *s, int n);
void tl_sampler_run_prompts(tl_sampler *s, int T, int lists);
void tl_sampler_final_norm(tl_sampler *s, tlk_mat out, const float *x, int T);
tl_status tl_sampler_agree(const tl_sampler *s, int T);
// prefill.c: prompts that were admitted and not yet computed, as far as prefill_per_step goes
tl_status tl_sampler_prefill(tl_sampler *s);
// top.c: the likeliest tokens of the T rows that were sampled, into the slots that want them, before their tokens are appended
tl_status tl_sampler_top(tl_sampler *s, int T);
// the logprobs of prompt tokens at + 1 .. at + T, predicted from the hidden states of rows first .. first + T - 1, if r wants them
tl_status tl_sampler_score_prompt(tl_sampler *s, tl_request *r, int first, int at, int T);
void tl_top_free(tl_top *p);
// prefix.c: a request that was not begun takes the rows of the longest beginning of its prompt that is remembered (n_computed says how many)
void tl_prefix_use(tl_sampler *s, tl_request *r);
// remembers the first n tokens of prompt and ids, whose rows these are; they are the member's
void tl_prefix_keep(tl_sampler *s, int member, const int32_t *prompt, int n_prompt, const int32_t *ids, const int32_t *rows, int n);
bool tl_prefix_evict(tl_sampler *s);  // forgets what was used longest ago; false: nothing is remembered
// record.c: the rows that a step of T rows (at most `most`) is filled up to, and the length that stands for lists of up to n keys
int tl_record_rows(int T, int most);
int tl_record_longest(int n);
// Runs fn(s, rows, longest), or what was recorded of it. fn calls ops alone, with the same arguments every time.
void tl_record_run(tl_sampler *s, int part, int rows, int longest, void (*fn)(tl_sampler *s, int rows, int longest));
// before a step: drops what was recorded if something that it points at has moved
void tl_record_check(tl_sampler *s);
void tl_record_drop(tl_sampler *s);
// finish.c: appends a sampled token to a slot; the finish reason when it ended, else NULL
const char *tl_slot_append(tl_sampler *s, tl_slot *slot, int32_t id, float logprob, float entropy);
// moves a slot's completion to the finished queue and gives its rows back
void tl_slot_finish(tl_sampler *s, tl_slot *slot, const char *reason);
void tl_request_free(tl_request *r);
void tl_done_free(tl_done *d);
#endif
