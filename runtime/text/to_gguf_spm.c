// to_gguf_spm.c: SentencePiece's BPE of a tokenizer.json as scores of a GGUF (tokenizer.ggml.model = llama; spm.c reads them).
//
// transformers makes a list of merges of a SentencePiece model: every way to cut a piece into two pieces, by the piece's score,
// then the longer left part first. That list is turned round here: a piece whose merges stand together gets a score of its
// own, pieces whose merges stand among one another in that order share one, and no cut may be missing. A list that was learnt
// otherwise has joins of its own, which scores cannot express: it is refused with an example.
//
// The two are not quite the same machine, whoever converts: of several places where pieces of the same score could be joined,
// SentencePiece takes the leftmost, a list of merges the cut that stands first.
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

// ---------------------------------------------------------------- cuts
bool text_next_cut(const char *s, size_t n, size_t *at, text_cut *c) {
  uint32_t code;
  if (*at == 0) {
    c->left = c->right = 0;
    for (size_t i = 0; i < n; c->right++)
      i += (size_t)text_utf8_next(s + i, n - i, &code);
  }
  if (*at < n)
    *at += (size_t)text_utf8_next(s + *at, n - *at, &code);
  c->at = (uint32_t)*at;
  c->left++;
  c->right--;
  return *at < n;
}

int text_compare_cuts(const void *x, const void *y) {
  const text_cut *a = x, *b = y;
  if (a->score != b->score)
    return a->score > b->score ? -1 : 1;
  if (a->left != b->left)
    return a->left > b->left ? -1 : 1;
  if (a->right != b->right)
    return a->right > b->right ? -1 : 1;
  return (a->id > b->id) - (a->id < b->id);
}

// ---------------------------------------------------------------- merges to scores

typedef struct cuts {
  text_cut *p;
  size_t n, cap;
} cuts;

static int by_rank(const void *x, const void *y) {
  const text_cut *a = x, *b = y;
  return (a->rank > b->rank) - (a->rank < b->rank);
}

// Joins can make it: other kinds of tokens are matched before anything is joined. Text in which they were not found still
// gets new marks for its spaces, so that an added token with a mark in it can come about.
static bool joins(const text_entry *e) {
  return e->text && (e->type == TEXT_NORMAL || (e->type == TEXT_USER_DEFINED && strstr(e->text, TEXT_SPM_MARK)));
}

// every cut of the token into two tokens must be a merge
static bool add_cuts(const tl_tokenizer *t, const text_map *all, const text_entry *list, int id, cuts *o, char *why, size_t n_why) {
  const char *s = list[id].text;
  size_t n = strlen(s);
  text_cut c = {.id = id};
  for (size_t at = 0; text_next_cut(s, n, &at, &c);) {
    int32_t left = text_map_get(all, s, at), right = text_map_get(all, s + at, n - at);
    if (left < 0 || right < 0)
      continue;
    const text_merge *m = text_find_merge(t, left, right);
    if (!m || m->id != id) {
      snprintf(why, n_why, "'%.40s' and '%.40s' make a token, but no merge joins them, as scores would", list[left].text,
               list[right].text);
      return false;
    }
    if (o->n == o->cap) {
      size_t cap = o->cap ? 2 * o->cap : 4096;
      text_cut *p = realloc(o->p, cap * sizeof *p);
      if (!p)
        return false;
      o->p = p;
      o->cap = cap;
    }
    c.rank = m->rank;
    o->p[o->n++] = c;
  }
  return true;
}

// Merges in the list's order fall into stretches that share no piece with others: one score for each.
static bool score_stretches(const text_entry *list, const cuts *o, size_t *last, float *scores, char *why, size_t n_why) {
  size_t end = 0, from = 0, k = 0;
  for (size_t i = 0; i < o->n; i++)
    last[o->p[i].id] = i;
  for (size_t i = 0; i < o->n; i++) {
    const text_cut *c = &o->p[i];
    scores[c->id] = -(float)k;
    if (i > from && c->id != c[-1].id && text_compare_cuts(c - 1, c) > 0) {
      snprintf(why, n_why, "the merges that make '%.40s' and '%.40s' stand among one another, which scores cannot say",
               list[c[-1].id].text, list[c->id].text);
      return false;
    }
    end = last[c->id] > end ? last[c->id] : end;
    if (i == end)
      from = i + 1, k++;
  }
  return true;
}

bool text_spm_scores(const tl_tokenizer *t, const text_entry *list, int n, float *scores, char *why, size_t n_why) {
  enum { ALONE = 1 }; // nothing is joined into it; scores are not above 0
  text_map all = {0};
  cuts o = {0};
  size_t *last = malloc(((size_t)n + 1) * sizeof *last), below = 0;
  bool fine = last != NULL;
  snprintf(why, n_why, "out of memory");
  for (int i = 0; i < n && fine; i++)
    fine = !joins(&list[i]) || text_map_put(&all, list[i].text, strlen(list[i].text), i);
  for (int i = 0; i < n && fine; i++) {
    scores[i] = joins(&list[i]) ? ALONE : 0;
    fine = scores[i] == 0 || add_cuts(t, &all, list, i, &o, why, n_why);
  }
  if (fine && o.n) {
    qsort(o.p, o.n, sizeof *o.p, by_rank);
    fine = score_stretches(list, &o, last, scores, why, n_why);
  }
  for (int i = 0; i < n && fine; i++)
    if (scores[i] == ALONE)
      scores[i] = -(float)(o.n + below++); // below all others, as SentencePiece has its characters
  text_map_free(&all);
  free(o.p);
  free(last);
  return fine;
}
