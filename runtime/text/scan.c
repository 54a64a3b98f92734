// scan.c: the pre-tokenizers of the common vocabularies, written out. tests/unit/test_scan.c holds each against its regex.
//
// GPT-2                contractions | space? letters | space? numbers | space? others | spaces but the last | spaces
// Qwen2, Llama 3       contractions, any case | one character? letters | 1 or 1..3 numbers | space? others, line ends
//                      | spaces up to a line end | spaces but the last | spaces
// Digits               numbers singly or together, and what lies between
// Whitespace           words | spaces | others
//
// "Spaces but the last" is \s+(?!\S): a run of spaces leaves its last one to the word after it, unless the text ends there.
// Every one of these covers the text: what begins at p always has an end.
#include "text.h"
#include <utf8proc.h>

enum { OTHER, LETTER, NUMBER, SPACE };

static const uint8_t ascii_class[128] = {
    ['\t'] = SPACE, ['\n'] = SPACE, [11] = SPACE,   [12] = SPACE,   ['\r'] = SPACE, [' '] = SPACE,  ['0'] = NUMBER,
    ['1'] = NUMBER, ['2'] = NUMBER, ['3'] = NUMBER, ['4'] = NUMBER, ['5'] = NUMBER, ['6'] = NUMBER, ['7'] = NUMBER,
    ['8'] = NUMBER, ['9'] = NUMBER, ['A'] = LETTER, ['B'] = LETTER, ['C'] = LETTER, ['D'] = LETTER, ['E'] = LETTER,
    ['F'] = LETTER, ['G'] = LETTER, ['H'] = LETTER, ['I'] = LETTER, ['J'] = LETTER, ['K'] = LETTER, ['L'] = LETTER,
    ['M'] = LETTER, ['N'] = LETTER, ['O'] = LETTER, ['P'] = LETTER, ['Q'] = LETTER, ['R'] = LETTER, ['S'] = LETTER,
    ['T'] = LETTER, ['U'] = LETTER, ['V'] = LETTER, ['W'] = LETTER, ['X'] = LETTER, ['Y'] = LETTER, ['Z'] = LETTER,
    ['a'] = LETTER, ['b'] = LETTER, ['c'] = LETTER, ['d'] = LETTER, ['e'] = LETTER, ['f'] = LETTER, ['g'] = LETTER,
    ['h'] = LETTER, ['i'] = LETTER, ['j'] = LETTER, ['k'] = LETTER, ['l'] = LETTER, ['m'] = LETTER, ['n'] = LETTER,
    ['o'] = LETTER, ['p'] = LETTER, ['q'] = LETTER, ['r'] = LETTER, ['s'] = LETTER, ['t'] = LETTER, ['u'] = LETTER,
    ['v'] = LETTER, ['w'] = LETTER, ['x'] = LETTER, ['y'] = LETTER, ['z'] = LETTER};

// Letters and numbers that are newer than utf8proc 2.8 (Unicode 15.0): Unicode 15.1 and 16.
static const struct {
  uint32_t from, to;
  int class;
} newer[] = {{0x1C89, 0x1C8A, LETTER},   {0xA7CB, 0xA7CD, LETTER},   {0xA7DA, 0xA7DC, LETTER},   {0x105C0, 0x105F3, LETTER},
             {0x10D40, 0x10D49, NUMBER}, {0x10D4A, 0x10D65, LETTER}, {0x10D6F, 0x10D85, LETTER}, {0x10EC2, 0x10EC4, LETTER},
             {0x11380, 0x11389, LETTER}, {0x1138B, 0x1138B, LETTER}, {0x1138E, 0x1138E, LETTER}, {0x11390, 0x113B5, LETTER},
             {0x113B7, 0x113B7, LETTER}, {0x113D1, 0x113D1, LETTER}, {0x113D3, 0x113D3, LETTER}, {0x116D0, 0x116E3, NUMBER},
             {0x11BC0, 0x11BE0, LETTER}, {0x11BF0, 0x11BF9, NUMBER}, {0x13460, 0x143FA, LETTER}, {0x16100, 0x1611D, LETTER},
             {0x16130, 0x16139, NUMBER}, {0x16D40, 0x16D6C, LETTER}, {0x16D70, 0x16D79, NUMBER}, {0x18CFF, 0x18CFF, LETTER},
             {0x1CCF0, 0x1CCF9, NUMBER}, {0x1E5D0, 0x1E5ED, LETTER}, {0x1E5F0, 0x1E5F0, LETTER}, {0x1E5F1, 0x1E5FA, NUMBER},
             {0x2EBF0, 0x2EE5D, LETTER}};

static int newer_class(uint32_t c) {
  for (size_t i = 0; i < sizeof newer / sizeof *newer && c >= newer[i].from; i++)
    if (c <= newer[i].to)
      return newer[i].class;
  return OTHER;
}

static int wide_class(const char *p, const char *end, int *len) {
  uint32_t c;
  *len = text_utf8_next(p, (size_t)(end - p), &c);
  switch (utf8proc_category((utf8proc_int32_t)c)) {
  case UTF8PROC_CATEGORY_LU:
  case UTF8PROC_CATEGORY_LL:
  case UTF8PROC_CATEGORY_LT:
  case UTF8PROC_CATEGORY_LM:
  case UTF8PROC_CATEGORY_LO:
    return LETTER;
  case UTF8PROC_CATEGORY_ND:
  case UTF8PROC_CATEGORY_NL:
  case UTF8PROC_CATEGORY_NO:
    return NUMBER;
  case UTF8PROC_CATEGORY_CN:
    return newer_class(c);
  default:
    return text_is_space(c) ? SPACE : OTHER;
  }
}

static inline int class_at(const char *p, const char *end, int *len) {
  if ((uint8_t)*p < 128)
    return *len = 1, ascii_class[(uint8_t)*p];
  return wide_class(p, end, len);
}

static inline const char *run_of(const char *p, const char *end, int class) {
  for (int len; p < end && class_at(p, end, &len) == class; p += len) {
  }
  return p;
}

// The end of a run of spaces that begins at p: all of it at the end of the text, else all but its last character.
static const char *spaces(const char *p, const char *end) {
  const char *last = p;
  int len;
  for (; p < end && class_at(p, end, &len) == SPACE; p += len)
    last = p;
  return p == end ? end : last;
}

static const char *spaces_or_one(const char *p, const char *end) {
  const char *stop = spaces(p, end);
  int len;
  if (stop > p)
    return stop;
  class_at(p, end, &len);
  return p + len;
}

// The end of 's 't 're 've 'm 'll 'd at p, which is an apostrophe; p: it is none of these.
static const char *contraction(const char *p, const char *end) {
  if (end - p < 2)
    return p;
  char a = p[1], b = end - p > 2 ? p[2] : 0;
  if (a == 's' || a == 't' || a == 'm' || a == 'd')
    return p + 2;
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? p + 3 : p;
}

// The same in any case. The long s (U+017F, C5 BF) is an s without case.
static const char *contraction_any_case(const char *p, const char *end) {
  if (end - p < 2)
    return p;
  char a = (char)(p[1] | 32), b = end - p > 2 ? (char)(p[2] | 32) : 0;
  if (p[1] & 0x80)
    return end - p > 2 && !memcmp(p + 1, "\xC5\xBF", 2) ? p + 3 : p;
  if (a == 's' || a == 't' || a == 'm' || a == 'd')
    return p + 2;
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? p + 3 : p;
}

const char *text_scan_gpt2(const char *p, const char *end) {
  int len, class;
  if (*p == '\'') {
    const char *stop = contraction(p, end);
    if (stop > p)
      return stop;
  }
  class = class_at(p, end, &len);
  if (class != SPACE)
    return run_of(p + len, end, class);
  if (*p == ' ' && p + 1 < end) {
    int next = class_at(p + 1, end, &len);
    if (next != SPACE)
      return run_of(p + 1 + len, end, next);
  }
  return spaces_or_one(p, end);
}

// Spaces at p: up to the last line end in the run, else as elsewhere.
static const char *line_ends(const char *p, const char *end) {
  const char *q = p, *line = NULL;
  for (int len; q < end && class_at(q, end, &len) == SPACE; q += len)
    if (*q == '\n' || *q == '\r')
      line = q + 1;
  return line ? line : spaces_or_one(p, end);
}

static inline const char *others(const char *p, const char *end) {
  p = run_of(p, end, OTHER);
  while (p < end && (*p == '\n' || *p == '\r'))
    p++;
  return p;
}

static inline const char *qwen2_or_llama3(const char *p, const char *end, int digits) {
  int len, class, next_len, next;
  if (*p == '\'') {
    const char *stop = contraction_any_case(p, end);
    if (stop > p)
      return stop;
  }
  class = class_at(p, end, &len);
  const char *q = p + len;
  if (class == LETTER)
    return run_of(q, end, LETTER);
  if (class == NUMBER) {
    for (int i = 1; i < digits && q < end && class_at(q, end, &len) == NUMBER; i++)
      q += len;
    return q;
  }
  next = q < end ? class_at(q, end, &next_len) : SPACE;
  if (next == LETTER && *p != '\n' && *p != '\r')
    return run_of(q + next_len, end, LETTER);
  if (class == OTHER)
    return others(q, end);
  if (*p == ' ' && next == OTHER)
    return others(q + next_len, end);
  return line_ends(p, end);
}

const char *text_scan_qwen2(const char *p, const char *end) {
  return qwen2_or_llama3(p, end, 1);
}
const char *text_scan_llama3(const char *p, const char *end) {
  return qwen2_or_llama3(p, end, 3);
}

// What Rust's char::is_numeric takes: N of Unicode 17.
static inline bool numeric(const char *p, const char *end, int *len) {
  if ((uint8_t)*p < 128)
    return *len = 1, *p >= '0' && *p <= '9';
  uint32_t c;
  if (wide_class(p, end, len) == NUMBER)
    return true;
  text_utf8_next(p, (size_t)(end - p), &c);
  return (c >= 0x11DE0 && c <= 0x11DE9) || (c >= 0x16FF4 && c <= 0x16FF6);
}

const char *text_scan_digits(const char *p, const char *end) {
  int len;
  if (numeric(p, end, &len))
    return p + len;
  do
    p += len;
  while (p < end && !numeric(p, end, &len));
  return p;
}

const char *text_scan_digit_runs(const char *p, const char *end) {
  int len;
  bool digits = numeric(p, end, &len);
  do
    p += len;
  while (p < end && numeric(p, end, &len) == digits);
  return p;
}

static int word_class(const char *p, const char *end, int *len) {
  uint32_t c;
  *len = text_utf8_next(p, (size_t)(end - p), &c);
  return text_is_space(c) ? SPACE : text_is_word(c) ? LETTER : OTHER;
}

const char *text_scan_words(const char *p, const char *end) {
  int len, class = word_class(p, end, &len);
  do
    p += len;
  while (p < end && word_class(p, end, &len) == class);
  return p;
}

text_scanner text_known_scanner(const char *pattern) {
  if (!strcmp(pattern, TEXT_GPT2_PATTERN))
    return text_scan_gpt2;
  if (!strcmp(pattern, TEXT_QWEN2_PATTERN))
    return text_scan_qwen2;
  return strcmp(pattern, TEXT_LLAMA3_PATTERN) ? NULL : text_scan_llama3;
}
