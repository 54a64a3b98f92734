// encode.c: the way of a text through the tokenizer (see text.h), and one thread's scratch for it.
#include "text.h"

enum { CHUNK_BYTES = 1 << 16 };

tl_status text_work_init(text_work *w, bool cache) {
  *w = (text_work){.match = pcre2_match_data_create(64, NULL)};
  if (cache)
    w->cache = calloc(TEXT_CACHE_SLOTS, sizeof *w->cache);
  return w->match && (!cache || w->cache) ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory for the tokenizer's scratch");
}

static void free_chunks(text_work *w) {
  for (text_chunk *c = w->chunks, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  w->chunks = NULL;
  w->chunk_left = 0;
}

void text_work_free(text_work *w) {
  free_chunks(w);
  pcre2_match_data_free(w->match);
  free(w->cache);
  free(w->sym);
  free(w->ids);
  *w = (text_work){0};
}

char *text_work_alloc(text_work *w, size_t n) {
  if (n > w->chunk_left) {
    size_t size = n > CHUNK_BYTES / 4 ? n : CHUNK_BYTES;
    text_chunk *c = size < SIZE_MAX - sizeof *c ? malloc(sizeof *c + size) : NULL;
    if (!c) {
      w->no_memory = true;
      return NULL;
    }
    c->next = w->chunks;
    w->chunks = c;
    if (size == n)
      return (char *)(c + 1); // what was left stays in use
    w->chunk_at = (char *)(c + 1);
    w->chunk_left = size;
  }
  char *p = w->chunk_at;
  w->chunk_at += n;
  w->chunk_left -= n;
  return p;
}

static tl_status pretokenise(const text_run *r, text_piece piece) {
  return text_pretokenise(r, 0, piece);
}

static tl_status normalise(const text_run *r, text_piece piece) {
  if (r->t->n_norms)
    TL_TRY(text_normalise(r->t, r->w, &piece));
  return r->t->normal.n ? text_split_added(r, &r->t->normal, piece, pretokenise) : pretokenise(r, piece);
}

tl_status text_encode(const tl_tokenizer *t, text_work *w, const char *s, size_t n, bool add_special, bool parse_special) {
  text_run r = {t, w, parse_special};
  tl_str fixed = {0};
  tl_status status = TL_OK;
  w->n_ids = 0;
  w->no_memory = false;
  if (text_utf8_bad(s, n) < n) {
    text_utf8_fix(&fixed, s, n);
    s = fixed.p;
    n = fixed.n;
  }
  bool template = add_special && t->n_template;
  for (int k = 0; k < (template ? t->n_template : 1) && status == TL_OK; k++) {
    if (template && t->template[k] >= 0)
      text_push_id(w, t->template[k]);
    else if (n)
      status = text_split_added(&r, &t->raw, (text_piece){s, n, true}, normalise);
  }
  if (status == TL_OK && w->no_memory)
    status = tl_fail(TL_E_MEMORY, "%s: out of memory while encoding %zu bytes", t->path, n);
  free_chunks(w);
  tl_str_free(&fixed);
  return status;
}
