// save_gguf.c: a model as a GGUF file in llama.cpp's conventions: metadata "<architecture>.<name>", tensor names
// blk.N.attn_q..., the rows of q and k interleaved per head where the architecture wants it, Llama 3's scaling as the tensor
// rope_freqs.weight.
//
// What is stored in which type, for a wanted type t: vectors (norms, biases) F32, as llama.cpp requires; matrices t. A 4- or
// 5-bit t leaves embedding and head in Q8_0, where coarse steps cost most. A matrix whose rows are not whole blocks is F16.
// Values are rounded once, from the fp32 that the fill function gives.
//
// Memory: one part in fp32 and one in its type.
#include "load.h"
#include <math.h>

static bool is_block(int type) {
  int elements, bytes;
  return tl_ggml_type_block(type, &elements, &bytes) && elements > 1;
}

static int type_of(const tl_part *p, int want) {
  if (!p->cols)
    return TL_GGML_F32;
  bool table = p->role == TL_PART_EMBED || p->role == TL_PART_HEAD;
  int type = table && is_block(want) ? TL_GGML_Q8_0 : want, elements, bytes;
  TL_ASSERT(tl_ggml_type_block(type, &elements, &bytes));
  return p->cols % elements ? TL_GGML_F16 : type;
}

// llama.cpp's number for "mostly this type"
static uint32_t file_type(int type) {
  static const struct {
    int type;
    uint32_t number;
  } known[] = {{TL_GGML_F32, 0},  {TL_GGML_F16, 1},  {TL_GGML_Q4_0, 2}, {TL_GGML_Q4_1, 3},
               {TL_GGML_Q8_0, 7}, {TL_GGML_Q5_0, 8}, {TL_GGML_Q5_1, 9}, {TL_GGML_BF16, 32}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (known[i].type == type)
      return known[i].number;
  return 1024; // llama.cpp's "guessed"
}

static void put(tl_gguf_writer *w, const char *arch, const char *name, uint32_t v) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", arch, name);
  tl_gguf_put_u32(w, key, v);
}

static void put_float(tl_gguf_writer *w, const char *arch, const char *name, float v) {
  char key[128];
  snprintf(key, sizeof key, "%s.%s", arch, name);
  tl_gguf_put_f32(w, key, v);
}

// Layers that slide: the window and, unless all do, a flag for each. llama.cpp does not slide in architecture llama: what it
// computes with a Mistral's file differs beyond the window.
static void put_windows(const tl_config *c, const char *arch, tl_gguf_writer *w) {
  char key[128];
  int n = 0;
  for (int l = 0; l < c->n_layers; l++)
    n += tl_config_window(c, l) > 0;
  if (n)
    put(w, arch, "attention.sliding_window", (uint32_t)c->window);
  if (!n || n == c->n_layers)
    return;
  snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", arch);
  tl_gguf_put_array(w, key, TL_GGUF_BOOL, (uint64_t)c->n_layers);
  for (int l = 0; l < c->n_layers; l++)
    tl_gguf_item_raw(w, tl_config_window(c, l) ? "\1" : "\0", 1);
}

static tl_status put_scaling(const tl_config *c, const char *arch, tl_gguf_writer *w) {
  char key[128];
  bool yarn = c->rope_type == TL_ROPE_YARN;
  if (!yarn && c->rope_type != TL_ROPE_LINEAR)
    return TL_OK;
  snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
  tl_gguf_put_string(w, key, yarn ? "yarn" : "linear");
  put_float(w, arch, "rope.scaling.factor", c->rope_factor);
  if (!yarn)
    return TL_OK;
  if (!c->rope_whole)
    return tl_fail(TL_E_UNSUPPORTED, "a GGUF file cannot express YaRN with truncate false");
  put(w, arch, "rope.scaling.original_context_length", (uint32_t)c->rope_original);
  put_float(w, arch, "rope.scaling.yarn_beta_fast", c->rope_fast);
  put_float(w, arch, "rope.scaling.yarn_beta_slow", c->rope_slow);
  put_float(w, arch, "rope.scaling.attn_factor", c->rope_attention / tl_yarn_attention(c->rope_factor, 1));
  return TL_OK;
}

tl_status tl_model_gguf_keys(const tl_model *m, int type, tl_gguf_writer *w) {
  const tl_config *c = &m->cfg;
  const char *a = c->family->gguf_arch, *slash = strrchr(m->path, '/');
  char name[256];
  snprintf(name, sizeof name, "%.255s", slash && slash[1] ? slash + 1 : m->path);
  tl_gguf_put_string(w, "general.architecture", a);
  tl_gguf_put_string(w, "general.type", "model");
  tl_gguf_put_string(w, "general.name", name);
  tl_gguf_put_u32(w, "general.file_type", file_type(type));
  tl_gguf_put_u32(w, "general.quantization_version", 2);
  put(w, a, "vocab_size", (uint32_t)c->vocab);
  put(w, a, "block_count", (uint32_t)c->n_layers);
  put(w, a, "context_length", (uint32_t)c->max_positions);
  put(w, a, "embedding_length", (uint32_t)c->width);
  put(w, a, "feed_forward_length", (uint32_t)c->ffn);
  put(w, a, "attention.head_count", (uint32_t)c->n_heads);
  put(w, a, "attention.head_count_kv", (uint32_t)c->n_kv_heads);
  put(w, a, "attention.key_length", (uint32_t)c->head_dim);
  put(w, a, "attention.value_length", (uint32_t)c->head_dim);
  put(w, a, "rope.dimension_count", (uint32_t)c->head_dim);
  put_float(w, a, "attention.layer_norm_rms_epsilon", c->norm_eps);
  put_float(w, a, "rope.freq_base", c->rope_theta);
  put_windows(c, a, w);
  for (int l = 0; c->unrotated && l < c->n_layers; l++)
    if (c->unrotated[l] != ((l + 1) % c->family->unrotated_step == 0))
      return tl_fail(TL_E_UNSUPPORTED, "a GGUF of %s has no rotation in every %dth layer; this model's layer %d differs", a, c->family->unrotated_step, l);
  return put_scaling(c, a, w);
}

tl_status tl_model_gguf_ids(const tl_model *m, int tokenizer_eos, tl_gguf_writer *w) {
  static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
  const tl_config *c = &m->cfg;
  int order[8], n = 0;
  for (int i = 0; i < c->n_eos; i++)
    if (c->eos[i] == tokenizer_eos)
      order[n++] = c->eos[i];
  for (int i = 0; i < c->n_eos; i++)
    if (c->eos[i] != tokenizer_eos)
      order[n++] = c->eos[i];
  if (n > 3)
    return tl_fail(TL_E_UNSUPPORTED, "%s: %d tokens end this model's texts; a GGUF file can name three", m->path, n);
  for (int i = 0; i < n; i++)
    tl_gguf_put_u32(w, ends[i], (uint32_t)order[i]);
  if (c->bos >= 0)
    tl_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)c->bos);
  if (c->pad >= 0)
    tl_gguf_put_u32(w, "tokenizer.ggml.padding_token_id", (uint32_t)c->pad);
  return TL_OK;
}

// ---------------------------------------------------------------- tensors

typedef struct output {
  const tl_model *m;
  const tl_part *parts;
  size_t n_parts;
  tl_part_fill fill;
  void *ctx;
  int type;
  float *values;   // a part in fp32
  float *divisors; // rope_freqs.weight, the tensor after the parts; NULL: there is none
} output;

static tl_status round_row(const output *o, const tl_part *p, const float *x, uint8_t *dst, size_t n) {
  int type = type_of(p, o->type);
  if (type == TL_GGML_F16)
    TL_TRY(tl_within_f16(p, x, n));
  tl_quant(type, x, dst, n);
  return TL_OK;
}

static tl_status write_part(void *ctx, size_t i, uint8_t *dst) {
  output *o = ctx;
  const tl_config *c = &o->m->cfg;
  if (i == o->n_parts)
    return memcpy(dst, o->divisors, (size_t)c->head_dim / 2 * sizeof(float)), TL_OK;
  const tl_part *p = &o->parts[i];
  TL_TRY(o->fill(o->ctx, p, o->values));
  int elements, bytes, heads = tl_part_permuted_heads(c, p);
  size_t rows = (size_t)p->rows, cols = p->cols ? (size_t)p->cols : 1;
  if (!p->cols && !heads)
    return round_row(o, p, o->values, dst, rows);
  tl_ggml_type_block(type_of(p, o->type), &elements, &bytes);
  size_t row_bytes = cols / (size_t)elements * (size_t)bytes;
  for (size_t r = 0; r < rows; r++)
    TL_TRY(round_row(o, p, o->values + r * cols, dst + tl_permuted_row(heads, r, rows) * row_bytes, cols));
  return TL_OK;
}

// Llama 3's scaling as llama.cpp wants it: by how much each frequency is divided
static tl_status rope_divisors(output *o) {
  const tl_config *c = &o->m->cfg;
  if (c->rope_type != TL_ROPE_LLAMA3 && c->rope_type != TL_ROPE_TENSOR)
    return TL_OK;
  int half = c->head_dim / 2;
  o->divisors = malloc((size_t)half * sizeof(float));
  if (!o->divisors)
    return tl_fail(TL_E_MEMORY, "out of memory: rope divisors");
  tl_config plain = *c;
  plain.rope_type = TL_ROPE_DEFAULT;
  for (int i = 0; i < half; i++)
    o->divisors[i] = c->rope_divisors ? c->rope_divisors[i] : tl_rope_frequency(&plain, i) / tl_rope_frequency(c, i);
  return TL_OK;
}

static tl_status write_parts(output *o, tl_gguf_writer *w, const char *path) {
  size_t largest = 0;
  for (size_t i = 0; i < o->n_parts; i++) {
    const tl_part *p = &o->parts[i];
    char name[128];
    tl_part_gguf_name(name, sizeof name, p);
    tl_gguf_put_tensor(w, name, type_of(p, o->type), p->rows, p->cols);
    if (tl_part_size(p) > largest)
      largest = tl_part_size(p);
  }
  if (o->divisors)
    tl_gguf_put_tensor(w, "rope_freqs.weight", TL_GGML_F32, o->m->cfg.head_dim / 2, 0);
  o->values = tl_aligned_alloc(largest * sizeof(float));
  tl_status st = o->values ? tl_gguf_write(w, path, write_part, o)
                           : tl_fail(TL_E_MEMORY, "%s: out of memory: a tensor of %zu elements in fp32", path, largest);
  free(o->values);
  return st;
}

tl_status tl_model_gguf_write(const tl_model *m, tl_part_fill fill, void *ctx, const char *path, int type, tl_gguf_writer *w) {
  tl_part *parts;
  int n;
  TL_TRY(tl_parts_list(&m->cfg, &parts, &n));
  output o = {.m = m, .parts = parts, .n_parts = (size_t)n, .fill = fill, .ctx = ctx, .type = type};
  tl_status st = rope_divisors(&o);
  if (st == TL_OK)
    st = write_parts(&o, w, path);
  free(o.divisors);
  free(parts);
  return st;
}
