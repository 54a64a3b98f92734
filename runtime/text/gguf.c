// gguf.c: a tokenizer from a GGUF's metadata (tokenizer.ggml.*).
//
// GGUF stores tokens, merges and token types, and names the pre-tokenizer; regexes and normal forms follow from the name:
//
//   tokenizer.ggml.pre                          splits                       normal form   ignore_merges
//   gpt-2, default, absent                      GPT-2                        -             no
//   smollm                                      single digits, then GPT-2    -             no
//   qwen2, deepseek-r1-qwen                     Qwen2                        NFC           no
//   llama-bpe, llama3, llama-v3                 Llama 3                      -             yes
//
// Control tokens become special added tokens, user-defined ones added tokens; both are matched before anything else.
#include "text.h"
#include "../base/gguf.h"

enum { TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4 };

static bool equals(tl_gguf_text s, const char *literal) { return s.n == strlen(literal) && !memcmp(s.p, literal, s.n); }
static bool among(tl_gguf_text s, const char *const *names) {
  for (; *names; names++)
    if (equals(s, *names)) return true;
  return false;
}

static tl_status read_pre(tl_tokenizer *t, const tl_gguf *g, bool *llama3) {
  tl_gguf_text pre = {"default", 7};
  tl_gguf_string(g, "tokenizer.ggml.pre", &pre);
  *llama3 = among(pre, (const char *const[]){"llama-bpe", "llama3", "llama-v3", NULL});
  bool prefix = false;
  tl_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix);
  if (prefix) TL_TRY(text_add_prefix_space(t));
  if (*llama3) {
    t->ignore_merges = true;
    return text_add_split(t, text_llama3_pattern, false, TEXT_ISOLATED, false);
  }
  if (among(pre, (const char *const[]){"qwen2", "deepseek-r1-qwen", NULL})) {
    t->forms[t->n_forms++] = TEXT_NFC;
    return text_add_split(t, text_qwen2_pattern, false, TEXT_ISOLATED, false);
  }
  bool smollm = equals(pre, "smollm");
  if (smollm) TL_TRY(text_add_split(t, text_digit_pattern, false, TEXT_ISOLATED, false));
  else if (!among(pre, (const char *const[]){"gpt-2", "default", NULL}))
    return tl_fail(TL_E_UNSUPPORTED, "%s: tokenizer.ggml.pre is '%.*s'; supported: gpt-2, default, smollm, qwen2, llama-bpe",
                   t->path, (int)(pre.n < 60 ? pre.n : 60), pre.p);
  return text_add_split(t, text_gpt2_pattern, false, TEXT_ISOLATED, false);
}

static tl_status check_utf8(const tl_tokenizer *t, const char *what, size_t i, tl_gguf_text s) {
  return text_utf8_bad(s.p, s.n) == s.n ? TL_OK : tl_fail(TL_E_FORMAT, "%s: %s[%zu] is not UTF-8", t->path, what, i);
}

static tl_status read_tokens(tl_tokenizer *t, const tl_gguf_text *tokens, const int32_t *types, size_t n) {
  for (size_t i = 0; i < n; i++) {
    TL_TRY(check_utf8(t, "tokenizer.ggml.tokens", i, tokens[i]));
    TL_TRY(text_add_token(t, (int64_t)i, tokens[i].p, tokens[i].n));
  }
  for (size_t i = 0; i < n && types; i++)
    if (types[i] == TYPE_CONTROL || types[i] == TYPE_USER_DEFINED)
      TL_TRY(text_add_added(t, (int64_t)i, tokens[i].p, tokens[i].n, (text_added){.special = types[i] == TYPE_CONTROL}));
  return TL_OK;
}

static tl_status read_merges(tl_tokenizer *t, const tl_gguf_text *merges, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const char *p = merges[i].p, *space = merges[i].n ? memchr(p, ' ', merges[i].n) : NULL;
    if (!space) return tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.merges[%zu] is not two tokens and a space", t->path, i);
    TL_TRY(check_utf8(t, "tokenizer.ggml.merges", i, merges[i]));
    TL_TRY(text_add_merge(t, p, (size_t)(space - p), space + 1, (size_t)(p + merges[i].n - space - 1)));
  }
  return TL_OK;
}

static tl_status read_vocab(tl_tokenizer *t, const tl_gguf *g) {
  tl_gguf_text *tokens = NULL, *merges = NULL;
  int32_t *types = NULL;
  size_t n = 0, n_types = 0, n_merges = 0;
  tl_status status = TL_OK;
  if (!tl_gguf_strings(g, "tokenizer.ggml.tokens", &tokens, &n))
    status = tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.tokens is missing or not strings", t->path);
  else if (!tl_gguf_strings(g, "tokenizer.ggml.merges", &merges, &n_merges))
    status = tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.merges is missing or not strings", t->path);
  else if (tl_gguf_ints(g, "tokenizer.ggml.token_type", &types, &n_types) && n_types != n)
    status = tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.token_type has %zu entries, tokens %zu", t->path, n_types, n);
  if (status == TL_OK) status = read_tokens(t, tokens, types, n);
  if (status == TL_OK) status = read_merges(t, merges, n_merges);
  free(tokens);
  free(merges);
  free(types);
  return status;
}

static tl_status read_id(const tl_tokenizer *t, const tl_gguf *g, const char *key, int *out) {
  int64_t id;
  if (!tl_gguf_int(g, key, &id)) return TL_OK;
  if (id < 0 || id >= t->n_tokens)
    return tl_fail(TL_E_FORMAT, "%s: %s is %lld; the vocabulary has %d tokens", t->path, key, (long long)id, t->n_tokens);
  *out = (int)id;
  return TL_OK;
}

static tl_status read_template(tl_tokenizer *t, const tl_gguf *g, bool llama3) {
  bool bos = llama3, eos = false;
  tl_gguf_bool(g, "tokenizer.ggml.add_bos_token", &bos);
  tl_gguf_bool(g, "tokenizer.ggml.add_eos_token", &eos);
  bos = bos && t->bos >= 0;
  eos = eos && t->eos >= 0;
  if (!bos && !eos) return TL_OK;
  t->template = malloc(3 * sizeof *t->template);
  if (!t->template) return tl_fail(TL_E_MEMORY, "%s: out of memory for the tokenizer", t->path);
  if (bos) t->template[t->n_template++] = t->bos;
  t->template[t->n_template++] = -1;
  if (eos) t->template[t->n_template++] = t->eos;
  return TL_OK;
}

static tl_status read_all(tl_tokenizer *t, const tl_gguf *g) {
  tl_gguf_text model = {0}, chat = {0};
  bool llama3 = false;
  if (!tl_gguf_string(g, "tokenizer.ggml.model", &model))
    return tl_fail(TL_E_FORMAT, "%s: no tokenizer.ggml.model: the file carries no tokenizer", t->path);
  if (!equals(model, "gpt2"))
    return tl_fail(TL_E_UNSUPPORTED, "%s: tokenizer.ggml.model is '%.*s'; supported: gpt2 (byte-level BPE)", t->path,
                   (int)(model.n < 60 ? model.n : 60), model.p);
  TL_TRY(read_vocab(t, g));
  TL_TRY(read_pre(t, g, &llama3));
  TL_TRY(read_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos));
  TL_TRY(read_id(t, g, "tokenizer.ggml.eos_token_id", &t->eos));
  TL_TRY(read_template(t, g, llama3));
  if (tl_gguf_string(g, "tokenizer.chat_template", &chat)) t->chat_template = strndup(chat.p, chat.n);
  return text_finish(t);
}

tl_status text_load_gguf(tl_tokenizer *t, const char *path) {
  tl_gguf g;
  TL_TRY(tl_gguf_open(&g, path));
  tl_status status = read_all(t, &g);
  tl_gguf_close(&g);
  return status;
}
