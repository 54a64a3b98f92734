// config.c: config.json of a Hugging Face directory -> tl_config, with the defaults of transformers for what it does not say;
// rotation and windows are in config_attention.c. Keys that do not change the result are not read; what would change it and is
// not handled is refused by name.
#include "load.h"
#include <cjson/cJSON.h>
#include <limits.h>
#include <math.h>

tl_status tl_json_read(const char *path, cJSON **out) {
  char *text;
  size_t n;
  TL_TRY(tl_read_file(path, &text, &n));
  tl_status s = tl_json_parse(path, text, n, out);
  free(text);
  return s;
}

// The shortest decimal that reads back as the same float, written so that a reader takes it for a float.
void tl_json_add_float(cJSON *o, const char *key, float v) {
  char text[64];
  for (int digits = 1; digits <= 9; digits++) {
    snprintf(text, sizeof text, "%.*g", digits, (double)v);
    if (strtof(text, NULL) == v) break;
  }
  if (fabsf(v) < 1e9f && floorf(v) == v) snprintf(text, sizeof text, "%.1f", (double)v);
  cJSON_AddRawToObject(o, key, text);
}

const cJSON *tl_json_get(const cJSON *o, const char *key) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
  return cJSON_IsNull(v) ? NULL : v;
}

tl_status tl_json_int(const char *path, const cJSON *o, const char *key, int lo, int hi, int fallback, int *out) {
  const cJSON *v = tl_json_get(o, key);
  if (!v && fallback == TL_JSON_REQUIRED) return tl_fail(TL_E_FORMAT, "%s: %s is missing", path, key);
  if (!v) return *out = fallback, TL_OK;
  if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble))
    return tl_fail(TL_E_FORMAT, "%s: %s is not a whole number", path, key);
  if (v->valuedouble < lo || v->valuedouble > hi)
    return tl_fail(TL_E_FORMAT, "%s: %s is %.15g, expected %d to %d", path, key, v->valuedouble, lo, hi);
  *out = (int)v->valuedouble;
  return TL_OK;
}

tl_status tl_json_float(const char *path, const cJSON *o, const char *key, float fallback, float *out) {
  const cJSON *v = tl_json_get(o, key);
  if (!v && fallback == 0) return tl_fail(TL_E_FORMAT, "%s: %s is missing", path, key);
  if (!v) return *out = fallback, TL_OK;
  if (!cJSON_IsNumber(v) || !((float)v->valuedouble > 0) || !(v->valuedouble < 1e30))
    return tl_fail(TL_E_FORMAT, "%s: %s is not a positive number", path, key);
  *out = (float)v->valuedouble;
  return TL_OK;
}

tl_status tl_json_bool(const char *path, const cJSON *o, const char *key, bool fallback, bool *out) {
  const cJSON *v = tl_json_get(o, key);
  if (v && !cJSON_IsBool(v)) return tl_fail(TL_E_FORMAT, "%s: %s is not true or false", path, key);
  *out = v ? cJSON_IsTrue(v) : fallback;
  return TL_OK;
}

static tl_status find_family(const char *path, const cJSON *j, tl_config *c) {
  char known[128];
  tl_family_list(known, sizeof known, false);
  const cJSON *type = tl_json_get(j, "model_type"), *classes = tl_json_get(j, "architectures");
  const cJSON *cls = cJSON_GetArrayItem(classes, 0);
  if (!cJSON_IsString(type)) return tl_fail(TL_E_FORMAT, "%s: model_type is missing; known: %s", path, known);
  c->family = tl_family_find(type->valuestring);
  if (!c->family)
    return tl_fail(TL_E_UNSUPPORTED, "%s: unknown architecture %.60s (model_type); known: %s", path, type->valuestring, known);
  if (classes && (!cJSON_IsArray(classes) || (cls && !cJSON_IsString(cls))))
    return tl_fail(TL_E_FORMAT, "%s: architectures is not a list of names", path);
  if (cls && strcmp(cls->valuestring, c->family->hf_class) != 0)
    return tl_fail(TL_E_UNSUPPORTED, "%s: architectures names %.60s, expected %s", path, cls->valuestring, c->family->hf_class);
  return TL_OK;
}

static tl_status read_sizes(const char *path, const cJSON *j, tl_config *c) {
  TL_TRY(tl_json_int(path, j, "num_hidden_layers", 1, 4096, TL_JSON_REQUIRED, &c->n_layers));
  TL_TRY(tl_json_int(path, j, "hidden_size", 1, 1 << 17, TL_JSON_REQUIRED, &c->width));
  TL_TRY(tl_json_int(path, j, "num_attention_heads", 1, 1 << 12, TL_JSON_REQUIRED, &c->n_heads));
  const tl_family *f = c->family;  // num_key_value_heads null means as many as heads, absent means the family's default
  bool said = cJSON_GetObjectItemCaseSensitive(j, "num_key_value_heads") != NULL;
  TL_TRY(tl_json_int(path, j, "num_key_value_heads", 1, 1 << 12, said || !f->kv_heads ? c->n_heads : f->kv_heads,
                     &c->n_kv_heads));
  TL_TRY(tl_json_int(path, j, "head_dim", 2, 1 << 12, f->head_dim ? f->head_dim : c->width / c->n_heads, &c->head_dim));
  TL_TRY(tl_json_int(path, j, "intermediate_size", 1, 1 << 20, TL_JSON_REQUIRED, &c->ffn));
  TL_TRY(tl_json_int(path, j, "vocab_size", 1, 1 << 24, TL_JSON_REQUIRED, &c->vocab));
  return tl_json_int(path, j, "max_position_embeddings", 1, 1 << 28, c->family->max_positions, &c->max_positions);
}

// what changes a model's output and is not handled
static tl_status refuse(const char *path, const cJSON *j) {
  bool flag;
  const cJSON *act = tl_json_get(j, "hidden_act");
  if (act && !cJSON_IsString(act)) return tl_fail(TL_E_FORMAT, "%s: hidden_act is not text", path);
  if (act && strcmp(act->valuestring, "silu") != 0 && strcmp(act->valuestring, "swish") != 0)
    return tl_fail(TL_E_UNSUPPORTED, "%s: hidden_act %.40s is not supported; known: silu", path, act->valuestring);
  TL_TRY(tl_json_bool(path, j, "mlp_bias", false, &flag));
  if (flag) return tl_fail(TL_E_UNSUPPORTED, "%s: mlp_bias true is not supported", path);
  TL_TRY(tl_json_bool(path, j, "is_causal", true, &flag));
  if (!flag) return tl_fail(TL_E_UNSUPPORTED, "%s: is_causal false is not supported", path);
  if (tl_json_get(j, "quantization_config")) {
    const cJSON *q = tl_json_get(tl_json_get(j, "quantization_config"), "quant_method");
    return tl_fail(TL_E_UNSUPPORTED,
                   "%s: weights quantised by %.40s are not supported; use safetensors in F32, F16 or BF16, or a GGUF", path,
                   cJSON_IsString(q) ? q->valuestring : "an unnamed method");
  }
  return TL_OK;
}

// Qwen2's biases are where they are whatever the key says
static tl_status read_bias(const char *path, const cJSON *j, tl_config *c) {
  TL_TRY(tl_json_bool(path, j, "attention_bias", false, &c->attention_bias));
  if (c->family->qkv_bias) c->attention_bias = false;
  if (c->attention_bias && !c->family->bias_key)
    return tl_fail(TL_E_UNSUPPORTED, "%s: attention_bias true is not supported for %s", path, c->family->name);
  return TL_OK;
}

static tl_status read_eos(const char *path, const cJSON *j, bool null_means_none, tl_config *c) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, "eos_token_id"), *item;
  if (!v) return TL_OK;
  if (cJSON_IsNull(v)) return c->n_eos = null_means_none ? 0 : c->n_eos, TL_OK;
  int n = cJSON_IsArray(v) ? cJSON_GetArraySize(v) : 1;
  if (n > 8) return tl_fail(TL_E_UNSUPPORTED, "%s: eos_token_id lists %d tokens, at most 8 are read", path, n);
  c->n_eos = 0;
  for (int i = 0; i < n; i++) {
    item = cJSON_IsArray(v) ? cJSON_GetArrayItem(v, i) : v;
    if (!cJSON_IsNumber(item) || item->valuedouble < 0 || item->valuedouble > INT_MAX)
      return tl_fail(TL_E_FORMAT, "%s: eos_token_id is not a token id or a list of them", path);
    c->eos[c->n_eos++] = (int)item->valuedouble;
  }
  return TL_OK;
}

// null_means_none: in config.json; in generation_config.json null leaves what config.json says
static tl_status read_special(const char *path, const cJSON *j, bool null_means_none, tl_config *c) {
  bool none = null_means_none && cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(j, "bos_token_id"));
  TL_TRY(tl_json_int(path, j, "bos_token_id", -1, INT_MAX, none ? -1 : c->bos, &c->bos));
  TL_TRY(tl_json_int(path, j, "pad_token_id", -1, INT_MAX, c->pad, &c->pad));
  return read_eos(path, j, null_means_none, c);
}

static tl_status read_config(const char *path, const cJSON *j, tl_config *c, float *init_std) {
  TL_TRY(find_family(path, j, c));
  TL_TRY(read_sizes(path, j, c));
  TL_TRY(tl_json_float(path, j, "rms_norm_eps", 1e-6f, &c->norm_eps));
  TL_TRY(tl_config_rope(path, j, c));
  TL_TRY(refuse(path, j));
  TL_TRY(tl_config_windows(path, j, c));
  TL_TRY(tl_json_bool(path, j, "tie_word_embeddings", c->family->tied, &c->tied));
  TL_TRY(read_bias(path, j, c));
  if (init_std) TL_TRY(tl_json_float(path, j, "initializer_range", 0.02f, init_std));
  c->bos = c->family->bos;
  c->pad = -1;
  if (c->family->eos >= 0) c->eos[c->n_eos++] = c->family->eos;
  TL_TRY(read_special(path, j, true, c));
  return tl_config_check(path, c);
}

tl_status tl_config_read(const char *path, const char *gen_path, tl_config *c, float *init_std) {
  *c = (tl_config){0};
  cJSON *j;
  TL_TRY(tl_json_read(path, &j));
  tl_status s = read_config(path, j, c, init_std);
  cJSON_Delete(j);
  if (s != TL_OK || !gen_path || !tl_file_exists(gen_path)) return s;
  TL_TRY(tl_json_read(gen_path, &j));
  s = read_special(gen_path, j, false, c);
  cJSON_Delete(j);
  return s;
}

tl_status tl_config_check(const char *path, const tl_config *c) {
  if (c->n_heads % c->n_kv_heads)
    return tl_fail(TL_E_SHAPE, "%s: %d attention heads are not a multiple of %d key/value heads", path, c->n_heads,
                   c->n_kv_heads);
  if (c->head_dim < 2 || c->head_dim % 2)
    return tl_fail(TL_E_SHAPE, "%s: head_dim is %d, expected an even number", path, c->head_dim);
  if ((int64_t)c->n_heads * c->head_dim > 1 << 20)
    return tl_fail(TL_E_SHAPE, "%s: %d heads of %d are too large", path, c->n_heads, c->head_dim);
  return TL_OK;
}

tl_status tl_config_unrotated(const char *path, tl_config *c, int step) {
  c->unrotated = calloc((size_t)c->n_layers, 1);
  if (!c->unrotated) return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  for (int l = 0; l < c->n_layers; l++) c->unrotated[l] = (l + 1) % step == 0;
  return TL_OK;
}

static void *copied(const void *from, size_t bytes) {
  void *p = from ? malloc(bytes) : NULL;
  return p ? memcpy(p, from, bytes) : NULL;
}

tl_status tl_config_own(tl_config *c) {
  const tl_config from = *c;
  c->rope_divisors = copied(from.rope_divisors, (size_t)c->head_dim / 2 * sizeof(float));
  c->slides = copied(from.slides, (size_t)c->n_layers);
  c->unrotated = copied(from.unrotated, (size_t)c->n_layers);
  bool ok = !c->rope_divisors == !from.rope_divisors && !c->slides == !from.slides && !c->unrotated == !from.unrotated;
  return ok ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory: a configuration");
}

void tl_config_free(tl_config *c) {
  free(c->rope_divisors);
  free(c->slides);
  free(c->unrotated);
  *c = (tl_config){0};
}
