// config.c: config.json of a Hugging Face directory -> tl_config. The key styles of transformers 4 (rope_theta, rope_scaling)
// and of transformers 5 (rope_parameters) are both read. What would change the result and is not handled is refused by name.
#include "load.h"
#include <cjson/cJSON.h>
#include <limits.h>
#include <math.h>

enum { REQUIRED = INT_MIN };

tl_status tl_json_read(const char *path, cJSON **out) {
  char *text;
  size_t n;
  TL_TRY(tl_read_file(path, &text, &n));
  *out = cJSON_ParseWithLength(text, n);
  const char *end = *out ? NULL : cJSON_GetErrorPtr();
  tl_status s = TL_OK;
  if (!*out)
    s = tl_fail(TL_E_FORMAT, "%s: not JSON (wrong at byte %zu of %zu)", path, end ? (size_t)(end - text) : 0, n);
  else if (!cJSON_IsObject(*out))
    s = tl_fail(TL_E_FORMAT, "%s: not a JSON object", path);
  free(text);
  if (s != TL_OK) {
    cJSON_Delete(*out);
    *out = NULL;
  }
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

// an absent key and null are the same
static const cJSON *get(const cJSON *o, const char *key) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
  return cJSON_IsNull(v) ? NULL : v;
}

static tl_status get_int(const char *path, const cJSON *o, const char *key, int lo, int hi, int fallback, int *out) {
  const cJSON *v = get(o, key);
  if (!v && fallback == REQUIRED) return tl_fail(TL_E_FORMAT, "%s: %s is missing", path, key);
  if (!v) return *out = fallback, TL_OK;
  if (!cJSON_IsNumber(v) || v->valuedouble != floor(v->valuedouble))
    return tl_fail(TL_E_FORMAT, "%s: %s is not a whole number", path, key);
  if (v->valuedouble < lo || v->valuedouble > hi)
    return tl_fail(TL_E_FORMAT, "%s: %s is %.15g, expected %d to %d", path, key, v->valuedouble, lo, hi);
  *out = (int)v->valuedouble;
  return TL_OK;
}

// a positive number; fallback 0: required
static tl_status get_float(const char *path, const cJSON *o, const char *key, float fallback, float *out) {
  const cJSON *v = get(o, key);
  if (!v && fallback == 0) return tl_fail(TL_E_FORMAT, "%s: %s is missing", path, key);
  if (!v) return *out = fallback, TL_OK;
  if (!cJSON_IsNumber(v) || !(v->valuedouble > 0) || !(v->valuedouble < 1e30))
    return tl_fail(TL_E_FORMAT, "%s: %s is not a positive number", path, key);
  *out = (float)v->valuedouble;
  return TL_OK;
}

static tl_status get_bool(const char *path, const cJSON *o, const char *key, bool fallback, bool *out) {
  const cJSON *v = get(o, key);
  if (v && !cJSON_IsBool(v)) return tl_fail(TL_E_FORMAT, "%s: %s is not true or false", path, key);
  *out = v ? cJSON_IsTrue(v) : fallback;
  return TL_OK;
}

static tl_status find_family(const char *path, const cJSON *j, tl_config *c) {
  char known[128];
  tl_family_list(known, sizeof known);
  const cJSON *type = get(j, "model_type"), *cls = cJSON_GetArrayItem(get(j, "architectures"), 0);
  if (!cJSON_IsString(type)) return tl_fail(TL_E_FORMAT, "%s: model_type is missing; known: %s", path, known);
  c->family = tl_family_find(type->valuestring);
  if (!c->family)
    return tl_fail(TL_E_UNSUPPORTED, "%s: unknown architecture %.60s (model_type); known: %s", path, type->valuestring, known);
  if (cJSON_IsString(cls) && strcmp(cls->valuestring, c->family->hf_class) != 0)
    return tl_fail(TL_E_UNSUPPORTED, "%s: architectures names %.60s, expected %s", path, cls->valuestring, c->family->hf_class);
  return TL_OK;
}

static tl_status read_sizes(const char *path, const cJSON *j, tl_config *c) {
  TL_TRY(get_int(path, j, "num_hidden_layers", 1, 4096, REQUIRED, &c->n_layers));
  TL_TRY(get_int(path, j, "hidden_size", 1, 1 << 17, REQUIRED, &c->width));
  TL_TRY(get_int(path, j, "num_attention_heads", 1, 1 << 12, REQUIRED, &c->n_heads));
  TL_TRY(get_int(path, j, "num_key_value_heads", 1, 1 << 12, c->n_heads, &c->n_kv_heads));
  TL_TRY(get_int(path, j, "head_dim", 2, 1 << 12, c->width / c->n_heads, &c->head_dim));
  TL_TRY(get_int(path, j, "intermediate_size", 1, 1 << 20, REQUIRED, &c->ffn));
  TL_TRY(get_int(path, j, "vocab_size", 1, 1 << 24, REQUIRED, &c->vocab));
  return get_int(path, j, "max_position_embeddings", 1, 1 << 28, c->family->max_positions, &c->max_positions);
}

static tl_status read_rope(const char *path, const cJSON *j, tl_config *c) {
  const cJSON *v5 = get(j, "rope_parameters"), *o = v5 ? v5 : get(j, "rope_scaling");
  TL_TRY(get_float(path, get(v5, "rope_theta") ? v5 : j, "rope_theta", 10000, &c->rope_theta));
  const cJSON *type = get(o, "rope_type") ? get(o, "rope_type") : get(o, "type");
  const char *name = cJSON_IsString(type) ? type->valuestring : "default";
  if (o && (!cJSON_IsObject(o) || (!type && get(o, "factor"))))
    return tl_fail(TL_E_FORMAT, "%s: %s has no rope_type", path, v5 ? "rope_parameters" : "rope_scaling");
  if (strcmp(name, "default") == 0) return TL_OK;
  if (strcmp(name, "linear") == 0) {
    c->rope_type = TL_ROPE_LINEAR;
    return get_float(path, o, "factor", 0, &c->rope_factor);
  }
  if (strcmp(name, "llama3") != 0)
    return tl_fail(TL_E_UNSUPPORTED, "%s: rope scaling %.40s is not supported; known: default, linear, llama3", path, name);
  c->rope_type = TL_ROPE_LLAMA3;
  TL_TRY(get_float(path, o, "factor", 0, &c->rope_factor));
  TL_TRY(get_float(path, o, "low_freq_factor", 0, &c->rope_low));
  TL_TRY(get_float(path, o, "high_freq_factor", 0, &c->rope_high));
  TL_TRY(get_int(path, o, "original_max_position_embeddings", 1, 1 << 28, c->max_positions, &c->rope_original));
  if (c->rope_high <= c->rope_low)
    return tl_fail(TL_E_FORMAT, "%s: high_freq_factor %g is not above low_freq_factor %g", path, c->rope_high, c->rope_low);
  return TL_OK;
}

// what changes a model's output and is not handled
static tl_status refuse(const char *path, const cJSON *j) {
  bool flag;
  float factor;
  const cJSON *act = get(j, "hidden_act");
  if (cJSON_IsString(act) && strcmp(act->valuestring, "silu") != 0 && strcmp(act->valuestring, "swish") != 0)
    return tl_fail(TL_E_UNSUPPORTED, "%s: hidden_act %.40s is not supported; known: silu", path, act->valuestring);
  TL_TRY(get_bool(path, j, "mlp_bias", false, &flag));
  if (flag) return tl_fail(TL_E_UNSUPPORTED, "%s: mlp_bias true is not supported", path);
  TL_TRY(get_bool(path, j, "use_sliding_window", false, &flag));
  if (flag) return tl_fail(TL_E_UNSUPPORTED, "%s: use_sliding_window true is not supported", path);
  TL_TRY(get_float(path, j, "partial_rotary_factor", 1, &factor));
  if (factor != 1) return tl_fail(TL_E_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported", path, factor);
  if (get(j, "quantization_config")) {
    const cJSON *q = get(get(j, "quantization_config"), "quant_method");
    return tl_fail(TL_E_UNSUPPORTED,
                   "%s: weights quantised by %.40s are not supported; use safetensors in F32, F16 or BF16, or a GGUF", path,
                   cJSON_IsString(q) ? q->valuestring : "an unnamed method");
  }
  return TL_OK;
}

static tl_status read_eos(const char *path, const cJSON *j, tl_config *c) {
  const cJSON *v = get(j, "eos_token_id"), *item;
  if (!v) return TL_OK;
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

static tl_status read_special(const char *path, const cJSON *j, tl_config *c) {
  TL_TRY(get_int(path, j, "bos_token_id", -1, INT_MAX, c->bos, &c->bos));
  TL_TRY(get_int(path, j, "pad_token_id", -1, INT_MAX, c->pad, &c->pad));
  return read_eos(path, j, c);
}

static tl_status read_config(const char *path, const cJSON *j, tl_config *c, float *init_std) {
  TL_TRY(find_family(path, j, c));
  TL_TRY(read_sizes(path, j, c));
  TL_TRY(get_float(path, j, "rms_norm_eps", 1e-6f, &c->norm_eps));
  TL_TRY(read_rope(path, j, c));
  TL_TRY(refuse(path, j));
  TL_TRY(get_bool(path, j, "tie_word_embeddings", false, &c->tied));
  if (!c->family->qkv_bias) TL_TRY(get_bool(path, j, "attention_bias", false, &c->attention_bias));
  if (init_std) TL_TRY(get_float(path, j, "initializer_range", 0.02f, init_std));
  c->bos = c->family->bos;
  c->pad = -1;
  if (c->family->eos >= 0) c->eos[c->n_eos++] = c->family->eos;
  TL_TRY(read_special(path, j, c));
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
  s = read_special(gen_path, j, c);
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

void tl_config_free(tl_config *c) {
  free(c->rope_divisors);
  *c = (tl_config){0};
}
