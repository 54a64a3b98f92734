// json.c: tokenizer.json (the `tokenizers` library's format), tokenizer_config.json and chat_template.jinja.
//
// What is read: a byte-level BPE model; normalizer none, NFC, NFD, NFKC, NFKD or a sequence of these; pre-tokenizer ByteLevel,
// Split, Digits or a sequence of these that ends in ByteLevel; post-processor none, ByteLevel, TemplateProcessing,
// RobertaProcessing or a sequence; decoder ByteLevel. Anything else is refused with its name. `truncation` and `padding` are
// not part of a text's ids here and are ignored, as transformers does unless asked.
#include "text.h"
#include <cjson/cJSON.h>

static const cJSON *get(const cJSON *o, const char *key) { return cJSON_GetObjectItemCaseSensitive(o, key); }
static const char *get_string(const cJSON *o, const char *key) { return cJSON_GetStringValue(get(o, key)); }
static bool get_flag(const cJSON *o, const char *key, bool otherwise) {
  const cJSON *v = get(o, key);
  return cJSON_IsBool(v) ? cJSON_IsTrue(v) : otherwise;
}
static const char *type_of(const cJSON *o) {
  const char *s = get_string(o, "type");
  return s ? s : "without a type";
}
static bool is_type(const cJSON *o, const char *type) { return !strcmp(type_of(o), type); }

static tl_status read_json(const char *path, cJSON **out) {
  char *data;
  size_t n;
  TL_TRY(tl_read_file(path, &data, &n));
  size_t bad = text_utf8_bad(data, n);
  const char *end = data;
  *out = bad == n ? cJSON_ParseWithLengthOpts(data, n, &end, 0) : NULL;
  size_t at = bad < n ? bad : (size_t)(end - data);
  free(data);
  if (*out) return TL_OK;
  return tl_fail(TL_E_FORMAT, "%s: not JSON: %s at byte %zu of %zu", path, bad < n ? "bad UTF-8" : "syntax error", at, n);
}

static tl_status refuse(const tl_tokenizer *t, const char *part, const char *found, const char *supported) {
  return tl_fail(TL_E_UNSUPPORTED, "%s: %s is %s; supported: %s", t->path, part, found, supported);
}

static bool whole(const cJSON *v, int64_t *out) {
  if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble < 9e15)) return false;
  *out = (int64_t)v->valuedouble;
  return (double)*out == v->valuedouble;
}

// ---------------------------------------------------------------- model
static tl_status read_merge(tl_tokenizer *t, const cJSON *m) {
  const char *a, *b;
  if (cJSON_IsArray(m)) {
    a = cJSON_GetStringValue(m->child);
    b = m->child ? cJSON_GetStringValue(m->child->next) : NULL;
    if (a && b && !m->child->next->next) return text_add_merge(t, a, strlen(a), b, strlen(b));
  } else if ((a = cJSON_GetStringValue(m))) {
    if (!strncmp(a, "#version", 8)) return TL_OK;
    b = strchr(a, ' ');
    if (b && !strchr(b + 1, ' ')) return text_add_merge(t, a, (size_t)(b - a), b + 1, strlen(b + 1));
  }
  return tl_fail(TL_E_FORMAT, "%s: model.merges: entry %zu is not a pair of tokens", t->path, t->n_merges);
}

static tl_status read_model(tl_tokenizer *t, const cJSON *model) {
  const char *type = get_string(model, "type");
  const cJSON *vocab = get(model, "vocab"), *merges = get(model, "merges");
  if (!cJSON_IsObject(model)) return tl_fail(TL_E_FORMAT, "%s: no \"model\": not a tokenizer.json", t->path);
  if (type ? strcmp(type, "BPE") != 0 : !merges)
    return refuse(t, "model.type", type ? type : "not given", "byte-level BPE");
  const char *affix = get_string(model, "continuing_subword_prefix"), *suffix = get_string(model, "end_of_word_suffix");
  if ((affix && *affix) || (suffix && *suffix))
    return refuse(t, "model", "a BPE with continuing_subword_prefix or end_of_word_suffix", "byte-level BPE without them");
  if (get_flag(model, "byte_fallback", false))
    return refuse(t, "model", "a BPE with byte_fallback (SentencePiece)", "byte-level BPE");
  const cJSON *dropout = get(model, "dropout");
  if (cJSON_IsNumber(dropout) && dropout->valuedouble > 0) return refuse(t, "model.dropout", "not 0", "no dropout");
  if (!cJSON_IsObject(vocab)) return tl_fail(TL_E_FORMAT, "%s: model.vocab is not an object", t->path);
  if (!cJSON_IsArray(merges)) return tl_fail(TL_E_FORMAT, "%s: model.merges is not an array", t->path);
  const cJSON *v;
  cJSON_ArrayForEach(v, vocab) {
    int64_t id;
    if (!whole(v, &id)) return tl_fail(TL_E_FORMAT, "%s: model.vocab['%.60s'] is not an id", t->path, v->string);
    TL_TRY(text_add_token(t, id, v->string, strlen(v->string)));
  }
  cJSON_ArrayForEach(v, merges) TL_TRY(read_merge(t, v));
  t->ignore_merges = get_flag(model, "ignore_merges", false);
  t->fuse_unk = get_flag(model, "fuse_unk", false);
  const char *unk = get_string(model, "unk_token");
  if (unk && (t->unk = text_map_get(&t->by_text, unk, strlen(unk))) < 0)
    return tl_fail(TL_E_FORMAT, "%s: model.unk_token '%.60s' is not in the vocabulary", t->path, unk);
  return TL_OK;
}

static tl_status read_added(tl_tokenizer *t, const cJSON *list) {
  const cJSON *a;
  cJSON_ArrayForEach(a, list) {
    const char *content = get_string(a, "content");
    int64_t id;
    if (!content || !whole(get(a, "id"), &id))
      return tl_fail(TL_E_FORMAT, "%s: added_tokens: an entry without id or content", t->path);
    text_added flags = {.single_word = get_flag(a, "single_word", false), .lstrip = get_flag(a, "lstrip", false),
                        .rstrip = get_flag(a, "rstrip", false), .special = get_flag(a, "special", false)};
    flags.normalized = get_flag(a, "normalized", !flags.special);
    TL_TRY(text_add_added(t, id, content, strlen(content), flags));
  }
  return TL_OK;
}

// ---------------------------------------------------------------- normalizer
static tl_status read_normalizer(tl_tokenizer *t, const cJSON *o, int depth) {
  static const char *const names[] = {[TEXT_NFC] = "NFC", [TEXT_NFD] = "NFD", [TEXT_NFKC] = "NFKC", [TEXT_NFKD] = "NFKD"};
  if (!cJSON_IsObject(o)) return TL_OK;
  const cJSON *item;
  if (is_type(o, "Sequence") && depth < 4) {
    cJSON_ArrayForEach(item, get(o, "normalizers")) TL_TRY(read_normalizer(t, item, depth + 1));
    return TL_OK;
  }
  for (int f = 0; f < 4; f++)
    if (is_type(o, names[f]) && t->n_forms < 4) return t->forms[t->n_forms++] = (text_form)f, TL_OK;
  return refuse(t, "normalizer", type_of(o), "none, NFC, NFD, NFKC, NFKD, Sequence");
}

// ---------------------------------------------------------------- pre-tokenizer
static tl_status read_split(tl_tokenizer *t, const cJSON *o) {
  static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"};
  const cJSON *pattern = get(o, "pattern");
  const char *re = get_string(pattern, "Regex"), *literal = get_string(pattern, "String");
  const char *behavior = get_string(o, "behavior");
  if (!re && !literal) return tl_fail(TL_E_FORMAT, "%s: pre_tokenizer Split has no pattern", t->path);
  for (int i = 0; i < 5 && behavior; i++)
    if (!strcmp(behavior, names[i]))
      return text_add_split(t, re ? re : literal, !re, (text_behavior)i, get_flag(o, "invert", false));
  return tl_fail(TL_E_FORMAT, "%s: pre_tokenizer Split has behavior '%.40s'", t->path, behavior ? behavior : "none");
}

static tl_status read_pre_tokenizer(tl_tokenizer *t, const cJSON *o, int depth, bool *byte_level) {
  const char *supported = "ByteLevel, Split, Digits and a Sequence of these that ends in ByteLevel";
  const cJSON *item;
  if (!cJSON_IsObject(o)) return refuse(t, "pre_tokenizer", "not given", supported);
  if (is_type(o, "Sequence") && depth < 4) {
    cJSON_ArrayForEach(item, get(o, "pretokenizers")) TL_TRY(read_pre_tokenizer(t, item, depth + 1, byte_level));
    return TL_OK;
  }
  if (*byte_level) return refuse(t, "pre_tokenizer", "a step after ByteLevel", supported);
  if (is_type(o, "Split")) return read_split(t, o);
  if (is_type(o, "Digits"))
    return text_add_split(t, text_digit_pattern, false,
                          get_flag(o, "individual_digits", false) ? TEXT_ISOLATED : TEXT_CONTIGUOUS, false);
  if (!is_type(o, "ByteLevel")) return refuse(t, "pre_tokenizer", type_of(o), supported);
  *byte_level = true;
  if (get_flag(o, "add_prefix_space", true)) TL_TRY(text_add_prefix_space(t));
  return get_flag(o, "use_regex", true) ? text_add_split(t, text_gpt2_pattern, false, TEXT_ISOLATED, false) : TL_OK;
}

// ---------------------------------------------------------------- post-processor
static tl_status template_id(tl_tokenizer *t, int64_t id) {
  if (id < -1 || id >= t->n_tokens || (id >= 0 && !t->tokens[id].text))
    return tl_fail(TL_E_FORMAT, "%s: post_processor names id %lld, which no token has", t->path, (long long)id);
  int32_t *p = realloc(t->template, (size_t)(t->n_template + 1) * sizeof *p);
  if (!p) return tl_fail(TL_E_MEMORY, "%s: out of memory for the post-processor", t->path);
  t->template = p;
  t->template[t->n_template++] = (int32_t)id;
  return TL_OK;
}

static tl_status read_template(tl_tokenizer *t, const cJSON *o) {
  const cJSON *item, *v;
  cJSON_ArrayForEach(item, get(o, "single")) {
    const cJSON *special = get(item, "SpecialToken");
    if (!special) {
      TL_TRY(template_id(t, -1));
      continue;
    }
    const char *name = get_string(special, "id");
    const cJSON *ids = name ? get(get(get(o, "special_tokens"), name), "ids") : NULL;
    if (!cJSON_IsArray(ids))
      return tl_fail(TL_E_FORMAT, "%s: post_processor has no ids for '%.60s'", t->path, name ? name : "");
    cJSON_ArrayForEach(v, ids) {
      int64_t id;
      TL_TRY(template_id(t, whole(v, &id) ? id : INT64_MAX));
    }
  }
  return TL_OK;
}

static tl_status read_post_processor(tl_tokenizer *t, const cJSON *o, int depth) {
  if (!cJSON_IsObject(o) || is_type(o, "ByteLevel")) return TL_OK;  // ByteLevel moves offsets, not ids
  const cJSON *item;
  if (is_type(o, "Sequence") && depth < 4) {
    cJSON_ArrayForEach(item, get(o, "processors")) TL_TRY(read_post_processor(t, item, depth + 1));
    return TL_OK;
  }
  if (t->n_template) return refuse(t, "post_processor", "more than one template", "one");
  if (is_type(o, "TemplateProcessing")) return read_template(t, o);
  if (!is_type(o, "RobertaProcessing"))
    return refuse(t, "post_processor", type_of(o), "none, ByteLevel, TemplateProcessing, RobertaProcessing, Sequence");
  const cJSON *cls = get(o, "cls"), *sep = get(o, "sep");
  int64_t first, last;
  if (!whole(cJSON_GetArrayItem(cls, 1), &first) || !whole(cJSON_GetArrayItem(sep, 1), &last))
    return tl_fail(TL_E_FORMAT, "%s: post_processor RobertaProcessing lacks cls or sep", t->path);
  TL_TRY(template_id(t, first));
  TL_TRY(template_id(t, -1));
  return template_id(t, last);
}

static tl_status read_tokenizer(tl_tokenizer *t, const cJSON *o) {
  bool byte_level = false;
  TL_TRY(read_model(t, get(o, "model")));
  TL_TRY(read_added(t, get(o, "added_tokens")));
  TL_TRY(read_normalizer(t, get(o, "normalizer"), 0));
  TL_TRY(read_pre_tokenizer(t, get(o, "pre_tokenizer"), 0, &byte_level));
  if (!byte_level) return refuse(t, "pre_tokenizer", "without ByteLevel", "byte-level BPE");
  const cJSON *decoder = get(o, "decoder");
  if (cJSON_IsObject(decoder) && !is_type(decoder, "ByteLevel")) return refuse(t, "decoder", type_of(decoder), "ByteLevel");
  TL_TRY(read_post_processor(t, get(o, "post_processor"), 0));
  return text_finish(t);
}

tl_status text_load_json(tl_tokenizer *t, const char *path) {
  cJSON *o;
  TL_TRY(read_json(path, &o));
  tl_status status = read_tokenizer(t, o);
  cJSON_Delete(o);
  return status;
}

// ---------------------------------------------------------------- tokenizer_config.json, chat_template.jinja
static int named_token(const tl_tokenizer *t, const cJSON *v) {  // "text" or {"content": "text"}
  const char *s = cJSON_IsObject(v) ? get_string(v, "content") : cJSON_GetStringValue(v);
  if (!s) return -1;
  int32_t id = text_map_get(&t->added_text, s, strlen(s));
  return id >= 0 ? id : text_map_get(&t->by_text, s, strlen(s));
}

static const char *default_template(const cJSON *v) {  // a string, or a list of {"name", "template"}
  const cJSON *item;
  if (cJSON_IsString(v)) return v->valuestring;
  cJSON_ArrayForEach(item, v) {
    const char *name = get_string(item, "name");
    if (name && !strcmp(name, "default")) return get_string(item, "template");
  }
  return NULL;
}

static tl_status read_config(tl_tokenizer *t, const char *dir, const char *file) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/%s", dir, file) >= (int)sizeof path) return tl_fail(TL_E_ARG, "%s: path too long", dir);
  if (!tl_file_exists(path)) return TL_OK;
  cJSON *o;
  TL_TRY(read_json(path, &o));
  if (t->bos < 0) t->bos = named_token(t, get(o, "bos_token"));
  if (t->eos < 0) t->eos = named_token(t, get(o, "eos_token"));
  const char *source = t->chat_template ? NULL : default_template(get(o, "chat_template"));
  if (source) t->chat_template = strdup(source);
  cJSON_Delete(o);
  return TL_OK;
}

tl_status text_load_config(tl_tokenizer *t, const char *dir) {
  char path[4096];
  if (snprintf(path, sizeof path, "%s/chat_template.jinja", dir) >= (int)sizeof path)
    return tl_fail(TL_E_ARG, "%s: path too long", dir);
  if (tl_file_exists(path)) TL_TRY(tl_read_file(path, &t->chat_template, NULL));
  TL_TRY(read_config(t, dir, "tokenizer_config.json"));
  return read_config(t, dir, "special_tokens_map.json");
}
