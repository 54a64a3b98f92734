// utf8.c: UTF-8 validity, white space, and the byte-level spelling.
//
// Text that is not UTF-8 is not refused: each maximal ill-formed part becomes U+FFFD, as Python's
// bytes.decode("utf-8", errors="replace") does (Unicode 15, section 3.9, "substitution of maximal subparts").
#include "text.h"

int text_utf8_valid(const char *text, size_t n, size_t *skip) {
  const uint8_t *s = (const uint8_t *)text;
  uint8_t c = s[0], lo = 0x80, hi = 0xBF;
  *skip = 1;
  if (c < 0x80)
    return 1;
  int len = c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
  if (!len)
    return 0;
  if (c == 0xE0)
    lo = 0xA0; // overlong
  else if (c == 0xED)
    hi = 0x9F; // surrogates
  else if (c == 0xF0)
    lo = 0x90; // overlong
  else if (c == 0xF4)
    hi = 0x8F; // above U+10FFFF
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
  size_t skip, i = 0;
  while (i < n) {
    if (n - i >= 8 && text_is_ascii(s + i, 8)) {
      i += 8;
      continue;
    }
    int len = text_utf8_valid(s + i, n - i, &skip);
    if (!len)
      return i;
    i += (size_t)len;
  }
  return n;
}

void text_utf8_fix(tl_str *out, const char *s, size_t n) {
  tl_str_add(out, "", 0);
  while (n) {
    size_t good = text_utf8_bad(s, n), skip;
    tl_str_add(out, s, good);
    if (good == n)
      return;
    text_utf8_valid(s + good, n - good, &skip);
    tl_str_add(out, "\xEF\xBF\xBD", 3);
    s += good + skip;
    n -= good + skip;
  }
}

size_t text_utf8_unfinished(const char *s, size_t n) {
  for (size_t back = 1; back <= 3 && back <= n; back++) {
    uint8_t c = (uint8_t)s[n - back];
    if (c < 0x80)
      return 0;
    if (c < 0xC0)
      continue;
    size_t skip, wants = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    bool open = !text_utf8_valid(s + n - back, back, &skip) && skip == back && wants > back && c >= 0xC2 && c <= 0xF4;
    return open ? back : 0;
  }
  return 0;
}

int text_utf8_next(const char *s, size_t n, uint32_t *c) {
  const uint8_t *u = (const uint8_t *)s;
  if (u[0] < 0x80 || n < 2)
    return *c = u[0], 1;
  if (u[0] < 0xE0 || n < 3)
    return *c = (u[0] & 31u) << 6 | (u[1] & 63u), 2;
  if (u[0] < 0xF0 || n < 4)
    return *c = (u[0] & 15u) << 12 | (u[1] & 63u) << 6 | (u[2] & 63u), 3;
  return *c = (u[0] & 7u) << 18 | (u[1] & 63u) << 12 | (u[2] & 63u) << 6 | (u[3] & 63u), 4;
}

bool text_is_ascii(const char *s, size_t n) {
  uint64_t any = 0, w;
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    memcpy(&w, s + i, 8), any |= w;
  for (; i < n; i++)
    any |= (uint8_t)s[i];
  return !(any & 0x8080808080808080u);
}

bool text_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t text_utf8_put(uint32_t c, char out[4]) {
  if (c < 0x80)
    return out[0] = (char)c, 1;
  int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
  out[0] = (char)(lead[more] | c >> 6 * more);
  for (int i = 1; i <= more; i++)
    out[i] = (char)(0x80 | (c >> 6 * (more - i) & 63));
  return (size_t)more + 1;
}

int text_byte_token(const char *s, size_t n) {
  if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>')
    return -1;
  int byte = 0;
  for (int i = 3; i < 5; i++) {
    char c = s[i], lower = (char)(c | 32);
    if (c >= '0' && c <= '9')
      byte = byte * 16 + c - '0';
    else if (lower >= 'a' && lower <= 'f')
      byte = byte * 16 + lower - 'a' + 10;
    else
      return -1;
  }
  return byte;
}

// The spelling: printable Latin-1 characters stand for themselves, the other 68 bytes, in order, for U+0100 onwards.
static bool printable(int b) {
  return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

size_t text_spell(uint8_t byte, char out[2]) {
  uint32_t c = byte;
  if (!printable(byte)) {
    c = 256;
    for (int b = 0; b < byte; b++)
      c += !printable(b);
  }
  if (c < 0x80)
    return out[0] = (char)c, 1;
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
    int byte = c < 256         ? (printable((int)c) ? (int)c : -1)
               : c < 256 + 33  ? (int)c - 256
               : c < 256 + 67  ? (int)c - 256 - 33 + 127
               : c == 256 + 67 ? 173
                               : -1;
    if (byte < 0)
      return false;
    out[o++] = (char)byte;
  }
  *n_out = o;
  return true;
}
