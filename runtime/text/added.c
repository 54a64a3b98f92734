// added.c: tokens that are matched in a text before anything else (control tokens, words added later).
//
// Those that are not `normalized` are looked for in the text as it came, the others in normalised text. Of all tokens that
// begin at a place the longest counts; the leftmost match wins. The tokens lie sorted, so those that share a prefix are a
// range, which narrows byte by byte: no automaton is built, and a text without any of their first bytes costs a table look-up a
// byte.
#include "text.h"

tl_status text_add_added(tl_tokenizer *t, int64_t id, const char *s, size_t n, text_added flags) {
  if (!n || text_map_get(&t->added_text, s, n) >= 0)
    return TL_OK;
  int32_t known = text_map_get(&t->by_text, s, n);
  if (known >= 0)
    id = known;
  else
    TL_TRY(text_store_token(t, id, s, n));
  text_token *k = &t->tokens[id];
  k->special = flags.special;
  if (!text_map_put(&t->added_text, k->text, n, (int32_t)id))
    return text_no_memory(t);
  text_added_set *set = flags.normalized ? &t->normal : &t->raw;
  if (set->n == set->cap) {
    size_t cap = set->cap ? 2 * set->cap : 32;
    text_added *p = realloc(set->items, cap * sizeof *p);
    if (!p)
      return text_no_memory(t);
    set->items = p;
    set->cap = cap;
  }
  flags.id = (int32_t)id;
  flags.n = n;
  flags.content = malloc(n + 1); // a GGUF's token may hold a NUL
  if (!flags.content)
    return text_no_memory(t);
  memcpy(flags.content, s, n);
  flags.content[n] = 0;
  set->items[set->n++] = flags;
  return TL_OK;
}

static int by_content(const void *x, const void *y) {
  const text_added *a = x, *b = y;
  int c = memcmp(a->content, b->content, a->n < b->n ? a->n : b->n);
  return c ? c : a->n != b->n ? (a->n > b->n) - (a->n < b->n) : (a->id > b->id) - (a->id < b->id);
}

static void finish_set(text_added_set *set) {
  if (set->n)
    qsort(set->items, set->n, sizeof *set->items, by_content);
  for (size_t i = 0; i < set->n; i++)
    set->first[(uint8_t)set->items[i].content[0]] = true;
}

// Normalised tokens are looked for in normalised text, and are decoded to their normal form.
static tl_status normalise_added(tl_tokenizer *t, text_added *a) {
  text_piece piece = {a->content, a->n, true};
  TL_TRY(text_normalise(t, &t->work, &piece));
  char *s = malloc(piece.n + 1), *text = text_pool(t, piece.n + 1);
  if (!s || !text) {
    free(s);
    return text_no_memory(t);
  }
  memcpy(s, piece.p, piece.n);
  memcpy(text, piece.p, piece.n);
  s[piece.n] = text[piece.n] = 0;
  free(a->content);
  a->content = s;
  a->n = piece.n;
  t->tokens[a->id].source = text;
  t->tokens[a->id].n_source = (uint32_t)piece.n;
  return TL_OK;
}

tl_status text_finish_added(tl_tokenizer *t) {
  size_t kept = 0;
  for (size_t i = 0; i < t->normal.n; i++) TL_TRY(normalise_added(t, &t->normal.items[i]));
  for (size_t i = 0; i < t->normal.n; i++) {  // now that nothing fails any more: until then every item owns its content
    if (t->normal.items[i].n)
      t->normal.items[kept++] = t->normal.items[i];
    else
      free(t->normal.items[i].content);
  }
  t->normal.n = kept;
  finish_set(&t->raw);
  finish_set(&t->normal);
  return TL_OK;
}

static void free_set(text_added_set *set) {
  for (size_t i = 0; i < set->n; i++)
    free(set->items[i].content);
  free(set->items);
}

void text_free_added(tl_tokenizer *t) {
  free_set(&t->raw);
  free_set(&t->normal);
}

// The first token of lo .. hi - 1, which share d bytes, whose byte d is not below limit.
static size_t bound(const text_added_set *set, size_t lo, size_t hi, size_t d, int limit) {
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    const text_added *k = &set->items[mid];
    if (k->n <= d || (uint8_t)k->content[d] < limit)
      lo = mid + 1; // shorter ones sort first
    else
      hi = mid;
  }
  return lo;
}

// The longest added token at s; NULL: none. The set is sorted, so the tokens that share a prefix are a range that narrows.
static const text_added *longest_at(const text_added_set *set, const char *s, size_t n) {
  size_t lo = 0, hi = set->n;
  const text_added *best = NULL;
  for (size_t d = 0; d < n; d++) {
    lo = bound(set, lo, hi, d, (uint8_t)s[d]);
    hi = bound(set, lo, hi, d, (uint8_t)s[d] + 1);
    if (lo == hi)
      break;
    if (set->items[lo].n == d + 1)
      best = &set->items[lo];
  }
  return best;
}

static bool word_before(const char *s, size_t at) {
  if (!at)
    return false;
  size_t i = at - 1;
  while (i && ((uint8_t)s[i] & 0xC0) == 0x80)
    i--;
  uint32_t c;
  text_utf8_next(s + i, at - i, &c);
  return text_is_word(c);
}

static bool word_after(const char *s, size_t at, size_t n) {
  uint32_t c;
  if (at >= n)
    return false;
  text_utf8_next(s + at, n - at, &c);
  return text_is_word(c);
}

static size_t spaces_before(const char *s, size_t at) {
  while (at) {
    size_t i = at - 1;
    while (i && ((uint8_t)s[i] & 0xC0) == 0x80)
      i--;
    uint32_t c;
    text_utf8_next(s + i, at - i, &c);
    if (!text_is_space(c))
      break;
    at = i;
  }
  return at;
}

static size_t spaces_after(const char *s, size_t at, size_t n) {
  uint32_t c;
  for (int len; at < n; at += (size_t)len) {
    len = text_utf8_next(s + at, n - at, &c);
    if (!text_is_space(c))
      break;
  }
  return at;
}

tl_status text_split_added(const text_run *r, const text_added_set *set, text_piece piece,
                           tl_status (*next)(const text_run *r, text_piece piece)) {
  const char *s = piece.p;
  size_t n = piece.n, done = 0;
  for (size_t i = 0; i < n && set->n;) {
    const text_added *k = set->first[(uint8_t)s[i]] ? longest_at(set, s + i, n - i) : NULL;
    if (!k) {
      i++;
      continue;
    }
    size_t start = i, stop = i + k->n;
    i = stop;
    if (k->special && !r->parse_special)
      continue;
    if (k->single_word && (word_before(s, start) || word_after(s, stop, n)))
      continue;
    if (k->lstrip) {
      start = spaces_before(s, start);
      if (start < done)
        start = done;
    }
    if (k->rstrip)
      stop = spaces_after(s, stop, n);
    if (stop <= start)
      continue; // spaces that the token before it ate
    if (done < start)
      TL_TRY(next(r, (text_piece){s + done, start - done, piece.first && !done}));
    text_push_id(r->w, k->id);
    done = stop;
  }
  return done < n ? next(r, (text_piece){s + done, n - done, piece.first && !done}) : TL_OK;
}
