// spm.c: SentencePiece's BPE from a GGUF (tokenizer.ggml.model "llama"): a score for each token, no merges.
//
// SentencePiece joins, of all neighbours whose joined text is a token, those with the highest score, leftmost among equals.
// That is a merge list: every way to cut a token into two tokens is a pair, ranked by the token's score; equal scores share a
// rank. Control and unknown tokens and bytes are never made by joining: text from outside cannot spell one.
//
// A text gets a space in front (tokenizer.ggml.add_space_prefix, true when absent), and again behind each control token, as in
// llama.cpp; spaces become U+2581; characters that are not in the vocabulary become their bytes' tokens.
#include "text.h"

enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_BYTE = 6 };

typedef struct scored {
  float score;
  int32_t id;
} scored;

static int by_score(const void *x, const void *y) {
  const scored *a = x, *b = y;
  return a->score != b->score ? (a->score < b->score) - (a->score > b->score) : (a->id > b->id) - (a->id < b->id);
}

static tl_status add_cuts(tl_tokenizer *t, int32_t id, uint32_t rank) {
  const text_token *k = &t->tokens[id];
  if (text_map_get(&t->by_text, k->text, k->n_text) != id)
    return TL_OK; // a later token has the same text
  uint32_t c;
  for (size_t i = 0; i < k->n_text;) {
    i += (size_t)text_utf8_next(k->text + i, k->n_text - i, &c);
    if (i == k->n_text)
      break;
    int32_t left = text_map_get(&t->by_text, k->text, i), right = text_map_get(&t->by_text, k->text + i, k->n_text - i);
    if (left >= 0 && right >= 0)
      TL_TRY(text_put_merge(t, left, right, rank, id));
  }
  return TL_OK;
}

tl_status text_spm_merges(tl_tokenizer *t, const float *scores, const int32_t *types, size_t n) {
  scored *order = malloc((n ? n : 1) * sizeof *order);
  if (!order)
    return text_no_memory(t);
  size_t m = 0;
  tl_status status = TL_OK;
  for (size_t i = 0; i < n && status == TL_OK; i++) {
    if (scores[i] != scores[i])
      status = tl_fail(TL_E_FORMAT, "%s: tokenizer.ggml.scores[%zu] is not a number", t->path, i);
    if (types && (types[i] == TYPE_UNKNOWN || types[i] == TYPE_CONTROL || types[i] == TYPE_BYTE))
      continue;
    order[m++] = (scored){scores[i], (int32_t)i};
  }
  if (status == TL_OK)
    qsort(order, m, sizeof *order, by_score);
  uint32_t rank = 0;
  for (size_t i = 0; i < m && status == TL_OK; i++) {
    if (i && order[i].score != order[i - 1].score)
      rank++;
    status = add_cuts(t, order[i].id, rank);
  }
  free(order);
  return status;
}

tl_status text_spm_steps(tl_tokenizer *t, bool space_prefix) {
  t->byte_fallback = t->fuse_unk = true;
  if (space_prefix) {
    char *space = strdup(" ");
    if (!space)
      return text_no_memory(t);
    TL_TRY(text_new_norm(t, (text_norm){.kind = TEXT_PREPEND, .content = space, .n = 1}));
  }
  TL_TRY(text_new_step(t, (text_step){.kind = TEXT_METASPACE, .scheme = TEXT_NEVER, .mark = "\xE2\x96\x81"}));
  text_decode_step k = {.kind = TEXT_D_REPLACE, .n = 1, .content = strdup(" ")};
  if (!k.content)
    return text_no_memory(t);
  tl_status status = text_compile(t->path, "the mark of spaces", "\xE2\x96\x81", TEXT_LITERAL, &k.re);
  if (status != TL_OK)
    return free(k.content), status;
  TL_TRY(text_new_decode(t, k));
  TL_TRY(text_new_decode(t, (text_decode_step){.kind = TEXT_D_BYTE_FALLBACK}));
  TL_TRY(text_new_decode(t, (text_decode_step){.kind = TEXT_D_FUSE}));
  if (!space_prefix)
    return TL_OK;
  return text_new_decode(t, (text_decode_step){.kind = TEXT_D_STRIP, .mark = " ", .start = 1});
}
