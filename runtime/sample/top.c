// top.c: what requests may ask for beside their tokens: the likeliest tokens of each place (tl_sampling.n_top), and the logprobs of the
// prompt's own tokens (prompt_logprobs).
//
// The head is fused with sampling and leaves no logits (kernels/ops.h), so for rows that are asked about, and for no others, it is computed
// once more, TOP_ROWS rows at a time. Memory: TOP_ROWS rows of logits, from the first such request on. The tokens drawn and their logprobs
// are as without; where one of the likeliest is the token itself, its logprob is that token's, to the bit.
#include "sampler.h"
#include <math.h>

enum { TOP_ROWS = 64 };

struct tl_top {
  tl_arena arena;
  tlk_mat h;          // (TOP_ROWS, C) act
  tlk_mat logits;     // (TOP_ROWS, V) F32
  float *host;        // the same, where the host can read them
  bool own_host;
  tl_pair numbers;    // of TOP_ROWS rows, in the order of the pointers
  int32_t *targets;
  float *logprob, *lse, *entropy;
};

static tl_status room(tl_sampler *s) {
  if (s->top) return TL_OK;
  tl_top *p = calloc(1, sizeof *p);
  if (!p) return tl_fail(TL_E_MEMORY, "out of memory");
  s->top = p;
  size_t C = (size_t)s->net.cfg->width, V = (size_t)s->net.cfg->vocab, n = TOP_ROWS;
  TL_TRY(tl_arena_init(&p->arena, tl_align64(n * C * tlk_dtype_size(s->net.act)) + n * V * 4 + 64, "the likeliest tokens"));
  p->h = tl_mat_take(&p->arena, s->net.act, TOP_ROWS, (int)C);
  p->logits = tl_mat_take(&p->arena, TLK_F32, TOP_ROWS, (int)V);
  p->own_host = !tl_ops()->host;
  p->host = p->own_host ? malloc(n * V * 4) : p->logits.p;
  if (!p->host) return tl_fail(TL_E_MEMORY, "out of memory");
  TL_TRY(tl_pair_init(&p->numbers, n * 16, "the likeliest tokens"));
  p->targets = p->numbers.host;
  p->logprob = (float *)p->targets + n, p->lse = p->logprob + n, p->entropy = p->lse + n;
  return TL_OK;
}

// room that could be had in part only is given back, so that the next request tries again
static tl_status ready(tl_sampler *s) {
  tl_status st = room(s);
  if (st != TL_OK) tl_top_free(s->top), s->top = NULL;
  return st;
}

void tl_top_free(tl_top *p) {
  if (!p) return;
  if (p->own_host) free(p->host);
  tl_pair_free(&p->numbers);
  tl_arena_free(&p->arena);
  free(p);
}

// The n largest of l (V), largest first, of equal ones the lower id; their logprobs given lse and inv_temp. id, with its own logprob: the
// token of this place.
static void largest(const float *l, int V, int n, float inv_temp, float lse, int32_t id, float logprob, int32_t *ids, float *logprobs) {
  int have = 0;
  for (int j = 0; j < V; j++) {
    if (have == n && !(l[j] > l[ids[n - 1]])) continue;
    int at = have < n ? have++ : n - 1;
    for (; at > 0 && l[j] > l[ids[at - 1]]; at--) ids[at] = ids[at - 1];
    ids[at] = j;
  }
  for (int i = 0; i < n; i++) {
    if (i >= have) ids[i] = -1;
    logprobs[i] = ids[i] < 0 ? -INFINITY : ids[i] == id ? logprob : l[ids[i]] * inv_temp - lse;
  }
}

// logits of the first T rows of p->h, for the host to read
static void compute_logits(const tl_sampler *s, int T) {
  const tlk_ops *ops = tl_ops();
  tl_top *p = s->top;
  ops->linear_fwd(p->logits, NULL, p->h, s->net.w->head, NULL, NULL, T, 0);
  if (p->own_host) ops->copy(p->host, p->logits.p, sizeof(float) * (size_t)T * (size_t)s->net.cfg->vocab);
  else ops->sync();
}

static float inverse_temperature(const tl_request *r) { return r->p.temperature > 0 ? 1 / r->p.temperature : 1; }

tl_status tl_sampler_top(tl_sampler *s, int T) {
  int V = s->net.cfg->vocab, chosen[TOP_ROWS];
  size_t row = (size_t)s->net.cfg->width * tlk_dtype_size(s->net.act);
  for (int t = 0; t < T;) {
    int n = 0;
    for (; t < T && n < TOP_ROWS; t++)
      if (s->slots[s->row_slot[t]].req->p.n_top) chosen[n++] = t;
    if (!n) return TL_OK;
    TL_TRY(ready(s));
    tl_top *p = s->top;
    for (int i = 0; i < n; i++) tl_ops()->copy((char *)p->h.p + (size_t)i * row, (char *)s->h.p + (size_t)chosen[i] * row, row);
    compute_logits(s, n);
    for (int i = 0; i < n; i++) {
      tl_slot *q = &s->slots[s->row_slot[chosen[i]]];
      int k = q->req->p.n_top, c = chosen[i];
      size_t at = (size_t)q->n * (size_t)k;
      largest(p->host + (size_t)i * (size_t)V, V, k, inverse_temperature(q->req), s->lse[c], s->tokens[c], s->logprobs[c], q->top_ids + at, q->top_logprobs + at);
    }
  }
  return TL_OK;
}

tl_status tl_sampler_score_prompt(tl_sampler *s, tl_request *r, int first, int at, int T) {
  const tlk_ops *ops = tl_ops();
  if (!r->p.prompt_logprobs) return TL_OK;
  TL_TRY(ready(s));
  tl_top *p = s->top;
  int C = s->net.cfg->width, V = s->net.cfg->vocab, k = r->p.n_top;
  float inv_temp = inverse_temperature(r);
  if (at + T == r->n_prompt) T--;  // the last token predicts none of the prompt's
  for (int done = 0; done < T; done += TOP_ROWS) {
    int n = T - done < TOP_ROWS ? T - done : TOP_ROWS;
    const int32_t *target = r->prompt + at + done + 1;
    memcpy(p->targets, target, sizeof(int32_t) * (size_t)n);
    tl_pair_send(&p->numbers, p->targets, sizeof(int32_t) * (size_t)n);
    tl_sampler_final_norm(s, p->h, s->x + (size_t)(first + done) * (size_t)C, n);
    ops->head_fwd(tl_pair_ops(&p->numbers, p->logprob), tl_pair_ops(&p->numbers, p->lse), tl_pair_ops(&p->numbers, p->entropy), NULL, p->h,
                  s->net.w->head, tl_pair_ops(&p->numbers, p->targets), inv_temp, n);
    tl_pair_fetch(&p->numbers, p->logprob, sizeof(float) * 3 * TOP_ROWS);
    if (k) compute_logits(s, n);
    for (int i = 0; i < n; i++) {
      size_t place = (size_t)(at + done + 1 + i);
      r->prompt_logprobs[place] = p->logprob[i];
      if (k)
        largest(p->host + (size_t)i * (size_t)V, V, k, inv_temp, p->lse[i], target[i], p->logprob[i], r->prompt_top_ids + place * (size_t)k,
                r->prompt_top_logprobs + place * (size_t)k);
    }
  }
  return TL_OK;
}
