// split.c: one step of the pre-tokenizer over one piece of text.
//
// A step finds its pattern's matches; what lies between them is a piece too. The behaviours say what becomes of a match:
// its own piece, dropped, joined with equal neighbours, or joined with the piece before or after it. With `invert` matches
// and the rest change places. Empty pieces vanish.
#include "text.h"

bool text_push_piece(text_work *w, text_pieces *list, const char *p, size_t n, int32_t id) {
  if (list->n == list->cap) {
    size_t cap = list->cap ? 2 * list->cap : 256;
    text_piece *items = realloc(list->items, cap * sizeof *items);
    if (!items) {
      w->no_memory = true;
      return false;
    }
    list->items = items;
    list->cap = cap;
  }
  list->items[list->n++] = (text_piece){p, n, id};
  return true;
}

typedef struct splitter {  // pieces of the current text begin at out->items[base]
  text_work *w;
  text_pieces *out;
  size_t base;
  text_behavior behavior;
  bool invert, previous;
} splitter;

// Takes the next stretch of text, a match or what lies between two.
static void take(splitter *s, const char *p, size_t n, bool is_match) {
  bool match = is_match != s->invert, any = s->out->n > s->base, before = s->previous;
  text_piece *last = any ? &s->out->items[s->out->n - 1] : NULL;
  s->previous = match;
  switch (s->behavior) {
  case TEXT_ISOLATED: break;
  case TEXT_REMOVED:
    if (match) return;
    break;
  case TEXT_CONTIGUOUS:
    if (any && match == before) {
      last->n += n;
      return;
    }
    break;
  case TEXT_WITH_PREVIOUS:
    if (any && match && !before) {
      last->n += n;
      return;
    }
    break;
  case TEXT_WITH_NEXT:  // a match waits for the stretch after it; of several matches in a row the last one does
    if (any && !match && before) {
      last->n += n;
      return;
    }
    break;
  }
  text_push_piece(s->w, s->out, p, n, -1);
}

static tl_status match_failed(const tl_tokenizer *t, int code) {
  PCRE2_UCHAR message[120] = "";
  pcre2_get_error_message(code, message, sizeof message);
  return tl_fail(TL_E_UNSUPPORTED, "%s: the pre-tokenizer's pattern gave up on this text: %s", t->path, (const char *)message);
}

static int find(const text_work *w, const pcre2_code *re, const char *p, size_t n, size_t from) {
  int got = pcre2_match(re, (PCRE2_SPTR)p, n, from, PCRE2_NO_UTF_CHECK, w->match, NULL);
  if (got == PCRE2_ERROR_JIT_STACKLIMIT)
    got = pcre2_match(re, (PCRE2_SPTR)p, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, NULL);
  return got;
}

static tl_status split_regex(const tl_tokenizer *t, text_work *w, const text_step *step, text_piece piece, text_pieces *out) {
  splitter s = {w, out, out->n, step->behavior, step->invert, false};
  const char *p = piece.p;
  size_t n = piece.n, done = 0, from = 0, last_end = SIZE_MAX;
  while (from <= n) {
    int got = find(w, step->re, p, n, from);
    if (got == PCRE2_ERROR_NOMATCH) break;
    if (got < 0) return match_failed(t, got);
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(w->match);
    size_t start = v[0], end = v[1];
    if (start > end || end > n || start < done) break;  // \K can do this; nothing more to split then
    if (start == end && end == last_end) {  // an empty match right after a match is not one
      uint32_t c;
      from = end < n ? end + (size_t)text_utf8_next(p + end, n - end, &c) : n + 1;
      continue;
    }
    if (start > done) take(&s, p + done, start - done, false);
    take(&s, p + start, end - start, true);
    done = from = last_end = end;
  }
  if (done < n) take(&s, p + done, n - done, false);
  size_t kept = s.base;
  for (size_t i = s.base; i < out->n; i++)
    if (out->items[i].n) out->items[kept++] = out->items[i];
  out->n = kept;
  return TL_OK;
}

tl_status text_split(const tl_tokenizer *t, text_work *w, const text_step *step, text_piece piece, text_pieces *out) {
  if (step->re) return split_regex(t, w, step, piece, out);
  if (piece.n && piece.p[0] == ' ') return text_push_piece(w, out, piece.p, piece.n, -1), TL_OK;
  char *p = text_work_alloc(w, piece.n + 1);
  if (!p) return TL_OK;  // no_memory is set and reported by the caller
  p[0] = ' ';
  memcpy(p + 1, piece.p, piece.n);
  text_push_piece(w, out, p, piece.n + 1, -1);
  return TL_OK;
}
