// templates.c: the chat templates of a tokenizer: one, or several with names (one of them "default", "tool_use" for chats with
// tools). Where they stand, as transformers reads them:
//
//   chat_template.jinja (default), additional_chat_templates/NAME.jinja     before all that follows, if there is one of them
//   tokenizer_config.json: "chat_template", a text (default) or a list of {"name", "template"}
//   GGUF: tokenizer.chat_template (default), tokenizer.chat_template.NAME
#include "text_json.h"
#include "../base/gguf.h"

static const char default_name[] = "default";

tl_status text_add_template(tl_tokenizer *t, const char *name, size_t n_name, const char *source, size_t n) {
  for (int i = 0; i < t->n_templates; i++) // the later one of a name, as in a Python dict
    if (strlen(t->templates[i].name) == n_name && !memcmp(t->templates[i].name, name, n_name)) {
      char *copy = strndup(source, n);
      if (!copy)
        return text_no_memory(t);
      free(t->templates[i].source);
      t->templates[i].source = copy;
      return TL_OK;
    }
  text_template *p = realloc(t->templates, (size_t)(t->n_templates + 1) * sizeof *p);
  if (!p)
    return text_no_memory(t);
  t->templates = p;
  text_template *k = &p[t->n_templates];
  *k = (text_template){strndup(name, n_name), strndup(source, n)};
  if (k->name && k->source)
    return t->n_templates++, TL_OK;
  free(k->name);
  free(k->source);
  return text_no_memory(t);
}

void text_free_templates(tl_tokenizer *t) {
  for (int i = 0; i < t->n_templates; i++)
    free(t->templates[i].name), free(t->templates[i].source);
  free(t->templates);
}

static tl_status add_file(tl_tokenizer *t, const char *dir, const char *file, const char *name, size_t n_name) {
  char path[4096], *source;
  size_t n;
  if (snprintf(path, sizeof path, "%s/%s", dir, file) >= (int)sizeof path)
    return tl_fail(TL_E_ARG, "%s: path too long", dir);
  if (!tl_file_exists(path))
    return TL_OK;
  TL_TRY(tl_read_file(path, &source, &n));
  tl_status st = text_add_template(t, name, n_name, source, n);
  free(source);
  return st;
}

tl_status text_template_files(tl_tokenizer *t, const char *dir) {
  char path[4096], *json;
  TL_TRY(add_file(t, dir, "chat_template.jinja", default_name, strlen(default_name)));
  if (snprintf(path, sizeof path, "%s/additional_chat_templates", dir) >= (int)sizeof path)
    return tl_fail(TL_E_ARG, "%s: path too long", dir);
  if (!tl_is_dir(path))
    return TL_OK;
  TL_TRY(tl_list_dir(path, &json));
  cJSON *list = cJSON_Parse(json), *v;
  tl_status st = TL_OK;
  cJSON_ArrayForEach(v, list) {
    size_t n = strlen(v->valuestring);
    if (st == TL_OK && n > 6 && !strcmp(v->valuestring + n - 6, ".jinja"))
      st = add_file(t, path, v->valuestring, v->valuestring, n - 6);
  }
  cJSON_Delete(list);
  free(json);
  return st;
}

tl_status text_template_config(tl_tokenizer *t, const cJSON *v) {
  const cJSON *item;
  if (cJSON_IsString(v))
    return text_add_template(t, default_name, strlen(default_name), v->valuestring, strlen(v->valuestring));
  cJSON_ArrayForEach(item, v) {
    const char *name = json_string(item, "name"), *source = json_string(item, "template");
    if (name && source)
      TL_TRY(text_add_template(t, name, strlen(name), source, strlen(source)));
  }
  return TL_OK;
}

tl_status text_template_keys(tl_tokenizer *t, const tl_gguf *g) {
  static const char key[] = "tokenizer.chat_template";
  size_t n = strlen(key);
  for (size_t i = 0; i < g->n_kv; i++) {
    tl_gguf_text k = g->kv[i].key, value;
    if (k.n < n || memcmp(k.p, key, n) != 0 || (k.n > n && (k.p[n] != '.' || k.n == n + 1)))
      continue;
    char name[256];
    if (k.n >= sizeof name)
      continue;
    snprintf(name, sizeof name, "%.*s", (int)k.n, k.p);
    if (!tl_gguf_string(g, name, &value))
      continue;
    const char *label = k.n == n ? default_name : name + n + 1;
    TL_TRY(text_add_template(t, label, strlen(label), value.p, value.n));
  }
  return TL_OK;
}

const char *tl_tokenizer_chat_template(tl_tokenizer *t, const char *name) {
  for (int i = 0; i < t->n_templates; i++)
    if (!strcmp(t->templates[i].name, name ? name : default_name))
      return t->templates[i].source;
  return NULL;
}

const char *tl_tokenizer_chat_template_name(tl_tokenizer *t, int i) {
  return i >= 0 && i < t->n_templates ? t->templates[i].name : NULL;
}
