// split.c: the pre-tokenizer's steps over one piece of text.
//
// A splitting step finds its pattern's matches; what lies between them is a piece too. The behaviours say what becomes of a
// match: its own piece, dropped, joined with equal neighbours, or joined with the piece before or after it. With `invert`
// matches and the rest change places. Empty pieces vanish. A piece goes on to the next step as soon as it is known.
#include "text.h"

tl_status text_new_step(tl_tokenizer *t, text_step step) {
  text_step *p = t->n_steps < TEXT_MAX_STEPS ? realloc(t->steps, (size_t)(t->n_steps + 1) * sizeof *p) : NULL;
  if (!p) {
    pcre2_code_free(step.re);
    if (t->n_steps >= TEXT_MAX_STEPS)
      return tl_fail(TL_E_UNSUPPORTED, "%s: pre_tokenizer has more than %d steps", t->path, TEXT_MAX_STEPS);
    return text_no_memory(t);
  }
  t->steps = p;
  t->steps[t->n_steps++] = step;
  return TL_OK;
}

tl_status text_add_split(tl_tokenizer *t, const char *pattern, text_syntax syntax, text_behavior behavior, bool invert) {
  // a scanner's matches cover the text: isolated, or inverted and what lies between removed, is the same
  bool plain = invert ? behavior == TEXT_REMOVED : behavior == TEXT_ISOLATED;
  text_scanner scan = syntax == TEXT_ONIGURUMA && plain ? text_known_scanner(pattern) : NULL;
  if (scan)
    return text_new_step(t, (text_step){.kind = TEXT_SCAN, .scan = scan});
  pcre2_code *re;
  TL_TRY(text_compile(t->path, "the pre-tokenizer's pattern", pattern, syntax, &re));
  return text_new_step(t, (text_step){.kind = TEXT_REGEX, .re = re, .behavior = behavior, .invert = invert});
}

typedef struct splitter {
  const text_run *r;
  int next; // the step that pieces go to
  text_piece whole, last;
  text_behavior behavior;
  bool invert, any; // any: last is there
  bool previous;    // the last stretch was a match
} splitter;

static tl_status flush(splitter *s) {
  text_piece p = s->last;
  if (!s->any || !p.n)
    return TL_OK;
  p.first = s->whole.first && p.p == s->whole.p;
  return text_pretokenise(s->r, s->next, p);
}

// Takes the next stretch of text, a match or what lies between two.
static tl_status take(splitter *s, const char *p, size_t n, bool is_match) {
  bool match = is_match != s->invert, before = s->previous, join = false;
  s->previous = match;
  switch (s->behavior) {
  case TEXT_ISOLATED:
    break;
  case TEXT_REMOVED:
    if (match)
      return TL_OK;
    break;
  case TEXT_CONTIGUOUS:
    join = match == before;
    break;
  case TEXT_WITH_PREVIOUS:
    join = match && !before;
    break;
  case TEXT_WITH_NEXT:
    join = !match && before;
    break; // of several matches in a row the last one waits for what follows
  }
  if (join && s->any) {
    s->last.n += n;
    return TL_OK;
  }
  TL_TRY(flush(s));
  s->last = (text_piece){p, n, false};
  s->any = true;
  return TL_OK;
}

static tl_status split_regex(const text_run *r, int step, const pcre2_code *re, text_piece piece) {
  const text_step *k = &r->t->steps[step];
  splitter s = {r, step + 1, piece, {0}, k->kind == TEXT_METASPACE ? TEXT_WITH_NEXT : k->behavior, k->invert, false, false};
  text_matcher m = text_matches(r->t->path, r->w->match, re, piece.p, piece.n);
  size_t done = 0, start, end;
  for (bool found;;) {
    TL_TRY(text_next_match(&m, &found, &start, &end));
    if (!found)
      break;
    if (start > done)
      TL_TRY(take(&s, piece.p + done, start - done, false));
    TL_TRY(take(&s, piece.p + start, end - start, true));
    done = end;
  }
  if (done < piece.n)
    TL_TRY(take(&s, piece.p + done, piece.n - done, false));
  return flush(&s);
}

static tl_status split_chars(const text_run *r, int step, text_piece piece) {
  const text_step *k = &r->t->steps[step];
  splitter s = {r, step + 1, piece, {0}, k->behavior, k->invert, false, false};
  const char *p = piece.p, *end = p + piece.n, *done = p;
  uint32_t c;
  for (int len; p < end; p += len) {
    len = text_utf8_next(p, (size_t)(end - p), &c);
    if (!k->is(c))
      continue;
    if (p > done)
      TL_TRY(take(&s, done, (size_t)(p - done), false));
    TL_TRY(take(&s, p, (size_t)len, true));
    done = p + len;
  }
  if (done < end)
    TL_TRY(take(&s, done, (size_t)(end - done), false));
  return flush(&s);
}

static tl_status split_scan(const text_run *r, int step, text_piece piece) {
  text_scanner scan = r->t->steps[step].scan;
  const char *p = piece.p, *end = p + piece.n, *stop;
  bool last = step + 1 == r->t->n_steps && !r->t->unspell, drop = r->t->steps[step].drop_spaces;
  uint32_t c;
  for (; p < end; p = stop) {
    stop = scan(p, end);
    if (drop && (text_utf8_next(p, (size_t)(end - p), &c), text_is_space(c)))
      continue;
    if (last)
      text_merge_piece(r->t, r->w, p, (size_t)(stop - p));
    else
      TL_TRY(text_pretokenise(r, step + 1, (text_piece){p, (size_t)(stop - p), piece.first && p == piece.p}));
  }
  return TL_OK;
}

// Memory that ran out is remembered in no_memory and reported by the encode.
static tl_status prefix_space(const text_run *r, int step, text_piece piece) {
  if (piece.p[0] == ' ')
    return text_pretokenise(r, step + 1, piece);
  char *p = text_work_alloc(r->w, piece.n + 1);
  if (!p)
    return TL_OK;
  p[0] = ' ';
  memcpy(p + 1, piece.p, piece.n);
  return text_pretokenise(r, step + 1, (text_piece){p, piece.n + 1, piece.first});
}

static tl_status metaspace(const text_run *r, int step, text_piece piece) {
  const text_step *k = &r->t->steps[step];
  size_t n_mark = strlen(k->mark), n = 0;
  if (piece.n > SIZE_MAX / 8 - 8)
    return r->w->no_memory = true, TL_OK;
  char *p = text_work_alloc(r->w, (piece.n + 1) * n_mark);
  if (!p)
    return TL_OK;
  bool marked = piece.p[0] == ' ' || (piece.n >= n_mark && !memcmp(piece.p, k->mark, n_mark));
  if (!marked && (k->scheme == TEXT_ALWAYS || (k->scheme == TEXT_FIRST && piece.first)))
    memcpy(p, k->mark, n = n_mark);
  for (size_t i = 0; i < piece.n; i++) {
    if (piece.p[i] == ' ')
      memcpy(p + n, k->mark, n_mark), n += n_mark;
    else
      p[n++] = piece.p[i];
  }
  piece = (text_piece){p, n, piece.first};
  return k->split ? split_regex(r, step, k->re, piece) : text_pretokenise(r, step + 1, piece);
}

static tl_status spell(const text_run *r, int step, text_piece piece) {
  char *p = piece.n < SIZE_MAX / 2 ? text_work_alloc(r->w, 2 * piece.n) : NULL;
  if (!p)
    return r->w->no_memory = true, TL_OK;
  size_t n = 0;
  for (size_t i = 0; i < piece.n; i++)
    n += text_spell((uint8_t)piece.p[i], p + n);
  return text_pretokenise(r, step + 1, (text_piece){p, n, piece.first});
}

static tl_status merge_unspelled(const text_run *r, text_piece piece) {
  size_t n;
  char *p = text_work_alloc(r->w, piece.n);
  if (p && text_unspell(piece.p, piece.n, p, &n))
    text_merge_piece(r->t, r->w, p, n);
  return TL_OK;
}

tl_status text_pretokenise(const text_run *r, int step, text_piece piece) {
  const tl_tokenizer *t = r->t;
  if (r->w->no_memory || !piece.n)
    return TL_OK;
  if (step == t->n_steps) {
    if (t->unspell)
      return merge_unspelled(r, piece);
    text_merge_piece(t, r->w, piece.p, piece.n);
    return TL_OK;
  }
  switch (t->steps[step].kind) {
  case TEXT_REGEX:
    return split_regex(r, step, t->steps[step].re, piece);
  case TEXT_SCAN:
    return split_scan(r, step, piece);
  case TEXT_CHARS:
    return split_chars(r, step, piece);
  case TEXT_SPACE:
    return prefix_space(r, step, piece);
  case TEXT_METASPACE:
    return metaspace(r, step, piece);
  case TEXT_SPELL:
    return spell(r, step, piece);
  }
  return TL_OK;
}
