// save.c: writes a Hugging Face directory: config.json in the key style of transformers 4 (which transformers 5 reads too),
// model.safetensors, generation_config.json, and copies of the tokenizer's files of the source's folder. Each file is replaced as a whole or
// not at all; the weights come first, so that a full disk leaves the earlier model complete.
//
// Memory: one part in fp32 and in the file's dtype.
#include "load.h"
#include <cjson/cJSON.h>
#include <math.h>

static void add_id(cJSON *o, const char *key, int id) {
  if (id >= 0)
    cJSON_AddNumberToObject(o, key, id);
  else
    cJSON_AddNullToObject(o, key);
}

// A GGUF gives Llama 3's scaling as a tensor of divisors. The parameters behind it are found by trying those that the released
// models use; tolerance: the divisors were computed in fp32 by other code, a few units in the last place apart.
static bool as_llama3(const tl_config *c, tl_config *out) {
  int half = c->head_dim / 2;
  *out = *c;
  out->rope_type = TL_ROPE_LLAMA3;
  out->rope_low = 1;
  out->rope_high = 4;
  out->rope_original = 8192;
  out->rope_factor = 1;
  for (int i = 0; i < half; i++) out->rope_factor = fmaxf(out->rope_factor, c->rope_divisors[i]);
  tl_config plain = *c;
  plain.rope_type = TL_ROPE_DEFAULT;
  for (int i = 0; i < half; i++)
    if (fabsf(tl_rope_frequency(&plain, i) / tl_rope_frequency(out, i) / c->rope_divisors[i] - 1) > 1e-4f) return false;
  return true;
}

static void add_yarn(cJSON *s, const tl_config *c) {
  tl_json_add_float(s, "attention_factor", c->rope_attention);
  tl_json_add_float(s, "beta_fast", c->rope_fast);
  tl_json_add_float(s, "beta_slow", c->rope_slow);
  cJSON_AddNumberToObject(s, "original_max_position_embeddings", c->rope_original);
  cJSON_AddBoolToObject(s, "truncate", c->rope_whole);
  cJSON_AddStringToObject(s, "rope_type", "yarn");
}

static tl_status add_rope(cJSON *o, const tl_config *c) {
  tl_json_add_float(o, "rope_theta", c->rope_theta);
  if (c->rope_type == TL_ROPE_DEFAULT) return cJSON_AddNullToObject(o, "rope_scaling"), TL_OK;
  tl_config llama3 = *c;
  if (c->rope_type == TL_ROPE_TENSOR && !as_llama3(c, &llama3))
    return tl_fail(TL_E_UNSUPPORTED, "this model's rope_freqs tensor is not llama3 scaling: config.json cannot express it");
  cJSON *s = cJSON_AddObjectToObject(o, "rope_scaling");
  tl_json_add_float(s, "factor", llama3.rope_factor);
  if (c->rope_type == TL_ROPE_LINEAR) {
    cJSON_AddStringToObject(s, "rope_type", "linear");
    return TL_OK;
  }
  if (c->rope_type == TL_ROPE_YARN) return add_yarn(s, c), TL_OK;
  tl_json_add_float(s, "low_freq_factor", llama3.rope_low);
  tl_json_add_float(s, "high_freq_factor", llama3.rope_high);
  cJSON_AddNumberToObject(s, "original_max_position_embeddings", llama3.rope_original);
  cJSON_AddStringToObject(s, "rope_type", "llama3");
  return TL_OK;
}

// Layers that slide from one on are told by that one's number; layer_types (which transformers 4.53 and later read) tells any
// pattern, and is needed for a pattern of another form. transformers runs no Ministral without a window: one in which nothing slides
// says so by layer_types.
static void add_windows(cJSON *o, const tl_config *c) {
  tl_window_keys keys = c->family->window;
  int first = c->n_layers, n = 0;
  for (int l = c->n_layers - 1; l >= 0; l--)
    if (tl_config_window(c, l)) first = l, n++;
  if (keys == TL_WINDOW_NONE) return;
  bool always = strcmp(c->family->name, "ministral") == 0;
  if (n || always) cJSON_AddNumberToObject(o, "sliding_window", c->window ? c->window : 4096);
  else cJSON_AddNullToObject(o, "sliding_window");
  if (keys == TL_WINDOW_ASKED) {
    cJSON_AddBoolToObject(o, "use_sliding_window", n > 0);
    cJSON_AddNumberToObject(o, "max_window_layers", first);
  }
  if ((n == 0 && !always) || n == (keys == TL_WINDOW_ASKED ? c->n_layers - first : c->n_layers)) return;
  cJSON *types = cJSON_AddArrayToObject(o, "layer_types");
  for (int l = 0; l < c->n_layers; l++)
    cJSON_AddItemToArray(types, cJSON_CreateString(tl_config_window(c, l) ? "sliding_attention" : "full_attention"));
}

static void add_special(cJSON *o, const tl_config *c) {
  add_id(o, "bos_token_id", c->bos);
  if (c->n_eos > 1)
    cJSON_AddItemToObject(o, "eos_token_id", cJSON_CreateIntArray(c->eos, c->n_eos));
  else
    add_id(o, "eos_token_id", c->n_eos ? c->eos[0] : -1);
  add_id(o, "pad_token_id", c->pad);
}

static tl_status fill_config(cJSON *o, const tl_config *c, tl_dtype dtype) {
  const char *cls = c->family->hf_class;
  cJSON_AddItemToObject(o, "architectures", cJSON_CreateStringArray(&cls, 1));
  cJSON_AddStringToObject(o, "model_type", c->family->name);
  add_special(o, c);
  cJSON_AddStringToObject(o, "hidden_act", "silu");
  cJSON_AddNumberToObject(o, "hidden_size", c->width);
  cJSON_AddNumberToObject(o, "intermediate_size", c->ffn);
  cJSON_AddNumberToObject(o, "num_hidden_layers", c->n_layers);
  cJSON_AddNumberToObject(o, "num_attention_heads", c->n_heads);
  cJSON_AddNumberToObject(o, "num_key_value_heads", c->n_kv_heads);
  cJSON_AddNumberToObject(o, "head_dim", c->head_dim);
  cJSON_AddNumberToObject(o, "vocab_size", c->vocab);
  cJSON_AddNumberToObject(o, "max_position_embeddings", c->max_positions);
  tl_json_add_float(o, "rms_norm_eps", c->norm_eps);
  TL_TRY(add_rope(o, c));
  if (c->family->bias_key) cJSON_AddBoolToObject(o, "attention_bias", c->attention_bias);
  add_windows(o, c);
  cJSON *rotate = c->unrotated ? cJSON_AddArrayToObject(o, "no_rope_layers") : NULL;  // 1: rotates
  for (int l = 0; rotate && l < c->n_layers; l++) cJSON_AddItemToArray(rotate, cJSON_CreateNumber(!c->unrotated[l]));
  cJSON_AddBoolToObject(o, "tie_word_embeddings", c->tied);
  cJSON_AddStringToObject(o, "torch_dtype", dtype == TL_BF16 ? "bfloat16" : dtype == TL_F16 ? "float16" : "float32");
  cJSON_AddBoolToObject(o, "use_cache", true);
  return TL_OK;
}

static tl_status config_text(const tl_config *c, tl_dtype dtype, char **text) {
  cJSON *o = cJSON_CreateObject();
  tl_status st = fill_config(o, c, dtype);
  char *json = st == TL_OK ? cJSON_Print(o) : NULL;
  cJSON_Delete(o);
  if (st == TL_OK && !json) st = tl_fail(TL_E_MEMORY, "out of memory: config.json");
  tl_str file = {0};
  if (json) tl_str_printf(&file, "%s\n", json);
  cJSON_free(json);
  *text = file.p;
  return st;
}

typedef struct writer {
  const tl_part *parts;
  tl_part_fill fill;
  void *ctx;
  float *tmp;  // room for the largest part; NULL when the file is F32
  tl_dtype dtype;
} writer;

tl_status tl_within_f16(const tl_part *p, const float *x, size_t n) {
  char name[128];
  size_t i = 0;
  while (i < n && !(fabsf(x[i]) >= 65520)) i++;
  if (i == n) return TL_OK;
  tl_part_name(name, sizeof name, p);
  return tl_fail(TL_E_UNSUPPORTED, "%s holds %g, beyond the range of F16; use bf16 or f32", name, (double)x[i]);
}

static tl_status write_part(void *ctx, size_t i, void *dst) {
  writer *w = ctx;
  const tl_part *p = &w->parts[i];
  if (w->dtype == TL_F32) return w->fill(w->ctx, p, dst);
  TL_TRY(w->fill(w->ctx, p, w->tmp));
  if (w->dtype == TL_F16) TL_TRY(tl_within_f16(p, w->tmp, tl_part_size(p)));
  uint16_t *out = dst;
  for (size_t k = 0, n = tl_part_size(p); k < n; k++)
    out[k] = w->dtype == TL_BF16 ? tl_f32_to_bf16(w->tmp[k]) : tl_f32_to_f16(w->tmp[k]);
  return TL_OK;
}

static tl_status write_weights(const char *path, writer *w, int n) {
  enum { NAME = 128 };
  tl_st_entry *entries = calloc((size_t)n, sizeof *entries);
  char(*names)[NAME] = malloc((size_t)n * sizeof *names);
  size_t largest = 0;
  for (int i = 0; i < n && entries && names; i++) {
    const tl_part *p = &w->parts[i];
    tl_part_name(names[i], NAME, p);
    entries[i] = (tl_st_entry){.name = names[i], .dtype = w->dtype, .n_dims = p->cols ? 2 : 1, .shape = {p->rows, p->cols}};
    if (tl_part_size(p) > largest) largest = tl_part_size(p);
  }
  if (w->dtype != TL_F32) w->tmp = tl_aligned_alloc(largest * sizeof(float));
  bool ok = entries && names && (w->tmp || w->dtype == TL_F32);
  tl_status st = ok ? tl_safetensors_write(path, entries, (size_t)n, write_part, w, NULL)
                    : tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  free(w->tmp);
  free(entries);
  free(names);
  return st;
}

// the folder that a model came from: the path itself, or the folder of the file
static void source_dir(char *out, size_t n, const char *path) {
  snprintf(out, n, "%s", path);
  if (tl_is_dir(out)) return;
  char *slash = strrchr(out, '/');
  if (slash)
    *slash = 0;
  else
    snprintf(out, n, ".");
}

static tl_status copy_file(const char *from, const char *to, const char *name) {
  char src[4200], dst[4200], *data;
  size_t n;
  if (snprintf(src, sizeof src, "%s/%s", from, name) >= (int)sizeof src || snprintf(dst, sizeof dst, "%s/%s", to, name) >= (int)sizeof dst)
    return tl_fail(TL_E_ARG, "%.60s ...: the path of %.60s is longer than %zu bytes", to, name, sizeof dst);
  if (!tl_file_exists(src)) return TL_OK;
  TL_TRY(tl_read_file(src, &data, &n));
  tl_status st = tl_write_file(dst, data, n);
  free(data);
  return st;
}

// named chat templates: the .jinja files of a folder beside the others
static tl_status copy_templates(const char *from, const char *to) {
  static const char sub[] = "additional_chat_templates";
  char src[4200], dst[4200], *json;
  snprintf(src, sizeof src, "%s/%s", from, sub);
  snprintf(dst, sizeof dst, "%s/%s", to, sub);
  if (!tl_is_dir(src)) return TL_OK;
  TL_TRY(tl_list_dir(src, &json));
  cJSON *list = cJSON_Parse(json), *v;
  tl_status st = tl_mkdirs(dst);
  cJSON_ArrayForEach(v, list) {
    size_t n = strlen(v->valuestring);
    if (st == TL_OK && n > 6 && strcmp(v->valuestring + n - 6, ".jinja") == 0) st = copy_file(src, dst, v->valuestring);
  }
  cJSON_Delete(list);
  free(json);
  return st;
}

static tl_status copy_tokenizer(const char *from, const char *to) {
  static const char *const names[] = {"tokenizer.json",     "tokenizer_config.json", "special_tokens_map.json",
                                      "chat_template.jinja", "tokenizer.model",       "added_tokens.json",
                                      "vocab.json",          "merges.txt"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) TL_TRY(copy_file(from, to, names[i]));
  return copy_templates(from, to);
}

// what generation_config.json says of a model whose source has none: its special tokens
static tl_status write_generation(const tl_config *c, const char *dir) {
  char path[4096];
  cJSON *o = cJSON_CreateObject();
  cJSON_AddBoolToObject(o, "_from_model_config", true);
  add_special(o, c);
  char *text = cJSON_Print(o);
  cJSON_Delete(o);
  snprintf(path, sizeof path, "%s/generation_config.json", dir);
  tl_status st = text ? tl_write_file(path, text, strlen(text)) : tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  cJSON_free(text);
  return st;
}

static tl_status write_companions(const tl_model *m, const char *dir, bool tokenizer) {
  char from[4096], path[4200];
  source_dir(from, sizeof from, m->path);
  bool folder = strcmp(m->format, "gguf") != 0;
  if (folder && tokenizer) TL_TRY(copy_tokenizer(from, dir));
  snprintf(path, sizeof path, "%s/generation_config.json", from);
  return folder && tl_file_exists(path) ? copy_file(from, dir, "generation_config.json") : write_generation(&m->cfg, dir);
}

tl_status tl_model_write(const tl_model *m, tl_part_fill fill, void *ctx, const char *dir, tl_dtype dtype, bool tokenizer) {
  char path[4096], *config;
  if (strlen(dir) > 3000) return tl_fail(TL_E_ARG, "%.60s...: path too long", dir);
  if (dtype != TL_F32 && dtype != TL_BF16 && dtype != TL_F16)
    return tl_fail(TL_E_ARG, "dtype %d is not F32, BF16 or F16", (int)dtype);
  tl_part *parts;
  int n;
  TL_TRY(tl_mkdirs(dir));
  TL_TRY(config_text(&m->cfg, dtype, &config));
  tl_status st = tl_parts_list(&m->cfg, &parts, &n);
  if (st == TL_OK) {
    writer w = {.parts = parts, .fill = fill, .ctx = ctx, .dtype = dtype};
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    st = write_weights(path, &w, n);
    free(parts);
  }
  snprintf(path, sizeof path, "%s/config.json", dir);
  if (st == TL_OK) st = tl_write_file(path, config, strlen(config));
  free(config);
  return st == TL_OK ? write_companions(m, dir, tokenizer) : st;
}
