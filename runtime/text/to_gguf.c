// to_gguf.c: a tokenizer as a GGUF's metadata (tokenizer.ggml.*), from the files of a Hugging Face folder or from another GGUF.
//
// From a GGUF its keys are copied as they are. From tokenizer.json: a byte-level BPE whose splits, normal form and
// ignore_merges are those of a pre-tokenizer that GGUF has a name for (pre.c), or SentencePiece's BPE (to_gguf_spm.c). What a
// GGUF cannot express (other splits, a template other than BOS in front and EOS behind, added tokens that eat blanks) is
// refused with its reason: other ids without a word are worse.
//
// Tokens: an id that no token has becomes "[PAD<id>]" of type unused, as llama.cpp wants one token for each embedding row.
#include "convert.h"

typedef struct source {
  const char *path;
  const cJSON *json;
  const char *splits[TEXT_PRE_SPLITS]; // regexes, matches isolated; or text_pre_digits
  int n_splits;
  bool byte_level; // a ByteLevel was seen; what stands behind it works on its spelling
  bool nfc, odd;   // odd: something that no known pre-tokenizer has
  char why[160];
} source;

static tl_status refuse(const source *s, const char *why) {
  return tl_fail(TL_E_UNSUPPORTED, "%s: no GGUF tokenizer can do this: %s; --no-tokenizer writes the model without one",
                 s->path, why);
}

static void odd(source *s, const char *what, const char *detail) {
  if (!s->odd)
    snprintf(s->why, sizeof s->why, "%s %.100s", what, detail ? detail : "");
  s->odd = true;
}

static void add_split(source *s, const char *pattern) {
  if (s->n_splits < TEXT_PRE_SPLITS)
    s->splits[s->n_splits++] = pattern;
  else
    odd(s, "more splits than any known pre-tokenizer has", NULL);
}

static void read_pre(source *s, const cJSON *o, int depth) {
  const cJSON *item;
  const char *type = json_type(o);
  if (s->byte_level)
    odd(s, "a pre-tokenizer behind ByteLevel:", type);
  if (strcmp(type, "Sequence") == 0 && depth < 4) {
    cJSON_ArrayForEach(item, json_get(o, "pretokenizers")) read_pre(s, item, depth + 1);
  } else if (strcmp(type, "Split") == 0) {
    const char *re = json_string(json_get(o, "pattern"), "Regex"), *behavior = json_string(o, "behavior");
    if (!re || !behavior || strcmp(behavior, "Isolated") != 0 || cJSON_IsTrue(json_get(o, "invert")))
      odd(s, "a Split that is not an isolated regex:", re);
    else
      add_split(s, re);
  } else if (strcmp(type, "Digits") == 0 && cJSON_IsTrue(json_get(o, "individual_digits"))) {
    add_split(s, text_pre_digits);
  } else if (strcmp(type, "ByteLevel") == 0) {
    s->byte_level = true;
    if (!cJSON_IsFalse(json_get(o, "add_prefix_space")))
      odd(s, "ByteLevel with add_prefix_space", NULL);
    if (!cJSON_IsFalse(json_get(o, "use_regex")))
      add_split(s, TEXT_GPT2_PATTERN);
  } else {
    odd(s, "the pre-tokenizer", type);
  }
}

static void read_normalizer(source *s, const cJSON *o) {
  const cJSON *item;
  if (!cJSON_IsObject(o))
    return;
  if (strcmp(json_type(o), "Sequence") == 0) {
    cJSON_ArrayForEach(item, json_get(o, "normalizers")) read_normalizer(s, item);
  } else if (strcmp(json_type(o), "NFC") == 0) {
    s->nfc = true;
  } else {
    odd(s, "the normalizer", json_type(o));
  }
}

static bool same_splits(const source *s, const text_pre *k) {
  int n = 0;
  for (; n < TEXT_PRE_SPLITS && k->splits[n]; n++)
    if (n == s->n_splits || strcmp(s->splits[n], k->splits[n]) != 0)
      return false;
  return n == s->n_splits;
}

// the known pre-tokenizer that this tokenizer.json spells out
static tl_status find_known(source *s, const text_pre **out) {
  bool ignore = json_flag(json_get(s->json, "model"), "ignore_merges", false);
  read_pre(s, json_get(s->json, "pre_tokenizer"), 0);
  read_normalizer(s, json_get(s->json, "normalizer"));
  for (int i = 0; i < text_n_pre && !s->odd; i++) {
    const text_pre *k = &text_pre_list[i];
    if (same_splits(s, k) && s->nfc == k->nfc && ignore == k->ignore_merges)
      return *out = k, TL_OK;
  }
  char why[400];
  snprintf(why, sizeof why, "%s%.200s%s%s is no pre-tokenizer with a known name", s->odd ? s->why : "the split ",
           s->odd || !s->n_splits ? "" : s->splits[s->n_splits - 1], s->nfc ? " after NFC" : "",
           ignore ? " with ignore_merges" : "");
  return refuse(s, why);
}

// ---------------------------------------------------------------- tokens

static tl_status place(const source *s, text_entry *list, int n, const cJSON *id, const char *text, int type) {
  if (!text || !cJSON_IsNumber(id) || id->valuedouble < 0)
    return tl_fail(TL_E_FORMAT, "%s: a token without text or id", s->path);
  if (id->valuedouble >= n)
    return tl_fail(TL_E_SHAPE, "%s: token '%.60s' has id %.0f, the model's embedding has %d rows", s->path, text,
                   id->valuedouble, n);
  list[(int)id->valuedouble] = (text_entry){text, type};
  return TL_OK;
}

static tl_status read_added(const source *s, text_entry *list, int n) {
  const cJSON *a;
  cJSON_ArrayForEach(a, json_get(s->json, "added_tokens")) {
    char why[160];
    const char *text = json_string(a, "content");
    snprintf(why, sizeof why, "the added token %.60s is single_word, lstrip or rstrip", text ? text : "");
    if (cJSON_IsTrue(json_get(a, "single_word")) || cJSON_IsTrue(json_get(a, "lstrip")) || cJSON_IsTrue(json_get(a, "rstrip")))
      return refuse(s, why);
    int type = cJSON_IsTrue(json_get(a, "special")) ? TEXT_CONTROL : TEXT_USER_DEFINED;
    TL_TRY(place(s, list, n, json_get(a, "id"), text, type));
  }
  return TL_OK;
}

// A `normalized` added token is looked for in normalised text: a GGUF can only say this where it makes no difference.
static tl_status check_normalized(const source *s, const tl_tokenizer *t) {
  char why[192];
  for (size_t i = 0; i < t->normal.n; i++) {
    const text_added *a = &t->normal.items[i];
    const text_token *k = &t->tokens[a->id];
    snprintf(why, sizeof why, "the added token %.60s is looked for as '%.60s', in normalised text", k->text, a->content);
    if (a->n != k->n_text || memcmp(a->content, k->text, a->n) != 0)
      return refuse(s, why);
  }
  return TL_OK;
}

// Each id's token. SentencePiece's vocabularies tell bytes and the unknown token from others.
static tl_status list_tokens(const source *s, const tl_tokenizer *t, text_entry *list, int n) {
  const cJSON *v;
  cJSON_ArrayForEach(v, json_get(json_get(s->json, "model"), "vocab"))
      TL_TRY(place(s, list, n, v, v->string, t->byte_level || text_byte_token(v->string, strlen(v->string)) < 0 ? TEXT_NORMAL : TEXT_BYTE));
  TL_TRY(read_added(s, list, n));
  if (!t->byte_level && t->unk >= 0 && t->unk < n)
    list[t->unk].type = TEXT_UNKNOWN;
  return check_normalized(s, t);
}

static void put_tokens(const text_entry *list, int n, tl_gguf_writer *w) {
  char pad[32];
  tl_gguf_put_array(w, "tokenizer.ggml.tokens", TL_GGUF_STRING, (uint64_t)n);
  for (int i = 0; i < n; i++) {
    snprintf(pad, sizeof pad, "[PAD%d]", i);
    const char *text = list[i].text ? list[i].text : pad;
    tl_gguf_item_text(w, text, strlen(text));
  }
  tl_gguf_put_array(w, "tokenizer.ggml.token_type", TL_GGUF_I32, (uint64_t)n);
  for (int i = 0; i < n; i++) {
    int32_t type = list[i].text ? list[i].type : TEXT_UNUSED;
    tl_gguf_item_raw(w, &type, sizeof type);
  }
}

static tl_status put_merges(const source *s, tl_gguf_writer *w) {
  const cJSON *merges = json_get(json_get(s->json, "model"), "merges"), *m;
  uint64_t n = 0;
  cJSON_ArrayForEach(m, merges) n += !(cJSON_IsString(m) && strncmp(m->valuestring, "#version", 8) == 0);
  tl_gguf_put_array(w, "tokenizer.ggml.merges", TL_GGUF_STRING, n);
  cJSON_ArrayForEach(m, merges) {
    const char *a = cJSON_GetStringValue(cJSON_IsArray(m) ? m->child : m);
    const char *b = cJSON_IsArray(m) && m->child ? cJSON_GetStringValue(m->child->next) : NULL;
    if (cJSON_IsString(m) && strncmp(a, "#version", 8) == 0)
      continue;
    if (!a || cJSON_IsArray(m) != (b != NULL))
      return tl_fail(TL_E_FORMAT, "%s: a merge that is not a pair of tokens", s->path);
    if (b && (strchr(a, ' ') || strchr(b, ' ')))
      return refuse(s, "a merge of tokens with spaces in them");
    tl_str text = {0};
    tl_str_printf(&text, b ? "%s %s" : "%s", a, b);
    tl_gguf_item_text(w, text.p, text.n);
    tl_str_free(&text);
  }
  return TL_OK;
}

// ---------------------------------------------------------------- what stands around a text

// The template as ids around -1; at most BOS, text, EOS are understood.
static tl_status put_template(const source *s, const tl_tokenizer *t, tl_gguf_writer *w) {
  int at = 0;
  while (at < t->n_template && t->template[at] != -1)
    at++;
  int before = t->n_template ? at : 0, after = t->n_template ? t->n_template - at - 1 : 0;
  bool bos = before == 1 && t->template[0] == t->bos && t->bos >= 0;
  bool eos = after == 1 && t->template[t->n_template - 1] == t->eos && t->eos >= 0;
  if ((before && !bos) || (after && !eos))
    return refuse(s, "its post-processor adds other tokens than bos_token in front and eos_token behind");
  tl_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", bos);
  tl_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", eos);
  return TL_OK;
}

// Names beside the default's are listed too, as llama.cpp's conversion does.
static void put_chat_templates(const tl_tokenizer *t, tl_gguf_writer *w) {
  char key[256];
  int named = 0;
  for (int i = 0; i < t->n_templates; i++) {
    const text_template *k = &t->templates[i];
    bool first = strcmp(k->name, "default") == 0;
    if (snprintf(key, sizeof key, first ? "tokenizer.chat_template" : "tokenizer.chat_template.%s", k->name) >= (int)sizeof key)
      continue; // a name that long is nobody's
    tl_gguf_put_string(w, key, k->source);
    named += !first;
  }
  if (named)
    tl_gguf_put_array(w, "tokenizer.chat_templates", TL_GGUF_STRING, (uint64_t)named);
  for (int i = 0; i < t->n_templates && named; i++)
    if (strcmp(t->templates[i].name, "default") != 0)
      tl_gguf_item_text(w, t->templates[i].name, strlen(t->templates[i].name));
}

static tl_status byte_level_from_json(source *s, const tl_tokenizer *t, const text_entry *list, int n, tl_gguf_writer *w) {
  if (json_flag(json_get(s->json, "model"), "byte_fallback", false) || !json_is(json_get(s->json, "decoder"), "ByteLevel"))
    return refuse(s, "it is neither a byte-level BPE nor SentencePiece's");
  const text_pre *k;
  TL_TRY(find_known(s, &k));
  char pre[64];
  sscanf(k->names, " %63s", pre);
  tl_gguf_put_string(w, "tokenizer.ggml.model", "gpt2");
  tl_gguf_put_string(w, "tokenizer.ggml.pre", pre);
  put_tokens(list, n, w);
  TL_TRY(put_merges(s, w));
  tl_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false);
  return put_template(s, t, w);
}

static tl_status spm_from_json(const source *s, const tl_tokenizer *t, const text_entry *list, int n, tl_gguf_writer *w) {
  const char *form;
  char why[200];
  bool prefix;
  if (!text_spm_form(s->json, &prefix, &form))
    return refuse(s, form);
  for (int b = 0; b < 256; b++)
    if (t->byte_id[b] < 0)
      return refuse(s, "its vocabulary has not all of <0x00> to <0xFF>");
  if (t->unk < 0 || t->ignore_merges)
    return refuse(s, t->unk < 0 ? "it has no unk_token" : "it has ignore_merges");
  float *scores = malloc(((size_t)n + 1) * sizeof *scores);
  if (!scores)
    return tl_fail(TL_E_MEMORY, "%s: out of memory", s->path);
  bool fine = text_spm_scores(t, list, n, scores, why, sizeof why);
  if (fine) {
    tl_gguf_put_string(w, "tokenizer.ggml.model", "llama");
    tl_gguf_put_string(w, "tokenizer.ggml.pre", "default");
    put_tokens(list, n, w);
    tl_gguf_put_array(w, "tokenizer.ggml.scores", TL_GGUF_F32, (uint64_t)n);
    tl_gguf_item_raw(w, scores, (size_t)n * sizeof *scores);
    tl_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", (uint32_t)t->unk);
    tl_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", prefix);
  }
  free(scores);
  return fine ? put_template(s, t, w) : refuse(s, why);
}

static tl_status from_json(source *s, const tl_tokenizer *t, int n_rows, tl_gguf_writer *w) {
  const char *model = json_type(json_get(s->json, "model"));
  if (json_string(json_get(s->json, "model"), "type") && strcmp(model, "BPE") != 0)
    return refuse(s, "its model is not BPE");
  text_entry *list = calloc((size_t)n_rows + 1, sizeof *list);
  if (!list)
    return tl_fail(TL_E_MEMORY, "%s: out of memory", s->path);
  tl_status st = list_tokens(s, t, list, n_rows);
  if (st == TL_OK)
    st = text_is_spm(s->json) ? spm_from_json(s, t, list, n_rows, w) : byte_level_from_json(s, t, list, n_rows, w);
  free(list);
  if (st == TL_OK)
    put_chat_templates(t, w);
  return st;
}

static tl_status copy_keys(const char *path, tl_gguf_writer *w) {
  tl_gguf g;
  TL_TRY(tl_gguf_open(&g, path));
  for (size_t i = 0; i < g.n_kv; i++)
    if (g.kv[i].key.n > 10 && memcmp(g.kv[i].key.p, "tokenizer.", 10) == 0)
      tl_gguf_put_kv(w, &g.kv[i]);
  tl_gguf_close(&g);
  return TL_OK;
}

tl_status tl_tokenizer_to_gguf(const char *path, int n_rows, tl_gguf_writer *w, bool *with_ids, int *eos) {
  char file[4096];
  *with_ids = tl_gguf_is(path);
  *eos = -1;
  if (*with_ids)
    return copy_keys(path, w);
  const char *slash = tl_is_dir(path) ? path + strlen(path) : strrchr(path, '/'); // a model made from a config.json: its folder
  int folder = slash ? (int)(slash - path) : 1;
  if (snprintf(file, sizeof file, "%.*s/tokenizer.json", folder, slash ? path : ".") >= (int)sizeof file)
    return tl_fail(TL_E_ARG, "%s: path too long", path);
  if (!tl_file_exists(file))
    return tl_fail(TL_E_IO, "%s: there is no tokenizer beside the model; --no-tokenizer writes it without one", file);
  tl_tokenizer *t;
  TL_TRY(tl_tokenizer_load(file, &t)); // checks the file; knows the template and the special tokens
  char *data = NULL;
  size_t n;
  tl_status st = tl_read_file(file, &data, &n);
  cJSON *json = st == TL_OK ? cJSON_ParseWithLength(data, n) : NULL;
  if (st == TL_OK && !json)
    st = tl_fail(TL_E_MEMORY, "%s: out of memory", file);
  source s = {.path = file, .json = json};
  if (st == TL_OK)
    st = from_json(&s, t, n_rows, w);
  *eos = t->eos;
  cJSON_Delete(json);
  free(data);
  tl_tokenizer_free(t);
  return st;
}
