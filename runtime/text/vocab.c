// vocab.c: the tables of a tokenizer: tokens by id, by spelling and by bytes, merges by pair.
//
// Memory: token texts live in a pool of chunks for as long as the tokenizer; the hash tables borrow them.
#include "text.h"

uint64_t text_hash(const char *s, size_t n) {
  uint64_t h = 0x9e3779b97f4a7c15u ^ n, w;
  for (; n >= 8; s += 8, n -= 8) {
    memcpy(&w, s, 8);
    h = (h ^ w) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
  }
  w = 0;
  memcpy(&w, s, n);
  h = (h ^ w) * 0xc4ceb9fe1a85ec53u;
  return h ^ (h >> 29);
}

int32_t text_map_get(const text_map *m, const char *key, size_t n) {
  if (!m->cap)
    return -1;
  for (size_t i = text_hash(key, n) & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
    const struct text_slot *s = &m->slots[i];
    if (!s->key)
      return -1;
    if (s->n == n && !memcmp(s->key, key, n))
      return s->id;
  }
}

static struct text_slot *map_slot(text_map *m, const char *key, size_t n) {
  for (size_t i = text_hash(key, n) & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
    struct text_slot *s = &m->slots[i];
    if (!s->key || (s->n == n && !memcmp(s->key, key, n)))
      return s;
  }
}

bool text_map_put(text_map *m, const char *key, size_t n, int32_t id) {
  if (2 * (m->count + 1) > m->cap) {
    text_map bigger = {.cap = m->cap ? 2 * m->cap : 1024, .count = m->count};
    bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
    if (!bigger.slots)
      return false;
    for (size_t i = 0; i < m->cap; i++)
      if (m->slots[i].key)
        *map_slot(&bigger, m->slots[i].key, m->slots[i].n) = m->slots[i];
    free(m->slots);
    *m = bigger;
  }
  struct text_slot *s = map_slot(m, key, n);
  if (!s->key)
    m->count++;
  *s = (struct text_slot){key, n, id};
  return true;
}

void text_map_free(text_map *m) {
  free(m->slots);
  *m = (text_map){0};
}

char *text_pool(tl_tokenizer *t, size_t n) {
  if (n > t->pool_left) {
    size_t size = n > 65536 ? n : 65536;
    text_chunk *c = malloc(sizeof *c + size);
    if (!c)
      return NULL;
    c->next = t->pool;
    t->pool = c;
    t->pool_at = (char *)(c + 1);
    t->pool_left = size;
  }
  char *p = t->pool_at;
  t->pool_at += n;
  t->pool_left -= n;
  return p;
}

tl_status text_no_memory(const tl_tokenizer *t) {
  return tl_fail(TL_E_MEMORY, "%s: out of memory for the tokenizer's tables", t->path);
}

static tl_status reach_id(tl_tokenizer *t, int64_t id, const char *s, size_t n) {
  if (id < 0 || id >= TL_TEXT_MAX_ID)
    return tl_fail(TL_E_FORMAT, "%s: token '%.*s' has id %lld; ids are 0 to %d", t->path, (int)(n < 60 ? n : 60), s,
                   (long long)id, TL_TEXT_MAX_ID - 1);
  if (id >= t->tokens_cap) {
    int cap = t->tokens_cap ? t->tokens_cap : 1024;
    while (cap <= id)
      cap *= 2;
    text_token *p = realloc(t->tokens, (size_t)cap * sizeof *p);
    if (!p)
      return text_no_memory(t);
    memset(p + t->tokens_cap, 0, (size_t)(cap - t->tokens_cap) * sizeof *p);
    t->tokens = p;
    t->tokens_cap = cap;
  }
  if (id >= t->n_tokens)
    t->n_tokens = (int)id + 1;
  return TL_OK;
}

tl_status text_store_token(tl_tokenizer *t, int64_t id, const char *s, size_t n) {
  TL_TRY(reach_id(t, id, s, n));
  text_token *k = &t->tokens[id];
  if (k->text)
    return tl_fail(TL_E_FORMAT, "%s: id %lld belongs to both '%.60s' and '%.*s'", t->path, (long long)id, k->text,
                   (int)(n < 60 ? n : 60), s);
  if (n >= UINT32_MAX / 2)
    return tl_fail(TL_E_FORMAT, "%s: the token of id %lld is too long", t->path, (long long)id);
  char *text = text_pool(t, n + 1);
  if (!text)
    return text_no_memory(t);
  memcpy(text, s, n);
  text[n] = 0;
  *k = (text_token){.text = text, .source = text, .n_text = (uint32_t)n, .n_source = (uint32_t)n};
  return TL_OK;
}

tl_status text_add_token(tl_tokenizer *t, int64_t id, const char *s, size_t n, bool twice) {
  if (!twice && text_map_get(&t->by_text, s, n) >= 0)
    return tl_fail(TL_E_FORMAT, "%s: token '%.*s' stands twice in the vocabulary", t->path, (int)(n < 60 ? n : 60), s);
  TL_TRY(text_store_token(t, id, s, n));
  return text_map_put(&t->by_text, t->tokens[id].text, n, (int32_t)id) ? TL_OK : text_no_memory(t);
}

static size_t merge_at(const text_merge *m, size_t cap, uint64_t pair) {
  uint64_t h = pair * 0x9e3779b97f4a7c15u;
  size_t i = (h ^ (h >> 32)) & (cap - 1);
  while (m[i].pair != UINT64_MAX && m[i].pair != pair)
    i = (i + 1) & (cap - 1);
  return i;
}

const text_merge *text_find_merge(const tl_tokenizer *t, int32_t left, int32_t right) {
  if (!t->merges_cap)
    return NULL;
  const text_merge *m = &t->merges[merge_at(t->merges, t->merges_cap, (uint64_t)(uint32_t)left << 32 | (uint32_t)right)];
  return m->pair == UINT64_MAX ? NULL : m;
}

static bool grow_merges(tl_tokenizer *t) {
  size_t cap = t->merges_cap ? 2 * t->merges_cap : 4096;
  text_merge *m = malloc(cap * sizeof *m);
  if (!m)
    return false;
  for (size_t i = 0; i < cap; i++)
    m[i].pair = UINT64_MAX;
  for (size_t i = 0; i < t->merges_cap; i++)
    if (t->merges[i].pair != UINT64_MAX)
      m[merge_at(m, cap, t->merges[i].pair)] = t->merges[i];
  free(t->merges);
  t->merges = m;
  t->merges_cap = cap;
  return true;
}

tl_status text_add_merge(tl_tokenizer *t, const char *a, size_t na, const char *b, size_t nb) {
  int32_t left = text_map_get(&t->by_text, a, na), right = text_map_get(&t->by_text, b, nb), id = -1;
  tl_str both = {0};
  tl_str_add(&both, a, na);
  tl_str_add(&both, b, nb);
  if (left >= 0 && right >= 0)
    id = text_map_get(&t->by_text, both.p, both.n);
  tl_str_free(&both);
  if (id < 0) {
    const char *missing = left < 0 ? "its left part" : right < 0 ? "its right part" : "its result";
    return tl_fail(TL_E_FORMAT, "%s: merge %zu, '%.*s' + '%.*s': %s is not in the vocabulary", t->path, t->n_merges,
                   (int)(na < 60 ? na : 60), a, (int)(nb < 60 ? nb : 60), b, missing);
  }
  return text_put_merge(t, left, right, (uint32_t)t->n_merges, id);
}

tl_status text_put_merge(tl_tokenizer *t, int32_t left, int32_t right, uint32_t rank, int32_t id) {
  if (2 * (t->n_merges + 1) > t->merges_cap && !grow_merges(t))
    return text_no_memory(t);
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  t->merges[merge_at(t->merges, t->merges_cap, pair)] = (text_merge){pair, rank, id};
  t->n_merges++;
  return TL_OK;
}

static const char mark[] = "\xE2\x96\x81"; // U+2581, SentencePiece's space

// A mark behind anything but a mark.
static bool has_inner_mark(const text_token *k) {
  const char *p = k->text, *end = p + k->n_text;
  while (end - p >= 3 && !memcmp(p, mark, 3))
    p += 3;
  return memmem(p, (size_t)(end - p), mark, 3) != NULL;
}

static tl_status finish_characters(tl_tokenizer *t) {
  char code[8];
  for (int c = 0; c < 128; c++) {
    char one = (char)c;
    t->ascii_id[c] = text_map_get(&t->by_text, &one, 1);
  }
  for (int b = 0; b < 256; b++)
    t->byte_id[b] = text_map_get(&t->by_text, code, (size_t)snprintf(code, sizeof code, "<0x%02X>", b));
  t->word_merges = text_map_get(&t->by_text, mark, 3) >= 0;
  for (size_t i = 0; i < t->merges_cap && t->word_merges; i++)
    if (t->merges[i].pair != UINT64_MAX && has_inner_mark(&t->tokens[t->merges[i].id]))
      t->word_merges = false;
  return TL_OK;
}

// Model tokens as bytes: those of one byte start every merging; all of them when a whole piece may be a token.
static tl_status finish_bytes(tl_tokenizer *t) {
  for (int b = 0; b < 256; b++) {
    char s[2];
    t->byte_id[b] = text_map_get(&t->by_text, s, text_spell((uint8_t)b, s));
  }
  for (size_t i = 0; i < t->by_text.cap && t->ignore_merges; i++) {
    const struct text_slot *k = &t->by_text.slots[i];
    if (!k->key || !k->n)
      continue;
    size_t n;
    char *bytes = text_pool(t, k->n);
    if (!bytes)
      return text_no_memory(t);
    if (text_unspell(k->key, k->n, bytes, &n) && !text_map_put(&t->by_piece, bytes, n, k->id))
      return text_no_memory(t);
  }
  return TL_OK;
}

tl_status text_finish(tl_tokenizer *t) {
  if (!t->n_tokens)
    return tl_fail(TL_E_FORMAT, "%s: the vocabulary is empty", t->path);
  TL_TRY(text_finish_added(t));
  TL_TRY(text_finish_decode(t));
  return t->byte_level ? finish_bytes(t) : finish_characters(t);
}

void text_vocab_free(tl_tokenizer *t) {
  for (text_chunk *c = t->pool, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  free(t->tokens);
  text_map_free(&t->by_text);
  text_map_free(&t->added_text);
  text_map_free(&t->by_piece);
  free(t->merges);
  text_free_added(t);
}
