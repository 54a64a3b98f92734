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
  float *R;          // (r, r) as the forward pass uses it (scale included); in the adapter's R
  tl_pair basis;     // the SVD kinds: A, then B, of the whole module
  tl_pair columns;   // o and down of a split model: the columns of A that this rank computes with, (r, in / ranks)
  float *dA;         // LoRA there: their gradient, in the ops' memory
  float *P;          // TinyLoRA: (u, r, r)
  int64_t off;       // first of this module's (or its group's) numbers in the parameter vector
  int64_t off_b;     // LoRA: where B starts (A starts at off)
  size_t off_dR;     // where this module's (r, r) starts in dR and R
} tl_adapter_module;

struct tl_adapter {
  int refs;
  tl_model *model;
  tl_adapter_kind kind;
  int rank;                    // the largest of the modules'
  int u, n_groups, n_modules;
  tl_sigma sigma;
  tl_projection projection;
  bool basis_from_file;        // A and B were read, not computed from the model
  tl_adapter *basis_owner;     // whose A and B these modules use; NULL: their own
  int8_t *signs;               // (sum of ranks) as in the options; NULL: none
  int storage;
  uint64_t seed;
  tl_adapter_module *modules;  // (n_modules)
  int64_t n_params;
  // host addresses of (n_params) numbers each, kept the same as the ops' copies by refresh, the optimiser and finish_gradient
  float *master, *grad;
  float *value;                // master rounded to storage: what the forward pass uses
  tl_pair master_pair, grad_pair, value_pair, R;  // R: every module's (r, r), laid out as dR
  bool basis_sent, master_given;  // master_given: the host has the master copy's address and may write to it at any time
  tlk_lowrank *lowrank;        // (model's n_modules), r == 0 where not targeted
  tl_weights full;             // TL_FULL: own weights
  int64_t *full_off_w;         // TL_FULL: (model's n_modules) where each weight starts in the parameter vector; -1 not trained
  int64_t *full_off_b;         // biases; -1: none
  int64_t off_embed, off_head, off_norms;  // -1: not trained. norms: laid out by tl_norm_offset
  bool train_embeddings;       // TL_FULL
  tl_adapter_view view;
  int64_t version;             // of what the forward pass uses: another number after every refresh of any adapter
  // what linear_grad works with
  int32_t *slot;               // (model's n_modules) index into modules; -1 not targeted
  tl_pair dR;                  // (n_dR) double. TinyLoRA, LoRA-XS: every module's (r, r) d loss / d R, summed unit by unit
  size_t n_dR;
  // TinyLoRA, LoRA-XS, while a pass for all ranks runs: the (n_dR) sums of every unit of the pass apart, in double
  bool by_unit;
  tl_pair units;
  int n_units, first_unit;     // of the pass; of the micro-batch whose backward runs
  // where the newest gradient is: sums that grad does not have yet; the ops' grad; or perhaps the host's, which was given out
  bool pending, grad_on_ops, grad_given;
  float *scaled;               // LoRA: the ops' scratch (2, T, r), grows
  size_t scaled_n;
};

// See population.c. n adapters of one model on the same A and B; their R side by side.
struct tl_population {
  int refs;
  tl_model *model;
  tl_adapter **members;        // (n)
  int n;
  int64_t *versions;           // (n) of the members, as they are in R
  tl_pair R;                   // module after module, each (n, r, r)
  tlk_lowrank *lowrank;        // (model's n_modules), r == 0 where not targeted
  tl_adapter_view view;
  int64_t version;             // as an adapter's
};

static inline float *tl_grad_ops(const tl_adapter *a, int64_t at) { return (float *)a->grad_pair.ops + at; }
static inline float *tl_value_ops(const tl_adapter *a, int64_t at) { return (float *)a->value_pair.ops + at; }

// Streams of the Philox generator, for adapter->seed: P of a module is drawn from its index in the model.
enum { TL_STREAM_P = 0, TL_STREAM_LORA_A = 1 << 20, TL_STREAM_R = 2 << 20, TL_STREAM_V = 3 << 20 };

// A model with its adapter (NULL: none) as parts: out = W + dW in fp32, or a full adapter's own values. A tl_part_fill.
typedef struct tl_merged {
  const tl_model *m;
  const tl_adapter *a;
} tl_merged;
tl_status tl_merged_part(void *ctx, const tl_part *p, float *out);

// ---- inside runtime/adapter: the parts of create, refresh and gradient that differ by kind
// lays the modules out: offsets, n_params; SVD bases, P; lowrank. options have been checked.
tl_status tl_lowrank_build(tl_adapter *a, const tl_adapter_options *o);
void tl_lowrank_init(tl_adapter *a, float init_std);   // fills master
void tl_lowrank_refresh(tl_adapter *a);                // R from value
void tl_lowrank_grad(tl_adapter *a, const tl_linear_grad *g);
void tl_lowrank_unit_grads(tl_adapter *a, const tl_adapter_module *m, const tl_linear_grad *g);  // each unit's part apart
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

// Whether an adapter with these options may use the A and B of another
bool tl_adapter_basis_fits(const tl_model *m, const tl_adapter_options *o, tl_adapter *basis);
// As tl_adapter_create; basis_from_file: A and B are allocated, and filled by the caller
tl_status tl_adapter_create_on(tl_model *m, const tl_adapter_options *o, bool basis_from_file, tl_adapter **out);
tl_adapter *tl_adapter_retain(tl_adapter *a);
// The gradient (n_params) in the ops' memory, up to date with what linear_grad has summed and with what the host has written to
// what tl_adapter_gradient gave out. Whoever changes it there says so by setting grad_on_ops.
float *tl_adapter_ops_gradient(tl_adapter *a);
const tl_adapter_view *tl_adapter_get_view(const tl_adapter *a);
// lowest layer that has a trained part; backward stops there (0 when embeddings are trained)
int tl_adapter_lowest_layer(const tl_adapter *a);
bool tl_adapter_trains_module(const tl_adapter *a, int module);
// adds this linear's contribution to the gradient. TinyLoRA and LoRA-XS sum each unit's dR in double and in the order of
// units, so that the result does not depend on how a batch was cut into micro-batches of whole units.
void tl_adapter_linear_grad(tl_adapter *a, const tl_linear_grad *g);
int64_t tl_adapter_next_version(void);                 // a number that no state of an adapter has had
// ---- the gradient over all ranks (ranks.c)
// sums are kept apart for the n_units units of a pass from here on; LoRA and full: nothing to keep. Also for a pass of one group.
tl_status tl_adapter_ranks_begin(tl_adapter *a, int n_units);
// the gradient = the sum of all ranks'; places (n_units): the order in which units are added. All ranks together.
tl_status tl_adapter_ranks_reduce(tl_adapter *a, const int64_t *places);
// ---- on a model that ranks share (shards.c): nothing to do with one that is whole
bool tl_shards_mine(const tl_adapter *a, int i);                              // this rank takes the SVD of module i
tl_status tl_shards_share_basis(tl_adapter *a);                               // A and B of every module, from whoever took its SVD
tl_status tl_shards_room(tl_adapter *a, tl_adapter_module *m);                // for the columns
void tl_shards_send(const tl_adapter *a, const tl_adapter_module *m);         // the columns, when A has changed
void tl_shards_view(const tl_adapter *a, const tl_adapter_module *m, tlk_lowrank *view);  // A and B of the whole -> this rank's
// units first .. first + n - 1 on the host = their sums over the ranks of the group
tl_status tl_shards_sum_units(tl_adapter *a, int first, int n);
tl_status tl_shards_reduce(tl_adapter *a, int first, int n);                  // and these are added to dR, in their order
// LoRA: where the gradients of this rank's A and B are summed; and then the gradient on the ops = the sum over the group
void tl_shards_lora_grad(tl_adapter *a, const tl_adapter_module *m, float **dA, float **dB);
tl_status tl_shards_lora_finish(tl_adapter *a);
// what tl_adapter_refresh does after the master copy has reached the ops: rounds, and rebuilds what the forward pass reads
void tl_adapter_apply(tl_adapter *a);
// TL_FULL: what has been summed of the gradient, on the ops, times a power of two
void tl_full_scale_gradient(tl_adapter *a, float factor);
// TL_FULL: where the gradients of other parameters go, in the ops' memory; NULL when not trained
float *tl_adapter_grad_norm(tl_adapter *a, int layer, int which);  // which: TL_NORM_1 ...; layer == n_layers: final norm
float *tl_adapter_grad_embed(tl_adapter *a);                       // (V, C)
float *tl_adapter_grad_head(tl_adapter *a);                        // (V, C); the same as grad_embed when tied

// the kind, modules, ranks, A and B of two adapters are those of each other; which: how messages call b
tl_status tl_adapter_same_basis(const tl_adapter *a, const tl_adapter *b, const char *which);

// ---- populations
tl_population *tl_population_retain(tl_population *p);
const tl_adapter_view *tl_population_get_view(tl_population *p);   // R as the members are now; then version is right too
int tl_population_lowest_layer(const tl_population *p);
bool tl_population_trains_module(const tl_population *p, int module);
// as tl_adapter_linear_grad, unit i's part to member unit_member[i] (n_units; host; -1: the base's rows, none)
void tl_population_linear_grad(tl_population *p, const tl_linear_grad *g, const int32_t *unit_member);
#endif
