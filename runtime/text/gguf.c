// gguf.c: a tokenizer from a GGUF's metadata (tokenizer.ggml.*).
//
//   model = "gpt2"    byte-level BPE: tokens, merges, token types; `pre` names the splits (pre.c)
//   model = "llama"   SentencePiece's BPE: tokens, scores, token types (spm.c)
//
// Control tokens become special added tokens, user-defined ones added tokens; both are matched before anything else.
#include "text.h"
#include "../base/gguf.h"

enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };

static bool equals(tl_gguf_text s, const char *literal) {
  return s.n == strlen(literal) && !memcmp(s.p, literal, s.n);
}

static tl_status read_pre(tl_tokenizer *t, const tl_gguf *g, bool *bos) {
  tl_gguf_text pre = {"default", 7};
  char name[70];
  bool prefix = false;
  tl_gguf_string(g, "tokenizer.ggml.pre", &pre);
  snprintf(name, sizeof name, "%.*s", (int)(pre.n < 69 ? pre.n : 69), pre.p);
  tl_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
  if (prefix)
    TL_TRY(text_new_step(t, (text_step){.kind = TEXT_SPACE}));
  TL_TRY(text_pre_by_name(t, name, bos));
  return text_new_decode(t, (text_decode_step){.kind = TEXT_D_BYTE_LEVEL});
}

static tl_status check_utf8(const tl_tokenizer *t, const char *what, size_t i, tl_gguf_text s) {
  return text_utf8_bad(s.p, s.n) == s.n ? TL_OK : tl_fail(TL_E_FORMAT, "%s: %s[%zu] is not UTF-8", t->path, what, i);
}

static tl_status read_tokens(tl_tokenizer *t, const tl_gguf_text *tokens, const int32_t *types, size_t n) {
  for (size_t i = 0; i < n; i++) {
    TL_TRY(check_utf8(t, "tokenizer.ggml.tokens", i, tokens[i]));
    TL_TRY(text_add_token(t, (int64_t)i, tokens[i].p, tokens[i].n, true));
  }
  for (size_t i = 0; i < n && types; i++) {
    bool special = types[i] == TYPE_CONTROL || (types[i] == TYPE_UNKNOWN && !t->byte_level);
    if (special || types[i] == TYPE_USER_DEFINED)
      TL_TRY(text_add_added(t, (int64_t)i, tokens[i].p, tokens[i].n, (text_added){.special = special}));
  }
  return TL_OK;
}

static tl_status read_merges(tl_tokenizer *t, const tl_gguf_text *merges, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const char *p = merges[i].p, *space = merges[i].n ? memchr(p, ' ', merges[i].n) : NULL;
    if (!space)
      return tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.merges[%zu] is not two tokens and a space", t->path, i);
    TL_TRY(check_utf8(t, "tokenizer.ggml.merges", i, merges[i]));
    TL_TRY(text_add_merge(t, p, (size_t)(space - p), space + 1, (size_t)(p + merges[i].n - space - 1)));
  }
  return TL_OK;
}

static tl_status read_scores(tl_tokenizer *t, const tl_gguf *g, const int32_t *types, size_t n) {
  float *scores = NULL;
  size_t n_scores = 0;
  if (!tl_gguf_floats(g, "tokenizer.ggml.scores", &scores, &n_scores))
    return tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.scores is missing or not numbers", t->path);
  tl_status status = n_scores == n
                         ? text_spm_merges(t, scores, types, n)
                         : tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.scores has %zu entries, tokens %zu", t->path, n_scores, n);
  free(scores);
  return status;
}

static tl_status read_merge_list(tl_tokenizer *t, const tl_gguf *g) {
  tl_gguf_text *merges = NULL;
  size_t n = 0;
  if (!tl_gguf_strings(g, "tokenizer.ggml.merges", &merges, &n))
    return tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.merges is missing or not strings", t->path);
  tl_status status = read_merges(t, merges, n);
  free(merges);
  return status;
}

static tl_status read_vocab(tl_tokenizer *t, const tl_gguf *g) {
  tl_gguf_text *tokens = NULL;
  int32_t *types = NULL;
  size_t n = 0, n_types = 0;
  tl_status status = TL_OK;
  if (!tl_gguf_strings(g, "tokenizer.ggml.tokens", &tokens, &n))
    status = tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.tokens is missing or not strings", t->path);
  else if (tl_gguf_ints(g, "tokenizer.ggml.token_type", &types, &n_types) && n_types != n)
    status = tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.token_type has %zu entries, tokens %zu", t->path, n_types, n);
  if (status == TL_OK)
    status = read_tokens(t, tokens, types, n);
  if (status == TL_OK)
    status = t->byte_level ? read_merge_list(t, g) : read_scores(t, g, types, n);
  free(tokens);
  free(types);
  return status;
}

static tl_status read_id(const tl_tokenizer *t, const tl_gguf *g, const char *key, int *out) {
  int64_t id;
  if (!tl_gguf_int(g, key, &id))
    return TL_OK;
  if (id < 0 || id >= t->n_tokens)
    return tl_fail(TL_E_FORMAT, "%s: %s is %lld; the vocabulary has %d tokens", t->path, key, (long long)id, t->n_tokens);
  *out = (int)id;
  return TL_OK;
}

static tl_status read_template(tl_tokenizer *t, const tl_gguf *g, bool bos) {
  bool eos = false;
  tl_gguf_bool(g, "tokenizer.ggml.add_bos_token", &bos);
  tl_gguf_bool(g, "tokenizer.ggml.add_eos_token", &eos);
  bos = bos && t->bos >= 0;
  eos = eos && t->eos >= 0;
  if (!bos && !eos)
    return TL_OK;
  t->template = malloc(3 * sizeof *t->template);
  if (!t->template)
    return tl_fail(TL_E_MEMORY, "%s: out of memory for the tokenizer", t->path);
  if (bos)
    t->template[t->n_template++] = t->bos;
  t->template[t->n_template++] = -1;
  if (eos)
    t->template[t->n_template++] = t->eos;
  return TL_OK;
}

static tl_status read_all(tl_tokenizer *t, const tl_gguf *g) {
  tl_gguf_text model = {0};
  bool bos = false, prefix = true;
  if (!tl_gguf_string(g, "tokenizer.ggml.model", &model))
    return tl_fail(TL_E_FORMAT, "%s: no tokenizer.ggml.model: the file carries no tokenizer", t->path);
  bool spm = equals(model, "llama");
  if (!spm && !equals(model, "gpt2"))
    return tl_fail(TL_E_UNSUPPORTED,
                   "%s: tokenizer.ggml.model is '%.*s'; supported: gpt2 (byte-level BPE), llama (SentencePiece BPE)", t->path,
                   (int)(model.n < 60 ? model.n : 60), model.p);
  t->byte_level = !spm;
  TL_TRY(read_vocab(t, g));
  if (spm) {
    bos = true;
    if (t->n_tokens > 2)
      t->unk = 0, t->bos = 1, t->eos = 2; // SentencePiece's own ids, where the file names none
    tl_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
    TL_TRY(text_spm_steps(t, prefix));
    TL_TRY(read_id(t, g, "tokenizer.ggml.unknown_token_id", &t->unk));
  } else
    TL_TRY(read_pre(t, g, &bos));
  TL_TRY(read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos));
  TL_TRY(read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos));
  TL_TRY(read_template(t, g, bos));
  TL_TRY(text_template_keys(t, g));
  return text_finish(t);
}

tl_status text_load_gguf(tl_tokenizer *t, const char *path) {
  tl_gguf g;
  TL_TRY(tl_gguf_open(&g, path));
  tl_status status = read_all(t, &g);
  tl_gguf_close(&g);
  return status;
}
