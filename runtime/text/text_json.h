// text_json.h: small readers of cJSON values, shared by json.c, json_parts.c and config.c.
#ifndef TL_TEXT_JSON_H
#define TL_TEXT_JSON_H
#include "text.h"
#include <cjson/cJSON.h>

static inline const cJSON *json_get(const cJSON *o, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(o, key);
}
static inline const char *json_string(const cJSON *o, const char *key) {
  return cJSON_GetStringValue(json_get(o, key));
}
static inline bool json_flag(const cJSON *o, const char *key, bool otherwise) {
  const cJSON *v = json_get(o, key);
  return cJSON_IsBool(v) ? cJSON_IsTrue(v) : otherwise;
}
static inline const char *json_type(const cJSON *o) {
  const char *s = json_string(o, "type");
  return s ? s : "without a type";
}
static inline bool json_is(const cJSON *o, const char *type) {
  return !strcmp(json_type(o), type);
}
static inline bool json_whole(const cJSON *v, int64_t *out) { // a whole number from 0
  if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble < 9e15))
    return false;
  *out = (int64_t)v->valuedouble;
  return (double)*out == v->valuedouble;
}

tl_status text_read_json(const char *path, cJSON **out);
tl_status text_refuse(const tl_tokenizer *t, const char *part, const char *found, const char *supported);

// json_parts.c; byte_level: a ByteLevel step was seen (false before the first call)
tl_status text_read_normalizer(tl_tokenizer *t, const cJSON *o, int depth);
tl_status text_read_pre_tokenizer(tl_tokenizer *t, const cJSON *o, int depth, bool *byte_level);
tl_status text_read_decoder(tl_tokenizer *t, const cJSON *o, int depth);
bool text_has_byte_level(const cJSON *pre_tokenizer, int depth);
#endif
