// adapter.h: the adapter's inside, for runtime/adapter, runtime/sample and runtime/train.
#ifndef TL_ADAPTER_H
#define TL_ADAPTER_H
#include "../model/model.h"

typedef struct tl_adapter_module {
  int module;        // index in the model
  int group;         // TinyLoRA
  float *A;          // (r, in)
  float *B;          // (out, r)
  float *R;          // (r, r) as the forward pass uses it (scale included)
  float *P;          // TinyLoRA: (u, r, r)
  int64_t off;       // first of this module's (or its group's) numbers in the parameter vector
  int64_t off_b;     // LoRA: where B starts (A starts at off)
} tl_adapter_module;

struct tl_adapter {
  int refs;
  tl_model *model;
  tl_adapter_kind kind;
  int rank, u, n_groups, n_modules;
  float alpha;
  tl_sigma sigma;
  int storage;
  uint64_t seed;
  tl_adapter_module *modules;  // (n_modules)
  int64_t n_params;
  float *master, *grad;        // (n_params)
  float *value;                // (n_params) master rounded to storage: what the forward pass uses
  tlk_lowrank *lowrank;        // (model's n_modules), r == 0 where not targeted
  tl_weights full;             // TL_FULL: own weights
  int64_t *full_off_w;         // TL_FULL: (model's n_modules) where each weight starts in the parameter vector; -1 not trained
  int64_t *full_off_b;         // biases; -1: none
  int64_t off_embed, off_head, off_norms;  // -1: not trained. norms: per layer norm1, norm2; then final (each C)
  tl_adapter_view view;
};

tl_adapter *tl_adapter_retain(tl_adapter *a);
const tl_adapter_view *tl_adapter_get_view(const tl_adapter *a);
// lowest layer that has a trained part; backward stops there (0 when embeddings are trained)
int tl_adapter_lowest_layer(const tl_adapter *a);
bool tl_adapter_trains_module(const tl_adapter *a, int module);
// adds this linear's contribution to the gradient. TinyLoRA and LoRA-XS sum each unit's dR in double and in the order of
// units, so that the result does not depend on how a batch was cut into micro-batches of whole units.
void tl_adapter_linear_grad(tl_adapter *a, const tl_linear_grad *g);
// TL_FULL: where the gradients of other parameters go; NULL when not trained
float *tl_adapter_grad_norm(tl_adapter *a, int layer, int which);  // which 0, 1; layer == n_layers: final norm
float *tl_adapter_grad_embed(tl_adapter *a);                       // (V, C)
float *tl_adapter_grad_head(tl_adapter *a);                        // (V, C); the same as grad_embed when tied
#endif
