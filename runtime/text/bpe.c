// bpe.c: byte-pair merging of one piece (Sennrich et al. 2016; byte-level: Radford et al. 2019).
//
// The bytes or characters become symbols; of all neighbouring pairs the one whose merge was learnt first (lowest rank; leftmost
// among equals) is joined, until no pair has a merge. Short pieces scan their pairs each time, O(n^2) with a small n; long ones
// (a megabyte without a space is a legal piece) keep a heap over a doubly linked list, O(n log n).
// Pieces repeat: those of up to 30 bytes and 8 ids are remembered, 64 bytes each, in a table that the newest overwrites.
#include "text.h"

enum { SCAN_MAX = 64 };

void text_push_id(text_work *w, int32_t id) {
  if (w->n_ids == w->ids_cap) {
    size_t cap = w->ids_cap ? 2 * w->ids_cap : 256;
    int32_t *p = realloc(w->ids, cap * sizeof *p);
    if (!p) {
      w->no_memory = true;
      return;
    }
    w->ids = p;
    w->ids_cap = cap;
  }
  w->ids[w->n_ids++] = id;
}

static int32_t char_id(const tl_tokenizer *t, const char *p, int len) {
  return len == 1 ? t->ascii_id[(uint8_t)*p] : text_map_get(&t->by_text, p, (size_t)len);
}

// The tokens of a character's bytes; 0: not all of them are in the vocabulary.
static size_t byte_tokens(const tl_tokenizer *t, const char *p, int len, int32_t *sym) {
  for (int i = 0; i < len; i++)
    if ((sym[i] = t->byte_id[(uint8_t)p[i]]) < 0)
      return 0;
  return (size_t)len;
}

// Characters to symbols. The unknown token is held back until a known character or the end, as in the `tokenizers` library:
// several in a row become one with fuse_unk, and bytes of a character stand before it.
static size_t char_symbols(const tl_tokenizer *t, const char *p, size_t n, int32_t *sym) {
  size_t m = 0;
  bool unknown = false;
  for (size_t i = 0; i < n;) {
    uint32_t c;
    int len = text_utf8_next(p + i, n - i, &c);
    int32_t id = char_id(t, p + i, len);
    if (id >= 0) {
      if (unknown)
        sym[m++] = t->unk;
      unknown = false;
      sym[m++] = id;
    } else {
      size_t bytes = t->byte_fallback ? byte_tokens(t, p + i, len, sym + m) : 0;
      m += bytes;
      if (!bytes && t->unk >= 0) {
        if (unknown && !t->fuse_unk)
          sym[m++] = t->unk;
        unknown = true;
      }
    }
    i += (size_t)len;
  }
  if (unknown)
    sym[m++] = t->unk;
  return m;
}

// Bytes to symbols; a byte outside the vocabulary is the unknown token, or nothing.
static size_t byte_symbols(const tl_tokenizer *t, const char *p, size_t n, int32_t *sym) {
  size_t m = 0;
  bool unknown = false;
  for (size_t i = 0; i < n; i++) {
    int32_t id = t->byte_id[(uint8_t)p[i]];
    if (id < 0 && (t->unk < 0 || (unknown && t->fuse_unk)))
      continue;
    unknown = id < 0;
    sym[m++] = unknown ? t->unk : id;
  }
  return m;
}

static size_t symbols(const tl_tokenizer *t, const char *p, size_t n, int32_t *sym) { // at most n
  return t->byte_level ? byte_symbols(t, p, n, sym) : char_symbols(t, p, n, sym);
}

static void merge_short(const tl_tokenizer *t, text_work *w, int32_t *sym, size_t n) {
  uint32_t rank[SCAN_MAX];
  int32_t to[SCAN_MAX];
  for (size_t i = 0; i + 1 < n; i++) {
    const text_merge *m = text_find_merge(t, sym[i], sym[i + 1]);
    rank[i] = m ? m->rank : UINT32_MAX;
    to[i] = m ? m->id : -1;
  }
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; i++)
      if (rank[i] < rank[best])
        best = i;
    if (rank[best] == UINT32_MAX)
      break;
    sym[best] = to[best];
    for (size_t i = best + 1; i + 1 < n; i++)
      sym[i] = sym[i + 1], rank[i] = rank[i + 1], to[i] = to[i + 1];
    n--;
    for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
      const text_merge *m = text_find_merge(t, sym[i], sym[i + 1]);
      rank[i] = m ? m->rank : UINT32_MAX;
      to[i] = m ? m->id : -1;
    }
  }
  for (size_t i = 0; i < n; i++)
    text_push_id(w, sym[i]);
}

typedef struct candidate { // the pair that began at position at, when it was found
  uint32_t rank;
  int32_t at, id;
} candidate;

static bool before(candidate a, candidate b) {
  return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void heap_push(candidate *heap, size_t *n, candidate c) {
  size_t i = (*n)++;
  for (; i && before(c, heap[(i - 1) / 2]); i = (i - 1) / 2)
    heap[i] = heap[(i - 1) / 2];
  heap[i] = c;
}

static candidate heap_pop(candidate *heap, size_t *n) {
  candidate top = heap[0], c = heap[--*n];
  size_t i = 0;
  for (size_t k; (k = 2 * i + 1) < *n; i = k) {
    if (k + 1 < *n && before(heap[k + 1], heap[k]))
      k++;
    if (!before(heap[k], c))
      break;
    heap[i] = heap[k];
  }
  heap[i] = c;
  return top;
}

static void offer(const tl_tokenizer *t, candidate *heap, size_t *n, const int32_t *sym, int32_t at, int32_t next) {
  const text_merge *m = text_find_merge(t, sym[at], sym[next]);
  if (m)
    heap_push(heap, n, (candidate){m->rank, at, m->id});
}

// sym, prev, next (n); heap (3n): each of at most n - 1 joins adds at most two candidates to the first n - 1. A candidate is
// stale when its left symbol is gone or its pair no longer becomes the same id.
static void merge_long(const tl_tokenizer *t, text_work *w, int32_t *sym, int32_t *prev, int32_t *next, candidate *heap,
                       int32_t n) {
  size_t in_heap = 0;
  for (int32_t i = 0; i < n; i++)
    prev[i] = i - 1, next[i] = i + 1 < n ? i + 1 : -1;
  for (int32_t i = 0; i + 1 < n; i++)
    offer(t, heap, &in_heap, sym, i, i + 1);
  while (in_heap) {
    candidate c = heap_pop(heap, &in_heap);
    int32_t at = c.at, right = sym[at] < 0 ? -1 : next[at];
    if (right < 0)
      continue;
    const text_merge *m = text_find_merge(t, sym[at], sym[right]);
    if (!m || m->id != c.id)
      continue;
    sym[at] = c.id;
    sym[right] = -1;
    next[at] = next[right];
    if (next[at] >= 0) {
      prev[next[at]] = at;
      offer(t, heap, &in_heap, sym, at, next[at]);
    }
    if (prev[at] >= 0)
      offer(t, heap, &in_heap, sym, prev[at], at);
  }
  for (int32_t i = 0; i >= 0; i = next[i])
    text_push_id(w, sym[i]);
}

static int32_t *room(text_work *w, size_t n) {
  if (n > w->sym_cap) {
    free(w->sym);
    w->sym = malloc(n * sizeof *w->sym);
    w->sym_cap = w->sym ? n : 0;
    if (!w->sym)
      w->no_memory = true;
  }
  return w->sym;
}

static void merge_uncached(const tl_tokenizer *t, text_work *w, const char *p, size_t n) {
  if (n <= SCAN_MAX) {
    int32_t sym[SCAN_MAX];
    size_t m = symbols(t, p, n, sym);
    merge_short(t, w, sym, m);
    return;
  }
  int32_t *sym = room(w, 12 * n); // sym, prev, next: n each; heap: 3n candidates of three numbers
  if (!sym)
    return;
  size_t m = symbols(t, p, n, sym);
  if (m)
    merge_long(t, w, sym, sym + n, sym + 2 * n, (candidate *)(sym + 3 * n), (int32_t)m);
}

static void merge_word(const tl_tokenizer *t, text_work *w, const char *p, size_t n) {
  text_cached *slot = NULL;
  if (w->cache && n <= sizeof slot->bytes) {
    slot = &w->cache[text_hash(p, n) & (TEXT_CACHE_SLOTS - 1)];
    if (slot->n_bytes == n && !memcmp(slot->bytes, p, n)) {
      for (int i = 0; i < slot->n_ids; i++)
        text_push_id(w, slot->ids[i]);
      return;
    }
  }
  size_t first = w->n_ids;
  int32_t whole = t->ignore_merges ? text_map_get(t->byte_level ? &t->by_piece : &t->by_text, p, n) : -1;
  if (whole >= 0)
    text_push_id(w, whole);
  else
    merge_uncached(t, w, p, n);
  size_t count = w->n_ids - first;
  if (!slot || w->no_memory || count > sizeof slot->ids / sizeof *slot->ids)
    return;
  slot->n_bytes = (uint8_t)n;
  slot->n_ids = (uint8_t)count;
  memcpy(slot->bytes, p, n);
  memcpy(slot->ids, w->ids + first, count * sizeof *slot->ids);
}

// A text without a pre-tokenizer is one piece. Where no merge crosses from a word to the mark of the next one (word_merges), it
// is merged word by word, which gives the same and finds its words in the cache.
void text_merge_piece(const tl_tokenizer *t, text_work *w, const char *p, size_t n) {
  static const char mark[] = "\xE2\x96\x81";
  if (!t->word_merges || (t->ignore_merges && text_map_get(&t->by_text, p, n) >= 0)) {
    merge_word(t, w, p, n);
    return;
  }
  const char *end = p + n, *q = p;
  for (bool inside = false; q < end;) {
    bool at_mark = *q == mark[0] && end - q >= 3 && !memcmp(q, mark, 3);
    if (at_mark && inside) {
      merge_word(t, w, p, (size_t)(q - p));
      p = q;
    }
    inside = !at_mark;
    q += at_mark ? 3 : 1;
  }
  if (p < end)
    merge_word(t, w, p, (size_t)(end - p));
}
