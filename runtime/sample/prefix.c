// prefix.c: keys and values of prompts and answers that have been, for requests that begin alike: the instructions that every request of an
// application has, a conversation that goes on.
//
// A row of the cache depends on the tokens up to its own and on the member that computed it, not on the batch (the kernels' contract), whether
// it came from a prompt's pass or from a decode step. So rows that are used again are, to the bit, those that would have been
// computed, and answers do not change.
//
// A remembered sequence names its rows and holds them (cache.h counts holders); the sequence that was used longest ago goes when a row is
// wanted and none is free. A sequence that another one begins with is not remembered beside it.
#include "sampler.h"

enum { MOST = 1024, LEAST_ROWS = 8 };  // sequences; fewer rows are not worth it

struct tl_prefix {
  int32_t *ids, *rows;  // (n) each, one block
  int n, member;
  int64_t version, used;
  tl_prefix *next;
};

static int64_t version_of(const tl_sampler *s, int member) {
  if (s->opt.population) return member < 0 ? 0 : s->opt.population->members[member]->version;
  return s->adapter ? s->adapter->version : 0;
}

static int common(const int32_t *a, const int32_t *b, int n) {
  int i = 0;
  while (i < n && a[i] == b[i]) i++;
  return i;
}

static void drop(tl_sampler *s, tl_prefix **link) {
  tl_prefix *p = *link;
  *link = p->next;
  tl_kv_give(&s->cache, p->rows, p->n);
  free(p->ids);
  free(p);
  s->n_prefixes--;
}

bool tl_prefix_evict(tl_sampler *s) {
  tl_prefix **oldest = &s->prefixes;
  if (!*oldest) return false;
  for (tl_prefix **link = &s->prefixes; *link; link = &(*link)->next)
    if ((*link)->used < (*oldest)->used) oldest = link;
  drop(s, oldest);
  return true;
}

void tl_prefix_use(tl_sampler *s, tl_request *r) {
  tl_prefix *best = NULL;
  int n = 0;
  int64_t version = version_of(s, r->p.member);
  for (tl_prefix *p = s->prefixes; p; p = p->next) {
    if (p->member != r->p.member || p->version != version) continue;
    int m = common(p->ids, r->prompt, p->n < r->n_prompt - 1 ? p->n : r->n_prompt - 1);  // the last token is computed: its hidden state is wanted
    if (m > n) best = p, n = m;
  }
  if (n < LEAST_ROWS) return;
  best->used = ++s->prefix_clock;
  tl_kv_hold(&s->cache, best->rows, n);
  tl_kv_give(&s->cache, r->kv, n);
  memcpy(r->kv, best->rows, sizeof(int32_t) * (size_t)n);
  for (int i = 0; i < s->opt.max_sequences; i++)
    if (s->slots[i].req == r) memcpy(s->slots[i].kv, r->kv, sizeof(int32_t) * (size_t)n);
  s->lists_stand = false;
  r->n_computed = n;
  s->stats.reused_tokens += n;
}

void tl_prefix_keep(tl_sampler *s, int member, const int32_t *prompt, int n_prompt, const int32_t *ids, const int32_t *rows, int n) {
  int64_t version = version_of(s, member);
  if (n < LEAST_ROWS) return;
  for (tl_prefix **link = &s->prefixes; *link;) {
    tl_prefix *p = *link;
    int shorter = p->n < n ? p->n : n, in_prompt = shorter < n_prompt ? shorter : n_prompt;
    bool alike = p->member == member && p->version == version && common(p->ids, prompt, in_prompt) == in_prompt &&
                 common(p->ids + in_prompt, ids, shorter - in_prompt) == shorter - in_prompt;
    if (alike && p->n >= n) {
      p->used = ++s->prefix_clock;
      return;
    }
    if (alike) drop(s, link);
    else link = &p->next;
  }
  if (s->n_prefixes >= MOST) tl_prefix_evict(s);
  tl_prefix *p = malloc(sizeof *p);
  int32_t *block = malloc(sizeof(int32_t) * 2 * (size_t)n);
  if (!p || !block) {  // nothing is lost but time
    free(p), free(block);
    return;
  }
  int first = n < n_prompt ? n : n_prompt;
  memcpy(block, prompt, sizeof(int32_t) * (size_t)first);
  if (n > first) memcpy(block + first, ids, sizeof(int32_t) * (size_t)(n - first));
  memcpy(block + n, rows, sizeof(int32_t) * (size_t)n);
  *p = (tl_prefix){.ids = block, .rows = block + n, .n = n, .member = member, .version = version, .used = ++s->prefix_clock, .next = s->prefixes};
  tl_kv_hold(&s->cache, p->rows, n);
  s->prefixes = p;
  s->n_prefixes++;
}
