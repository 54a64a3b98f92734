// json_parts.c: the normalizer, pre-tokenizer and decoder of a tokenizer.json, part by part.
//
//   normalizer     NFC NFD NFKC NFKD Lowercase Replace Prepend Strip Sequence
//   pre_tokenizer  ByteLevel Split Digits Whitespace WhitespaceSplit Punctuation Metaspace CharDelimiterSplit BertPreTokenizer
//                  Sequence; after ByteLevel the steps see its spelling
//   decoder        ByteLevel Replace ByteFallback Fuse Strip Metaspace Sequence; none: tokens with spaces between them
//
// Anything else is refused with its name.
#include "text_json.h"

static const char *const normalizers = "none, NFC, NFD, NFKC, NFKD, Lowercase, Replace, Prepend, Strip, Sequence";
static const char *const pre_tokenizers =
    "none, ByteLevel, Split, Digits, Whitespace, WhitespaceSplit, Punctuation, Metaspace, "
    "CharDelimiterSplit, BertPreTokenizer, Sequence";
static const char *const decoders = "none, ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence";

// "pattern": {"Regex": ...} or {"String": ...}
static tl_status read_pattern(tl_tokenizer *t, const char *part, const cJSON *o, const char **pattern, text_syntax *syntax) {
  const cJSON *p = json_get(o, "pattern");
  const char *re = json_string(p, "Regex"), *literal = json_string(p, "String");
  if (!re && !literal)
    return tl_fail(TL_E_FORMAT, "%s: %s %s has no pattern", t->path, part, json_type(o));
  *pattern = re ? re : literal;
  *syntax = re ? TEXT_ONIGURUMA : TEXT_LITERAL;
  return TL_OK;
}

static tl_status read_replace(tl_tokenizer *t, const char *part, const cJSON *o, pcre2_code **re, char **content, size_t *n) {
  const char *pattern, *with = json_string(o, "content");
  char what[60];
  text_syntax syntax;
  TL_TRY(read_pattern(t, part, o, &pattern, &syntax));
  if (!with)
    return tl_fail(TL_E_FORMAT, "%s: %s Replace has no content", t->path, part);
  snprintf(what, sizeof what, "the %s's pattern", part);
  TL_TRY(text_compile(t->path, what, pattern, syntax, re));
  *content = strdup(with);
  *n = strlen(with);
  if (*content)
    return TL_OK;
  pcre2_code_free(*re);
  return text_no_memory(t);
}

// One character, as a string.
static tl_status read_char(tl_tokenizer *t, const char *part, const cJSON *o, const char *key, char out[8]) {
  const char *s = json_string(o, key);
  uint32_t c;
  if (!s || !*s || (size_t)text_utf8_next(s, strlen(s), &c) != strlen(s))
    return tl_fail(TL_E_FORMAT, "%s: %s %s: %s is not one character", t->path, part, json_type(o), key);
  memcpy(out, s, strlen(s) + 1);
  return TL_OK;
}

static tl_status too_deep(const tl_tokenizer *t, const char *part) {
  return tl_fail(TL_E_UNSUPPORTED, "%s: %s has sequences more than %d deep", t->path, part, TEXT_MAX_DEPTH);
}

// ---------------------------------------------------------------- normalizer
tl_status text_read_normalizer(tl_tokenizer *t, const cJSON *o, int depth) {
  static const char *const forms[] = {[TEXT_NFC] = "NFC", [TEXT_NFD] = "NFD", [TEXT_NFKC] = "NFKC", [TEXT_NFKD] = "NFKD"};
  if (!cJSON_IsObject(o))
    return TL_OK;
  const cJSON *item;
  if (json_is(o, "Sequence")) {
    if (depth >= TEXT_MAX_DEPTH)
      return too_deep(t, "normalizer");
    cJSON_ArrayForEach(item, json_get(o, "normalizers")) TL_TRY(text_read_normalizer(t, item, depth + 1));
    return TL_OK;
  }
  for (int f = 0; f < 4; f++)
    if (json_is(o, forms[f]))
      return text_new_norm(t, (text_norm){.kind = TEXT_FORM, .form = (text_form)f});
  if (json_is(o, "Lowercase"))
    return text_new_norm(t, (text_norm){.kind = TEXT_LOWERCASE});
  if (json_is(o, "Strip"))
    return text_new_norm(
        t,
        (text_norm){.kind = TEXT_TRIM, .left = json_flag(o, "strip_left", true), .right = json_flag(o, "strip_right", true)});
  if (json_is(o, "Prepend")) {
    const char *s = json_string(o, "prepend");
    if (!s)
      return tl_fail(TL_E_FORMAT, "%s: normalizer Prepend has no prepend", t->path);
    char *copy = strdup(s);
    return copy ? text_new_norm(t, (text_norm){.kind = TEXT_PREPEND, .content = copy, .n = strlen(s)}) : text_no_memory(t);
  }
  if (!json_is(o, "Replace"))
    return text_refuse(t, "normalizer", json_type(o), normalizers);
  text_norm k = {.kind = TEXT_REPLACE};
  TL_TRY(read_replace(t, "normalizer", o, &k.re, &k.content, &k.n));
  return text_new_norm(t, k);
}

// ---------------------------------------------------------------- pre-tokenizer
bool text_has_byte_level(const cJSON *o, int depth) {
  const cJSON *item;
  if (!cJSON_IsObject(o) || depth > TEXT_MAX_DEPTH)
    return false;
  if (json_is(o, "ByteLevel"))
    return true;
  cJSON_ArrayForEach(item, json_get(o, "pretokenizers")) if (text_has_byte_level(item, depth + 1)) return true;
  return false;
}

static tl_status read_behavior(tl_tokenizer *t, const cJSON *o, text_behavior *out) {
  static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"};
  const char *behavior = json_string(o, "behavior");
  for (int i = 0; i < 5 && behavior; i++)
    if (!strcmp(behavior, names[i]))
      return *out = (text_behavior)i, TL_OK;
  return tl_fail(TL_E_FORMAT, "%s: pre_tokenizer %s has behavior '%.40s'", t->path, json_type(o), behavior ? behavior : "none");
}

static tl_status read_split(tl_tokenizer *t, const cJSON *o) {
  const char *pattern;
  text_syntax syntax;
  text_behavior behavior;
  TL_TRY(read_pattern(t, "pre_tokenizer", o, &pattern, &syntax));
  TL_TRY(read_behavior(t, o, &behavior));
  return text_add_split(t, pattern, syntax, behavior, json_flag(o, "invert", false));
}

static tl_status read_metaspace(tl_tokenizer *t, const cJSON *o) {
  static const char *const names[] = {[TEXT_ALWAYS] = "always", [TEXT_FIRST] = "first", [TEXT_NEVER] = "never"};
  text_step k = {.kind = TEXT_METASPACE, .split = json_flag(o, "split", true)};
  TL_TRY(read_char(t, "pre_tokenizer", o, "replacement", k.mark));
  const char *scheme = json_string(o, "prepend_scheme");
  int found = scheme ? -1 : json_flag(o, "add_prefix_space", true) ? TEXT_ALWAYS : TEXT_NEVER;
  for (int i = 0; i < 3 && scheme; i++)
    if (!strcmp(scheme, names[i]))
      found = i;
  if (found < 0)
    return tl_fail(TL_E_FORMAT, "%s: pre_tokenizer Metaspace has prepend_scheme '%.40s'", t->path, scheme);
  k.scheme = (text_scheme)found;
  if (k.split)
    TL_TRY(text_compile(t->path, "the pre-tokenizer's mark", k.mark, TEXT_LITERAL, &k.re));
  return text_new_step(t, k);
}

static tl_status read_byte_level(tl_tokenizer *t, const cJSON *o) {
  if (json_flag(o, "add_prefix_space", true))
    TL_TRY(text_new_step(t, (text_step){.kind = TEXT_SPACE}));
  if (!json_flag(o, "use_regex", true))
    return TL_OK;
  return text_add_split(t, TEXT_GPT2_PATTERN, TEXT_ONIGURUMA, TEXT_ISOLATED, false);
}

static tl_status read_chars(tl_tokenizer *t, bool (*is)(uint32_t), text_behavior behavior) {
  return text_new_step(t, (text_step){.kind = TEXT_CHARS, .is = is, .behavior = behavior});
}

static tl_status read_pre_part(tl_tokenizer *t, const cJSON *o) {
  text_behavior behavior = TEXT_ISOLATED;
  if (json_is(o, "Split"))
    return read_split(t, o);
  if (json_is(o, "Metaspace"))
    return read_metaspace(t, o);
  if (json_is(o, "WhitespaceSplit"))
    return read_chars(t, text_is_space, TEXT_REMOVED);
  if (json_is(o, "Digits"))
    return text_new_step(
        t, (text_step){.kind = TEXT_SCAN,
                       .scan = json_flag(o, "individual_digits", false) ? text_scan_digits : text_scan_digit_runs});
  if (json_is(o, "Punctuation")) {
    if (json_get(o, "behavior"))
      TL_TRY(read_behavior(t, o, &behavior));
    return read_chars(t, text_is_punctuation, behavior);
  }
  if (json_is(o, "Whitespace"))
    return text_new_step(t, (text_step){.kind = TEXT_SCAN, .scan = text_scan_words, .drop_spaces = true});
  if (json_is(o, "BertPreTokenizer")) {
    TL_TRY(read_chars(t, text_is_space, TEXT_REMOVED));
    return read_chars(t, text_is_punctuation, TEXT_ISOLATED);
  }
  if (json_is(o, "CharDelimiterSplit")) {
    char mark[8];
    TL_TRY(read_char(t, "pre_tokenizer", o, "delimiter", mark));
    return text_add_split(t, mark, TEXT_LITERAL, TEXT_REMOVED, false);
  }
  return text_refuse(t, "pre_tokenizer", json_type(o), pre_tokenizers);
}

tl_status text_read_pre_tokenizer(tl_tokenizer *t, const cJSON *o, int depth, bool *byte_level) {
  if (!cJSON_IsObject(o))
    return TL_OK;
  const cJSON *item;
  if (json_is(o, "Sequence")) {
    if (depth >= TEXT_MAX_DEPTH)
      return too_deep(t, "pre_tokenizer");
    cJSON_ArrayForEach(item, json_get(o, "pretokenizers")) TL_TRY(text_read_pre_tokenizer(t, item, depth + 1, byte_level));
    return TL_OK;
  }
  if (json_is(o, "ByteLevel")) {
    if (*byte_level)
      return text_refuse(t, "pre_tokenizer", "a second ByteLevel", "one");
    *byte_level = true;
    return read_byte_level(t, o);
  }
  if (*byte_level && !t->unspell) { // the first step behind ByteLevel
    TL_TRY(text_new_step(t, (text_step){.kind = TEXT_SPELL}));
    t->unspell = true;
  }
  if (*byte_level && json_is(o, "Metaspace"))
    return text_refuse(t, "pre_tokenizer", "Metaspace behind ByteLevel", "one of them");
  return read_pre_part(t, o);
}

// ---------------------------------------------------------------- decoder
// Behind a Fuse (or ByteLevel) there is one token: what works on it in parts is Strip alone.
static tl_status check_order(tl_tokenizer *t, const cJSON *o) {
  for (int i = 0; i < t->n_decode; i++) {
    text_decode_kind before = t->decode[i].kind;
    bool strip = json_is(o, "Strip") || json_is(o, "Fuse");
    if ((before == TEXT_D_FUSE || before == TEXT_D_BYTE_LEVEL) && !strip)
      return tl_fail(TL_E_UNSUPPORTED, "%s: decoder is %s behind %s; supported there: Strip", t->path, json_type(o),
                     before == TEXT_D_FUSE ? "Fuse" : "ByteLevel");
  }
  return TL_OK;
}

static tl_status read_strip(tl_tokenizer *t, const cJSON *o) {
  text_decode_step k = {.kind = TEXT_D_STRIP};
  int64_t start, stop;
  TL_TRY(read_char(t, "decoder", o, "content", k.mark));
  if (!json_whole(json_get(o, "start"), &start) || !json_whole(json_get(o, "stop"), &stop) || start > 1 << 20 || stop > 1 << 20)
    return tl_fail(TL_E_FORMAT, "%s: decoder Strip: start or stop is not a count", t->path);
  k.start = (int)start;
  k.stop = (int)stop;
  return text_new_decode(t, k);
}

tl_status text_read_decoder(tl_tokenizer *t, const cJSON *o, int depth) {
  const cJSON *item;
  if (!cJSON_IsObject(o))
    return depth ? TL_OK : text_new_decode(t, (text_decode_step){.kind = TEXT_D_JOIN});
  if (json_is(o, "Sequence")) {
    if (depth >= TEXT_MAX_DEPTH)
      return too_deep(t, "decoder");
    cJSON_ArrayForEach(item, json_get(o, "decoders")) TL_TRY(text_read_decoder(t, item, depth + 1));
    return TL_OK;
  }
  TL_TRY(check_order(t, o));
  if (json_is(o, "ByteLevel"))
    return text_new_decode(t, (text_decode_step){.kind = TEXT_D_BYTE_LEVEL});
  if (json_is(o, "ByteFallback"))
    return text_new_decode(t, (text_decode_step){.kind = TEXT_D_BYTE_FALLBACK});
  if (json_is(o, "Fuse"))
    return text_new_decode(t, (text_decode_step){.kind = TEXT_D_FUSE});
  if (json_is(o, "Strip"))
    return read_strip(t, o);
  if (json_is(o, "Replace")) {
    text_decode_step k = {.kind = TEXT_D_REPLACE};
    TL_TRY(read_replace(t, "decoder", o, &k.re, &k.content, &k.n));
    return text_new_decode(t, k);
  }
  if (!json_is(o, "Metaspace"))
    return text_refuse(t, "decoder", json_type(o), decoders);
  text_decode_step k = {.kind = TEXT_D_METASPACE};
  TL_TRY(read_char(t, "decoder", o, "replacement", k.mark));
  const char *scheme = json_string(o, "prepend_scheme");
  k.prefix = scheme ? strcmp(scheme, "never") != 0 : json_flag(o, "add_prefix_space", true);
  return text_new_decode(t, k);
}
