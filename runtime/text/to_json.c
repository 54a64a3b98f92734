// to_json.c: the tokenizer of a GGUF as the files of a Hugging Face folder: tokenizer.json, tokenizer_config.json (with the
// chat template). A byte-level BPE whose tokenizer.ggml.pre names a pre-tokenizer of pre.c, or SentencePiece's BPE, whose
// scores become a list of merges; anything else is refused with its name.
//
// Control tokens become special added tokens, user-defined ones added tokens, as reading a GGUF takes them; "[PAD<id>]" of type
// unused are the writer's filling and are left out.
//
// Merges of scores: the list that transformers makes of a SentencePiece model: every cut of a token into two tokens, best score
// first. See to_gguf_spm.c for the way back and for what no list can say.
#include "convert.h"

typedef struct source {
  tl_gguf g;
  const char *path;
  tl_gguf_text *tokens, *merges;
  int32_t *types;
  float *scores;
  size_t n, n_merges;
  bool spm, prefix;
  const text_pre *pre; // NULL: spm
  tl_tokenizer *t;
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
  return type_at(s, i) == TEXT_UNUSED && s->tokens[i].n == (size_t)n && memcmp(s->tokens[i].p, pad, (size_t)n) == 0;
}

static void add_added(tl_str *o, const source *s) {
  const char *comma = "";
  tl_str_printf(o, "\"added_tokens\":[");
  for (size_t i = 0; i < s->n; i++) {
    bool special = type_at(s, i) == TEXT_CONTROL || (s->spm && type_at(s, i) == TEXT_UNKNOWN);
    if (!special && type_at(s, i) != TEXT_USER_DEFINED)
      continue;
    tl_str_printf(o, "%s{\"id\":%zu,\"content\":", comma, i);
    quote(o, s->tokens[i].p, s->tokens[i].n);
    tl_str_printf(o, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":%s}",
                  special ? "true" : "false");
    comma = ",\n";
  }
  tl_str_printf(o, "]");
}

static void add_pre_tokenizer(tl_str *o, const text_pre *k) {
  bool gpt2 = false; // ByteLevel's own regex does the last split
  tl_str_printf(o, "{\"type\":\"Sequence\",\"pretokenizers\":[");
  for (int i = 0; i < TEXT_PRE_SPLITS && k->splits[i]; i++) {
    gpt2 = strcmp(k->splits[i], TEXT_GPT2_PATTERN) == 0 && (i + 1 == TEXT_PRE_SPLITS || !k->splits[i + 1]);
    if (gpt2)
      break;
    if (k->splits[i] == text_pre_digits) {
      tl_str_printf(o, "{\"type\":\"Digits\",\"individual_digits\":true},");
      continue;
    }
    tl_str_printf(o, "{\"type\":\"Split\",\"pattern\":{\"Regex\":");
    quote(o, k->splits[i], strlen(k->splits[i]));
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
  bool bos = s->spm || s->pre->bos, eos = false;
  tl_gguf_bool(&s->g, "tokenizer.ggml.add_bos_token", &bos);
  tl_gguf_bool(&s->g, "tokenizer.ggml.add_eos_token", &eos);
  bos = bos && s->bos >= 0;
  eos = eos && s->eos >= 0;
  if (!bos && !eos && s->spm) {
    tl_str_printf(o, "\"post_processor\":null");
    return;
  }
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

static int32_t id_of_text(const source *s, const char *p, size_t n) { // -1: no token that is written
  int32_t id = text_map_get(&s->t->by_text, p, n);
  return id >= 0 && !filling(s, (size_t)id) ? id : -1;
}

static tl_status add_vocab(tl_str *o, const source *s) {
  const char *comma = "";
  tl_str_printf(o, "\"vocab\":{");
  for (size_t i = 0; i < s->n; i++) {
    if (filling(s, i))
      continue;
    int32_t id = id_of_text(s, s->tokens[i].p, s->tokens[i].n);
    if (memchr(s->tokens[i].p, 0, s->tokens[i].n))
      return tl_fail(TL_E_UNSUPPORTED, "%s: token %zu holds a NUL; --no-tokenizer writes the model without one", s->path, i);
    if (id != (int32_t)i)
      return tl_fail(TL_E_UNSUPPORTED,
                     "%s: tokens %zu and %d have the same text, which tokenizer.json has not; --no-tokenizer writes the model "
                     "without one",
                     s->path, i, id);
    tl_str_printf(o, "%s", comma);
    quote(o, s->tokens[i].p, s->tokens[i].n);
    tl_str_printf(o, ":%zu", i);
    comma = ",\n";
  }
  tl_str_printf(o, "}");
  return TL_OK;
}

static void add_merge(tl_str *o, bool first, const char *a, size_t na, const char *b, size_t nb) {
  tl_str_printf(o, first ? "[" : ",\n[");
  quote(o, a, na);
  tl_str_printf(o, ",");
  quote(o, b, nb);
  tl_str_printf(o, "]");
}

static tl_status add_merges(tl_str *o, const source *s) {
  for (size_t i = 0; i < s->n_merges; i++) {
    const char *p = s->merges[i].p, *space = s->merges[i].n ? memchr(p, ' ', s->merges[i].n) : NULL;
    if (!space)
      return tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.merges[%zu] is not two tokens and a space", s->path, i);
    add_merge(o, i == 0, p, (size_t)(space - p), space + 1, (size_t)(p + s->merges[i].n - space - 1));
  }
  return TL_OK;
}

// ---------------------------------------------------------------- scores to merges

// Room for every cut: a token of n characters has n - 1.
static text_cut *list_cuts(const source *s, size_t *n_cuts) {
  size_t room = 1;
  for (size_t i = 0; i < s->n; i++)
    room += s->tokens[i].n;
  text_cut *list = malloc(room * sizeof *list);
  *n_cuts = 0;
  for (size_t i = 0; i < s->n && list; i++) {
    int type = type_at(s, i);
    if (type == TEXT_UNKNOWN || type == TEXT_CONTROL || type == TEXT_BYTE || filling(s, i))
      continue;
    const char *p = s->tokens[i].p;
    size_t n = s->tokens[i].n;
    text_cut c = {.score = s->scores[i], .id = (int32_t)i};
    for (size_t at = 0; text_next_cut(p, n, &at, &c);)
      if (id_of_text(s, p, at) >= 0 && id_of_text(s, p + at, n - at) >= 0)
        list[(*n_cuts)++] = c;
  }
  return list;
}

static tl_status add_spm_merges(tl_str *o, const source *s) {
  size_t n;
  text_cut *list = list_cuts(s, &n);
  if (!list)
    return tl_fail(TL_E_MEMORY, "%s: out of memory", s->path);
  qsort(list, n, sizeof *list, text_compare_cuts);
  for (size_t i = 0; i < n; i++) {
    const tl_gguf_text *k = &s->tokens[list[i].id];
    add_merge(o, i == 0, k->p, list[i].at, k->p + list[i].at, k->n - list[i].at);
  }
  free(list);
  return TL_OK;
}

static tl_status add_model(tl_str *o, const source *s) {
  tl_str_printf(o, "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
  if (s->spm && s->t->unk >= 0)
    quote(o, s->tokens[s->t->unk].p, s->tokens[s->t->unk].n);
  else
    tl_str_printf(o, "null");
  tl_str_printf(o,
                ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":%s,\"byte_fallback\":%s,"
                "\"ignore_merges\":%s,\n",
                s->spm ? "true" : "false", s->spm ? "true" : "false", !s->spm && s->pre->ignore_merges ? "true" : "false");
  TL_TRY(add_vocab(o, s));
  tl_str_printf(o, ",\n\"merges\":[");
  TL_TRY(s->spm ? add_spm_merges(o, s) : add_merges(o, s));
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

// one template as a text, several as a list with their names
static void add_templates(tl_str *o, const tl_tokenizer *t) {
  bool one = t->n_templates == 1 && strcmp(t->templates[0].name, "default") == 0;
  if (t->n_templates)
    tl_str_printf(o, one ? ",\n  \"chat_template\": " : ",\n  \"chat_template\": [");
  for (int i = 0; i < t->n_templates; i++) {
    const text_template *k = &t->templates[i];
    if (!one) {
      tl_str_printf(o, "%s{\"name\": ", i ? ", " : "");
      quote(o, k->name, strlen(k->name));
      tl_str_printf(o, ", \"template\": ");
    }
    quote(o, k->source, strlen(k->source));
    tl_str_printf(o, one ? "" : "}");
  }
  if (t->n_templates && !one)
    tl_str_printf(o, "]");
}

static void make_config(tl_str *o, const source *s) {
  tl_gguf_text arch;
  char key[96];
  int64_t most = 0;
  tl_str_printf(o, "{\n  \"add_prefix_space\": %s", s->spm && s->prefix ? "true" : "false");
  add_token_key(o, s, "bos_token", s->bos);
  add_token_key(o, s, "eos_token", s->eos);
  add_token_key(o, s, "pad_token", s->pad);
  add_token_key(o, s, "unk_token", s->unk);
  add_templates(o, s->t);
  if (tl_gguf_string(&s->g, "general.architecture", &arch) && arch.n < 64) {
    snprintf(key, sizeof key, "%.*s.context_length", (int)arch.n, arch.p);
    if (tl_gguf_int(&s->g, key, &most) && most > 0)
      tl_str_printf(o, ",\n  \"model_max_length\": %lld", (long long)most);
  }
  tl_str_printf(o, ",\n  \"clean_up_tokenization_spaces\": false,\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}

static void add_splits(tl_str *o, const source *s) {
  if (s->spm) {
    tl_str_printf(o, "\"normalizer\":%s,\n\"pre_tokenizer\":null", s->prefix ? TEXT_SPM_NORMALIZER : TEXT_SPM_REPLACE);
    return;
  }
  tl_str_printf(o, "\"normalizer\":%s,\n\"pre_tokenizer\":", s->pre->nfc ? "{\"type\":\"NFC\"}" : "null");
  add_pre_tokenizer(o, s->pre);
}

static const char *decoder_of(const source *s) {
  if (s->spm)
    return s->prefix ? TEXT_SPM_DECODER : TEXT_SPM_DECODER_PLAIN;
  return "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}";
}

static tl_status make_json(tl_str *o, const source *s) {
  tl_str_printf(o, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
  add_added(o, s);
  tl_str_printf(o, ",\n");
  add_splits(o, s);
  tl_str_printf(o, ",\n");
  add_post_processor(o, s);
  tl_str_printf(o, ",\n\"decoder\":%s,\n", decoder_of(s));
  TL_TRY(add_model(o, s));
  tl_str_printf(o, "}\n");
  return TL_OK;
}

static int64_t id_of(const source *s, const char *key, int64_t otherwise) {
  int64_t id;
  return tl_gguf_int(&s->g, key, &id) && id >= 0 && id < (int64_t)s->n ? id : otherwise;
}

static bool is(tl_gguf_text a, const char *b) {
  return a.n == strlen(b) && memcmp(a.p, b, a.n) == 0;
}

static tl_status read_kind(source *s) {
  tl_gguf_text model = {0}, pre = {0};
  tl_gguf_string(&s->g, "tokenizer.ggml.model", &model);
  tl_gguf_string(&s->g, "tokenizer.ggml.pre", &pre);
  s->spm = is(model, "llama");
  s->prefix = s->spm;
  tl_gguf_bool(&s->g, "tokenizer.ggml.add_space_prefix", &s->prefix);
  if (s->spm)
    return TL_OK;
  if (s->prefix)
    return tl_fail(TL_E_UNSUPPORTED,
                   "%s: a byte-level tokenizer with add_space_prefix is not written as tokenizer.json; --no-tokenizer writes "
                   "the model without one",
                   s->path);
  s->pre = is(model, "gpt2") ? text_pre_named(pre.p ? pre.p : "", pre.n) : NULL;
  if (s->pre)
    return TL_OK;
  return tl_fail(
      TL_E_UNSUPPORTED,
      "%s: its tokenizer (model '%.*s', pre '%.*s') is not written as tokenizer.json; --no-tokenizer writes the model "
      "without one",
      s->path, model.n < 40 ? (int)model.n : 40, model.p ? model.p : "", pre.n < 40 ? (int)pre.n : 40, pre.p ? pre.p : "");
}

static tl_status read_source(source *s) {
  size_t n_types = 0, n_scores = 0;
  TL_TRY(read_kind(s));
  if (!tl_gguf_strings(&s->g, "tokenizer.ggml.tokens", &s->tokens, &s->n) ||
      !(s->spm ? tl_gguf_floats(&s->g, "tokenizer.ggml.scores", &s->scores, &n_scores)
               : tl_gguf_strings(&s->g, "tokenizer.ggml.merges", &s->merges, &s->n_merges)))
    return tl_fail(TL_E_MEMORY, "%s: out of memory", s->path);
  tl_gguf_ints(&s->g, "tokenizer.ggml.token_type", &s->types, &n_types);
  s->bos = id_of(s, "tokenizer.ggml.bos_token_id", s->t->bos);
  s->eos = id_of(s, "tokenizer.ggml.eos_token_id", s->t->eos);
  s->pad = id_of(s, "tokenizer.ggml.padding_token_id", -1);
  s->unk = id_of(s, "tokenizer.ggml.unknown_token_id", s->spm ? s->t->unk : -1);
  return TL_OK;
}

tl_status tl_tokenizer_to_json(const char *path, char **json, char **config) {
  *json = *config = NULL;
  source s = {.path = path};
  TL_TRY(tl_tokenizer_load(path, &s.t)); // what is written below has passed every check of reading
  tl_status st = tl_gguf_open(&s.g, path);
  if (st != TL_OK)
    return tl_tokenizer_free(s.t), st;
  tl_str text = {0}, about = {0};
  st = read_source(&s);
  if (st == TL_OK)
    st = make_json(&text, &s);
  if (st == TL_OK)
    make_config(&about, &s);
  free(s.tokens);
  free(s.merges);
  free(s.types);
  free(s.scores);
  tl_gguf_close(&s.g);
  tl_tokenizer_free(s.t);
  if (st == TL_OK)
    *json = text.p, *config = about.p;
  else
    tl_str_free(&text);
  return st;
}
