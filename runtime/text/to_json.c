// to_json.c: the tokenizer of a GGUF as the files of a Hugging Face folder: tokenizer.json, tokenizer_config.json (with the
// chat template). A byte-level BPE whose tokenizer.ggml.pre names a pre-tokenizer of known.h; anything else is refused with its
// name.
//
// Control tokens become special added tokens, user-defined ones added tokens, as reading a GGUF takes them; "[PAD<id>]" of type
// unused are the writer's filling and are left out.
#include "known.h"
#include "../base/gguf.h"

enum { CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 };

typedef struct source {
  tl_gguf g;
  const char *path;
  tl_gguf_text *tokens, *merges;
  int32_t *types;
  size_t n, n_merges;
  const text_known *known;
  int64_t bos, eos, pad, unk; // -1: none
} source;

static void quote(tl_str *s, const char *p, size_t n) {
  tl_str_add(s, "\"", 1);
  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)p[i];
    if (c == '"' || c == '\\')
      tl_str_printf(s, "\\%c", c);
    else if (c < 0x20)
      tl_str_printf(s, "\\u%04x", c);
    else
      tl_str_add(s, p + i, 1);
  }
  tl_str_add(s, "\"", 1);
}

static int type_at(const source *s, size_t i) {
  return s->types ? s->types[i] : 1;
}

static bool filling(const source *s, size_t i) {
  char pad[32];
  int n = snprintf(pad, sizeof pad, "[PAD%zu]", i);
  return type_at(s, i) == UNUSED && s->tokens[i].n == (size_t)n && memcmp(s->tokens[i].p, pad, (size_t)n) == 0;
}

static void add_added(tl_str *o, const source *s) {
  const char *comma = "";
  tl_str_printf(o, "\"added_tokens\":[");
  for (size_t i = 0; i < s->n; i++) {
    if (type_at(s, i) != CONTROL && type_at(s, i) != USER_DEFINED)
      continue;
    tl_str_printf(o, "%s{\"id\":%zu,\"content\":", comma, i);
    quote(o, s->tokens[i].p, s->tokens[i].n);
    tl_str_printf(o, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":%s}",
                  type_at(s, i) == CONTROL ? "true" : "false");
    comma = ",\n";
  }
  tl_str_printf(o, "]");
}

static void add_pre_tokenizer(tl_str *o, const text_known *k) {
  bool gpt2 = *k->split == text_gpt2_pattern;
  tl_str_printf(o, "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
  if (k->digits)
    tl_str_printf(o, "{\"type\":\"Digits\",\"individual_digits\":true},");
  if (!gpt2) {
    tl_str_printf(o, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
    quote(o, *k->split, strlen(*k->split));
    tl_str_printf(o, "},\"behavior\":\"Isolated\",\"invert\":false},");
  }
  tl_str_printf(o, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":%s}]}",
                gpt2 ? "true" : "false");
}

static void add_special(tl_str *o, const source *s, int64_t id, const char *around) {
  tl_str_printf(o, "%s{\"SpecialToken\":{\"id\":", around);
  quote(o, s->tokens[id].p, s->tokens[id].n);
  tl_str_printf(o, ",\"type_id\":0}}");
}

static void add_named(tl_str *o, const source *s, int64_t id, const char *around) {
  tl_str_printf(o, "%s", around);
  quote(o, s->tokens[id].p, s->tokens[id].n);
  tl_str_printf(o, ":{\"id\":");
  quote(o, s->tokens[id].p, s->tokens[id].n);
  tl_str_printf(o, ",\"ids\":[%lld],\"tokens\":[", (long long)id);
  quote(o, s->tokens[id].p, s->tokens[id].n);
  tl_str_printf(o, "]}");
}

static void add_post_processor(tl_str *o, const source *s) {
  bool bos = s->known->bos, eos = false;
  tl_gguf_bool(&s->g, "tokenizer.ggml.add_bos_token", &bos);
  tl_gguf_bool(&s->g, "tokenizer.ggml.add_eos_token", &eos);
  bos = bos && s->bos >= 0;
  eos = eos && s->eos >= 0;
  if (!bos && !eos) {
    tl_str_printf(
        o, "\"post_processor\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}");
    return;
  }
  tl_str_printf(o, "\"post_processor\":{\"type\":\"TemplateProcessing\"");
  for (int pair = 0; pair < 2; pair++) {
    tl_str_printf(o, ",\"%s\":[", pair ? "pair" : "single");
    for (int part = 0; part <= pair; part++) {
      if (bos)
        add_special(o, s, s->bos, part ? "," : "");
      tl_str_printf(o, "%s{\"Sequence\":{\"id\":\"%c\",\"type_id\":%d}}", bos || part ? "," : "", 'A' + part, part);
      if (eos)
        add_special(o, s, s->eos, ",");
    }
    tl_str_printf(o, "]");
  }
  tl_str_printf(o, ",\"special_tokens\":{");
  if (bos)
    add_named(o, s, s->bos, "");
  if (eos && s->eos != s->bos)
    add_named(o, s, s->eos, bos ? "," : "");
  tl_str_printf(o, "}}");
}

static tl_status add_model(tl_str *o, const source *s) {
  const char *comma = "";
  tl_str_printf(o,
                "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
                "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":%s,\n\"vocab\":{",
                s->known->ignore_merges ? "true" : "false");
  for (size_t i = 0; i < s->n; i++) {
    if (filling(s, i))
      continue;
    tl_str_printf(o, "%s", comma);
    quote(o, s->tokens[i].p, s->tokens[i].n);
    tl_str_printf(o, ":%zu", i);
    comma = ",\n";
  }
  tl_str_printf(o, "},\n\"merges\":[");
  for (size_t i = 0; i < s->n_merges; i++) {
    const char *p = s->merges[i].p, *space = s->merges[i].n ? memchr(p, ' ', s->merges[i].n) : NULL;
    if (!space)
      return tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.merges[%zu] is not two tokens and a space", s->path, i);
    tl_str_printf(o, i ? ",\n[" : "[");
    quote(o, p, (size_t)(space - p));
    tl_str_printf(o, ",");
    quote(o, space + 1, (size_t)(p + s->merges[i].n - space - 1));
    tl_str_printf(o, "]");
  }
  tl_str_printf(o, "]}");
  return TL_OK;
}

static void add_token_key(tl_str *o, const source *s, const char *key, int64_t id) {
  tl_str_printf(o, ",\n  \"%s\": ", key);
  if (id >= 0)
    quote(o, s->tokens[id].p, s->tokens[id].n);
  else
    tl_str_printf(o, "null");
}

static void make_config(tl_str *o, const source *s) {
  tl_gguf_text chat, arch;
  char key[96];
  int64_t most = 0;
  tl_str_printf(o, "{\n  \"add_prefix_space\": false");
  add_token_key(o, s, "bos_token", s->bos);
  add_token_key(o, s, "eos_token", s->eos);
  add_token_key(o, s, "pad_token", s->pad);
  add_token_key(o, s, "unk_token", s->unk);
  if (tl_gguf_string(&s->g, "tokenizer.chat_template", &chat)) {
    tl_str_printf(o, ",\n  \"chat_template\": ");
    quote(o, chat.p, chat.n);
  }
  if (tl_gguf_string(&s->g, "general.architecture", &arch) && arch.n < 64) {
    snprintf(key, sizeof key, "%.*s.context_length", (int)arch.n, arch.p);
    if (tl_gguf_int(&s->g, key, &most) && most > 0)
      tl_str_printf(o, ",\n  \"model_max_length\": %lld", (long long)most);
  }
  tl_str_printf(o, ",\n  \"clean_up_tokenization_spaces\": false,\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}

static tl_status make_json(tl_str *o, const source *s) {
  tl_str_printf(o, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
  add_added(o, s);
  tl_str_printf(o, ",\n\"normalizer\":%s,\n", s->known->nfc ? "{\"type\":\"NFC\"}" : "null");
  add_pre_tokenizer(o, s->known);
  tl_str_printf(o, ",\n");
  add_post_processor(o, s);
  tl_str_printf(
      o, ",\n\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},\n");
  TL_TRY(add_model(o, s));
  tl_str_printf(o, "}\n");
  return TL_OK;
}

static int64_t id_of(const source *s, const char *key) {
  int64_t id;
  return tl_gguf_int(&s->g, key, &id) && id >= 0 && id < (int64_t)s->n ? id : -1;
}

static tl_status read_source(source *s) {
  tl_gguf_text model = {0}, pre = {0};
  size_t n_types = 0;
  tl_gguf_string(&s->g, "tokenizer.ggml.model", &model);
  tl_gguf_string(&s->g, "tokenizer.ggml.pre", &pre);
  s->known = model.n == 4 && memcmp(model.p, "gpt2", 4) == 0 ? text_known_named(pre.p ? pre.p : "", pre.n) : NULL;
  if (!s->known)
    return tl_fail(
        TL_E_UNSUPPORTED,
        "%s: its tokenizer (model '%.*s', pre '%.*s') is not written as tokenizer.json; --no-tokenizer writes the model "
        "without one",
        s->path, model.n < 40 ? (int)model.n : 40, model.p ? model.p : "", pre.n < 40 ? (int)pre.n : 40, pre.p ? pre.p : "");
  if (!tl_gguf_strings(&s->g, "tokenizer.ggml.tokens", &s->tokens, &s->n) ||
      !tl_gguf_strings(&s->g, "tokenizer.ggml.merges", &s->merges, &s->n_merges))
    return tl_fail(TL_E_MEMORY, "%s: out of memory", s->path);
  tl_gguf_ints(&s->g, "tokenizer.ggml.token_type", &s->types, &n_types);
  s->bos = id_of(s, "tokenizer.ggml.bos_token_id");
  s->eos = id_of(s, "tokenizer.ggml.eos_token_id");
  s->pad = id_of(s, "tokenizer.ggml.padding_token_id");
  s->unk = id_of(s, "tokenizer.ggml.unknown_token_id");
  return TL_OK;
}

tl_status tl_tokenizer_to_json(const char *path, char **json, char **config) {
  *json = *config = NULL;
  tl_tokenizer *t;
  TL_TRY(tl_tokenizer_load(path, &t)); // what is written below has passed every check of reading
  tl_tokenizer_free(t);
  source s = {.path = path};
  TL_TRY(tl_gguf_open(&s.g, path));
  tl_str text = {0}, about = {0};
  tl_status st = read_source(&s);
  if (st == TL_OK)
    st = make_json(&text, &s);
  if (st == TL_OK)
    make_config(&about, &s);
  free(s.tokens);
  free(s.merges);
  free(s.types);
  tl_gguf_close(&s.g);
  if (st == TL_OK)
    *json = text.p, *config = about.p;
  else
    tl_str_free(&text);
  return st;
}
