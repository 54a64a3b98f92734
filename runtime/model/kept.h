// kept.h: activations that the sampler leaves for the trainer, so that training needs no forward pass over what was sampled.
//
// The sampler computes exactly what the trainer's forward would, to the bit. A tl_kept holds, for every row that went through
// the model (prompts once, each completion's tokens but the last), what the top layers leave for their backward, and what the
// last layer leaves for the head. How many layers is decided by its budget before the first row: with all of them no forward
// pass is needed, with the upper n of them only the lower ones are computed again. With none it holds nothing.
//
// Activations lie in the ops' memory, the rest in the host's. A completion is named by its sequence id. What is kept belongs to one state of one adapter: a pass that is given another
// (or a sequence that is not here) goes the ordinary way.
#ifndef TL_KEPT_H
#define TL_KEPT_H
#include "layer.h"

// One sequence's part: a prompt's, or a completion's with the prompt it belongs to.
typedef struct tl_kept_sequence {
  uint64_t id;
  int member;          // of the sampler's population; ids are the member's own
  int n;               // rows: a prompt's tokens, a completion's but the last
  int32_t *rows;       // (n) where they are
  int prompt;          // completion: index of its prompt's part; prompt: -1
  float temperature;   // completion: that the logprobs are of
  float *logprob, *lse, *entropy;  // completion: (n + 1) of its tokens
} tl_kept_sequence;

struct tl_kept {
  int refs;
  int64_t budget;
  const tl_model *model;  // whose activations these are (not retained), NULL: none; only compared
  int64_t version;        // of the adapter; 0: none
  int first_layer;        // layers from here on are kept; n_layers: nothing is
  int n_layers, width, capacity, used;
  tl_acts *acts;          // (n_layers - first_layer) over all rows
  float *x_out;           // (rows, C) residual after the last layer
  tl_arena arena;
  tl_kept_sequence *sequences;
  int n_sequences, cap_sequences;
};

tl_kept *tl_kept_retain(tl_kept *k);
// Empties it and makes room for `rows` rows of as many of net's upper layers as the budget holds.
tl_status tl_kept_plan(tl_kept *k, const tl_net *net, int64_t version, int64_t rows);
// The activations that layer l of the next T rows go to; false: the layer is not kept.
bool tl_kept_layer(const tl_kept *k, const tl_net *net, int l, int first_row, tl_acts *out);
// The other way: rows 0 .. T-1 of a kept layer's activations, x_in and x_mid among them, to rows list (T; ops' memory; negative:
// nowhere). a's k and v are a cache, where row t is kv_rows[t].
void tl_kept_scatter(const tl_kept *k, const tl_net *net, int l, const tl_acts *a, const int32_t *kv_rows, const int32_t *list, int T);
// Adds a sequence (its arrays are copied): its index, or -1 when out of memory.
int tl_kept_add(tl_kept *k, const tl_kept_sequence *s);
const tl_kept_sequence *tl_kept_find(const tl_kept *k, int member, uint64_t id);  // a completion; NULL: it is not here
// rows list (T; ops' memory) of a layer's activations to rows 0 .. T-1 of out
void tl_kept_gather(const tl_kept *k, const tl_net *net, int l, const int32_t *list, int T, tl_acts *out);
#endif
