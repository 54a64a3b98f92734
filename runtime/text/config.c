// config.c: what lies beside tokenizer.json: tokenizer_config.json and special_tokens_map.json (the names of the tokens that
// begin and end a text), and the chat templates (templates.c).
#include "text_json.h"

static int named_token(const tl_tokenizer *t, const cJSON *v) { // "text" or {"content": "text"}
  const char *s = cJSON_IsObject(v) ? json_string(v, "content") : cJSON_GetStringValue(v);
  if (!s)
    return -1;
  int32_t id = text_map_get(&t->added_text, s, strlen(s));
  return id >= 0 ? id : text_map_get(&t->by_text, s, strlen(s));
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
  tl_status st = t->n_templates ? TL_OK : text_template_config(t, json_get(o, "chat_template"));
  cJSON_Delete(o);
  return st;
}

tl_status text_load_config(tl_tokenizer *t, const char *dir) {
  TL_TRY(text_template_files(t, dir));
  TL_TRY(read_config(t, dir, "tokenizer_config.json"));
  return read_config(t, dir, "special_tokens_map.json");
}
