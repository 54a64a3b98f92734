// decode.c: token ids to text, whole or as they come.
//
// A decoder is a chain of steps, each of which reads tokens and gives tokens (the `tokenizers` library's decoders):
//
//   ByteLevel      the spelling back to bytes; all tokens together are one text, ill-formed parts of it U+FFFD
//   Replace        a pattern in each token               Metaspace   marks to spaces, none at the very beginning
//   ByteFallback   a run of <0xHH> tokens to text; when the run is not UTF-8, U+FFFD for each of its bytes
//   Fuse           all tokens become one                 Strip       a character off either end of a token
//   Join           no decoder: tokens with a space between them
//
// The chain runs token by token and keeps back only what the next token may change: the beginning of a character, a run of
// bytes, a character that Strip takes off the end. A whole text is decoded by the same chain, so both give the same. Behind a
// Fuse there is one token, which arrives in parts.
#include "text.h"

typedef struct step_state {
  tl_str held;  // kept back, or scratch
  size_t count; // metaspace: tokens; strip: characters taken off the beginning
  bool begun;
} step_state;

struct tl_decoder {
  tl_tokenizer *t;
  bool skip_special;
  pcre2_match_data *match; // NULL: no step has a pattern
  step_state state[TEXT_MAX_STEPS];
  tl_str out;
};

tl_status text_new_decode(tl_tokenizer *t, text_decode_step step) {
  text_decode_step *p = t->n_decode < TEXT_MAX_STEPS ? realloc(t->decode, (size_t)(t->n_decode + 1) * sizeof *p) : NULL;
  if (!p) {
    pcre2_code_free(step.re);
    free(step.content);
    if (t->n_decode >= TEXT_MAX_STEPS)
      return tl_fail(TL_E_UNSUPPORTED, "%s: decoder has more than %d steps", t->path, TEXT_MAX_STEPS);
    return text_no_memory(t);
  }
  t->decode = p;
  for (int i = 0; i < t->n_decode; i++)
    step.fused |= p[i].kind == TEXT_D_FUSE || p[i].kind == TEXT_D_BYTE_LEVEL;
  p[t->n_decode++] = step;
  return TL_OK;
}

static tl_status feed(tl_decoder *d, int step, const char *s, size_t n, bool begins);

static void unspell_to(tl_str *out, const char *s, size_t n) {
  char stack[512], *bytes = n <= sizeof stack ? stack : malloc(n);
  size_t got;
  TL_ASSERT(bytes);
  if (text_unspell(s, n, bytes, &got))
    tl_str_add(out, bytes, got);
  else
    tl_str_add(out, s, n);
  if (bytes != stack)
    free(bytes);
}

// The decoded part of what is held, but for the last `keep` bytes, goes on.
static tl_status byte_level_give(tl_decoder *d, int step, size_t keep) {
  step_state *k = &d->state[step];
  tl_str text = {0};
  text_utf8_fix(&text, k->held.p, k->held.n - keep);
  memmove(k->held.p, k->held.p + k->held.n - keep, keep);
  k->held.n = keep;
  tl_status status = text.n ? feed(d, step + 1, text.p, text.n, !k->begun) : TL_OK;
  k->begun |= text.n > 0;
  tl_str_free(&text);
  return status;
}

static tl_status replace_to(tl_decoder *d, const text_decode_step *c, const char *s, size_t n, tl_str *out) {
  text_matcher m = text_matches(d->t->path, d->match, c->re, s, n);
  size_t done = 0, start, end;
  out->n = 0;
  tl_str_add(out, "", 0);
  for (bool found;;) {
    TL_TRY(text_next_match(&m, &found, &start, &end));
    if (!found)
      break;
    tl_str_add(out, s + done, start - done);
    tl_str_add(out, c->content, c->n);
    done = end;
  }
  tl_str_add(out, s + done, n - done);
  return TL_OK;
}

static tl_status fallback_give(tl_decoder *d, int step) {
  tl_str *held = &d->state[step].held;
  size_t n = held->n;
  held->n = 0;
  if (!n)
    return TL_OK;
  if (text_utf8_bad(held->p, n) == n)
    return feed(d, step + 1, held->p, n, true);
  for (size_t i = 0; i < n; i++)
    TL_TRY(feed(d, step + 1, "\xEF\xBF\xBD", 3, true));
  return TL_OK;
}

static void metaspace_to(const text_decode_step *c, const char *s, size_t n, bool first, tl_str *out) {
  size_t m = strlen(c->mark);
  out->n = 0;
  tl_str_add(out, "", 0);
  for (size_t i = 0; i < n;) {
    if (n - i >= m && !memcmp(s + i, c->mark, m)) {
      if (!first)
        tl_str_add(out, " ", 1);
      i += m;
    } else
      tl_str_add(out, s + i++, 1);
  }
}

// How many bytes at the end of s are the character, which is taken at most `most` times.
static size_t trailing(const text_decode_step *c, const char *s, size_t n, int most) {
  size_t m = strlen(c->mark), at = n;
  for (; most > 0 && at >= m && !memcmp(s + at - m, c->mark, m); most--)
    at -= m;
  return n - at;
}

static tl_status strip(tl_decoder *d, int step, const char *s, size_t n, bool begins) {
  const text_decode_step *c = &d->t->decode[step];
  step_state *k = &d->state[step];
  size_t m = strlen(c->mark);
  if (begins)
    k->count = 0, k->held.n = 0;
  for (; k->count < (size_t)c->start && n; s += m, n -= m) {
    if (n < m || memcmp(s, c->mark, m))
      k->count = (size_t)c->start;
    if (k->count == (size_t)c->start)
      break;
    k->count++;
  }
  if (!c->stop)
    return feed(d, step + 1, s, n, begins);
  tl_str_add(&k->held, s, n);
  size_t keep = trailing(c, k->held.p, k->held.n, c->stop), give = k->held.n - keep;
  TL_TRY(feed(d, step + 1, k->held.p, give, begins));
  memmove(k->held.p, k->held.p + give, keep);
  k->held.n = keep;
  return TL_OK;
}

// A token (begins), or more of the token that has begun, into a step.
static tl_status feed(tl_decoder *d, int step, const char *s, size_t n, bool begins) {
  if (step == d->t->n_decode)
    return tl_str_add(&d->out, s, n), TL_OK;
  const text_decode_step *c = &d->t->decode[step];
  step_state *k = &d->state[step];
  bool first = !k->begun;
  int byte;
  switch (c->kind) {
  case TEXT_D_JOIN:
    k->begun = true;
    if (!first)
      TL_TRY(feed(d, step + 1, " ", 1, true));
    return feed(d, step + 1, s, n, true);
  case TEXT_D_BYTE_LEVEL:
    unspell_to(&k->held, s, n);
    return byte_level_give(d, step, text_utf8_unfinished(k->held.p, k->held.n));
  case TEXT_D_REPLACE:
    TL_TRY(replace_to(d, c, s, n, &k->held));
    return feed(d, step + 1, k->held.p, k->held.n, begins);
  case TEXT_D_BYTE_FALLBACK:
    byte = text_byte_token(s, n);
    if (byte >= 0)
      return tl_str_add(&k->held, &(char){(char)byte}, 1), TL_OK;
    TL_TRY(fallback_give(d, step));
    return feed(d, step + 1, s, n, true);
  case TEXT_D_FUSE:
    k->begun = true;
    return feed(d, step + 1, s, n, first);
  case TEXT_D_STRIP:
    return strip(d, step, s, n, begins);
  case TEXT_D_METASPACE:
    metaspace_to(c, s, n, first && c->prefix, &k->held);
    k->begun = true;
    return feed(d, step + 1, k->held.p, k->held.n, true);
  }
  return TL_OK;
}

// The end of the ids: what is kept back is decided, from the first step to the last. Then the chain is as new.
static tl_status end(tl_decoder *d) {
  for (int i = 0; i < d->t->n_decode; i++) {
    text_decode_kind kind = d->t->decode[i].kind;
    if (kind == TEXT_D_BYTE_LEVEL && d->state[i].held.n)
      TL_TRY(byte_level_give(d, i, 0));
    if (kind == TEXT_D_BYTE_FALLBACK)
      TL_TRY(fallback_give(d, i));
  }
  for (int i = 0; i < d->t->n_decode; i++) {
    d->state[i].held.n = d->state[i].count = 0;
    d->state[i].begun = false;
  }
  return TL_OK;
}

static tl_status push(tl_decoder *d, int32_t id) {
  const tl_tokenizer *t = d->t;
  const text_token *k = id >= 0 && id < t->n_tokens ? &t->tokens[id] : NULL;
  if (!k || !k->text || (d->skip_special && k->special))
    return TL_OK;
  return feed(d, 0, k->source, k->n_source, true);
}

static tl_status begin(tl_decoder *d, tl_tokenizer *t, bool skip_special) {
  *d = (tl_decoder){.t = t, .skip_special = skip_special};
  bool patterns = false;
  for (int i = 0; i < t->n_decode; i++)
    patterns |= t->decode[i].re != NULL;
  if (patterns && !(d->match = pcre2_match_data_create(64, NULL)))
    return text_no_memory(t);
  return TL_OK;
}

static void release(tl_decoder *d) {
  for (int i = 0; i < TEXT_MAX_STEPS; i++)
    tl_str_free(&d->state[i].held);
  pcre2_match_data_free(d->match);
  tl_str_free(&d->out);
}

tl_status tl_decoder_create(tl_tokenizer *t, bool skip_special, tl_decoder **out) {
  *out = NULL;
  tl_decoder *d = malloc(sizeof *d);
  if (!d)
    return text_no_memory(t);
  tl_status status = begin(d, t, skip_special);
  if (status != TL_OK) {
    free(d);
    return status;
  }
  tl_tokenizer_retain(t);
  *out = d;
  return TL_OK;
}

void tl_decoder_free(tl_decoder *d) {
  if (!d)
    return;
  release(d);
  tl_tokenizer_free(d->t);
  free(d);
}

static tl_status give(tl_decoder *d, tl_status status, const char **text, int *n) {
  *text = d->out.p ? d->out.p : "";
  *n = 0;
  if (status == TL_OK && d->out.n > INT32_MAX)
    return tl_fail(TL_E_ARG, "%s: a text of more than 2 GiB", d->t->path);
  if (status == TL_OK)
    *n = (int)d->out.n;
  return status;
}

tl_status tl_decoder_push(tl_decoder *d, int32_t id, const char **text, int *n) {
  d->out.n = 0;
  return give(d, push(d, id), text, n);
}

tl_status tl_decoder_finish(tl_decoder *d, const char **text, int *n) {
  d->out.n = 0;
  return give(d, end(d), text, n);
}

// Byte-level, which is nearly everybody: the tokens' bytes in a row, then the ill-formed parts.
static void decode_bytes(const tl_tokenizer *t, const int32_t *ids, int n, bool skip_special, tl_str *out) {
  tl_str raw = {0};
  for (int i = 0; i < n; i++) {
    const text_token *k = ids[i] >= 0 && ids[i] < t->n_tokens ? &t->tokens[ids[i]] : NULL;
    if (k && k->text && !(skip_special && k->special))
      tl_str_add(&raw, k->bytes, k->n_bytes);
  }
  if (raw.n && text_utf8_bad(raw.p, raw.n) < raw.n) {
    text_utf8_fix(out, raw.p, raw.n);
    tl_str_free(&raw);
  } else
    *out = raw;
}

tl_status text_decode(tl_tokenizer *t, const int32_t *ids, int n, bool skip_special, tl_str *out) {
  *out = (tl_str){0};
  if (t->n_decode == 1 && t->decode[0].kind == TEXT_D_BYTE_LEVEL)
    return decode_bytes(t, ids, n, skip_special, out), TL_OK;
  tl_decoder d;
  tl_status status = begin(&d, t, skip_special);
  for (int i = 0; i < n && status == TL_OK; i++)
    status = push(&d, ids[i]);
  if (status == TL_OK)
    status = end(&d);
  if (status == TL_OK)
    *out = d.out, d.out = (tl_str){0};
  release(&d);
  return status;
}

// What a token adds to a text that has begun: the steps before a Fuse, without what only concerns a beginning.
static tl_status token_bytes(tl_decoder *d, const text_token *k, tl_str *out) {
  const tl_tokenizer *t = d->t;
  tl_str other = {0};
  tl_status status = TL_OK;
  out->n = 0;
  tl_str_add(out, k->source, k->n_source);
  for (int i = 0; i < t->n_decode && !t->decode[i].fused && status == TL_OK; i++) {
    const text_decode_step *c = &t->decode[i];
    int byte = c->kind == TEXT_D_BYTE_FALLBACK ? text_byte_token(out->p, out->n) : -1;
    other.n = 0;
    if (byte >= 0)
      tl_str_add(&other, &(char){(char)byte}, 1);
    else if (c->kind == TEXT_D_BYTE_LEVEL)
      unspell_to(&other, out->p, out->n);
    else if (c->kind == TEXT_D_REPLACE)
      status = replace_to(d, c, out->p, out->n, &other);
    else if (c->kind == TEXT_D_METASPACE)
      metaspace_to(c, out->p, out->n, false, &other);
    else
      continue;
    tl_str swap = *out;
    *out = other;
    other = swap;
  }
  tl_str_free(&other);
  return status;
}

tl_status text_finish_decode(tl_tokenizer *t) {
  tl_decoder d;
  tl_str bytes = {0};
  tl_status status = begin(&d, t, false);
  for (int i = 0; i < t->n_tokens && status == TL_OK; i++) {
    text_token *k = &t->tokens[i];
    if (!k->text)
      continue;
    status = token_bytes(&d, k, &bytes);
    if (status != TL_OK)
      break;
    k->n_bytes = (uint32_t)bytes.n;
    if (bytes.n == k->n_source && !memcmp(bytes.p, k->source, bytes.n)) {
      k->bytes = k->source;
      continue;
    }
    char *p = text_pool(t, bytes.n + 1);
    if (!p)
      status = text_no_memory(t);
    else
      k->bytes = memcpy(p, bytes.p, bytes.n);
  }
  tl_str_free(&bytes);
  release(&d);
  return status;
}
