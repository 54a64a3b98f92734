// utf8.c: UTF-8 validity, normal forms, character classes, and the byte-level spelling.
//
// Text that is not UTF-8 is not refused: each maximal ill-formed part becomes U+FFFD, as Python's
// bytes.decode("utf-8", errors="replace") does (Unicode 15, section 3.9, "substitution of maximal subparts").
#include "text.h"
#include <utf8proc.h>

// Length of the valid character at s; 0: ill-formed, then *skip is the length of the maximal ill-formed part.
static int valid_char(const uint8_t *s, size_t n, size_t *skip) {
  uint8_t c = s[0], lo = 0x80, hi = 0xBF;
  *skip = 1;
  if (c < 0x80) return 1;
  int len = c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
  if (!len) return 0;
  if (c == 0xE0) lo = 0xA0;       // overlong
  else if (c == 0xED) hi = 0x9F;  // surrogates
  else if (c == 0xF0) lo = 0x90;  // overlong
  else if (c == 0xF4) hi = 0x8F;  // above U+10FFFF
  for (int i = 1; i < len; i++) {
    if ((size_t)i >= n || s[i] < lo || s[i] > hi) {
      *skip = (size_t)i;
      return 0;
    }
    lo = 0x80, hi = 0xBF;
  }
  return len;
}

size_t text_utf8_bad(const char *s, size_t n) {
  size_t skip;
  for (size_t i = 0; i < n;) {
    if ((uint8_t)s[i] < 0x80) {
      i++;
      continue;
    }
    int len = valid_char((const uint8_t *)s + i, n - i, &skip);
    if (!len) return i;
    i += (size_t)len;
  }
  return n;
}

char *text_utf8_fix(const char *s, size_t n, size_t *n_out) {
  if (n > (SIZE_MAX - 1) / 3) return NULL;
  char *out = malloc(3 * n + 1), *o = out;
  if (!out) return NULL;
  for (size_t i = 0, skip; i < n;) {
    int len = valid_char((const uint8_t *)s + i, n - i, &skip);
    if (len) memcpy(o, s + i, (size_t)len), o += len, i += (size_t)len;
    else memcpy(o, "\xEF\xBF\xBD", 3), o += 3, i += skip;
  }
  *o = 0;
  *n_out = (size_t)(o - out);
  return out;
}

int text_utf8_next(const char *s, size_t n, uint32_t *c) {
  const uint8_t *u = (const uint8_t *)s;
  if (u[0] < 0x80 || n < 2) return *c = u[0], 1;
  if (u[0] < 0xE0 || n < 3) return *c = (u[0] & 31u) << 6 | (u[1] & 63u), 2;
  if (u[0] < 0xF0 || n < 4) return *c = (u[0] & 15u) << 12 | (u[1] & 63u) << 6 | (u[2] & 63u), 3;
  return *c = (u[0] & 7u) << 18 | (u[1] & 63u) << 12 | (u[2] & 63u) << 6 | (u[3] & 63u), 4;
}

bool text_is_ascii(const char *s, size_t n) {
  uint64_t any = 0, w;
  size_t i = 0;
  for (; i + 8 <= n; i += 8) memcpy(&w, s + i, 8), any |= w;
  for (; i < n; i++) any |= (uint8_t)s[i];
  return !(any & 0x8080808080808080u);
}

bool text_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// Alphabetic, marks, decimal digits, connector punctuation, joiners (Unicode TR18, annex C). Alphabetic beyond letters, marks
// and letter numbers is only the circled and squared capitals.
bool text_is_word(uint32_t c) {
  switch (utf8proc_category((utf8proc_int32_t)c)) {
  case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM:
  case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC:
  case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_PC:
    return true;
  default:
    return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

char *text_normal_form(text_form f, const char *s, size_t n, size_t *n_out) {
  static const utf8proc_option_t options[] = {
      [TEXT_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
      [TEXT_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
      [TEXT_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
      [TEXT_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
  };
  utf8proc_uint8_t *out = NULL;
  utf8proc_ssize_t got = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &out, options[f]);
  if (got < 0) {
    free(out);
    return NULL;
  }
  *n_out = (size_t)got;
  return (char *)out;
}

// The spelling: printable Latin-1 characters stand for themselves, the other 68 bytes, in order, for U+0100 onwards.
static bool printable(int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174; }

size_t text_spell(uint8_t byte, char out[2]) {
  uint32_t c = byte;
  if (!printable(byte)) {
    c = 256;
    for (int b = 0; b < byte; b++) c += !printable(b);
  }
  if (c < 0x80) return out[0] = (char)c, 1;
  out[0] = (char)(0xC0 | c >> 6);
  out[1] = (char)(0x80 | (c & 63));
  return 2;
}

bool text_unspell(const char *s, size_t n, char *out, size_t *n_out) {
  // the 68 other bytes in order: 0..32, 127..160, 173
  size_t o = 0;
  for (size_t i = 0; i < n;) {
    uint32_t c;
    i += (size_t)text_utf8_next(s + i, n - i, &c);
    int byte = c < 256 ? (printable((int)c) ? (int)c : -1)
               : c < 256 + 33 ? (int)c - 256
               : c < 256 + 67 ? (int)c - 256 - 33 + 127
               : c == 256 + 67 ? 173 : -1;
    if (byte < 0) return false;
    out[o++] = (char)byte;
  }
  *n_out = o;
  return true;
}
