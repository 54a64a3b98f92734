// json.c: tokenizer.json (the `tokenizers` library's format): the model, added tokens, the post-processor.
//
// Read is a BPE, byte-level or of characters (SentencePiece's); post-processor none, ByteLevel, TemplateProcessing,
// RobertaProcessing, BertProcessing or a sequence. The other parts are json_parts.c's. Anything else is refused with its name.
// `truncation` and `padding` are not part of a text's ids here and are ignored, as transformers does unless asked.
#include "text_json.h"

tl_status text_read_json(const char *path, cJSON **out) {
  char *data;
  size_t n;
  TL_TRY(tl_read_file(path, &data, &n));
  size_t bad = text_utf8_bad(data, n);
  *out = NULL;
  tl_status s = bad < n ? tl_fail(TL_E_FORMAT, "%s: not JSON: bad UTF-8 at byte %zu of %zu", path, bad, n) : tl_json_parse(path, data, n, out);
  free(data);
  return s;
}

tl_status text_refuse(const tl_tokenizer *t, const char *part, const char *found, const char *supported) {
  return tl_fail(TL_E_UNSUPPORTED, "%s: %s is %s; supported: %s", t->path, part, found, supported);
}

// ---------------------------------------------------------------- model
static tl_status read_merge(tl_tokenizer *t, const cJSON *m) {
  const char *a, *b;
  if (cJSON_IsArray(m)) {
    a = cJSON_GetStringValue(m->child);
    b = m->child ? cJSON_GetStringValue(m->child->next) : NULL;
    if (a && b && !m->child->next->next)
      return text_add_merge(t, a, strlen(a), b, strlen(b));
  } else if ((a = cJSON_GetStringValue(m))) {
    if (!strncmp(a, "#version", 8))
      return TL_OK;
    b = strchr(a, ' ');
    if (b && !strchr(b + 1, ' '))
      return text_add_merge(t, a, (size_t)(b - a), b + 1, strlen(b + 1));
  }
  return tl_fail(TL_E_FORMAT, "%s: model.merges: entry %zu is not a pair of tokens", t->path, t->n_merges);
}

static tl_status read_model(tl_tokenizer *t, const cJSON *model) {
  const char *type = json_string(model, "type");
  const cJSON *vocab = json_get(model, "vocab"), *merges = json_get(model, "merges");
  if (!cJSON_IsObject(model))
    return tl_fail(TL_E_FORMAT, "%s: no \"model\": not a tokenizer.json", t->path);
  if (type ? strcmp(type, "BPE") != 0 : !merges)
    return text_refuse(t, "model.type", type ? type : "not given", "BPE");
  const char *affix = json_string(model, "continuing_subword_prefix"), *suffix = json_string(model, "end_of_word_suffix");
  if ((affix && *affix) || (suffix && *suffix))
    return text_refuse(t, "model", "a BPE with continuing_subword_prefix or end_of_word_suffix", "a BPE without them");
  const cJSON *dropout = json_get(model, "dropout");
  if (cJSON_IsNumber(dropout) && dropout->valuedouble > 0)
    return text_refuse(t, "model.dropout", "not 0", "no dropout");
  if (!cJSON_IsObject(vocab))
    return tl_fail(TL_E_FORMAT, "%s: model.vocab is not an object", t->path);
  if (!cJSON_IsArray(merges))
    return tl_fail(TL_E_FORMAT, "%s: model.merges is not an array", t->path);
  const cJSON *v;
  cJSON_ArrayForEach(v, vocab) {
    int64_t id;
    if (!json_whole(v, &id))
      return tl_fail(TL_E_FORMAT, "%s: model.vocab['%.60s'] is not an id", t->path, v->string);
    TL_TRY(text_add_token(t, id, v->string, strlen(v->string), false));
  }
  cJSON_ArrayForEach(v, merges) TL_TRY(read_merge(t, v));
  t->ignore_merges = json_flag(model, "ignore_merges", false);
  t->fuse_unk = json_flag(model, "fuse_unk", false);
  t->byte_fallback = json_flag(model, "byte_fallback", false);
  const char *unk = json_string(model, "unk_token");
  if (unk && (t->unk = text_map_get(&t->by_text, unk, strlen(unk))) < 0)
    return tl_fail(TL_E_FORMAT, "%s: model.unk_token '%.60s' is not in the vocabulary", t->path, unk);
  return TL_OK;
}

static tl_status read_added(tl_tokenizer *t, const cJSON *list) {
  const cJSON *a;
  cJSON_ArrayForEach(a, list) {
    const char *content = json_string(a, "content");
    int64_t id;
    if (!content || !json_whole(json_get(a, "id"), &id))
      return tl_fail(TL_E_FORMAT, "%s: added_tokens: an entry without id or content", t->path);
    text_added flags = {.single_word = json_flag(a, "single_word", false),
                        .lstrip = json_flag(a, "lstrip", false),
                        .rstrip = json_flag(a, "rstrip", false),
                        .special = json_flag(a, "special", false)};
    flags.normalized = json_flag(a, "normalized", !flags.special);
    TL_TRY(text_add_added(t, id, content, strlen(content), flags));
  }
  return TL_OK;
}

// ---------------------------------------------------------------- post-processor
static tl_status template_id(tl_tokenizer *t, int64_t id) {
  if (id < -1 || id >= t->n_tokens || (id >= 0 && !t->tokens[id].text))
    return tl_fail(TL_E_FORMAT, "%s: post_processor names id %lld, which no token has", t->path, (long long)id);
  int32_t *p = realloc(t->template, (size_t)(t->n_template + 1) * sizeof *p);
  if (!p)
    return tl_fail(TL_E_MEMORY, "%s: out of memory for the post-processor", t->path);
  t->template = p;
  t->template[t->n_template++] = (int32_t)id;
  return TL_OK;
}

static tl_status read_template(tl_tokenizer *t, const cJSON *o) {
  const cJSON *item, *v;
  cJSON_ArrayForEach(item, json_get(o, "single")) {
    const cJSON *special = json_get(item, "SpecialToken");
    if (!special) {
      TL_TRY(template_id(t, -1));
      continue;
    }
    const char *name = json_string(special, "id");
    const cJSON *ids = name ? json_get(json_get(json_get(o, "special_tokens"), name), "ids") : NULL;
    if (!cJSON_IsArray(ids))
      return tl_fail(TL_E_FORMAT, "%s: post_processor has no ids for '%.60s'", t->path, name ? name : "");
    cJSON_ArrayForEach(v, ids) {
      int64_t id;
      TL_TRY(template_id(t, json_whole(v, &id) ? id : INT64_MAX));
    }
  }
  return TL_OK;
}

static tl_status read_post_processor(tl_tokenizer *t, const cJSON *o, int depth) {
  if (!cJSON_IsObject(o) || json_is(o, "ByteLevel"))
    return TL_OK; // ByteLevel moves offsets, not ids
  const cJSON *item;
  if (json_is(o, "Sequence") && depth < TEXT_MAX_DEPTH) {
    cJSON_ArrayForEach(item, json_get(o, "processors")) TL_TRY(read_post_processor(t, item, depth + 1));
    return TL_OK;
  }
  if (t->n_template)
    return text_refuse(t, "post_processor", "more than one template", "one");
  if (json_is(o, "TemplateProcessing"))
    return read_template(t, o);
  if (!json_is(o, "RobertaProcessing") && !json_is(o, "BertProcessing"))
    return text_refuse(t, "post_processor", json_type(o),
                       "none, ByteLevel, TemplateProcessing, RobertaProcessing, BertProcessing, Sequence");
  const cJSON *cls = json_get(o, "cls"), *sep = json_get(o, "sep");
  int64_t first, last;
  if (!json_whole(cJSON_GetArrayItem(cls, 1), &first) || !json_whole(cJSON_GetArrayItem(sep, 1), &last))
    return tl_fail(TL_E_FORMAT, "%s: post_processor %s lacks cls or sep", t->path, json_type(o));
  TL_TRY(template_id(t, first));
  TL_TRY(template_id(t, -1));
  return template_id(t, last);
}

static tl_status check_bytes(const tl_tokenizer *t) { // else the spelling's own bytes would stand for a missing byte
  for (int b = 0; b < 256 && t->byte_level && t->byte_fallback; b++)
    if (t->byte_id[b] < 0)
      return tl_fail(TL_E_UNSUPPORTED, "%s: model has byte_fallback and ByteLevel, and byte %d is not in the vocabulary",
                     t->path, b);
  return TL_OK;
}

static tl_status read_tokenizer(tl_tokenizer *t, const cJSON *o) {
  bool byte_level = false;
  t->byte_level = text_has_byte_level(json_get(o, "pre_tokenizer"), 0);
  TL_TRY(read_model(t, json_get(o, "model")));
  TL_TRY(read_added(t, json_get(o, "added_tokens")));
  TL_TRY(text_read_normalizer(t, json_get(o, "normalizer"), 0));
  TL_TRY(text_read_pre_tokenizer(t, json_get(o, "pre_tokenizer"), 0, &byte_level));
  TL_TRY(text_read_decoder(t, json_get(o, "decoder"), 0));
  TL_TRY(read_post_processor(t, json_get(o, "post_processor"), 0));
  TL_TRY(text_finish(t));
  return check_bytes(t);
}

tl_status text_load_json(tl_tokenizer *t, const char *path) {
  cJSON *o;
  TL_TRY(text_read_json(path, &o));
  tl_status status = read_tokenizer(t, o);
  cJSON_Delete(o);
  return status;
}
