// config_attention.c: what config.json says of rotation (scaling included) and of sliding windows, read as transformers 5 reads
// it: from both key styles, rope_theta and rope_scaling (transformers 4), or rope_parameters (5). When both are there,
// rope_scaling prevails, and rope_theta is the scaling's own, else the one beside it, else 10000.
#include "load.h"
#include <cjson/cJSON.h>
#include <math.h>

enum { MAX_POSITIONS = 1 << 28 };

// ---------------------------------------------------------------- rotation

typedef struct source {
  const char *path, *key; // the key of the object, for messages
  const cJSON *j, *o;     // the file's object, and the one with the rotation's parameters; NULL: none
} source;

static source find_rope(const char *path, const cJSON *j) {
  const cJSON *scaling = tl_json_get(j, "rope_scaling"), *v5 = tl_json_get(j, "rope_parameters");
  bool old = scaling && (!cJSON_IsObject(scaling) || scaling->child); // an empty object is as good as none
  return (source){path, old ? "rope_scaling" : "rope_parameters", j, old ? scaling : v5};
}

static tl_status read_original(const source *s, tl_config *c) {
  const char *key = "original_max_position_embeddings";
  const cJSON *o = tl_json_get(s->j, key) ? s->j : s->o; // beside the scaling's object it prevails over the one inside
  return tl_json_int(s->path, o, key, 1, MAX_POSITIONS, c->max_positions, &c->rope_original);
}

static tl_status read_linear(const source *s, tl_config *c) {
  c->rope_type = TL_ROPE_LINEAR;
  return tl_json_float(s->path, s->o, "factor", 0, &c->rope_factor);
}

static tl_status read_llama3(const source *s, tl_config *c) {
  c->rope_type = TL_ROPE_LLAMA3;
  TL_TRY(tl_json_float(s->path, s->o, "factor", 0, &c->rope_factor));
  TL_TRY(tl_json_float(s->path, s->o, "low_freq_factor", 0, &c->rope_low));
  TL_TRY(tl_json_float(s->path, s->o, "high_freq_factor", 0, &c->rope_high));
  TL_TRY(read_original(s, c));
  if (c->rope_high <= c->rope_low)
    return tl_fail(TL_E_FORMAT, "%s: high_freq_factor %g is not above low_freq_factor %g", s->path, c->rope_high, c->rope_low);
  return TL_OK;
}

// zero is as good as absent for these, as in transformers
static tl_status read_or(const source *s, const char *key, float fallback, float *out) {
  const cJSON *v = tl_json_get(s->o, key);
  if (!v || (cJSON_IsNumber(v) && v->valuedouble == 0))
    return *out = fallback, TL_OK;
  return tl_json_float(s->path, s->o, key, fallback, out);
}

static tl_status read_yarn(const source *s, tl_config *c) {
  float m, m_all, all = 1;
  c->rope_type = TL_ROPE_YARN;
  TL_TRY(tl_json_float(s->path, s->o, "factor", 0, &c->rope_factor));
  TL_TRY(read_original(s, c));
  TL_TRY(read_or(s, "beta_fast", 32, &c->rope_fast));
  TL_TRY(read_or(s, "beta_slow", 1, &c->rope_slow));
  TL_TRY(tl_json_bool(s->path, s->o, "truncate", true, &c->rope_whole));
  TL_TRY(read_or(s, "mscale", 0, &m));
  TL_TRY(read_or(s, "mscale_all_dim", 0, &m_all));
  if (m > 0 && m_all > 0)
    all = tl_yarn_attention(c->rope_factor, m_all);
  else
    m = 1;
  if (c->rope_fast < c->rope_slow)
    return tl_fail(TL_E_FORMAT, "%s: beta_fast %g is below beta_slow %g", s->path, c->rope_fast, c->rope_slow);
  return tl_json_float(s->path, s->o, "attention_factor", tl_yarn_attention(c->rope_factor, m) / all, &c->rope_attention);
}

// every pair of a head turns, in every layer alike
static tl_status check_whole(const source *s, const cJSON *o) {
  float factor;
  TL_TRY(tl_json_float(s->path, o, "partial_rotary_factor", 1, &factor));
  if (factor != 1)
    return tl_fail(TL_E_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported", s->path, factor);
  return TL_OK;
}

static tl_status check_object(const source *s) {
  const cJSON *item;
  if (s->o && !cJSON_IsObject(s->o))
    return tl_fail(TL_E_FORMAT, "%s: %s is not an object", s->path, s->key);
  cJSON_ArrayForEach(item, s->o) if (cJSON_IsObject(item)) {
    return tl_fail(TL_E_UNSUPPORTED, "%s: %s.%.40s: a rotation for each kind of layer is not supported", s->path, s->key,
                   item->string);
  }
  TL_TRY(check_whole(s, s->j));
  return check_whole(s, s->o);
}

// Layers without rotation: those with a 0 in no_rope_layers, which may be longer than the model; else every no_rope_layer_interval-th.
static tl_status read_unrotated(const char *path, const cJSON *j, tl_config *c) {
  const cJSON *list = tl_json_get(j, "no_rope_layers");
  int step = c->family->unrotated_step, l = 0;
  if (!step) return TL_OK;
  TL_TRY(tl_json_int(path, j, "no_rope_layer_interval", 1, 1 << 20, step, &step));
  if (list && (!cJSON_IsArray(list) || cJSON_GetArraySize(list) < c->n_layers))
    return tl_fail(TL_E_FORMAT, "%s: no_rope_layers is not a list of %d, one for each layer", path, c->n_layers);
  TL_TRY(tl_config_unrotated(path, c, step));
  for (const cJSON *item = list ? list->child : NULL; item && l < c->n_layers; item = item->next, l++) {
    if (!cJSON_IsNumber(item) || (item->valuedouble != 0 && item->valuedouble != 1))
      return tl_fail(TL_E_FORMAT, "%s: no_rope_layers[%d] is neither 0 nor 1", path, l);
    c->unrotated[l] = item->valuedouble == 0;
  }
  return TL_OK;
}

tl_status tl_config_rope(const char *path, const cJSON *j, tl_config *c) {
  static const struct {
    const char *name;
    tl_status (*read)(const source *s, tl_config *c);
  } kinds[] = {{"linear", read_linear}, {"llama3", read_llama3}, {"yarn", read_yarn}};
  source s = find_rope(path, j);
  TL_TRY(check_object(&s));
  TL_TRY(tl_json_float(path, tl_json_get(s.o, "rope_theta") ? s.o : j, "rope_theta", c->family->theta > 0 ? c->family->theta : 10000, &c->rope_theta));
  TL_TRY(read_unrotated(path, j, c));
  const cJSON *type = tl_json_get(s.o, "rope_type") ? tl_json_get(s.o, "rope_type") : tl_json_get(s.o, "type");
  if (type && !cJSON_IsString(type))
    return tl_fail(TL_E_FORMAT, "%s: %s.rope_type is not text", path, s.key);
  if (!type && tl_json_get(s.o, "factor"))
    return tl_fail(TL_E_FORMAT, "%s: %s has no rope_type", path, s.key);
  if (!type || strcmp(type->valuestring, "default") == 0)
    return TL_OK;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(kinds[i].name, type->valuestring) == 0)
      return kinds[i].read(&s, c);
  return tl_fail(TL_E_UNSUPPORTED, "%s: rope_type %.40s is not supported; known: default, linear, llama3, yarn", path,
                 type->valuestring);
}

// ---------------------------------------------------------------- windows

static tl_status read_layer_types(const char *path, const cJSON *list, tl_config *c) {
  if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != c->n_layers)
    return tl_fail(TL_E_FORMAT, "%s: layer_types is not a list of %d, one for each layer", path, c->n_layers);
  const cJSON *item;
  int l = 0;
  cJSON_ArrayForEach(item, list) {
    const char *name = cJSON_IsString(item) ? item->valuestring : "no text";
    bool slides = strcmp(name, "sliding_attention") == 0;
    if (!slides && strcmp(name, "full_attention") != 0)
      return tl_fail(TL_E_UNSUPPORTED, "%s: layer_types[%d] is %.40s; known: full_attention, sliding_attention", path, l, name);
    if (slides && !c->window)
      return tl_fail(TL_E_UNSUPPORTED, "%s: layer_types[%d] is sliding_attention, but %s", path, l,
                     c->family->window == TL_WINDOW_NONE    ? "this family has no sliding layers"
                     : c->family->window == TL_WINDOW_ASKED ? "use_sliding_window is not true, or sliding_window is null"
                                                            : "sliding_window is null");
    c->slides[l++] = slides;
  }
  return TL_OK;
}

static tl_status read_window(const char *path, const cJSON *j, tl_config *c) {
  const tl_family *f = c->family;
  bool asked;
  TL_TRY(tl_json_bool(path, j, "use_sliding_window", false, &asked));
  if (asked && f->window == TL_WINDOW_NONE)
    return tl_fail(TL_E_UNSUPPORTED, "%s: use_sliding_window true is not supported for %s", path, f->name);
  if (f->window == TL_WINDOW_NONE || (f->window == TL_WINDOW_ASKED && !asked))
    return TL_OK;
  bool none = cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(j, "sliding_window")); // absent means 4096
  return none ? TL_OK : tl_json_int(path, j, "sliding_window", 1, MAX_POSITIONS, 4096, &c->window);
}

tl_status tl_config_windows(const char *path, const cJSON *j, tl_config *c) {
  const cJSON *types = tl_json_get(j, "layer_types");
  int first = 0;
  TL_TRY(read_window(path, j, c));
  if (!types && !c->window)
    return TL_OK;
  if (c->family->window == TL_WINDOW_ASKED)
    TL_TRY(tl_json_int(path, j, "max_window_layers", 0, 1 << 20, 28, &first));
  c->slides = calloc((size_t)c->n_layers, 1);
  if (!c->slides)
    return tl_fail(TL_E_MEMORY, "%s: out of memory", path);
  for (int l = 0; l < c->n_layers; l++)
    c->slides[l] = c->window && l >= first;
  return types ? read_layer_types(path, types, c) : TL_OK;
}
