// adapter.h: the adapter's inside, for runtime/adapter, runtime/sample and runtime/train.
#ifndef TL_ADAPTER_H
#define TL_ADAPTER_H
#include "../model/model.h"

typedef struct tl_adapter_module {
  int module;        // index in the model
  int group;         // TinyLoRA
  int rank;          // r below
  float scale;       // R's factor: LoRA's and LoRA-XS's alpha / r; TinyLoRA: 1
  float *A;          // (r, in)
  float *B;          // (out, r)
  float *R;          // (r, r) as the forward pass uses it (scale included)
  float *P;          // TinyLoRA: (u, r, r)
  int64_t off;       // first of this module's (or its group's) numbers in the parameter vector
  int64_t off_b;     // LoRA: where B starts (A starts at off)
  size_t off_dR;     // where this module's (r, r) starts in dR
} tl_adapter_module;

struct tl_adapter {
  int refs;
  tl_model *model;
  tl_adapter_kind kind;
  int rank;                    // the largest of the modules'
  int u, n_groups, n_modules;
  tl_sigma sigma;
  tl_projection projection;
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
  int64_t off_embed, off_head, off_norms;  // -1: not trained. norms: laid out by tl_norm_offset
  bool train_embeddings;       // TL_FULL
  tl_adapter_view view;
  // what linear_grad works with
  int32_t *slot;               // (model's n_modules) index into modules; -1 not targeted
  double *dR;                  // (n_dR) TinyLoRA, LoRA-XS: every module's (r, r) d loss / d R, summed unit by unit
  size_t n_dR;
  bool pending;                // dR holds sums that grad does not have yet
  double *unit_dR;             // scratch (n_units, r, r), grows
  float *scaled;               // LoRA: scratch (2, T, r), grows
  size_t unit_dR_n, scaled_n;
};

// Streams of the Philox generator, for adapter->seed: P of a module is drawn from its index in the model.
enum { TL_STREAM_P = 0, TL_STREAM_LORA_A = 1 << 20, TL_STREAM_R = 2 << 20, TL_STREAM_V = 3 << 20 };

// ---- inside runtime/adapter: the parts of create, refresh and gradient that differ by kind
// lays the modules out: offsets, n_params; SVD bases, P; lowrank. options have been checked.
tl_status tl_lowrank_build(tl_adapter *a, const tl_adapter_options *o);
void tl_lowrank_init(tl_adapter *a, float init_std);   // fills master
void tl_lowrank_refresh(tl_adapter *a);                // R from value
void tl_lowrank_grad(tl_adapter *a, const tl_linear_grad *g);
void tl_lowrank_finish(tl_adapter *a);                 // grad from dR
// With module, group, rank and scale set in a->modules: allocates slot, lowrank, P, R and, for the SVD kinds, A and B with
// nothing in them; sets the offsets and the largest rank
tl_status tl_lowrank_layout(tl_adapter *a);
// P (u, r, r) of the module at place i among the targets, by one of the two generators
void tl_lowrank_projection(const tl_adapter *a, int i, tl_projection generator, float *P);
tl_status tl_full_build(tl_adapter *a);
tl_status tl_full_init(tl_adapter *a);                 // fills master from the model, makes the own weights
void tl_full_refresh(tl_adapter *a);
void tl_full_grad(tl_adapter *a, const tl_linear_grad *g);
// master, grad and value for n_params
tl_status tl_adapter_vectors(tl_adapter *a);

tl_adapter *tl_adapter_retain(tl_adapter *a);
// Brings grad up to date with what linear_grad has summed. tl_adapter_gradient calls it; whoever reads a->grad must too.
void tl_adapter_finish_gradient(tl_adapter *a);
const tl_adapter_view *tl_adapter_get_view(const tl_adapter *a);
// lowest layer that has a trained part; backward stops there (0 when embeddings are trained)
int tl_adapter_lowest_layer(const tl_adapter *a);
bool tl_adapter_trains_module(const tl_adapter *a, int module);
// adds this linear's contribution to the gradient. TinyLoRA and LoRA-XS sum each unit's dR in double and in the order of
// units, so that the result does not depend on how a batch was cut into micro-batches of whole units.
void tl_adapter_linear_grad(tl_adapter *a, const tl_linear_grad *g);
// TL_FULL: where the gradients of other parameters go; NULL when not trained
float *tl_adapter_grad_norm(tl_adapter *a, int layer, int which);  // which: TL_NORM_1 ...; layer == n_layers: final norm
float *tl_adapter_grad_embed(tl_adapter *a);                       // (V, C)
float *tl_adapter_grad_head(tl_adapter *a);                        // (V, C); the same as grad_embed when tied
#endif
