// config_gguf.c: the metadata of a GGUF file -> tl_config. Keys are "<architecture>.<name>"; the vocabulary's size is the
// embedding's. A head is tied when output.weight is absent. Scaling of rotations is understood as llama.cpp does: without a
// type a factor means linear; YaRN's attention factor is 0.1 ln(factor) + 1, times attn_factor when that is there.
#include "load.h"
#include <limits.h>

enum { REQUIRED = INT_MIN };

static tl_status get_int(const tl_gguf *g, const char *arch, const char *name, int lo, int hi, int fallback, int *out) {
  char key[128];
  int64_t v;
  snprintf(key, sizeof key, "%s%s%s", arch, *arch ? "." : "", name);
  if (!tl_gguf_find(g, key)) {
    if (fallback == REQUIRED) return tl_fail(TL_E_FORMAT, "%s: key %s is missing", g->map.path, key);
    return *out = fallback, TL_OK;
  }
  if (!tl_gguf_int(g, key, &v)) return tl_fail(TL_E_FORMAT, "%s: key %s is not a whole number", g->map.path, key);
  if (v < lo || v > hi)
    return tl_fail(TL_E_FORMAT, "%s: key %s is %lld, expected %d to %d", g->map.path, key, (long long)v, lo, hi);
  *out = (int)v;
  return TL_OK;
}

// a positive number; fallback 0: required
static tl_status get_float(const tl_gguf *g, const char *arch, const char *name, float fallback, float *out) {
  char key[128];
  double v;
  snprintf(key, sizeof key, "%s.%s", arch, name);
  if (!tl_gguf_find(g, key) && fallback == 0) return tl_fail(TL_E_FORMAT, "%s: key %s is missing", g->map.path, key);
  if (!tl_gguf_find(g, key)) return *out = fallback, TL_OK;
  if (!tl_gguf_number(g, key, &v) || !((float)v > 0) || !(v < 1e30))
    return tl_fail(TL_E_FORMAT, "%s: key %s is not a positive number", g->map.path, key);
  *out = (float)v;
  return TL_OK;
}

static tl_status find_family(const tl_gguf *g, tl_config *c) {
  char known[128], name[64];
  tl_gguf_text arch;
  tl_family_list(known, sizeof known, true);
  if (!tl_gguf_string(g, "general.architecture", &arch))
    return tl_fail(TL_E_FORMAT, "%s: key general.architecture is missing", g->map.path);
  snprintf(name, sizeof name, "%.*s", arch.n < 60 ? (int)arch.n : 60, arch.p);
  c->family = tl_family_of_gguf(name);
  return c->family ? TL_OK : tl_fail(TL_E_UNSUPPORTED, "%s: unknown architecture %s; known: %s", g->map.path, name, known);
}

static tl_status read_sizes(const tl_gguf *g, const char *a, tl_config *c) {
  int value_dim, rotated;
  TL_TRY(get_int(g, a, "block_count", 1, 4096, REQUIRED, &c->n_layers));
  TL_TRY(get_int(g, a, "embedding_length", 1, 1 << 17, REQUIRED, &c->width));
  TL_TRY(get_int(g, a, "attention.head_count", 1, 1 << 12, REQUIRED, &c->n_heads));
  TL_TRY(get_int(g, a, "attention.head_count_kv", 1, 1 << 12, c->n_heads, &c->n_kv_heads));
  TL_TRY(get_int(g, a, "attention.key_length", 2, 1 << 12, c->width / c->n_heads, &c->head_dim));
  TL_TRY(get_int(g, a, "feed_forward_length", 1, 1 << 20, REQUIRED, &c->ffn));
  TL_TRY(get_int(g, a, "context_length", 1, 1 << 28, c->family->max_positions, &c->max_positions));
  TL_TRY(get_int(g, a, "attention.value_length", 1, INT_MAX, c->head_dim, &value_dim));
  TL_TRY(get_int(g, a, "rope.dimension_count", 1, INT_MAX, c->head_dim, &rotated));
  if (value_dim != c->head_dim || rotated != c->head_dim)
    return tl_fail(TL_E_UNSUPPORTED, "%s: heads of %d with values of %d and %d rotated dimensions; all three must be equal",
                   g->map.path, c->head_dim, value_dim, rotated);
  const tl_gguf_tensor *e = tl_gguf_tensor_find(g, "token_embd.weight");
  if (!e) return tl_fail(TL_E_FORMAT, "%s: tensor token_embd.weight is missing", g->map.path);
  c->vocab = (int)e->dims[1];
  return TL_OK;
}

static tl_status read_yarn(const tl_gguf *g, const char *a, tl_config *c) {
  float extrapolate, times;
  c->rope_type = TL_ROPE_YARN;
  c->rope_whole = true;
  TL_TRY(get_float(g, a, "rope.scaling.factor", 0, &c->rope_factor));
  TL_TRY(get_int(g, a, "rope.scaling.original_context_length", 1, 1 << 28, c->max_positions, &c->rope_original));
  TL_TRY(get_float(g, a, "rope.scaling.yarn_beta_fast", 32, &c->rope_fast));
  TL_TRY(get_float(g, a, "rope.scaling.yarn_beta_slow", 1, &c->rope_slow));
  TL_TRY(get_float(g, a, "rope.scaling.yarn_ext_factor", 1, &extrapolate));
  TL_TRY(get_float(g, a, "rope.scaling.attn_factor", 1, &times));
  c->rope_attention = tl_yarn_attention(c->rope_factor, 1) * times;
  return extrapolate == 1 ? TL_OK
                          : tl_fail(TL_E_UNSUPPORTED, "%s: key %s.rope.scaling.yarn_ext_factor %g is not supported; known: 1",
                                    g->map.path, a, extrapolate);
}

static tl_status read_scaling(const tl_gguf *g, const char *a, tl_config *c) {
  char key[64], name[48] = "linear";
  tl_gguf_text type;
  snprintf(key, sizeof key, "%s.rope.scaling.type", a);
  if (tl_gguf_string(g, key, &type)) snprintf(name, sizeof name, "%.*s", type.n < 40 ? (int)type.n : 40, type.p);
  if (strcmp(name, "none") == 0) return TL_OK;
  if (strcmp(name, "yarn") == 0) return read_yarn(g, a, c);
  if (strcmp(name, "linear") != 0)
    return tl_fail(TL_E_UNSUPPORTED, "%s: rope scaling %s is not supported; known: none, linear, yarn, rope_freqs.weight",
                   g->map.path, name);
  TL_TRY(get_float(g, a, "rope.scale_linear", 1, &c->rope_factor));
  TL_TRY(get_float(g, a, "rope.scaling.factor", c->rope_factor, &c->rope_factor));
  if (c->rope_factor != 1) c->rope_type = TL_ROPE_LINEAR;
  return TL_OK;
}

static tl_status read_rope(const tl_gguf *g, const char *a, tl_config *c) {
  TL_TRY(get_float(g, a, "rope.freq_base", 10000, &c->rope_theta));
  TL_TRY(read_scaling(g, a, c));
  const tl_gguf_tensor *t = tl_gguf_tensor_find(g, "rope_freqs.weight");
  if (!t) return TL_OK;
  if (t->type != TL_GGML_F32 || t->n != c->head_dim / 2)
    return tl_fail(TL_E_SHAPE, "%s: rope_freqs.weight is %s with %lld elements, expected F32 with %d", g->map.path,
                   tl_ggml_type_name(t->type), (long long)t->n, c->head_dim / 2);
  if (c->rope_type != TL_ROPE_DEFAULT)
    return tl_fail(TL_E_UNSUPPORTED, "%s: rope_freqs.weight beside a rope scaling is not supported", g->map.path);
  c->rope_type = TL_ROPE_TENSOR;
  c->rope_divisors = malloc(t->bytes);
  if (!c->rope_divisors) return tl_fail(TL_E_MEMORY, "%s: out of memory", g->map.path);
  memcpy(c->rope_divisors, t->data, t->bytes);
  for (int i = 0; i < c->head_dim / 2; i++)
    if (!(c->rope_divisors[i] > 0)) return tl_fail(TL_E_FORMAT, "%s: rope_freqs.weight[%d] is not positive", g->map.path, i);
  return TL_OK;
}

// Every layer slides, or those that sliding_window_pattern, an array of flags, marks. Architecture llama with a window is
// Hugging Face's mistral.
static tl_status read_windows(const tl_gguf *g, const char *a, tl_config *c) {
  char key[64];
  TL_TRY(get_int(g, a, "attention.sliding_window", 0, 1 << 28, 0, &c->window));
  if (!c->window) return TL_OK;
  if (c->family->unrotated_step) return tl_fail(TL_E_UNSUPPORTED, "%s: sliding windows are not supported for %s", g->map.path, a);
  if (c->family->window == TL_WINDOW_NONE) c->family = tl_family_find("mistral");
  c->slides = malloc((size_t)c->n_layers);
  if (!c->slides) return tl_fail(TL_E_MEMORY, "%s: out of memory", g->map.path);
  memset(c->slides, 1, (size_t)c->n_layers);
  snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", a);
  const tl_gguf_kv *p = tl_gguf_find(g, key);
  if (!p) return TL_OK;
  if (p->type != TL_GGUF_ARRAY || p->item_type != TL_GGUF_BOOL || p->n != (uint64_t)c->n_layers)
    return tl_fail(TL_E_UNSUPPORTED, "%s: key %s is not an array of %d booleans", g->map.path, key, c->n_layers);
  for (int l = 0; l < c->n_layers; l++) c->slides[l] = p->data[l] != 0;
  return TL_OK;
}

static tl_status read_special(const tl_gguf *g, tl_config *c) {
  static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                     "tokenizer.ggml.eom_token_id"};
  TL_TRY(get_int(g, "", "tokenizer.ggml.bos_token_id", 0, INT_MAX, -1, &c->bos));
  TL_TRY(get_int(g, "", "tokenizer.ggml.padding_token_id", 0, INT_MAX, -1, &c->pad));
  for (int i = 0; i < 3; i++) {
    int id, known = 0;
    TL_TRY(get_int(g, "", ends[i], 0, INT_MAX, -1, &id));
    for (int j = 0; j < c->n_eos; j++) known |= c->eos[j] == id;
    if (id >= 0 && !known) c->eos[c->n_eos++] = id;
  }
  return TL_OK;
}

tl_status tl_config_from_gguf(const tl_gguf *g, tl_config *c) {
  int n;
  *c = (tl_config){0};
  TL_TRY(find_family(g, c));
  const char *a = c->family->gguf_arch;
  TL_TRY(get_int(g, "", "split.count", 0, INT_MAX, 0, &n));
  if (n > 1) return tl_fail(TL_E_UNSUPPORTED, "%s: one of %d pieces of a split GGUF; join them first", g->map.path, n);
  TL_TRY(read_sizes(g, a, c));
  TL_TRY(get_float(g, a, "attention.layer_norm_rms_epsilon", 0, &c->norm_eps));
  TL_TRY(read_rope(g, a, c));
  if (c->family->unrotated_step) TL_TRY(tl_config_unrotated(g->map.path, c, c->family->unrotated_step));  // llama.cpp knows no other
  TL_TRY(get_int(g, a, "expert_count", 0, INT_MAX, 0, &n));
  if (n > 0) return tl_fail(TL_E_UNSUPPORTED, "%s: a mixture of %d experts is not supported", g->map.path, n);
  char key[64];
  bool causal = true;
  snprintf(key, sizeof key, "%s.attention.causal", a);
  tl_gguf_bool(g, key, &causal);
  if (!causal) return tl_fail(TL_E_UNSUPPORTED, "%s: key %s false is not supported", g->map.path, key);
  TL_TRY(read_windows(g, a, c));
  c->tied = tl_gguf_tensor_find(g, "output.weight") == NULL;
  c->attention_bias = c->family->bias_key && tl_gguf_tensor_find(g, "blk.0.attn_q.bias") != NULL;
  TL_TRY(read_special(g, c));
  return tl_config_check(g->map.path, c);
}
