// inspect.c: what a model's files say about it, as JSON, without reading a weight: config and headers only.
#include "load.h"
#include <cjson/cJSON.h>

typedef struct census {
  cJSON *dtypes;  // name -> number of tensors
  int64_t tensors;
} census;

static void count_tensor(void *ctx, const char *name, const char *type, int64_t n) {
  census *c = ctx;
  cJSON *seen = cJSON_GetObjectItemCaseSensitive(c->dtypes, type);
  if (seen) cJSON_SetNumberValue(seen, seen->valuedouble + 1);
  else cJSON_AddNumberToObject(c->dtypes, type, 1);
  c->tensors++;
}

static void add_rope(cJSON *o, const tl_config *c) {
  static const char *const names[] = {"default", "linear", "llama3", "yarn", "tensor"};
  cJSON *r = cJSON_AddObjectToObject(o, "rope");
  cJSON_AddStringToObject(r, "type", names[c->rope_type]);
  tl_json_add_float(r, "theta", c->rope_theta);
  bool by_factor = c->rope_type != TL_ROPE_DEFAULT && c->rope_type != TL_ROPE_TENSOR;
  if (by_factor) tl_json_add_float(r, "factor", c->rope_factor);
  cJSON *without = c->unrotated ? cJSON_AddArrayToObject(r, "layers_without") : NULL;
  for (int l = 0; without && l < c->n_layers; l++)
    if (c->unrotated[l]) cJSON_AddItemToArray(without, cJSON_CreateNumber(l));
  if (by_factor && c->rope_type != TL_ROPE_LINEAR) cJSON_AddNumberToObject(r, "original_context", c->rope_original);
  if (c->rope_type == TL_ROPE_YARN) tl_json_add_float(r, "attention_factor", c->rope_attention);
}

// {"window": 4096, "layers": how many slide}; null: none does
static void add_windows(cJSON *o, const tl_config *c) {
  int n = 0;
  for (int l = 0; l < c->n_layers; l++) n += tl_config_window(c, l) > 0;
  if (!n) {
    cJSON_AddNullToObject(o, "sliding");
    return;
  }
  cJSON *w = cJSON_AddObjectToObject(o, "sliding");
  cJSON_AddNumberToObject(w, "window", c->window);
  cJSON_AddNumberToObject(w, "layers", n);
}

static void add_text(cJSON *o, const char *key, tl_gguf_text t) {
  char text[128];
  snprintf(text, sizeof text, "%.*s", t.n < 127 ? (int)t.n : 127, t.p);
  cJSON_AddStringToObject(o, key, text);
}

// kind of tokenizer: {"kind": "BPE", "file": "tokenizer.json"} or {"kind": "gpt2", "pre": "smollm"}; null: none is there
static void add_tokenizer(cJSON *o, const tl_source *s, const char *path) {
  char file[4096];
  tl_gguf_text t;
  if (s->is_gguf) {
    if (!tl_gguf_string(&s->gguf, "tokenizer.ggml.model", &t)) {
      cJSON_AddNullToObject(o, "tokenizer");
      return;
    }
    cJSON *k = cJSON_AddObjectToObject(o, "tokenizer");
    add_text(k, "kind", t);
    if (tl_gguf_string(&s->gguf, "tokenizer.ggml.pre", &t)) add_text(k, "pre", t);
    return;
  }
  cJSON *j = NULL;
  snprintf(file, sizeof file, "%s/tokenizer.json", path);
  if (!tl_file_exists(file) || tl_json_read(file, &j) != TL_OK) {
    cJSON_AddNullToObject(o, "tokenizer");
    return;
  }
  const cJSON *type = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(j, "model"), "type");
  cJSON *k = cJSON_AddObjectToObject(o, "tokenizer");
  cJSON_AddStringToObject(k, "kind", cJSON_IsString(type) ? type->valuestring : "unknown");
  cJSON_AddStringToObject(k, "file", "tokenizer.json");
  cJSON_Delete(j);
}

static void add_config(cJSON *o, const tl_config *c) {
  cJSON_AddNumberToObject(o, "layers", c->n_layers);
  cJSON_AddNumberToObject(o, "width", c->width);
  cJSON_AddNumberToObject(o, "heads", c->n_heads);
  cJSON_AddNumberToObject(o, "kv_heads", c->n_kv_heads);
  cJSON_AddNumberToObject(o, "head_dim", c->head_dim);
  cJSON_AddNumberToObject(o, "ffn", c->ffn);
  cJSON_AddNumberToObject(o, "vocab", c->vocab);
  cJSON_AddNumberToObject(o, "context_length", c->max_positions);
  cJSON_AddBoolToObject(o, "tied", c->tied);
  tl_json_add_float(o, "norm_eps", c->norm_eps);
  add_rope(o, c);
  add_windows(o, c);
  cJSON_AddNumberToObject(o, "bos", c->bos);
  cJSON_AddItemToObject(o, "eos", cJSON_CreateIntArray(c->eos, c->n_eos));
  cJSON_AddNumberToObject(o, "pad", c->pad);
  cJSON_AddNumberToObject(o, "modules", c->n_layers * TL_N_KINDS);
}

static tl_status describe(const tl_source *s, const char *path, cJSON *o) {
  tl_part *parts;
  int n;
  int64_t parameters = 0;
  TL_TRY(tl_parts_list(&s->cfg, &parts, &n));
  for (int i = 0; i < n; i++) parameters += (int64_t)tl_part_size(&parts[i]);
  free(parts);
  cJSON_AddStringToObject(o, "kind", "model");
  cJSON_AddStringToObject(o, "path", path);
  cJSON_AddStringToObject(o, "format", s->is_gguf ? "gguf" : "hf");
  cJSON_AddStringToObject(o, "architecture", s->cfg.family->name);
  cJSON_AddNumberToObject(o, "parameters", (double)parameters);
  cJSON_AddStringToObject(o, "dtype", tl_source_main_type(s));
  add_config(o, &s->cfg);
  census c = {.dtypes = cJSON_CreateObject()};
  tl_source_each(s, count_tensor, &c);
  cJSON_AddNumberToObject(o, "tensors", (double)c.tensors);
  cJSON_AddItemToObject(o, "dtypes", c.dtypes);
  int64_t quantised = tl_source_quantised_bytes(s);
  if (quantised) {  // nothing computes with quantised values: loading expands them
    cJSON *e = cJSON_AddObjectToObject(o, "expanded_when_loaded");
    cJSON_AddNumberToObject(e, "quantised_bytes", (double)quantised);
    cJSON_AddNumberToObject(e, "bf16_bytes", 2 * (double)parameters);
    cJSON_AddNumberToObject(e, "f32_bytes", 4 * (double)parameters);
  }
  cJSON_AddNumberToObject(o, "file_bytes", (double)tl_source_bytes(s));
  add_tokenizer(o, s, path);
  return TL_OK;
}

tl_status tl_model_inspect(const char *path, char **json) {
  *json = NULL;
  tl_source s;
  TL_TRY(tl_source_open(&s, path));
  cJSON *o = cJSON_CreateObject();
  tl_status st = describe(&s, path, o);
  if (st == TL_OK) *json = cJSON_PrintUnformatted(o);
  if (st == TL_OK && !*json) st = tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  cJSON_Delete(o);
  tl_source_close(&s);
  return st;
}
