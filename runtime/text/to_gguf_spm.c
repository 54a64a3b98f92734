// to_gguf_spm.c: SentencePiece's BPE of a tokenizer.json as scores of a GGUF (tokenizer.ggml.model = llama; spm.c reads them).
//
// transformers makes a list of merges of a SentencePiece model: every way to cut a piece into two pieces, by the piece's score.
// That list is turned round here: the scores are found again when the merges of one piece stand together and no cut is missing.
// A list that was learnt otherwise has joins of its own, which scores cannot express: it is refused with an example.
//
// The two are not quite the same machine, whoever converts: of several places where the same piece could be joined by
// different cuts, SentencePiece takes the leftmost, a list of merges the cut that stands first.
#include "convert.h"

bool text_is_spm(const cJSON *tokenizer) {
  const cJSON *model = json_get(tokenizer, "model");
  return json_flag(model, "byte_fallback", false) && !text_has_byte_level(json_get(tokenizer, "pre_tokenizer"), 0);
}

static bool is_json(const cJSON *o, const char *text) {
  cJSON *want = cJSON_Parse(text);
  bool same = o && cJSON_Compare(o, want, true);
  cJSON_Delete(want);
  return same;
}

// a sequence of one part is that part
static const cJSON *unwrap(const cJSON *o, const char *list) {
  const cJSON *items = o && json_is(o, "Sequence") ? json_get(o, list) : NULL;
  return cJSON_GetArraySize(items) == 1 ? items->child : o;
}

static bool is_none(const cJSON *o) {
  return !o || cJSON_IsNull(o);
}

bool text_spm_form(const cJSON *tokenizer, bool *prefix, const char **why) {
  const cJSON *norm = unwrap(json_get(tokenizer, "normalizer"), "normalizers"), *decoder = json_get(tokenizer, "decoder");
  const cJSON *pre = unwrap(json_get(tokenizer, "pre_tokenizer"), "pretokenizers"), *scheme = json_get(pre, "prepend_scheme");
  bool metaspace = pre && json_is(pre, "Metaspace") && is_json(json_get(pre, "replacement"), "\"" TEXT_SPM_MARK "\"") &&
                   cJSON_IsFalse(json_get(pre, "split"));
  bool never = scheme ? is_json(scheme, "\"never\"") : metaspace && cJSON_IsFalse(json_get(pre, "add_prefix_space"));
  *why = NULL;
  *prefix = is_none(pre) && is_json(norm, TEXT_SPM_NORMALIZER);
  bool plain = (is_none(pre) && is_json(norm, TEXT_SPM_REPLACE)) || (metaspace && never && is_none(norm));
  if (metaspace && !never && is_none(norm))
    *why = "its Metaspace puts a space in front of a text, but not behind special tokens or in front of a space, as a GGUF's "
           "readers do";
  else if (!*prefix && !plain)
    *why = "its normalizer or pre-tokenizer is not SentencePiece's (Prepend and Replace, or Replace alone)";
  else if (!is_json(decoder, *prefix ? TEXT_SPM_DECODER : TEXT_SPM_DECODER_PLAIN))
    *why = "its decoder is not SentencePiece's (Replace, ByteFallback, Fuse, and Strip where a space is put in front)";
  return !*why;
}

// ---------------------------------------------------------------- merges to scores

typedef struct block { // a token's merges in the list
  uint32_t first, last;
  int32_t id;
} block;

static int by_first(const void *x, const void *y) {
  const block *a = x, *b = y;
  return (a->first > b->first) - (a->first < b->first);
}

// Joins can make it: other kinds of tokens are matched before anything is joined. Text in which they were not found still
// gets new marks for its spaces, so that an added token with a mark in it can come about.
static bool joins(const text_entry *e) {
  return e->text && (e->type == TEXT_NORMAL || (e->type == TEXT_USER_DEFINED && strstr(e->text, TEXT_SPM_MARK)));
}

// every cut of the token into two tokens must be a merge; b: where in the list these stand
static bool find_block(const tl_tokenizer *t, const text_map *all, const text_entry *list, int id, block *b, char *why, size_t n_why) {
  const char *s = list[id].text;
  size_t n = strlen(s);
  uint32_t c;
  *b = (block){UINT32_MAX, 0, id};
  for (size_t i = 0; i < n;) {
    i += (size_t)text_utf8_next(s + i, n - i, &c);
    int32_t left = text_map_get(all, s, i), right = i < n ? text_map_get(all, s + i, n - i) : -1;
    if (left < 0 || right < 0)
      continue;
    const text_merge *m = text_find_merge(t, left, right);
    if (!m || m->id != id) {
      snprintf(why, n_why, "'%.40s' and '%.40s' make a token, but no merge joins them, as scores would", list[left].text,
               list[right].text);
      return false;
    }
    b->first = m->rank < b->first ? m->rank : b->first;
    b->last = m->rank > b->last ? m->rank : b->last;
  }
  return true;
}

static bool order_blocks(const text_entry *list, block *b, size_t n, float *scores, char *why, size_t n_why) {
  qsort(b, n, sizeof *b, by_first);
  for (size_t i = 0; i < n; i++) {
    if (i && b[i].first < b[i - 1].last) {
      snprintf(why, n_why, "the merges that make '%.40s' and '%.40s' stand among one another, which scores cannot say",
               list[b[i - 1].id].text, list[b[i].id].text);
      return false;
    }
    scores[b[i].id] = -(float)i;
  }
  return true;
}

bool text_spm_scores(const tl_tokenizer *t, const text_entry *list, int n, float *scores, char *why, size_t n_why) {
  enum { ALONE = 1 }; // nothing is joined into it; scores are not above 0
  text_map all = {0};
  block *blocks = malloc(((size_t)n + 1) * sizeof *blocks), b;
  size_t m = 0, below = 0;
  bool fine = blocks != NULL;
  snprintf(why, n_why, "out of memory");
  for (int i = 0; i < n && fine; i++)
    fine = !joins(&list[i]) || text_map_put(&all, list[i].text, strlen(list[i].text), i);
  for (int i = 0; i < n && fine; i++) {
    scores[i] = 0;
    if (!joins(&list[i]))
      continue;
    fine = find_block(t, &all, list, i, &b, why, n_why);
    if (fine && b.first != UINT32_MAX)
      blocks[m++] = b;
    else
      scores[i] = ALONE;
  }
  fine = fine && order_blocks(list, blocks, m, scores, why, n_why);
  for (int i = 0; i < n && fine; i++)
    if (scores[i] == ALONE)
      scores[i] = -(float)(m + below++); // below all others, as SentencePiece has its characters
  text_map_free(&all);
  free(blocks);
  return fine;
}
