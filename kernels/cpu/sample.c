// sample.c: one token per row from the head, with its log-probability over the whole vocabulary.
//
// Logits of a chunk of rows are held (at most 64 MB), scaled by 1 / temperature, and reduced block by block as in head.c. Then
// per row:
//   greedy         the first block whose largest logit is the row's, then the first such token in it;
//   plain          the block by cumulative mass, then the token in it by cumulative e^(l - max), in rising order of id;
//   truncated      only candidates are sorted. With l >= a threshold: for top_k, the k-th largest of the maxima of groups of 64
//                  tokens (k groups have a token at least that likely, so the k best tokens are all above it); for top_p, a
//                  distance below the largest logit, widened until the candidates' mass suffices; for min_p, ln(min_p) itself.
//                  Then, as in the reference: top_k, top_p of those, min_p, and the draw in rising order of id.
// Banned tokens get the logit -inf, and their blocks new numbers, once the row's lse and entropy are made: no way above takes one.
#include "cpu.h"
#include <float.h>

enum { CHUNK_BYTES = 64 << 20, ROW_BLOCK = 48 };

typedef struct {
  float l;
  int32_t id;
} candidate;

typedef struct {
  const float *l;           // (V) scaled logits
  const head_stats *stats;  // block b at b * stride
  size_t stride;
  int V;
  float max;
  candidate *list;          // (V)
  float *heap;              // (ceil(V / 64))
} row_view;

static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->l != y->l) return x->l < y->l ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}
static int by_id(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  return (x->id > y->id) - (x->id < y->id);
}
static int descending(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x < y) - (x > y);
}

static int block_size(const row_view *v, int b) { return min_int(HEAD_BLOCK, v->V - b * HEAD_BLOCK); }
static int n_blocks(const row_view *v) { return div_up(v->V, HEAD_BLOCK); }

static int greedy(const row_view *v) {
  for (int b = 0; b < n_blocks(v); b++) {
    if (v->stats[b * v->stride].max != v->max) continue;
    for (int j = b * HEAD_BLOCK, end = j + block_size(v, b); j < end; j++)  // a block without numbers has no token with its largest
      if (v->l[j] == v->max) return j;
  }
  return 0;  // no number among the logits
}

static double block_mass(const row_view *v, int b) {
  const head_stats *s = &v->stats[b * v->stride];
  return exp((double)s->max - v->max) * s->sum;
}

static int draw_plain(const row_view *v, float u) {
  double total = 0, before = 0;
  int b = 0, last = 0;
  for (int i = 0; i < n_blocks(v); i++) total += block_mass(v, i);
  for (; b + 1 < n_blocks(v) && before + block_mass(v, b) <= u * total; b++) before += block_mass(v, b);
  float e[HEAD_BLOCK];
  for (int j = 0, n = block_size(v, b); j < n; j += VL)
    v_storen(e + j, v_exp(v_loadn(v->l + b * HEAD_BLOCK + j, n - j, 0) - v_set(v->max)), n - j);
  for (int j = 0; j < block_size(v, b); j++) {
    if (e[j] > 0) last = j;
    before += e[j];
    if (e[j] > 0 && before > u * total) return b * HEAD_BLOCK + j;
  }
  return b * HEAD_BLOCK + last;
}

// tokens with l >= threshold, in rising order of id; never those at -inf
static int collect(const row_view *v, float threshold) {
  int n = 0;
  if (threshold < -FLT_MAX) threshold = -FLT_MAX;
  for (int b = 0; b < n_blocks(v); b++) {
    if (v->stats[b * v->stride].max < threshold) continue;
    for (int j = b * HEAD_BLOCK, end = j + block_size(v, b); j < end; j++) {
      v->list[n] = (candidate){v->l[j], j};
      n += v->l[j] >= threshold;
    }
  }
  return n;
}

// a value that at least k tokens reach, high enough to leave few
static float top_k_threshold(const row_view *v, int k) {
  int groups = div_up(v->V, PANEL);
  if (k > groups) return -INFINITY;
  for (int g = 0; g < groups; g++) {
    vf m = v_set(-INFINITY);
    for (int j = g * PANEL; j < min_int(v->V, (g + 1) * PANEL); j += VL) m = v_max(m, v_loadn(v->l + j, v->V - j, -INFINITY));
    v->heap[g] = v_hmax(m);
  }
  qsort(v->heap, (size_t)groups, sizeof(float), descending);
  return v->heap[k - 1];
}

static double mass(const row_view *v, float l) { return exp((double)l - v->max); }

// candidates whose mass is at least top_p of the whole
static int collect_mass(const row_view *v, float top_p) {
  double total = 0;
  for (int b = 0; b < n_blocks(v); b++) total += block_mass(v, b);
  for (float depth = 4;; depth *= 2) {
    float threshold = depth < 128 ? v->max - depth : -INFINITY;
    int n = collect(v, threshold);
    double sum = 0;
    for (int i = 0; i < n; i++) sum += mass(v, v->list[i].l);
    if (sum >= top_p * total * (1 + 1e-6) || threshold == -INFINITY) return n;
  }
}

static int draw_truncated(const row_view *v, const tlk_sample_row *r) {
  candidate *c = v->list;
  int n, top_k = r->top_k > 0 && r->top_k < v->V;
  double total = 0, sum = 0;
  if (top_k)
    n = collect(v, top_k_threshold(v, r->top_k));
  else if (r->top_p < 1)
    n = collect_mass(v, r->top_p);
  else
    n = collect(v, (float)(v->max + log(r->min_p) - 1e-3));
  qsort(c, (size_t)n, sizeof *c, by_logit);
  if (top_k) n = min_int(n, r->top_k);
  if (r->top_p < 1) {
    if (top_k)
      for (int i = 0; i < n; i++) total += mass(v, c[i].l);
    else
      for (int b = 0; b < n_blocks(v); b++) total += block_mass(v, b);
    for (int i = 0; i < n; i++) {
      sum += mass(v, c[i].l);
      if (sum >= r->top_p * total) n = i + 1;
    }
  }
  while (n > 1 && mass(v, c[n - 1].l) < r->min_p) n--;
  qsort(c, (size_t)n, sizeof *c, by_id);
  total = sum = 0;
  for (int i = 0; i < n; i++) total += mass(v, c[i].l);
  for (int i = 0; i < n; i++) {
    sum += mass(v, c[i].l);
    if (sum > r->u * total) return c[i].id;
  }
  return n ? c[n - 1].id : greedy(v);
}

static float inverse(float temperature) { return temperature > 0 ? 1.0f / temperature : 1.0f; }

static int choose(const row_view *v, const tlk_sample_row *r) {
  if (!(r->temperature > 0)) return greedy(v);
  int all = (r->top_k <= 0 || r->top_k >= v->V) && r->top_p >= 1 && r->min_p <= 0;
  return all ? draw_plain(v, r->u) : draw_truncated(v, r);
}

// l (V) and stats are those of a row_view
static void ban(float *l, head_stats *stats, size_t stride, int V, const tlk_sample_row *r) {
  for (int i = 0; i < r->n_banned; i++) l[r->banned[i]] = -INFINITY;
  for (int i = 0; i < r->n_banned; i++) {
    int b = r->banned[i] / HEAD_BLOCK, at = b * HEAD_BLOCK;
    stats[b * stride] = OP(head_block_stats)(l + at, min_int(HEAD_BLOCK, V - at), 1);
  }
}

typedef struct {
  int32_t *ids;
  float *logprob, *lse, *entropy;
  head_rows h;          // all rows
  const tlk_packed *w;
  const tlk_sample_row *rows;
  int first, T, blocks, parts;  // the chunk's rows
  size_t Vp;           // V up to whole panels
  float *logits;       // (rows, Vp)
  head_stats *stats;   // (blocks, rows)
  candidate *lists;    // a thread's V candidates
  float *heaps;        // a thread's maxima of groups
} job;

static void block_part(const void *ctx, int i, int thread) {
  const job *q = ctx;
  int b = i / q->parts, t0, t1;
  share(q->T, i % q->parts, q->parts, &t0, &t1);
  float *l = q->logits + t0 * q->Vp + (size_t)b * HEAD_BLOCK;
  int n = OP(head_logits)(l, (ptrdiff_t)q->Vp, &q->h, q->w, q->first + t0, q->first + t1, b);
  for (int t = t0; t < t1; t++, l += q->Vp)
    q->stats[(size_t)b * q->T + t] = OP(head_block_stats)(l, n, inverse(q->rows[t].temperature));
}

static void sample_row(const void *ctx, int t, int thread) {
  const job *q = ctx;
  int V = q->w->N;
  row_view v = {q->logits + t * q->Vp, q->stats + t, (size_t)q->T, V, -INFINITY, q->lists + (size_t)thread * V,
                q->heaps + (size_t)thread * n_panels(V)};
  float lse;
  OP(head_finish)(v.stats, q->blocks, v.stride, &lse, q->entropy ? &q->entropy[t] : NULL);
  ban(q->logits + t * q->Vp, q->stats + t, (size_t)q->T, V, &q->rows[t]);
  for (int b = 0; b < q->blocks; b++) v.max = v.stats[b * v.stride].max > v.max ? v.stats[b * v.stride].max : v.max;
  q->ids[t] = choose(&v, &q->rows[t]);
  q->logprob[t] = v.l[q->ids[t]] - lse;
  if (q->lse) q->lse[t] = lse;
}

void OP(head_sample)(int32_t *ids, float *logprob, float *lse, float *entropy, tlk_mat h, const tlk_packed *w,
                     const tlk_sample_row *rows, int T) {
  if (T <= 0) return;
  size_t V = (size_t)w->N, Vp = (size_t)n_panels(w->N) * PANEL;
  int chunk = max_int(1, min_int(T, (int)(CHUNK_BYTES / (Vp * 4)))), blocks = div_up(w->N, HEAD_BLOCK);
  int threads = tlk_cpu_threads();
  job q = {.h = OP(head_rows_of)(h, T, w), .w = w, .Vp = Vp, .blocks = blocks};
  q.logits = tlk_cpu_scratch(SCRATCH_A, Vp * 4 * chunk);
  q.stats = tlk_cpu_scratch(SCRATCH_B, sizeof(head_stats) * (size_t)blocks * chunk);
  q.lists = tlk_cpu_scratch(SCRATCH_C, sizeof(candidate) * V * threads);
  q.heaps = tlk_cpu_scratch(SCRATCH_D, sizeof(float) * (size_t)n_panels(w->N) * threads);
  for (int t = 0; t < T; t += chunk) {
    q.first = t, q.T = min_int(chunk, T - t);
    q.parts = div_up(q.T, ROW_BLOCK);
    q.lse = lse ? lse + t : NULL;
    q.ids = ids + t, q.logprob = logprob + t, q.entropy = entropy ? entropy + t : NULL, q.rows = rows + t;
    tlk_run(blocks * q.parts, (double)q.T * V * w->K / 16, block_part, &q);
    tlk_run(q.T, (double)q.T * V, sample_row, &q);
  }
}
