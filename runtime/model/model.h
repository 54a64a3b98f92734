// model.h: what a loaded model is, for everything inside runtime/ (model, adapter, sample, train).
#ifndef TL_MODEL_H
#define TL_MODEL_H
#include "../base/base.h"

enum { TL_NAME_BYTES = 48 };  // room for a module's name

enum tl_kind { TL_Q, TL_K, TL_V, TL_O, TL_GATE, TL_UP, TL_DOWN, TL_N_KINDS };
extern const char *const tl_kind_names[TL_N_KINDS];  // "q", "k", ...

typedef enum tl_rope_type { TL_ROPE_DEFAULT, TL_ROPE_LINEAR, TL_ROPE_LLAMA3, TL_ROPE_YARN, TL_ROPE_TENSOR } tl_rope_type;

// Which keys of config.json make a family's layers slide: none; sliding_window alone; or only with use_sliding_window, and
// then from layer max_window_layers on.
typedef enum tl_window_keys { TL_WINDOW_NONE, TL_WINDOW_ALWAYS, TL_WINDOW_ASKED } tl_window_keys;

// A family is a small table of differences.
typedef struct tl_family {
  const char *name;       // model_type: "llama", "qwen2"
  const char *hf_class;   // "LlamaForCausalLM"
  const char *gguf_arch;  // general.architecture of its GGUF files
  bool gguf_permuted;     // GGUF stores the rows of q and k permuted per head
  bool qkv_bias;          // q, k and v always have biases
  bool bias_key;          // attention_bias gives biases to q, k, v and o
  bool qk_norm;           // RMSNorm of every head of q and k, before the rotation
  tl_window_keys window;
  // when config.json does not say:
  int bos, eos;           // -1: none
  int max_positions, kv_heads, head_dim;  // kv_heads 0: as many as heads; head_dim 0: width / heads
  float theta;            // 0: 10000
  bool tied;
  int unrotated_step;     // every so many-th layer does not rotate q and k; 0: all do
} tl_family;
const tl_family *tl_family_find(const char *name);          // NULL: unknown
const tl_family *tl_family_of_gguf(const char *arch);       // the first with that architecture; NULL: unknown
void tl_family_list(char *out, size_t n, bool gguf);        // "llama, qwen2": model types, or GGUF's architectures

typedef struct tl_config {
  const tl_family *family;
  int n_layers, width, n_heads, n_kv_heads, head_dim, ffn, vocab, max_positions;
  float norm_eps, rope_theta;
  tl_rope_type rope_type;
  float rope_factor, rope_low, rope_high;  // llama3: factor, low_freq_factor, high_freq_factor; linear, yarn: factor
  float rope_fast, rope_slow;              // yarn: beta_fast, beta_slow
  bool rope_whole;                         // yarn: truncate, the ramp's ends are whole numbers
  float rope_attention;                    // yarn: what cos and sin are multiplied by
  int rope_original;                       // llama3, yarn: original_max_position_embeddings
  float *rope_divisors;                    // TL_ROPE_TENSOR (GGUF rope_freqs.weight): (D/2), each frequency is divided by it
  bool tied, attention_bias;               // attention_bias: biases on q, k, v and o
  int window;                              // of the layers that slide: a query sees its last `window` keys, itself included
  uint8_t *slides;                         // (n_layers) 1: this layer slides; NULL: none does
  uint8_t *unrotated;                      // (n_layers) 1: this layer's q and k are not rotated; NULL: all are
  int bos, pad, n_eos, eos[8];
} tl_config;
// the window of a layer; 0: it sees everything before it
static inline int tl_config_window(const tl_config *c, int layer) { return c->slides && c->slides[layer] ? c->window : 0; }

typedef struct tl_linear {
  tlk_packed *w;  // (out, in)
  float *bias;    // (out) or NULL; in the ops' memory, as all vectors of a weight set
} tl_linear;

typedef struct tl_layer {
  tl_linear lin[TL_N_KINDS];
  float *norm1, *norm2;    // (C): input_layernorm, post_attention_layernorm
  float *norm_q, *norm_k;  // (D): of every head of q and k; NULL when the family has none
} tl_layer;

// One set of weights. The base model has one; full finetuning and merged copies have another, which shares what it does
// not change: `owned` flags say what tl_weights_free releases.
typedef struct tl_weights {
  tl_layer *layers;      // (n_layers)
  tlk_packed *embed;     // (V, C)
  tlk_packed *head;      // (V, C); == embed when tied
  float *final_norm;     // (C)
  int n_layers;
  uint8_t *owned_lin;    // (n_layers * 7): this set owns the packed weight (biases are owned with owned_vec)
  bool owned_embed, owned_head;
  bool owned_vec;        // all norms and biases; each is its own block
} tl_weights;

struct tl_model {
  int refs;
  tl_config cfg;              // of the whole model
  tl_config local;            // what this rank computes with: cfg, or of a split model its heads and columns; its arrays are cfg's
  int shard, shards;          // this rank's part, of how many (split.c); 0 of 1: the whole model
  bool random;                // weights were drawn (tl_model_create), from seed with spread init_std
  uint64_t seed;
  float init_std;
  tl_weights w;
  struct tl_model *parent;    // a merged model keeps its base alive
  int compute;                // TL_F32, TL_BF16 or TL_F16
  float *rope;                // (n_rope, D/2, 2) cos, sin, in the ops' memory; grows with tl_model_need_positions
  float *no_rope;             // the same of layers that do not rotate: 1, 0; behind rope, in its block; NULL: all rotate
  int n_rope;
  char *path, *format, *file_dtype;
  int64_t quantised_bytes;      // as in tl_model_info
  char (*names)[TL_NAME_BYTES];  // (modules) their names
  int64_t n_parameters;
  uint8_t *hashed;              // (modules) which weights counted in full in `hash`, the last that was asked for (tl_base_hash); NULL: none was
  char hash[33];
};

// sizes of a linear by kind
static inline int tl_linear_out(const tl_config *c, int kind) {
  switch (kind) {
  case TL_Q: return c->n_heads * c->head_dim;
  case TL_K: case TL_V: return c->n_kv_heads * c->head_dim;
  case TL_GATE: case TL_UP: return c->ffn;
  default: return c->width;  // o, down
  }
}
static inline int tl_linear_in(const tl_config *c, int kind) {
  return kind == TL_O ? c->n_heads * c->head_dim : kind == TL_DOWN ? c->ffn : c->width;
}
// module index = layer * 7 + kind; module names are "model.layers.<i>.self_attn.q_proj" and so on
void tl_module_name(char *out, size_t n, int module);
tl_linear *tl_weights_module(const tl_weights *w, int module);

// ---- a model that several ranks share (split.c)
// q k v gate up are split by outputs, o and down by inputs: a rank has this many of the module's outputs and inputs
static inline bool tl_split_by_rows(int kind) { return kind != TL_O && kind != TL_DOWN; }
// TL_OK for a model that this process has whole; what: what needs it so, the beginning of the message
tl_status tl_whole_only(const tl_model *m, const char *what);
// Weights of the whole model as it computes with them (stored: as its file, or its seed, has them), in fp32, of a split model too. Several
// threads may read at once.
typedef struct tl_whole tl_whole;
struct tl_part;
tl_status tl_whole_open(const tl_model *m, bool stored, tl_whole **out);
void tl_whole_close(tl_whole *w);  // NULL: nothing
tl_status tl_whole_weight(tl_whole *w, int module, float *out);                                     // out (out, in)
tl_status tl_whole_rows(tl_whole *w, const struct tl_part *p, int row, int n, float *out);          // rows row .. row + n - 1; a vector: all

// ---- the parts of a model: every array that a file holds. Loading, random initialisation and saving walk the same list.
typedef enum tl_role { TL_PART_EMBED, TL_PART_NORM1, TL_PART_NORM2, TL_PART_NORM_Q, TL_PART_NORM_K, TL_PART_WEIGHT, TL_PART_BIAS,
                       TL_PART_FINAL_NORM, TL_PART_HEAD } tl_role;
typedef struct tl_part {
  tl_role role;
  int layer, kind;        // of norms, weights and biases; kind: of weights and biases
  int rows, cols;         // (rows, cols); a vector has cols 0
} tl_part;
tl_status tl_parts_list(const tl_config *c, tl_part **parts, int *n);  // free() the list. A tied head is no part.
static inline size_t tl_part_size(const tl_part *p) { return (size_t)p->rows * (p->cols ? (size_t)p->cols : 1); }
void tl_part_name(char *out, size_t n, const tl_part *p);             // Hugging Face's name of it
// where a part's vector is kept in a weight set; NULL for matrices
float **tl_weights_vector(tl_weights *w, const tl_part *p);

// All gains of a model as one vector: per layer norm1 (C), norm2 (C) and, where the family has them, norm_q (D), norm_k (D);
// then the final norm (C). `which` counts in that order; layer == n_layers: the final norm.
enum { TL_NORM_1, TL_NORM_2, TL_NORM_Q, TL_NORM_K };
static inline int64_t tl_norm_offset(const tl_config *c, int layer, int which) {
  int64_t width = c->width, head = c->family->qk_norm ? c->head_dim : 0;
  int64_t within = which <= TL_NORM_2 ? which * width : 2 * width + (which - TL_NORM_Q) * head;
  return layer * (2 * width + 2 * head) + within;
}
static inline int64_t tl_norms_size(const tl_config *c) { return tl_norm_offset(c, c->n_layers, 0) + c->width; }
// of a norm's part
static inline int64_t tl_norm_part_offset(const tl_config *c, const tl_part *p) {
  return p->role == TL_PART_FINAL_NORM ? tl_norm_offset(c, c->n_layers, 0)
                                       : tl_norm_offset(c, p->layer, (int)p->role - TL_PART_NORM1);
}
// GGUF's name of it, and its order of rows: llama's q and k hold the rows of a head interleaved, (i, i + D/2) side by side
void tl_part_gguf_name(char *out, size_t n, const tl_part *p);
int tl_part_permuted_heads(const tl_config *c, const tl_part *p);    // in how many heads; 0: the rows lie as Hugging Face's
size_t tl_permuted_row(int heads, size_t row, size_t rows);          // where GGUF has a row; heads 0: where it is
// out = the part's values (fp32), exactly as this weight set computes with them
void tl_weights_part(const tl_weights *w, const tl_part *p, float *out);
typedef tl_status (*tl_part_fill)(void *ctx, const tl_part *p, float *out);
// Writes a Hugging Face directory: config.json, model.safetensors, generation_config.json and, with tokenizer, copies of the
// tokenizer's files that stand in the source's folder (a GGUF's neighbours are not its own: they are left). fill gives each part
// in fp32, which is rounded once to dtype.
tl_status tl_model_write(const tl_model *m, tl_part_fill fill, void *ctx, const char *dir, tl_dtype dtype, bool tokenizer);
// The same as a GGUF file (save_gguf.c), in three steps so that the tokenizer's metadata can come from elsewhere:
// tl_model_gguf_keys, the tokenizer's keys, tl_model_gguf_ids unless those have them, tl_model_gguf_write. type: a tl_ggml_type
// of tl_quant_named. tokenizer_eos: which of the model's end tokens comes first; -1: as they stand.
struct tl_gguf_writer;
tl_status tl_model_gguf_keys(const tl_model *m, int type, struct tl_gguf_writer *w);
tl_status tl_model_gguf_ids(const tl_model *m, int tokenizer_eos, struct tl_gguf_writer *w);
tl_status tl_model_gguf_write(const tl_model *m, tl_part_fill fill, void *ctx, const char *path, int type,
                              struct tl_gguf_writer *w);
int tl_quant_named(const char *name);  // "f16", "q8_0", ...: its tl_ggml_type; -1: not one that is written
// a new model (refs 1) with m's configuration, whose weight set shares everything with m and which keeps m alive
tl_status tl_model_derive(tl_model *m, tl_model **out);

tl_model *tl_model_retain(tl_model *m);
// makes the rope table cover positions 0 .. n-1
tl_status tl_model_need_positions(tl_model *m, int n);
// (n, D/2, 2) table for a config, computed as Hugging Face does (fp32 inverse frequencies, fp32 angles)
// the positions a model is made for: max_position_embeddings, and what linear scaling or YaRN makes of them (as vLLM has it)
int tl_config_context(const tl_config *c);
void tl_rope_table(float *table, const tl_config *c, int n);
float tl_rope_frequency(const tl_config *c, int i);       // of the pair (i, i + D/2), scaling included
float tl_yarn_attention(float factor, float mscale);      // 0.1 mscale ln(factor) + 1, and 1 for factors up to 1
// a weight set with the same shape as the base's that shares everything (nothing owned)
tl_status tl_weights_share(const tl_weights *base, tl_weights *out);
void tl_weights_free(tl_weights *w);
int64_t tl_weights_bytes(const tl_weights *w, const tl_config *c);

// ---- the runtime view of an adapter, filled by runtime/adapter, read by forward and backward
typedef struct tl_adapter_view {
  const tl_weights *weights;     // full finetuning or merged: use these instead of the model's; NULL: the model's
  const tlk_lowrank *lowrank;    // (n_modules) r == 0: not targeted; NULL: no low-rank terms
  int max_rank;
} tl_adapter_view;

// What backward hands to the adapter for one linear, right after dy is known.
typedef struct tl_linear_grad {
  int module;
  tlk_mat x, dy;               // (T, in), (T, out), act
  const float *z, *g;          // (T, r): A x, dy B; NULL when the module has no low-rank term
  float loss_scale;            // dy has been multiplied by it, g no more
  const int32_t *unit_off;     // (n_units + 1): rows of each prompt group
  int n_units, T;
} tl_linear_grad;
#endif
