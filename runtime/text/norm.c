// norm.c: normalisers: Unicode normal forms, lower case, replacement, prefix, trimming.
//
// Normal forms come from utf8proc. The `tokenizers` library's tables are those of Unicode 9: characters that had no normal form
// and did not combine then (text_is_later) are left as they are here too, and nothing moves across them.
#include "text.h"
#include <utf8proc.h>

tl_status text_new_norm(tl_tokenizer *t, text_norm n) {
  text_norm *p = t->n_norms < TEXT_MAX_STEPS ? realloc(t->norms, (size_t)(t->n_norms + 1) * sizeof *p) : NULL;
  if (!p) {
    pcre2_code_free(n.re);
    free(n.content);
    if (t->n_norms >= TEXT_MAX_STEPS)
      return tl_fail(TL_E_UNSUPPORTED, "%s: normalizer has more than %d steps", t->path, TEXT_MAX_STEPS);
    return text_no_memory(t);
  }
  t->norms = p;
  t->norms[t->n_norms++] = n;
  return TL_OK;
}

// Characters that NFC never changes and that never combine with the one before, in ranges: most text is nothing else.
static bool inert(uint32_t c) {
  return c < 0x300 || (c >= 0x388 && c <= 0x482) || (c >= 0x48A && c <= 0x590) || (c >= 0x5D0 && c <= 0x5EA) ||
         (c >= 0x620 && c <= 0x64A) || (c >= 0x2010 && c <= 0x205F) || (c >= 0x3041 && c <= 0x3096) ||
         (c >= 0x30A1 && c <= 0x30FE) || (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3) ||
         (c >= 0x1F300 && c <= 0x1FAFF);
}

static bool is_normal(text_form f, const char *s, size_t n) {
  if (text_is_ascii(s, n))
    return true;
  if (f != TEXT_NFC)
    return false;
  uint32_t c;
  for (size_t i = 0; i < n;) {
    i += (size_t)text_utf8_next(s + i, n - i, &c);
    if (!inert(c))
      return false;
  }
  return true;
}

static char *map(text_form f, const char *s, size_t n, size_t *n_out) {
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

static bool add_form(text_form f, const char *p, size_t n, tl_str *out) {
  size_t got = 0;
  char *s = n ? map(f, p, n, &got) : NULL;
  if (s)
    tl_str_add(out, s, got);
  free(s);
  return s || !n;
}

static bool normal_form(text_form f, text_piece piece, tl_str *out) {
  size_t done = 0;
  uint32_t c;
  for (size_t i = 0; i < piece.n;) {
    size_t len = (size_t)text_utf8_next(piece.p + i, piece.n - i, &c);
    if (text_is_later(c)) {
      if (!add_form(f, piece.p + done, i - done, out))
        return false;
      tl_str_add(out, piece.p + i, len);
      done = i + len;
    }
    i += len;
  }
  return add_form(f, piece.p + done, piece.n - done, out);
}

static void lowercase(text_piece piece, tl_str *out) {
  uint32_t c;
  char s[4];
  for (size_t i = 0; i < piece.n;) {
    int len = text_utf8_next(piece.p + i, piece.n - i, &c);
    if (c == 0x130)
      tl_str_add(out, "i\xCC\x87", 3); // the one letter whose lower case is two characters
    else
      tl_str_add(out, s, text_utf8_put(text_lowercase(c), s));
    i += (size_t)len;
  }
}

static tl_status replace(const tl_tokenizer *t, text_work *w, const text_norm *k, text_piece piece, tl_str *out) {
  text_matcher m = text_matches(t->path, w->match, k->re, piece.p, piece.n);
  size_t done = 0, start, end;
  for (bool found;;) {
    TL_TRY(text_next_match(&m, &found, &start, &end));
    if (!found)
      break;
    tl_str_add(out, piece.p + done, start - done);
    tl_str_add(out, k->content, k->n);
    done = end;
  }
  tl_str_add(out, piece.p + done, piece.n - done);
  return TL_OK;
}

static text_piece trim(const text_norm *k, text_piece piece) {
  const char *p = piece.p, *end = p + piece.n;
  uint32_t c;
  while (k->left && p < end) {
    int len = text_utf8_next(p, (size_t)(end - p), &c);
    if (!text_is_space(c))
      break;
    p += len;
  }
  while (k->right && p < end) {
    const char *q = end - 1;
    while (q > p && ((uint8_t)*q & 0xC0) == 0x80)
      q--;
    text_utf8_next(q, (size_t)(end - q), &c);
    if (!text_is_space(c))
      break;
    end = q;
  }
  return (text_piece){p, (size_t)(end - p), piece.first};
}

static tl_status apply(const tl_tokenizer *t, text_work *w, const text_norm *k, text_piece piece, tl_str *out) {
  switch (k->kind) {
  case TEXT_FORM:
    return normal_form(k->form, piece, out) ? TL_OK : text_no_memory(t);
  case TEXT_LOWERCASE:
    return lowercase(piece, out), TL_OK;
  case TEXT_REPLACE:
    return replace(t, w, k, piece, out);
  case TEXT_PREPEND:
    if (piece.n)
      tl_str_add(out, k->content, k->n);
    tl_str_add(out, piece.p, piece.n);
    return TL_OK;
  case TEXT_TRIM:
    break; // makes no new text
  }
  return TL_OK;
}

tl_status text_normalise(const tl_tokenizer *t, text_work *w, text_piece *piece) {
  for (int i = 0; i < t->n_norms && !w->no_memory; i++) {
    const text_norm *k = &t->norms[i];
    if (k->kind == TEXT_TRIM) {
      *piece = trim(k, *piece);
      continue;
    }
    if (k->kind == TEXT_FORM && is_normal(k->form, piece->p, piece->n))
      continue;
    tl_str out = {0};
    tl_str_add(&out, "", 0);
    tl_status status = apply(t, w, k, *piece, &out);
    char *copy = status == TL_OK ? text_work_alloc(w, out.n + 1) : NULL;
    if (copy) {
      memcpy(copy, out.p, out.n);
      *piece = (text_piece){copy, out.n, piece->first};
    }
    tl_str_free(&out);
    TL_TRY(status);
  }
  return TL_OK;
}
