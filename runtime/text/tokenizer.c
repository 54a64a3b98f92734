// tokenizer.c: the public functions over a tokenizer: loading, lookups, encoding, decoding.
//
// Threads: everything may be called from several threads at once. One scratch (with the cache of pieces) belongs to the
// tokenizer; a call that finds it in use by another thread works with a scratch of its own for that once.
#include "text.h"
#include "../base/gguf.h"

static tl_status load_path(tl_tokenizer *t, const char *path) {
  char file[4096], *slash;
  if (tl_is_dir(path)) {
    if (snprintf(file, sizeof file, "%s/tokenizer.json", path) >= (int)sizeof file)
      return tl_fail(TL_E_ARG, "%s: path too long", path);
    if (!tl_file_exists(file))
      return tl_fail(TL_E_IO, "%s: no tokenizer.json in this folder; supported: tokenizer.json with a BPE", path);
    TL_TRY(text_load_json(t, file));
    return text_load_config(t, path);
  }
  size_t n = strlen(path);
  if (tl_gguf_is(path) || (n > 5 && !strcmp(path + n - 5, ".gguf")))
    return text_load_gguf(t, path);
  TL_TRY(text_load_json(t, path));
  // a file of that very name has its companions beside it
  if (snprintf(file, sizeof file, "%s", path) >= (int)sizeof file)
    return tl_fail(TL_E_ARG, "%s: path too long", path);
  slash = strrchr(file, '/');
  if (strcmp(slash ? slash + 1 : file, "tokenizer.json") != 0)
    return TL_OK;
  if (slash)
    *slash = 0;
  return text_load_config(t, slash ? (slash == file ? "/" : file) : ".");
}

tl_status tl_tokenizer_load(const char *path, tl_tokenizer **out) {
  *out = NULL;
  if (!path || !*path)
    return tl_fail(TL_E_ARG, "tl_tokenizer_load: no path");
  tl_tokenizer *t = calloc(1, sizeof *t);
  if (!t)
    return tl_fail(TL_E_MEMORY, "%s: out of memory for a tokenizer", path);
  t->refs = 1;
  t->unk = t->bos = t->eos = -1;
  pthread_mutex_init(&t->lock, NULL);
  t->path = strdup(path);
  tl_status status = t->path ? text_work_init(&t->work, true) : tl_fail(TL_E_MEMORY, "out of memory");
  if (status == TL_OK)
    status = load_path(t, path);
  if (status != TL_OK) {
    tl_tokenizer_free(t);
    return status;
  }
  *out = t;
  return TL_OK;
}

tl_tokenizer *tl_tokenizer_retain(tl_tokenizer *t) {
  if (t)
    __atomic_add_fetch(&t->refs, 1, __ATOMIC_RELAXED);
  return t;
}

void tl_tokenizer_free(tl_tokenizer *t) {
  if (!t || __atomic_sub_fetch(&t->refs, 1, __ATOMIC_ACQ_REL) > 0)
    return;
  text_vocab_free(t);
  for (int i = 0; i < t->n_norms; i++)
    pcre2_code_free(t->norms[i].re), free(t->norms[i].content);
  for (int i = 0; i < t->n_steps; i++)
    pcre2_code_free(t->steps[i].re);
  for (int i = 0; i < t->n_decode; i++)
    pcre2_code_free(t->decode[i].re), free(t->decode[i].content);
  free(t->norms);
  free(t->steps);
  free(t->decode);
  free(t->template);
  text_free_templates(t);
  text_work_free(&t->work);
  pthread_mutex_destroy(&t->lock);
  free(t->path);
  free(t);
}

int tl_tokenizer_vocab_size(const tl_tokenizer *t) {
  return t->n_tokens;
}
int tl_tokenizer_bos(tl_tokenizer *t) {
  return t->bos;
}
int tl_tokenizer_eos(tl_tokenizer *t) {
  return t->eos;
}

int tl_tokenizer_id(tl_tokenizer *t, const char *token) {
  size_t n = strlen(token);
  int32_t id = text_map_get(&t->added_text, token, n);
  return id >= 0 ? id : text_map_get(&t->by_text, token, n);
}

static const text_token *token_of(const tl_tokenizer *t, int id) {
  return id >= 0 && id < t->n_tokens && t->tokens[id].text ? &t->tokens[id] : NULL;
}

const char *tl_tokenizer_token(tl_tokenizer *t, int id) {
  const text_token *k = token_of(t, id);
  return k ? k->text : NULL;
}

const char *tl_tokenizer_bytes(tl_tokenizer *t, int id, int *n) {
  const text_token *k = token_of(t, id);
  *n = k ? (int)k->n_bytes : 0;
  return k ? k->bytes : NULL;
}

bool tl_tokenizer_is_special(tl_tokenizer *t, int id) {
  const text_token *k = token_of(t, id);
  return k && k->special;
}

static tl_status give(const tl_tokenizer *t, const text_work *w, int32_t *ids, int capacity, int *n_out) {
  if (w->n_ids > INT32_MAX)
    return tl_fail(TL_E_ARG, "%s: the text has %zu tokens", t->path, w->n_ids);
  size_t n = capacity < 0 ? 0 : (size_t)capacity;
  if (n > w->n_ids)
    n = w->n_ids;
  if (n)
    memcpy(ids, w->ids, n * sizeof *ids);
  *n_out = (int)w->n_ids;
  return TL_OK;
}

tl_status tl_tokenizer_encode(tl_tokenizer *t, const char *text, size_t n_bytes, bool add_special, bool parse_special,
                              int32_t *ids, int capacity, int *n_out) {
  *n_out = 0;
  if (n_bytes > INT32_MAX / 3)
    return tl_fail(TL_E_ARG, "%s: a text of %zu bytes is too long to encode", t->path, n_bytes);
  bool shared = pthread_mutex_trylock(&t->lock) == 0;
  text_work own, *w = shared ? &t->work : &own;
  tl_status status = shared ? TL_OK : text_work_init(&own, false);
  if (status == TL_OK)
    status = text_encode(t, w, text, n_bytes, add_special, parse_special);
  if (status == TL_OK)
    status = give(t, w, ids, capacity, n_out);
  if (shared)
    pthread_mutex_unlock(&t->lock);
  else
    text_work_free(&own);
  return status;
}

tl_status tl_tokenizer_decode(tl_tokenizer *t, const int32_t *ids, int n, bool skip_special, char *text, int capacity,
                              int *n_out) {
  tl_str out;
  *n_out = 0;
  TL_TRY(text_decode(t, ids, n, skip_special, &out));
  size_t room = capacity < 0 ? 0 : (size_t)capacity, length = out.n;
  if (out.n && room)
    memcpy(text, out.p, out.n < room ? out.n : room);
  tl_str_free(&out);
  if (length > INT32_MAX)
    return tl_fail(TL_E_ARG, "%s: the text of %d ids is longer than 2 GiB", t->path, n);
  *n_out = (int)length;
  return TL_OK;
}
