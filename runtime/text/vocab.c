// vocab.c: the tables of a tokenizer: tokens by id, by spelling and by bytes, merges by pair, added tokens.
//
// Memory: token texts live in a pool of chunks for as long as the tokenizer; the hash tables borrow them.
#include "text.h"

static uint64_t hash_bytes(const char *s, size_t n) {
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
  if (!m->cap) return -1;
  for (size_t i = hash_bytes(key, n) & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
    const struct text_slot *s = &m->slots[i];
    if (!s->key) return -1;
    if (s->n == n && !memcmp(s->key, key, n)) return s->id;
  }
}

static struct text_slot *map_slot(text_map *m, const char *key, size_t n) {
  for (size_t i = hash_bytes(key, n) & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
    struct text_slot *s = &m->slots[i];
    if (!s->key || (s->n == n && !memcmp(s->key, key, n))) return s;
  }
}

bool text_map_put(text_map *m, const char *key, size_t n, int32_t id) {
  if (2 * (m->count + 1) > m->cap) {
    text_map bigger = {.cap = m->cap ? 2 * m->cap : 1024, .count = m->count};
    bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
    if (!bigger.slots) return false;
    for (size_t i = 0; i < m->cap; i++)
      if (m->slots[i].key) *map_slot(&bigger, m->slots[i].key, m->slots[i].n) = m->slots[i];
    free(m->slots);
    *m = bigger;
  }
  struct text_slot *s = map_slot(m, key, n);
  if (!s->key) m->count++;
  *s = (struct text_slot){key, n, id};
  return true;
}

void text_map_free(text_map *m) {
  free(m->slots);
  *m = (text_map){0};
}

static char *pool_take(tl_tokenizer *t, size_t n) {
  if (n > t->pool_left) {
    size_t size = n > 65536 ? n : 65536;
    text_chunk *c = malloc(sizeof *c + size);
    if (!c) return NULL;
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

static tl_status no_memory(const tl_tokenizer *t) {
  return tl_fail(TL_E_MEMORY, "%s: out of memory for the tokenizer's tables", t->path);
}

static tl_status reach_id(tl_tokenizer *t, int64_t id, const char *s, size_t n) {
  if (id < 0 || id >= TL_TEXT_MAX_ID)
    return tl_fail(TL_E_FORMAT, "%s: token '%.*s' has id %lld; ids are 0 to %d", t->path, (int)(n < 60 ? n : 60), s,
                   (long long)id, TL_TEXT_MAX_ID - 1);
  if (id >= t->tokens_cap) {
    int cap = t->tokens_cap ? t->tokens_cap : 1024;
    while (cap <= id) cap *= 2;
    text_token *p = realloc(t->tokens, (size_t)cap * sizeof *p);
    if (!p) return no_memory(t);
    memset(p + t->tokens_cap, 0, (size_t)(cap - t->tokens_cap) * sizeof *p);
    t->tokens = p;
    t->tokens_cap = cap;
  }
  if (id >= t->n_tokens) t->n_tokens = (int)id + 1;
  return TL_OK;
}

static tl_status store_token(tl_tokenizer *t, int64_t id, const char *s, size_t n, bool *spelled) {
  TL_TRY(reach_id(t, id, s, n));
  text_token *k = &t->tokens[id];
  if (k->text)
    return tl_fail(TL_E_FORMAT, "%s: id %lld belongs to both '%.60s' and '%.*s'", t->path, (long long)id, k->text,
                   (int)(n < 60 ? n : 60), s);
  if (n >= UINT32_MAX / 2) return tl_fail(TL_E_FORMAT, "%s: the token of id %lld is too long", t->path, (long long)id);
  char *text = pool_take(t, n + 1), *bytes = pool_take(t, n + 1);
  if (!text || !bytes) return no_memory(t);
  memcpy(text, s, n);
  text[n] = 0;
  size_t nb = n;
  *spelled = text_unspell(s, n, bytes, &nb);
  if (!*spelled) memcpy(bytes, s, nb = n);
  *k = (text_token){.text = text, .bytes = bytes, .n_text = (uint32_t)n, .n_bytes = (uint32_t)nb};
  return TL_OK;
}

tl_status text_add_token(tl_tokenizer *t, int64_t id, const char *s, size_t n) {
  bool spelled;
  if (text_map_get(&t->by_text, s, n) >= 0)
    return tl_fail(TL_E_FORMAT, "%s: token '%.*s' stands twice in the vocabulary", t->path, (int)(n < 60 ? n : 60), s);
  TL_TRY(store_token(t, id, s, n, &spelled));
  const text_token *k = &t->tokens[id];
  if (!text_map_put(&t->by_text, k->text, n, (int32_t)id)) return no_memory(t);
  if (spelled && n && !text_map_put(&t->by_bytes, k->bytes, k->n_bytes, (int32_t)id)) return no_memory(t);
  return TL_OK;
}

static size_t merge_at(const text_merge *m, size_t cap, uint64_t pair) {
  uint64_t h = pair * 0x9e3779b97f4a7c15u;
  size_t i = (h ^ (h >> 32)) & (cap - 1);
  while (m[i].pair != UINT64_MAX && m[i].pair != pair) i = (i + 1) & (cap - 1);
  return i;
}

const text_merge *text_find_merge(const tl_tokenizer *t, int32_t left, int32_t right) {
  if (!t->merges_cap) return NULL;
  const text_merge *m = &t->merges[merge_at(t->merges, t->merges_cap, (uint64_t)(uint32_t)left << 32 | (uint32_t)right)];
  return m->pair == UINT64_MAX ? NULL : m;
}

static bool grow_merges(tl_tokenizer *t) {
  size_t cap = t->merges_cap ? 2 * t->merges_cap : 4096;
  text_merge *m = malloc(cap * sizeof *m);
  if (!m) return false;
  for (size_t i = 0; i < cap; i++) m[i].pair = UINT64_MAX;
  for (size_t i = 0; i < t->merges_cap; i++)
    if (t->merges[i].pair != UINT64_MAX) m[merge_at(m, cap, t->merges[i].pair)] = t->merges[i];
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
  if (left >= 0 && right >= 0) id = text_map_get(&t->by_text, both.p, both.n);
  tl_str_free(&both);
  if (id < 0) {
    const char *missing = left < 0 ? "its left part" : right < 0 ? "its right part" : "its result";
    return tl_fail(TL_E_FORMAT, "%s: merge %zu, '%.*s' + '%.*s': %s is not in the vocabulary", t->path, t->n_merges,
                   (int)(na < 60 ? na : 60), a, (int)(nb < 60 ? nb : 60), b, missing);
  }
  if (2 * (t->n_merges + 1) > t->merges_cap && !grow_merges(t)) return no_memory(t);
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  t->merges[merge_at(t->merges, t->merges_cap, pair)] = (text_merge){pair, (uint32_t)t->n_merges, id};
  t->n_merges++;
  return TL_OK;
}

tl_status text_add_added(tl_tokenizer *t, int64_t id, const char *s, size_t n, text_added flags) {
  if (!n || text_map_get(&t->added_text, s, n) >= 0) return TL_OK;
  int32_t known = text_map_get(&t->by_text, s, n);
  bool spelled;
  if (known >= 0) id = known;
  else TL_TRY(store_token(t, id, s, n, &spelled));
  text_token *k = &t->tokens[id];
  k->special = flags.special;
  if (!text_map_put(&t->added_text, k->text, n, (int32_t)id)) return no_memory(t);
  text_added_set *set = flags.normalized ? &t->normal : &t->raw;
  if (set->n == set->cap) {
    size_t cap = set->cap ? 2 * set->cap : 32;
    text_added *p = realloc(set->items, cap * sizeof *p);
    if (!p) return no_memory(t);
    set->items = p;
    set->cap = cap;
  }
  flags.id = (int32_t)id;
  flags.n = n;
  flags.content = strndup(s, n);
  if (!flags.content) return no_memory(t);
  set->items[set->n++] = flags;
  return TL_OK;
}

static int by_content(const void *x, const void *y) {
  const text_added *a = x, *b = y;
  int c = memcmp(a->content, b->content, a->n < b->n ? a->n : b->n);
  return c ? c : a->n != b->n ? (a->n > b->n) - (a->n < b->n) : (a->id > b->id) - (a->id < b->id);
}

static void finish_set(text_added_set *set) {
  if (set->n) qsort(set->items, set->n, sizeof *set->items, by_content);
  for (size_t i = 0; i < set->n; i++) set->first[(uint8_t)set->items[i].content[0]] = true;
}

// Normalised tokens are looked for in normalised text, and are decoded to their normal form.
static tl_status normalise_added(tl_tokenizer *t, text_added *a) {
  for (int f = 0; f < t->n_forms; f++) {
    size_t n;
    char *s = text_normal_form(t->forms[f], a->content, a->n, &n);
    if (!s) return no_memory(t);
    free(a->content);
    a->content = s;
    a->n = n;
  }
  char *bytes = pool_take(t, a->n + 1);
  if (!bytes) return no_memory(t);
  size_t n = a->n;
  if (!text_unspell(a->content, a->n, bytes, &n)) memcpy(bytes, a->content, n = a->n);
  t->tokens[a->id].bytes = bytes;
  t->tokens[a->id].n_bytes = (uint32_t)n;
  return TL_OK;
}

tl_status text_finish(tl_tokenizer *t) {
  if (!t->n_tokens) return tl_fail(TL_E_FORMAT, "%s: the vocabulary is empty", t->path);
  for (int b = 0; b < 256; b++) {
    char c = (char)b;
    t->byte_id[b] = text_map_get(&t->by_bytes, &c, 1);
  }
  for (size_t i = 0; i < t->normal.n; i++) TL_TRY(normalise_added(t, &t->normal.items[i]));
  finish_set(&t->raw);
  finish_set(&t->normal);
  return TL_OK;
}

static void free_set(text_added_set *set) {
  for (size_t i = 0; i < set->n; i++) free(set->items[i].content);
  free(set->items);
}

void text_vocab_free(tl_tokenizer *t) {
  for (text_chunk *c = t->pool, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  free(t->tokens);
  text_map_free(&t->by_text);
  text_map_free(&t->added_text);
  text_map_free(&t->by_bytes);
  free(t->merges);
  free_set(&t->raw);
  free_set(&t->normal);
}
