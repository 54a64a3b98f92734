// to_gguf.c: a tokenizer as a GGUF's metadata (tokenizer.ggml.*), from the files of a Hugging Face folder or from another GGUF.
//
// From a GGUF its keys are copied as they are. From tokenizer.json: a byte-level BPE whose splits, normal form and
// ignore_merges are those of a pre-tokenizer that GGUF has a name for (known.h). What a GGUF cannot express (other splits, a
// template other than BOS in front and EOS behind, added tokens that eat blanks) is refused with its reason: other ids without
// a word are worse.
//
// Tokens: an id that no token has becomes "[PAD<id>]" of type unused, as llama.cpp wants one token for each embedding row.
#include "known.h"
#include "../base/gguf.h"
#include <cjson/cJSON.h>

enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 };

const text_known text_known_list[TEXT_N_KNOWN] = {
    {" gpt-2 phi-2 mpt olmo ", &text_gpt2_pattern, false, false, false, false},
    {" smollm starcoder refact command-r codeshell exaone ", &text_gpt2_pattern, true, false, false, false},
    {" qwen2 deepseek-r1-qwen ", &text_qwen2_pattern, false, true, false, false},
    {" stablelm2 ", &text_qwen2_pattern, false, false, false, false},
    {" llama-bpe llama3 llama-v3 ", &text_llama3_pattern, false, false, true, true},
    {" smaug-bpe dbrx ", &text_llama3_pattern, false, false, false, false},
};

const text_known *text_known_named(const char *name, size_t n) {
  char key[80];
  if (n > 64 || memchr(name, ' ', n))
    return NULL;
  snprintf(key, sizeof key, " %.*s ", (int)n, name);
  for (int i = 0; i < TEXT_N_KNOWN; i++)
    if (strstr(text_known_list[i].names, key))
      return &text_known_list[i];
  return NULL;
}

// stands for the Digits pre-tokenizer, each digit by itself, in a list of splits
static const char single_digits[] = "single digits";

static const cJSON *get(const cJSON *o, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(o, key);
}
static const char *get_string(const cJSON *o, const char *key) {
  return cJSON_GetStringValue(get(o, key));
}
static const char *type_of(const cJSON *o) {
  const char *s = get_string(o, "type");
  return s ? s : "none";
}

typedef struct source {
  const char *path;
  const cJSON *json;
  const char *splits[4]; // regexes, matches isolated; or single_digits
  int n_splits, n_forms;
  bool nfc, odd; // odd: something that no known pre-tokenizer has
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
  if (s->n_splits < 4)
    s->splits[s->n_splits++] = pattern;
  else
    odd(s, "more than four splits", NULL);
}

static void read_pre(source *s, const cJSON *o, int depth) {
  const cJSON *item;
  const char *type = type_of(o);
  if (strcmp(type, "Sequence") == 0 && depth < 4) {
    cJSON_ArrayForEach(item, get(o, "pretokenizers")) read_pre(s, item, depth + 1);
  } else if (strcmp(type, "Split") == 0) {
    const char *re = get_string(get(o, "pattern"), "Regex"), *behavior = get_string(o, "behavior");
    if (!re || !behavior || strcmp(behavior, "Isolated") != 0 || cJSON_IsTrue(get(o, "invert")))
      odd(s, "a Split that is not an isolated regex:", re);
    else
      add_split(s, re);
  } else if (strcmp(type, "Digits") == 0 && cJSON_IsTrue(get(o, "individual_digits"))) {
    add_split(s, single_digits);
  } else if (strcmp(type, "ByteLevel") == 0) {
    if (!cJSON_IsFalse(get(o, "add_prefix_space")))
      odd(s, "ByteLevel with add_prefix_space", NULL);
    if (!cJSON_IsFalse(get(o, "use_regex")))
      add_split(s, text_gpt2_pattern);
  } else {
    odd(s, "the pre-tokenizer", type);
  }
}

static void read_normalizer(source *s, const cJSON *o) {
  const cJSON *item;
  if (!cJSON_IsObject(o))
    return;
  if (strcmp(type_of(o), "Sequence") == 0) {
    cJSON_ArrayForEach(item, get(o, "normalizers")) read_normalizer(s, item);
  } else if (strcmp(type_of(o), "NFC") == 0) {
    s->nfc = true;
  } else {
    odd(s, "the normalizer", type_of(o));
  }
}

// the known pre-tokenizer that this tokenizer.json spells out
static tl_status find_known(source *s, const text_known **out) {
  const cJSON *model = get(s->json, "model");
  bool ignore = cJSON_IsTrue(get(model, "ignore_merges"));
  read_pre(s, get(s->json, "pre_tokenizer"), 0);
  read_normalizer(s, get(s->json, "normalizer"));
  for (int i = 0; i < TEXT_N_KNOWN && !s->odd; i++) {
    const text_known *k = &text_known_list[i];
    int n = k->digits ? 2 : 1;
    bool same = s->n_splits == n && (!k->digits || s->splits[0] == single_digits) && strcmp(s->splits[n - 1], *k->split) == 0 &&
                s->nfc == k->nfc && ignore == k->ignore_merges;
    if (same)
      return *out = k, TL_OK;
  }
  char why[400];
  snprintf(why, sizeof why, "%s%.200s%s%s is no pre-tokenizer with a known name", s->odd ? s->why : "the split ",
           s->odd || !s->n_splits ? "" : s->splits[s->n_splits - 1], s->nfc ? " after NFC" : "",
           ignore ? " with ignore_merges" : "");
  return refuse(s, why);
}

// ---------------------------------------------------------------- tokens

typedef struct token {
  const char *text;
  int type;
} token;

static tl_status place(const source *s, token *list, int n, const cJSON *id, const char *text, int type) {
  if (!text || !cJSON_IsNumber(id) || id->valuedouble < 0)
    return tl_fail(TL_E_FORMAT, "%s: a token without text or id", s->path);
  if (id->valuedouble >= n)
    return tl_fail(TL_E_SHAPE, "%s: token '%.60s' has id %.0f, the model's embedding has %d rows", s->path, text,
                   id->valuedouble, n);
  list[(int)id->valuedouble] = (token){text, type};
  return TL_OK;
}

static tl_status read_added(const source *s, token *list, int n) {
  const cJSON *a;
  cJSON_ArrayForEach(a, get(s->json, "added_tokens")) {
    char why[160];
    const char *text = get_string(a, "content");
    snprintf(why, sizeof why, "the added token %.60s is single_word, lstrip or rstrip", text ? text : "");
    if (cJSON_IsTrue(get(a, "single_word")) || cJSON_IsTrue(get(a, "lstrip")) || cJSON_IsTrue(get(a, "rstrip")))
      return refuse(s, why);
    TL_TRY(place(s, list, n, get(a, "id"), text, cJSON_IsTrue(get(a, "special")) ? CONTROL : USER_DEFINED));
  }
  return TL_OK;
}

static tl_status put_tokens(const source *s, int n, tl_gguf_writer *w) {
  token *list = calloc((size_t)n + 1, sizeof *list);
  if (!list)
    return tl_fail(TL_E_MEMORY, "%s: out of memory", s->path);
  const cJSON *v;
  tl_status st = TL_OK;
  cJSON_ArrayForEach(v, get(get(s->json, "model"), "vocab")) {
    if (st == TL_OK)
      st = place(s, list, n, v, v->string, NORMAL);
  }
  if (st == TL_OK)
    st = read_added(s, list, n);
  if (st == TL_OK) {
    char pad[32];
    tl_gguf_put_array(w, "tokenizer.ggml.tokens", TL_GGUF_STRING, (uint64_t)n);
    for (int i = 0; i < n; i++) {
      snprintf(pad, sizeof pad, "[PAD%d]", i);
      const char *text = list[i].text ? list[i].text : pad;
      tl_gguf_item_text(w, text, strlen(text));
    }
    tl_gguf_put_array(w, "tokenizer.ggml.token_type", TL_GGUF_I32, (uint64_t)n);
    for (int i = 0; i < n; i++) {
      int32_t type = list[i].text ? list[i].type : UNUSED;
      tl_gguf_item_raw(w, &type, sizeof type);
    }
  }
  free(list);
  return st;
}

static tl_status put_merges(const source *s, tl_gguf_writer *w) {
  const cJSON *merges = get(get(s->json, "model"), "merges"), *m;
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

static tl_status from_json(source *s, const tl_tokenizer *t, int n_rows, tl_gguf_writer *w) {
  const char *model = type_of(get(s->json, "model"));
  if (cJSON_IsTrue(get(get(s->json, "model"), "byte_fallback")) || strcmp(type_of(get(s->json, "decoder")), "ByteLevel") != 0)
    return refuse(s, "it is not a byte-level BPE");
  if (strcmp(model, "none") != 0 && strcmp(model, "BPE") != 0)
    return refuse(s, "its model is not BPE");
  const text_known *k;
  TL_TRY(find_known(s, &k));
  char pre[64];
  sscanf(k->names, " %63s", pre);
  tl_gguf_put_string(w, "tokenizer.ggml.model", "gpt2");
  tl_gguf_put_string(w, "tokenizer.ggml.pre", pre);
  TL_TRY(put_tokens(s, n_rows, w));
  TL_TRY(put_merges(s, w));
  TL_TRY(put_template(s, t, w));
  tl_gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", false);
  if (t->chat_template)
    tl_gguf_put_string(w, "tokenizer.chat_template", t->chat_template);
  return TL_OK;
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
