// peft_config.c: adapter_config.json as PEFT reads it (PEFT 0.21.2: LoraConfig, TinyLoraConfig, and
// tuners_utils.check_target_module_exists for the selection of modules). The file is outside bytes.
//
// A field is one of three: harmless (it matters to training or to other software, never to what an adapter computes), handled
// here or by the loader, or refused when it is set. A field that this list does not know is refused when it is set, too: a
// newer PEFT's variant must not be read as a plain adapter.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "peft.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <pcre2.h>
#include <strings.h>

static const char *const known[] = {
  // harmless
  "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out",
  "inference_mode", "init_v_bound", "init_weights", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config",
  "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type", "tinylora_dropout",
  // handled
  "alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
  "peft_type", "projection_seed", "r", "rank_pattern", "save_projection", "target_modules", "u", "use_rslora", "weight_tying",
};

static bool is_unset(const cJSON *v) {
  return !v || cJSON_IsNull(v) || cJSON_IsFalse(v) || (cJSON_IsNumber(v) && v->valuedouble == 0) ||
         (cJSON_IsString(v) && !*v->valuestring) || ((cJSON_IsArray(v) || cJSON_IsObject(v)) && !v->child);
}

static const cJSON *get(const tl_peft_config *c, const char *field) { return cJSON_GetObjectItemCaseSensitive(c->json, field); }

static bool is_known(const char *field) {
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (!strcmp(field, known[i])) return true;
  return false;
}

// These start A and B from the base and change the base to match, so that A and B mean nothing on the base as it is.
static bool changes_base(const char *init) {
  static const char *const names[] = {"pissa", "corda", "olora", "loftq", "lora_ga", "mica"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strncasecmp(init, names[i], strlen(names[i]))) return true;
  return false;
}

static tl_status check_fields(const tl_peft_config *c) {
  const cJSON *item = NULL;
  cJSON_ArrayForEach(item, c->json) {
    if (!is_known(item->string) && !is_unset(item))
      return tl_fail(TL_E_UNSUPPORTED, "%s: field %s is set; this program has no such adapter", c->path, item->string);
  }
  const cJSON *bias = get(c, "bias"), *init = get(c, "init_lora_weights");
  if (!is_unset(bias) && !(cJSON_IsString(bias) && !strcmp(bias->valuestring, "none")))
    return tl_fail(TL_E_UNSUPPORTED, "%s: field bias is %s; only \"none\" is supported", c->path,
                   cJSON_IsString(bias) ? bias->valuestring : "not a string");
  if (cJSON_IsString(init) && changes_base(init->valuestring))
    return tl_fail(TL_E_UNSUPPORTED, "%s: field init_lora_weights is %s, which changes the base model's weights; convert the "
                   "adapter to a plain LoRA first (PEFT's save_pretrained with path_initial_model_for_weight_conversion)",
                   c->path, init->valuestring);
  return TL_OK;
}

tl_status tl_peft_config_open(tl_peft_config *c, const char *dir) {
  *c = (tl_peft_config){0};
  if (snprintf(c->path, sizeof c->path, "%s/adapter_config.json", dir) >= (int)sizeof c->path)
    return tl_fail(TL_E_ARG, "%.60s...: path too long", dir);
  char *text;
  size_t n;
  TL_TRY(tl_read_file(c->path, &text, &n));
  tl_status s = tl_json_parse(c->path, text, n, &c->json);
  free(text);
  TL_TRY(s);
  const cJSON *type = get(c, "peft_type");
  if (!cJSON_IsString(type)) return tl_fail(TL_E_FORMAT, "%s: field peft_type is missing", c->path);
  c->lora = !strcmp(type->valuestring, "LORA");
  if (!c->lora && strcmp(type->valuestring, "TINYLORA") != 0)
    return tl_fail(TL_E_UNSUPPORTED, "%s: field peft_type is %s; wanted TINYLORA or LORA", c->path, type->valuestring);
  return check_fields(c);
}

void tl_peft_config_close(tl_peft_config *c) {
  cJSON_Delete(c->json);
  c->json = NULL;
}

// ---------------------------------------------------------------- plain fields
tl_status tl_peft_number(const tl_peft_config *c, const char *field, double low, double high, double fallback, double *out) {
  const cJSON *v = get(c, field);
  if (!v && !isnan(fallback)) {
    *out = fallback;
    return TL_OK;
  }
  if (!cJSON_IsNumber(v)) return tl_fail(TL_E_FORMAT, "%s: field %s is missing or not a number", c->path, field);
  if (!(v->valuedouble >= low && v->valuedouble <= high))
    return tl_fail(TL_E_FORMAT, "%s: field %s is %g; wanted %g to %g", c->path, field, v->valuedouble, low, high);
  *out = v->valuedouble;
  return TL_OK;
}

tl_status tl_peft_whole(const tl_peft_config *c, const char *field, int64_t low, int64_t high, double fallback, int64_t *out) {
  double v = 0;
  TL_TRY(tl_peft_number(c, field, (double)low, (double)high, fallback, &v));
  if (v != floor(v)) return tl_fail(TL_E_FORMAT, "%s: field %s is %g; wanted a whole number", c->path, field, v);
  *out = (int64_t)v;
  return TL_OK;
}

bool tl_peft_flag(const tl_peft_config *c, const char *field, bool fallback) {
  const cJSON *v = get(c, field);
  return v && !cJSON_IsNull(v) ? !is_unset(v) : fallback;
}

// ---------------------------------------------------------------- regular expressions
static tl_status compile(const tl_peft_config *c, const char *field, const char *pattern, uint32_t options, pcre2_code **out) {
  int code = 0;
  PCRE2_SIZE at = 0;
  *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | options, &code, &at,
                       NULL);
  if (*out) return TL_OK;
  PCRE2_UCHAR message[120] = "";
  pcre2_get_error_message(code, message, sizeof message);
  return tl_fail(TL_E_FORMAT, "%s: field %s: the pattern '%.200s' does not compile: %s (at %zu)", c->path, field, pattern,
                 (const char *)message, (size_t)at);
}

// Names are short: a pattern that wants more steps than this is a trap, and matches nothing
enum { match_limit = 100000 };

// Matches; *index (or NULL): the number in the group named idx, -1 when there is none
static bool match(const pcre2_code *re, const char *text, int *index) {
  pcre2_match_data *data = pcre2_match_data_create_from_pattern(re, NULL);
  pcre2_match_context *limits = pcre2_match_context_create(NULL);
  if (limits) pcre2_set_match_limit(limits, match_limit);
  bool yes = data && limits && pcre2_match(re, (PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, 0, 0, data, limits) > 0;
  pcre2_match_context_free(limits);
  if (index) {
    PCRE2_UCHAR digits[16];
    PCRE2_SIZE n = sizeof digits;
    *index = yes && pcre2_substring_copy_byname(data, (PCRE2_SPTR)"idx", digits, &n) == 0 ? atoi((const char *)digits) : -1;
  }
  pcre2_match_data_free(data);
  return yes;
}

static tl_status full_match(const tl_peft_config *c, const char *field, const char *pattern, const char *module, bool *yes) {
  pcre2_code *re;
  TL_TRY(compile(c, field, pattern, PCRE2_ENDANCHORED, &re));
  *yes = match(re, module, NULL);
  pcre2_code_free(re);
  return TL_OK;
}

// ---------------------------------------------------------------- which modules
// whether the name is one of the list's or ends in "." and one of them; exact: it is one of them
static tl_status in_list(const tl_peft_config *c, const char *field, const cJSON *list, const char *module, bool *yes,
                         bool *exact) {
  const cJSON *item = NULL;
  size_t n = strlen(module);
  *yes = *exact = false;
  if (!cJSON_IsArray(list)) return tl_fail(TL_E_FORMAT, "%s: field %s is neither a string nor a list", c->path, field);
  cJSON_ArrayForEach(item, list) {
    if (!cJSON_IsString(item)) return tl_fail(TL_E_FORMAT, "%s: field %s has an entry that is no string", c->path, field);
    size_t k = strlen(item->valuestring);
    bool same = !strcmp(item->valuestring, module);
    *exact = *exact || same;
    *yes = *yes || same || (k < n && module[n - k - 1] == '.' && !strcmp(module + n - k, item->valuestring));
  }
  return TL_OK;
}

// The layer a module's name stands in, by layers_pattern (or by the first number between dots); -1: none
static tl_status layer_of(const tl_peft_config *c, const char *module, int *layer) {
  const cJSON *patterns = get(c, "layers_pattern"), *item = NULL;
  pcre2_code *re = NULL;
  *layer = -1;
  if (is_unset(patterns)) {
    TL_TRY(compile(c, "layers_pattern", ".*?\\.[^.]*\\.(?P<idx>\\d+)\\.", 0, &re));
    match(re, module, layer);
    pcre2_code_free(re);
    return TL_OK;
  }
  int n = cJSON_IsArray(patterns) ? cJSON_GetArraySize(patterns) : 1;
  for (int i = 0; i < n && *layer < 0; i++) {
    item = cJSON_IsArray(patterns) ? cJSON_GetArrayItem(patterns, i) : patterns;
    if (!cJSON_IsString(item)) return tl_fail(TL_E_FORMAT, "%s: field layers_pattern has an entry that is no string", c->path);
    tl_str s = {0};
    tl_str_printf(&s, "(?:^|.*?\\.)%s\\.(?P<idx>\\d+)\\.", item->valuestring);
    tl_status st = compile(c, "layers_pattern", s.p, 0, &re);
    tl_str_free(&s);
    TL_TRY(st);
    match(re, module, layer);
    pcre2_code_free(re);
  }
  return TL_OK;
}

static tl_status in_layers(const tl_peft_config *c, const char *module, bool *yes) {
  const cJSON *layers = get(c, "layers_to_transform"), *item = NULL;
  int layer;
  *yes = true;
  if (!layers || cJSON_IsNull(layers) || (cJSON_IsArray(layers) && !layers->child)) return TL_OK;
  if (!cJSON_IsNumber(layers) && !cJSON_IsArray(layers))
    return tl_fail(TL_E_FORMAT, "%s: field layers_to_transform is neither a number nor a list", c->path);
  TL_TRY(layer_of(c, module, &layer));
  *yes = cJSON_IsNumber(layers) && layer >= 0 && layers->valuedouble == layer;
  cJSON_ArrayForEach(item, layers) *yes = *yes || (layer >= 0 && cJSON_IsNumber(item) && item->valuedouble == layer);
  return TL_OK;
}

static tl_status excluded(const tl_peft_config *c, const char *module, bool *yes) {
  const cJSON *list = get(c, "exclude_modules");
  bool exact;
  *yes = false;
  if (is_unset(list)) return TL_OK;
  if (cJSON_IsString(list)) return full_match(c, "exclude_modules", list->valuestring, module, yes);
  return in_list(c, "exclude_modules", list, module, yes, &exact);
}

tl_status tl_peft_selects(const tl_peft_config *c, const char *module, bool *yes) {
  const cJSON *targets = get(c, "target_modules");
  bool out = false, exact = false;
  TL_TRY(excluded(c, module, &out));
  if (out) {
    *yes = false;
    return TL_OK;
  }
  *yes = true;
  if (!targets || cJSON_IsNull(targets)) return TL_OK;
  if (cJSON_IsString(targets) && !strcasecmp(targets->valuestring, "all-linear")) {
    *yes = strstr(module, "layers.") != NULL;  // every linear but the head; the embedding is none
    return TL_OK;
  }
  if (cJSON_IsString(targets)) return full_match(c, "target_modules", targets->valuestring, module, yes);
  TL_TRY(in_list(c, "target_modules", targets, module, yes, &exact));
  return *yes && !exact ? in_layers(c, module, yes) : TL_OK;  // a full name is taken whatever the layers say
}

// ---------------------------------------------------------------- rank_pattern, alpha_pattern
tl_status tl_peft_patterns_open(tl_peft_patterns *p, const tl_peft_config *c, const char *field, double low, double high) {
  const cJSON *dict = get(c, field), *item = NULL;
  *p = (tl_peft_patterns){0};
  if (is_unset(dict)) return TL_OK;
  if (!cJSON_IsObject(dict)) return tl_fail(TL_E_FORMAT, "%s: field %s is no object", c->path, field);
  size_t n = (size_t)cJSON_GetArraySize(dict);
  p->re = calloc(n, sizeof(pcre2_code *));
  p->value = calloc(n, sizeof *p->value);
  if (!p->re || !p->value) return tl_fail(TL_E_MEMORY, "%s: out of memory", c->path);
  cJSON_ArrayForEach(item, dict) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= low && item->valuedouble <= high))
      return tl_fail(TL_E_FORMAT, "%s: field %s: '%s' is not a number from %g to %g", c->path, field, item->string, low, high);
    tl_str s = {0};
    tl_str_printf(&s, "(.*\\.)?(%s)$", item->string);
    tl_status st = compile(c, field, s.p, 0, &p->re[p->n]);
    tl_str_free(&s);
    TL_TRY(st);
    p->value[p->n++] = item->valuedouble;
  }
  return TL_OK;
}

void tl_peft_patterns_close(tl_peft_patterns *p) {
  for (int i = 0; i < p->n; i++) pcre2_code_free(p->re[i]);
  free(p->re);
  free(p->value);
  *p = (tl_peft_patterns){0};
}

double tl_peft_pattern(const tl_peft_patterns *p, const char *module, double fallback) {
  for (int i = 0; i < p->n; i++)
    if (match(p->re[i], module, NULL)) return p->value[i];
  return fallback;
}
