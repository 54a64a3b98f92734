// regex.c: a tokenizer's patterns for PCRE2.
//
// tokenizer.json holds patterns in Oniguruma's Ruby syntax, matched over Unicode. PCRE2 (UTF, UCP) reads nearly all of it the
// same way; what differs is rewritten here, and what cannot be is refused rather than matched differently:
//   \s \S   White_Space (PCRE2's \s also takes U+180E)        \w   Alphabetic, M, Nd, Pc (PCRE2 10.42: L, N and _); so \b and \B
//   \h      a hexadecimal digit (PCRE2: horizontal space)     \uHHHH   a code point     \p{Han}   the script, not its
//   \v      U+000B (PCRE2: any vertical space)                 extensions, and so of every script    (?m)   PCRE2's (?s)
//   {,n}    {0,n} (PCRE2 10.42: characters)                   ^ $    match at every line            .      \n is the only line end
//   refused: sets of sets, [a&&b], [[:alpha:]], \X, \Q, {n,m}+, {n}?, \p{C..} and, inside a set, \P \W \D \H
// Classes get the characters that Unicode 15 and 16 added to the tables of PCRE2 10.42 (unicode.c).
#include "text.h"

static void add(tl_str *s, const char *text) {
  tl_str_add(s, text, strlen(text));
}

// whether \p{Name} is a script's. PCRE2 reads it as the script's extensions, the library as the script alone.
static bool is_script(const char *name) {
  char pattern[40];
  int code;
  PCRE2_SIZE at;
  snprintf(pattern, sizeof pattern, "\\p{sc:%s}", name);
  pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
  pcre2_code_free(re);
  return re != NULL;
}

// \p{Name} and \P{Name} of the general categories get what PCRE2's tables lack.
static size_t property(tl_str *out, const char *p, size_t n, bool in_class) {
  const char *end = n > 3 && p[2] == '{' ? memchr(p, '}', n) : NULL;
  size_t len = end ? (size_t)(end - p - 3) : 0;
  char name[16];
  bool negative = p[1] == 'P' || (end && p[3] == '^');
  if (!end || !len || len >= sizeof name)
    return 0;
  memcpy(name, p + 3, len);
  name[len] = 0;
  const char *bare = name[0] == '^' ? name + 1 : name, *more = text_newer(bare);
  bool script = strlen(bare) > 2 && is_script(bare), han = !strcmp(bare, "Han");
  if ((name[0] == 'C' && !script) || (negative && in_class))
    return 0;
  if (!in_class)
    tl_str_printf(out, "[%s", negative ? "^" : "");
  tl_str_printf(out, "\\p{%s%s}%s", script ? "sc:" : "", bare,
                han    ? "\\x{2b739}\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
                : more ? more
                       : "");
  if (!in_class)
    add(out, "]");
  return (size_t)(end - p) + 1;
}

static void set(tl_str *out, bool in_class, const char *negation, const char *inside, const char *more) {
  if (!in_class)
    tl_str_printf(out, "[%s", negation);
  add(out, inside);
  add(out, more);
  if (!in_class)
    add(out, "]");
}

// One escape at p (p[0] is the backslash). Returns the bytes read, or 0: not translatable.
static size_t escape(tl_str *out, const char *p, size_t n, bool in_class) {
  static const char word[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
  static const char latin[] = "\\x{b2}-\\x{b3}\\x{b9}\\x{bc}-\\x{be}"; // superscripts and fractions are words' too, but not in a set
  if (n < 2)
    return 0;
  bool negative = p[1] == 'W' || p[1] == 'H' || p[1] == 'D';
  if (negative && in_class)
    return 0;
  switch (p[1]) {
  case 'b':
  case 'B':
    if (in_class) break; // a backspace
    const char *more = text_newer("w"), *inside = p[1] == 'b' ? "!" : "=", *outside = p[1] == 'b' ? "=" : "!";
    tl_str_printf(out, "(?:(?<=[%s%s%s])(?%s[%s%s%s])|", word, latin, more, inside, word, latin, more);
    tl_str_printf(out, "(?<![%s%s%s])(?%s[%s%s%s]))", word, latin, more, outside, word, latin, more);
    return 2;
  case 'v':
    add(out, "\\x{b}");
    return 2;
  case 'X':
  case 'Q':
  case 'E':
    return 0;
  case 'o':
  case 'x': { // a code point in braces, which are no interval
    const char *end = n > 2 && p[2] == '{' ? memchr(p, '}', n) : NULL;
    size_t len = end ? (size_t)(end - p) + 1 : 2;
    tl_str_add(out, p, len);
    return len;
  }
  case 'p':
  case 'P':
    return property(out, p, n, in_class);
  case 's':
    add(out, "\\p{White_Space}");
    return 2;
  case 'S':
    add(out, "\\P{White_Space}");
    return 2;
  case 'w':
  case 'W':
    if (in_class)
      set(out, true, "", word, text_newer("w"));
    else
      tl_str_printf(out, "[%s%s%s%s]", negative ? "^" : "", word, latin, text_newer("w"));
    return 2;
  case 'd':
  case 'D':
    set(out, in_class, negative ? "^" : "", "\\p{Nd}", text_newer("Nd"));
    return 2;
  case 'h':
  case 'H':
    set(out, in_class, negative ? "^" : "", "0-9a-fA-F", "");
    return 2;
  case 'u':
    if (n < 6)
      return 0;
    tl_str_printf(out, "\\x{%.4s}", p + 2);
    return 6;
  }
  tl_str_add(out, p, 2);
  return 2;
}

// An interval at p, {n}, {n,}, {,m} or {n,m}: the bytes read. 0: the brace is a character. Behind an interval a + repeats it (PCRE2:
// takes all it can for good), and behind {n} a ? makes it optional (PCRE2: changes nothing): *why says that it is not read.
static size_t interval(tl_str *out, const char *p, const char **why) {
  size_t lo = strspn(p + 1, "0123456789"), comma = p[1 + lo] == ',', hi = comma ? strspn(p + 2 + lo, "0123456789") : 0;
  size_t n = 1 + lo + comma + hi;
  if (p[n] != '}' || lo + hi == 0)
    return 0;
  if (p[n + 1] == '+' || (p[n + 1] == '?' && !comma))
    *why = "a + or ? behind an interval";
  add(out, lo ? "{" : "{0");
  tl_str_add(out, p + 1, n);
  return n + 1;
}

// Flags at p, "(?im-x:" or "(?i)": the bytes read; 0: it is another group. m lets . match line ends, which is PCRE2's s.
static size_t flags(tl_str *out, const char *p) {
  size_t n = p[1] == '?' ? 2 + strspn(p + 2, "imx-") : 0;
  if (n < 3 || (p[n] != ':' && p[n] != ')'))
    return 0;
  for (size_t i = 0; i <= n; i++)
    tl_str_add(out, p[i] == 'm' ? "s" : p + i, 1);
  return n + 1;
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
    if (in_class && p[i] == '[')
      return *why = p[i + 1] == ':' ? "a POSIX class" : "a set inside a set", false;
    if (in_class && p[i] == '&' && p[i + 1] == '&')
      return *why = "an intersection of sets", false;
    if (in_class && p[i] == ']')
      in_class = false;
    size_t got = in_class ? 0 : p[i] == '{' ? interval(out, p + i, why) : p[i] == '(' ? flags(out, p + i) : 0;
    if (**why)
      return false;
    if (!got)
      tl_str_add(out, p + i, 1);
    i += got ? got : 1;
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
