// encode.c: the way of a text through the tokenizer (see text.h), and one thread's scratch for it.
#include "text.h"

tl_status text_work_init(text_work *w, bool cache) {
  *w = (text_work){.match = pcre2_match_data_create(64, NULL)};
  if (cache) w->cache = calloc(TEXT_CACHE_SLOTS, sizeof *w->cache);
  return w->match && (!cache || w->cache) ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory for the tokenizer's scratch");
}

static void free_chunks(text_work *w) {
  for (text_chunk *c = w->chunks, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  w->chunks = NULL;
}

void text_work_free(text_work *w) {
  free_chunks(w);
  pcre2_match_data_free(w->match);
  free(w->a.items);
  free(w->b.items);
  free(w->cache);
  free(w->sym);
  free(w->ids);
  *w = (text_work){0};
}

char *text_work_alloc(text_work *w, size_t n) {
  text_chunk *c = n < SIZE_MAX - sizeof *c ? malloc(sizeof *c + n) : NULL;
  if (!c) {
    w->no_memory = true;
    return NULL;
  }
  c->next = w->chunks;
  w->chunks = c;
  return (char *)(c + 1);
}

// The first token of lo .. hi - 1, which share d bytes, whose byte d is not below limit.
static size_t bound(const text_added_set *set, size_t lo, size_t hi, size_t d, int limit) {
  while (lo < hi) {
    size_t mid = lo + (hi - lo) / 2;
    const text_added *k = &set->items[mid];
    if (k->n <= d || (uint8_t)k->content[d] < limit) lo = mid + 1;  // shorter ones sort first
    else hi = mid;
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
    if (lo == hi) break;
    if (set->items[lo].n == d + 1) best = &set->items[lo];
  }
  return best;
}

static bool word_before(const char *s, size_t at) {
  if (!at) return false;
  size_t i = at - 1;
  while (i && ((uint8_t)s[i] & 0xC0) == 0x80) i--;
  uint32_t c;
  text_utf8_next(s + i, at - i, &c);
  return text_is_word(c);
}

static bool word_after(const char *s, size_t at, size_t n) {
  uint32_t c;
  if (at >= n) return false;
  text_utf8_next(s + at, n - at, &c);
  return text_is_word(c);
}

static size_t spaces_before(const char *s, size_t at) {
  while (at) {
    size_t i = at - 1;
    while (i && ((uint8_t)s[i] & 0xC0) == 0x80) i--;
    uint32_t c;
    text_utf8_next(s + i, at - i, &c);
    if (!text_is_space(c)) break;
    at = i;
  }
  return at;
}

static size_t spaces_after(const char *s, size_t at, size_t n) {
  uint32_t c;
  for (int len; at < n; at += (size_t)len) {
    len = text_utf8_next(s + at, n - at, &c);
    if (!text_is_space(c)) break;
  }
  return at;
}

// Leftmost-longest matches of the added tokens; the text between them goes on as pieces with id -1.
static void split_added(text_work *w, const text_added_set *set, bool parse_special, const char *s, size_t n,
                        text_pieces *out) {
  size_t done = 0;
  for (size_t i = 0; i < n;) {
    const text_added *k = set->first[(uint8_t)s[i]] ? longest_at(set, s + i, n - i) : NULL;
    if (!k) {
      i++;
      continue;
    }
    size_t start = i, stop = i + k->n;
    i = stop;
    if (k->special && !parse_special) continue;
    if (k->single_word && (word_before(s, start) || word_after(s, stop, n))) continue;
    if (k->lstrip) {
      start = spaces_before(s, start);
      if (start < done) start = done;
    }
    if (k->rstrip) stop = spaces_after(s, stop, n);
    if (done < start) text_push_piece(w, out, s + done, start - done, -1);
    text_push_piece(w, out, s + start, stop - start, k->id);
    done = stop;
  }
  if (done < n) text_push_piece(w, out, s + done, n - done, -1);
}

static tl_status out_of_memory(const tl_tokenizer *t, size_t n) {
  return tl_fail(TL_E_MEMORY, "%s: out of memory while encoding %zu bytes", t->path, n);
}

// The normal form of a piece, in a chunk of the scratch. ASCII is its own normal form.
static bool normalise(const tl_tokenizer *t, text_work *w, text_piece *piece) {
  if (!t->n_forms || text_is_ascii(piece->p, piece->n)) return true;
  for (int f = 0; f < t->n_forms; f++) {
    size_t n;
    char *s = text_normal_form(t->forms[f], piece->p, piece->n, &n), *copy = s ? text_work_alloc(w, n) : NULL;
    if (copy) memcpy(copy, s, n);
    free(s);
    if (!copy) return !(w->no_memory = true);
    *piece = (text_piece){copy, n, -1};
  }
  return true;
}

// Pieces of the whole text into *out, by way of the two lists of w.
static tl_status pieces_of(const tl_tokenizer *t, text_work *w, const char *s, size_t n, bool parse_special,
                           text_pieces **out) {
  text_pieces *from = &w->a, *to = &w->b, *swap;
  from->n = to->n = 0;
  split_added(w, &t->raw, parse_special, s, n, from);
  for (size_t i = 0; i < from->n && !w->no_memory; i++) {
    text_piece p = from->items[i];
    if (p.id >= 0) text_push_piece(w, to, p.p, p.n, p.id);
    else if (normalise(t, w, &p)) split_added(w, &t->normal, parse_special, p.p, p.n, to);
  }
  swap = from, from = to, to = swap;
  for (int k = 0; k < t->n_steps; k++) {
    to->n = 0;
    for (size_t i = 0; i < from->n && !w->no_memory; i++) {
      text_piece p = from->items[i];
      if (p.id >= 0) text_push_piece(w, to, p.p, p.n, p.id);
      else TL_TRY(text_split(t, w, &t->steps[k], p, to));
    }
    swap = from, from = to, to = swap;
  }
  *out = from;
  return TL_OK;
}

static tl_status encode_text(const tl_tokenizer *t, text_work *w, const char *s, size_t n, bool add_special,
                             bool parse_special) {
  text_pieces *pieces;
  TL_TRY(pieces_of(t, w, s, n, parse_special, &pieces));
  bool template = add_special && t->n_template;
  for (int k = 0; k < (template ? t->n_template : 1); k++) {
    if (template && t->template[k] >= 0) {
      text_push_id(w, t->template[k]);
      continue;
    }
    for (size_t i = 0; i < pieces->n; i++) {
      text_piece p = pieces->items[i];
      if (p.id >= 0) text_push_id(w, p.id);
      else text_merge_piece(t, w, p.p, p.n);
    }
  }
  return w->no_memory ? out_of_memory(t, n) : TL_OK;
}

tl_status text_encode(const tl_tokenizer *t, text_work *w, const char *s, size_t n, bool add_special, bool parse_special) {
  w->n_ids = 0;
  w->no_memory = false;
  char *fixed = NULL;
  if (text_utf8_bad(s, n) < n) {
    s = fixed = text_utf8_fix(s, n, &n);
    if (!fixed) return out_of_memory(t, n);
  }
  tl_status status = encode_text(t, w, s, n, add_special, parse_special);
  free_chunks(w);
  free(fixed);
  return status;
}
