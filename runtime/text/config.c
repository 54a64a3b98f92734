// config.c: what lies beside tokenizer.json: tokenizer_config.json and special_tokens_map.json (the names of the tokens that
// begin and end a text), chat_template.jinja (before the one in tokenizer_config.json).
#include "text_json.h"

static int named_token(const tl_tokenizer *t, const cJSON *v) { // "text" or {"content": "text"}
  const char *s = cJSON_IsObject(v) ? json_string(v, "content") : cJSON_GetStringValue(v);
  if (!s)
    return -1;
  int32_t id = text_map_get(&t->added_text, s, strlen(s));
  return id >= 0 ? id : text_map_get(&t->by_text, s, strlen(s));
}

static const char *default_template(const cJSON *v) { // a string, or a list of {"name", "template"}
  const cJSON *item;
  if (cJSON_IsString(v))
    return v->valuestring;
  cJSON_ArrayForEach(item, v) {
    const char *name = json_string(item, "name");
    if (name && !strcmp(name, "default"))
      return json_string(item, "template");
  }
  return NULL;
}

static tl_status read_config(tl_tokenizer *t, const char *dir, const char *file) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/%s", dir, file) >= (int)sizeof path)
    return tl_fail(TL_E_ARG, "%s: path too long", dir);
  if (!tl_file_exists(path))
    return TL_OK;
  cJSON *o;
  TL_TRY(text_read_json(path, &o));
  if (t->bos < 0)
    t->bos = named_token(t, json_get(o, "bos_token"));
  if (t->eos < 0)
    t->eos = named_token(t, json_get(o, "eos_token"));
  const char *source = t->chat_template ? NULL : default_template(json_get(o, "chat_template"));
  if (source)
    t->chat_template = strdup(source);
  cJSON_Delete(o);
  return TL_OK;
}

tl_status text_load_config(tl_tokenizer *t, const char *dir) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/chat_template.jinja", dir) >= (int)sizeof path)
    return tl_fail(TL_E_ARG, "%s: path too long", dir);
  if (tl_file_exists(path))
    TL_TRY(tl_read_file(path, &t->chat_template, NULL));
  TL_TRY(read_config(t, dir, "tokenizer_config.json"));
  return read_config(t, dir, "special_tokens_map.json");
}
