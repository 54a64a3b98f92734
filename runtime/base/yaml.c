// yaml.c: one YAML document to JSON text, through libyaml's events.
//
// Plain scalars follow the core schema of YAML 1.2: null ~ and nothing are null; true, false (also True, TRUE); decimal, 0o and
// 0x integers; decimal floats. So `on`, `yes` and 1e-4 mean what they look like: a string, a string, a number. Quoted and block
// scalars are strings. Not taken, each with its place: aliases, merge keys, a key that is not a scalar, a key given twice, a
// second document, .inf and .nan (JSON has no such numbers), tags other than !!str.
#include "base.h"
#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <yaml.h>

enum { MAX_DEPTH = 64 };

typedef struct reader {
  yaml_parser_t parser;
  yaml_event_t event;
  const char *path;
} reader;

static tl_status fail_at(const reader *r, yaml_mark_t at, const char *why) {
  return tl_fail(TL_E_FORMAT, "%s:%zu:%zu: %s", r->path, at.line + 1, at.column + 1, why);
}

static tl_status next(reader *r) {
  yaml_event_delete(&r->event);
  memset(&r->event, 0, sizeof r->event);
  if (yaml_parser_parse(&r->parser, &r->event))
    return TL_OK;
  const char *why = r->parser.problem ? r->parser.problem : "not YAML";
  return r->parser.error == YAML_MEMORY_ERROR ? tl_fail(TL_E_MEMORY, "%s: out of memory", r->path)
                                              : fail_at(r, r->parser.problem_mark, why);
}

static bool one_of(const char *s, const char *const *words) {
  for (; *words; words++)
    if (strcmp(s, *words) == 0)
      return true;
  return false;
}

// [-+]? (. [0-9]+ | [0-9]+ (. [0-9]*)?) ([eE] [-+]? [0-9]+)?
static bool is_decimal(const char *s) {
  if (*s == '-' || *s == '+')
    s++;
  size_t whole = strspn(s, "0123456789"), part = 0;
  s += whole;
  if (*s == '.') {
    part = strspn(++s, "0123456789");
    s += part;
  }
  if (!whole && !part)
    return false;
  if (*s == 'e' || *s == 'E') {
    s++;
    if (*s == '-' || *s == '+')
      s++;
    if (!isdigit((unsigned char)*s))
      return false;
    s += strspn(s, "0123456789");
  }
  return *s == 0;
}

static bool is_based(const char *s, double *value) { // 0x1F, 0o17
  if (s[0] != '0' || (s[1] != 'x' && s[1] != 'o'))
    return false;
  const char *digits = s[1] == 'x' ? "0123456789abcdefABCDEF" : "01234567";
  if (!s[2] || s[2 + strspn(s + 2, digits)])
    return false;
  *value = (double)strtoull(s + 2, NULL, s[1] == 'x' ? 16 : 8);
  return true;
}

static tl_status scalar(const reader *r, cJSON **out) {
  static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL}, *const yes[] = {"true", "True", "TRUE", NULL},
                           *const no[] = {"false", "False", "FALSE", NULL}, *const odd[] = {".inf",  "-.inf", "+.inf", ".nan",
                                                                                            ".Inf",  "-.Inf", ".NaN",  ".INF",
                                                                                            "-.INF", ".NAN",  NULL};
  const char *s = (const char *)r->event.data.scalar.value, *tag = (const char *)r->event.data.scalar.tag;
  double number;
  if (strlen(s) != r->event.data.scalar.length)
    return fail_at(r, r->event.start_mark, "a NUL in a string");
  if (tag && strcmp(tag, YAML_STR_TAG) != 0)
    return fail_at(r, r->event.start_mark, "tags are not supported");
  bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !tag;
  if (plain && one_of(s, odd))
    return fail_at(r, r->event.start_mark, "a number must be finite");
  if (plain && one_of(s, nulls))
    *out = cJSON_CreateNull();
  else if (plain && one_of(s, yes))
    *out = cJSON_CreateTrue();
  else if (plain && one_of(s, no))
    *out = cJSON_CreateFalse();
  else if (plain && is_based(s, &number))
    *out = cJSON_CreateNumber(number);
  else if (plain && is_decimal(s))
    *out = cJSON_CreateNumber(strtod(s, NULL));
  else
    *out = cJSON_CreateString(s);
  if (cJSON_IsNumber(*out) && !isfinite((*out)->valuedouble))
    return fail_at(r, r->event.start_mark, "a number too large");
  return *out ? TL_OK : tl_fail(TL_E_MEMORY, "%s: out of memory", r->path);
}

static tl_status node(reader *r, int depth, cJSON **out);

static tl_status mapping(reader *r, int depth, cJSON *object) {
  for (;;) {
    TL_TRY(next(r));
    if (r->event.type == YAML_MAPPING_END_EVENT)
      return TL_OK;
    if (r->event.type != YAML_SCALAR_EVENT)
      return fail_at(r, r->event.start_mark, "a key must be a plain word or a string");
    const char *key = (const char *)r->event.data.scalar.value;
    if (strcmp(key, "<<") == 0)
      return fail_at(r, r->event.start_mark, "merge keys are not supported");
    if (cJSON_GetObjectItemCaseSensitive(object, key))
      return fail_at(r, r->event.start_mark, "this key was given before");
    char *name = strdup(key);
    cJSON *value = NULL;
    tl_status s = name ? next(r) : tl_fail(TL_E_MEMORY, "%s: out of memory", r->path);
    if (s == TL_OK)
      s = node(r, depth, &value);
    if (s == TL_OK)
      cJSON_AddItemToObject(object, name, value);
    else
      cJSON_Delete(value);
    free(name);
    if (s != TL_OK)
      return s;
  }
}

static tl_status sequence(reader *r, int depth, cJSON *array) {
  for (;;) {
    TL_TRY(next(r));
    if (r->event.type == YAML_SEQUENCE_END_EVENT)
      return TL_OK;
    cJSON *value = NULL;
    tl_status s = node(r, depth, &value);
    if (s != TL_OK) {
      cJSON_Delete(value);
      return s;
    }
    cJSON_AddItemToArray(array, value);
  }
}

// The node that the current event starts. *out is the caller's to delete, also after a failure.
static tl_status node(reader *r, int depth, cJSON **out) {
  if (depth >= MAX_DEPTH)
    return fail_at(r, r->event.start_mark, "nested too deeply");
  switch (r->event.type) {
  case YAML_SCALAR_EVENT:
    return scalar(r, out);
  case YAML_MAPPING_START_EVENT:
    *out = cJSON_CreateObject();
    return *out ? mapping(r, depth + 1, *out) : tl_fail(TL_E_MEMORY, "%s: out of memory", r->path);
  case YAML_SEQUENCE_START_EVENT:
    *out = cJSON_CreateArray();
    return *out ? sequence(r, depth + 1, *out) : tl_fail(TL_E_MEMORY, "%s: out of memory", r->path);
  case YAML_ALIAS_EVENT:
    return fail_at(r, r->event.start_mark, "aliases are not supported");
  default:
    return fail_at(r, r->event.start_mark, "a value is missing");
  }
}

static tl_status document(reader *r, cJSON **out) {
  TL_TRY(next(r)); // stream start
  TL_TRY(next(r));
  if (r->event.type == YAML_STREAM_END_EVENT) { // nothing but comments
    *out = cJSON_CreateNull();
    return TL_OK;
  }
  TL_TRY(next(r));
  TL_TRY(node(r, 0, out));
  TL_TRY(next(r)); // document end
  TL_TRY(next(r));
  return r->event.type == YAML_STREAM_END_EVENT ? TL_OK : fail_at(r, r->event.start_mark, "a second document in the file");
}

tl_status tl_yaml_text_to_json(const char *text, size_t n, const char *name, char **json) {
  *json = NULL;
  reader r = {.path = name};
  if (!yaml_parser_initialize(&r.parser))
    return tl_fail(TL_E_MEMORY, "%s: out of memory", name);
  yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, n);
  cJSON *value = NULL;
  tl_status s = document(&r, &value);
  if (s == TL_OK) {
    *json = cJSON_PrintUnformatted(value);
    if (!*json)
      s = tl_fail(TL_E_MEMORY, "%s: out of memory", name);
  }
  cJSON_Delete(value);
  yaml_event_delete(&r.event);
  yaml_parser_delete(&r.parser);
  return s;
}

tl_status tl_yaml_to_json(const char *path, char **json) {
  *json = NULL;
  char *text;
  size_t n;
  TL_TRY(tl_read_file(path, &text, &n));
  tl_status s = tl_yaml_text_to_json(text, n, path, json);
  free(text);
  return s;
}
