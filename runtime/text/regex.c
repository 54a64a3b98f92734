// regex.c: a tokenizer's patterns for PCRE2.
//
// tokenizer.json holds patterns in Oniguruma's Ruby syntax, matched over Unicode. PCRE2 (UTF, UCP) reads nearly all of it the
// same way; what differs is rewritten here, and what cannot be is refused rather than matched differently:
//   \s \S   White_Space (PCRE2's \s also takes U+180E)        \w   Alphabetic, M, Nd, Pc (PCRE2 10.42: L, N and _)
//   \h      a hexadecimal digit (PCRE2: horizontal space)     \uHHHH   a code point
//   ^ $     match at every line                               . \n is the only line end
//   [a[bc]], [a&&b]   sets of sets: refused
// \p{L} and \p{N} get the characters that Unicode 15 and 16 added to the tables of PCRE2 10.42 (Unicode 14).
#include "text.h"

// The three pre-tokenizers that nearly every byte-level vocabulary was trained with. GPT-2: contractions, one space with the
// word after it. Qwen2: any one character with the word, digits singly, line ends together. Llama 3: digits in threes.
const char *const text_gpt2_pattern = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char *const text_qwen2_pattern = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                       " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char *const text_llama3_pattern = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                                        " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

// Letters and numbers of Unicode 15 and 16.
static const char *const newer_letters =
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d65}"
    "\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}\\x{1138e}"
    "\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}\\x{11f04}-\\x{11f10}"
    "\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}\\x{16100}-\\x{1611d}"
    "\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}"
    "\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
static const char *const newer_numbers = "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
                                         "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"
                                         "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";

static void add(tl_str *s, const char *text) {
  tl_str_add(s, text, strlen(text));
}

// One escape at p (p[0] is the backslash). Returns the bytes read, or 0: not translatable.
static size_t escape(tl_str *out, const char *p, size_t n, bool in_class) {
  if (n < 2)
    return 0;
  switch (p[1]) {
  case 'p':
    if (n < 5 || p[2] != '{' || (p[3] != 'L' && p[3] != 'N') || p[4] != '}')
      return tl_str_add(out, p, 2), 2;
    tl_str_printf(out, "%s\\p{%c}%s%s", in_class ? "" : "[", p[3], p[3] == 'L' ? newer_letters : newer_numbers,
                  in_class ? "" : "]");
    return 5;
  case 's':
    add(out, "\\p{White_Space}");
    return 2;
  case 'S':
    add(out, "\\P{White_Space}");
    return 2;
  case 'w':
    add(out, in_class ? "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}" : "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
    return 2;
  case 'W':
    if (in_class)
      return 0;
    add(out, "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
    return 2;
  case 'h':
    add(out, in_class ? "0-9a-fA-F" : "[0-9a-fA-F]");
    return 2;
  case 'H':
    if (in_class)
      return 0;
    add(out, "[^0-9a-fA-F]");
    return 2;
  case 'u':
    if (n < 6)
      return 0;
    tl_str_printf(out, "\\x{%.4s}", p + 2);
    return 6;
  default:
    tl_str_add(out, p, 2);
    return 2;
  }
}

// false: the pattern uses what PCRE2 would read differently; *why says what.
static bool translate(tl_str *out, const char *p, const char **why) {
  size_t n = strlen(p);
  bool in_class = false;
  add(out, "");
  for (size_t i = 0; i < n;) {
    if (p[i] == '\\') {
      size_t got = escape(out, p + i, n - i, in_class);
      if (!got)
        return *why = "an escape that has no counterpart", false;
      i += got;
      continue;
    }
    if (!in_class && p[i] == '[') {
      in_class = true;
      size_t start = i++;
      if (p[i] == '^')
        i++;
      tl_str_add(out, p + start, i - start);
      continue;
    }
    if (in_class && p[i] == '[') {
      const char *end = p[i + 1] == ':' ? strstr(p + i, ":]") : NULL;
      if (!end)
        return *why = "a set inside a set", false;
      tl_str_add(out, p + i, (size_t)(end + 2 - (p + i)));
      i = (size_t)(end + 2 - p);
      continue;
    }
    if (in_class && p[i] == '&' && p[i + 1] == '&')
      return *why = "an intersection of sets", false;
    if (in_class && p[i] == ']')
      in_class = false;
    tl_str_add(out, p + i++, 1);
  }
  return true;
}

tl_status text_compile(const char *path, const char *what, const char *pattern, text_syntax syntax, pcre2_code **out) {
  tl_str s = {0};
  const char *why = "";
  *out = NULL;
  if (syntax == TEXT_ONIGURUMA && !translate(&s, pattern, &why)) {
    tl_str_free(&s);
    return tl_fail(TL_E_UNSUPPORTED, "%s: %s '%.200s' uses %s", path, what, pattern, why);
  }
  pcre2_compile_context *c = pcre2_compile_context_create(NULL);
  if (!c) {
    tl_str_free(&s);
    return tl_fail(TL_E_MEMORY, "%s: out of memory for a pattern", path);
  }
  pcre2_set_newline(c, PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE at = 0;
  const char *p = syntax == TEXT_ONIGURUMA ? s.p : pattern;
  uint32_t options = syntax == TEXT_LITERAL ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE;
  *out = pcre2_compile((PCRE2_SPTR)p, strlen(p), PCRE2_UTF | options, &code, &at, c);
  pcre2_compile_context_free(c);
  tl_str_free(&s);
  if (!*out) {
    PCRE2_UCHAR message[120] = "";
    pcre2_get_error_message(code, message, sizeof message);
    return tl_fail(TL_E_UNSUPPORTED, "%s: %s '%.200s' does not compile: %s (at %zu)", path, what, pattern,
                   (const char *)message, (size_t)at);
  }
  pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); // without a JIT the interpreter matches the same
  return TL_OK;
}

text_matcher text_matches(const char *path, pcre2_match_data *match, const pcre2_code *re, const char *p, size_t n) {
  return (text_matcher){path, match, re, p, n, 0, SIZE_MAX};
}

static tl_status match_failed(const text_matcher *m, int code) {
  PCRE2_UCHAR message[120] = "";
  pcre2_get_error_message(code, message, sizeof message);
  return tl_fail(TL_E_UNSUPPORTED, "%s: a pattern of the tokenizer gave up on a text of %zu bytes: %s", m->path, m->n,
                 (const char *)message);
}

tl_status text_next_match(text_matcher *m, bool *found, size_t *start, size_t *end) {
  for (*found = false; m->from <= m->n;) {
    int got = pcre2_match(m->re, (PCRE2_SPTR)m->p, m->n, m->from, PCRE2_NO_UTF_CHECK, m->match, NULL);
    if (got == PCRE2_ERROR_JIT_STACKLIMIT)
      got = pcre2_match(m->re, (PCRE2_SPTR)m->p, m->n, m->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->match, NULL);
    if (got == PCRE2_ERROR_NOMATCH)
      return TL_OK;
    if (got < 0)
      return match_failed(m, got);
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(m->match);
    if (v[0] > v[1] || v[1] > m->n || (m->last_end != SIZE_MAX && v[0] < m->last_end))
      return TL_OK;                            // \K can do this
    if (v[0] == v[1] && v[1] == m->last_end) { // an empty match right after a match is not one
      uint32_t c;
      m->from = v[1] < m->n ? v[1] + (size_t)text_utf8_next(m->p + v[1], m->n - v[1], &c) : m->n + 1;
      continue;
    }
    *start = v[0];
    *end = v[1];
    m->from = m->last_end = v[1];
    *found = true;
    return TL_OK;
  }
  return TL_OK;
}
