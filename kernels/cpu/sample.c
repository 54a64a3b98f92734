// sample.c: one token per row from the LM head, and its logprob, the bits of head_fwd's. What is drawn is defined in
// kernels/reference/head.c (top_k, then top_p, then min_p, then the inverse of the distribution function in order of ids).
//
// The logits of a chunk of rows (at most 64 MiB) are held, with the sums of every block of 512. Plain sampling finds the block by
// its mass and the token within it: no sort, no second pass. With a filter the candidates are cut by a bound first (a token below
// (1 - top_p) / V of the mass can never be needed; top_k's threshold by selection), and only what is left is sorted.
#include "cpu.h"

enum { ROW_BLOCK = 48 };

typedef struct {
  float l;
  int32_t id;
} candidate;

static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->l != y->l) return x->l < y->l ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}
static int by_id(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  return (x->id > y->id) - (x->id < y->id);
}

static int32_t argmax(const float *l, const head_stats *s, int V) {
  int best = 0;
  for (int b = 1; b < div_up(V, HEAD_BLOCK); b++)
    if (s[b].max > s[best].max) best = b;
  for (int j = best * HEAD_BLOCK;; j++)
    if (l[j] == s[best].max || j == V - 1) return j;
}

static int32_t plain(const float *l, const head_stats *s, int V, float u) {
  int blocks = div_up(V, HEAD_BLOCK), last = 0;
  double max = -INFINITY, total = 0, below = 0;
  for (int b = 0; b < blocks; b++)
    if (s[b].max > max) max = s[b].max;
  for (int b = 0; b < blocks; b++) total += exp((double)s[b].max - max) * s[b].sum;
  double want = u * total;
  for (int b = 0; b < blocks; b++) {
    double mass = exp((double)s[b].max - max) * s[b].sum, sum = below;
    if (mass > 0) last = b;
    if (b < blocks - 1 && below + mass <= want) {
      below += mass;
      continue;
    }
    for (int j = b * HEAD_BLOCK; j < min_int(V, (b + 1) * HEAD_BLOCK); j++) {
      sum += exp((double)l[j] - max);
      if (sum > want) return j;
    }
    break;  // the block's parts fell short of its sum by rounding: its last token with mass
  }
  for (int j = min_int(V, (last + 1) * HEAD_BLOCK) - 1; j > last * HEAD_BLOCK; j--)
    if (exp((double)l[j] - max) > 0) return j;
  return last * HEAD_BLOCK;
}

// the k-th largest of n logits (k from 1), by quickselect in place
static float kth_largest(float *x, int n, int k) {
  int lo = 0, hi = n - 1;
  while (lo < hi) {
    float pivot = x[lo + (hi - lo) / 2];
    int i = lo, j = hi;
    while (i <= j) {
      while (x[i] > pivot) i++;
      while (x[j] < pivot) j--;
      if (i <= j) {
        float tmp = x[i];
        x[i++] = x[j], x[j--] = tmp;
      }
    }
    if (k - 1 <= j) hi = j;
    else if (k - 1 >= i) lo = i;
    else break;
  }
  return x[k - 1];
}

static int32_t filtered(const float *l, const head_stats *s, int V, const tlk_sample_row *row, candidate *c, float *tmp) {
  float max = -INFINITY, bound = -INFINITY;
  for (int b = 0; b < div_up(V, HEAD_BLOCK); b++) max = s[b].max > max ? s[b].max : max;
  if (row->top_k > 0 && row->top_k < V) {
    memcpy(tmp, l, sizeof *tmp * (size_t)V);
    bound = kth_largest(tmp, V, row->top_k);
  } else if (row->top_p < 1) {
    double total = 0;
    for (int b = 0; b < div_up(V, HEAD_BLOCK); b++) total += exp((double)s[b].max - max) * s[b].sum;
    bound = max + (float)log((1.0 - row->top_p) * 0.999 * total / V);  // 0.999: clear of rounding
  } else {
    bound = max + logf(row->min_p) - 1e-3f;
  }
  int n = 0;
  for (int j = 0; j < V; j++)
    if (l[j] >= bound) c[n++] = (candidate){l[j], j};
  qsort(c, (size_t)n, sizeof *c, by_logit);
  double total = 0, head = 0;
  if (row->top_k > 0 && row->top_k < n) n = row->top_k;
  if (row->top_p < 1) {
    if (row->top_k > 0 && row->top_k < V) {
      for (int i = 0; i < n; i++) total += exp((double)c[i].l - max);
    } else {
      for (int b = 0; b < div_up(V, HEAD_BLOCK); b++) total += exp((double)s[b].max - max) * s[b].sum;
    }
    for (int i = 0; i < n; i++) {
      head += exp((double)c[i].l - max);
      if (head >= row->top_p * total) n = i + 1;
    }
  }
  while (n > 1 && exp((double)c[n - 1].l - max) < row->min_p) n--;
  qsort(c, (size_t)n, sizeof *c, by_id);
  total = 0;
  for (int i = 0; i < n; i++) total += exp((double)c[i].l - max);
  double sum = 0;
  for (int i = 0; i < n; i++) {
    sum += exp((double)c[i].l - max);
    if (sum > row->u * total) return c[i].id;
  }
  return c[n - 1].id;
}

static float inverse_temperature(const tlk_sample_row *r) { return r->temperature > 0 ? 1.0f / r->temperature : 1.0f; }

// logits (T, V), scaled, and the statistics of their blocks
static void logits_of(float *l, head_stats *stats, tlk_mat h, const tlk_packed *w, const tlk_sample_row *rows, int T, int threads) {
  int V = w->N, C = w->K, bf16 = w->compute == TLK_BF16, blocks = div_up(V, HEAD_BLOCK), row_blocks = div_up(T, ROW_BLOCK);
  ptrdiff_t stride = (ptrdiff_t)h.ld * (bf16 ? 2 : 4);
#pragma omp parallel num_threads(threads)
  {
    int a, b;
    share(blocks * row_blocks, omp_get_thread_num(), threads, &a, &b);
    for (int i = a; i < b; i++) {
      int block = i / row_blocks, v0 = block * HEAD_BLOCK, n = min_int(HEAD_BLOCK, V - v0);
      int t0 = i % row_blocks * ROW_BLOCK, m = min_int(ROW_BLOCK, T - t0);
      for (int j = 0; j < n; j += PANEL)
        OP(gemm_out)(bf16, m, mat_row(h, t0), stride, 4, w->data + (size_t)((v0 + j) / PANEL) * w->panel_words, C,
                     min_int(PANEL, n - j), l + (size_t)t0 * V + v0 + j, V, 0);
      for (int t = t0; t < t0 + m; t++)
        stats[(size_t)t * blocks + block] = OP(head_block_stats)(l + (size_t)t * V + v0, n, inverse_temperature(&rows[t]));
    }
  }
}

void OP(head_sample)(int32_t *ids, float *logprob, float *entropy, tlk_mat h, const tlk_packed *w, const tlk_sample_row *rows, int T) {
  int V = w->N, blocks = div_up(V, HEAD_BLOCK), chunk = max_int(1, (int)(((size_t)64 << 20) / sizeof(float) / (size_t)V));
  h = OP(as_act)(h, T, w->K, w->compute);
  for (int t0 = 0; t0 < T; t0 += chunk) {
    int n = min_int(chunk, T - t0), threads = threads_for((double)n * V * w->K);
    float *l = tlk_cpu_scratch(SCRATCH_A, sizeof *l * (size_t)n * V);
    head_stats *stats = tlk_cpu_scratch(SCRATCH_B, sizeof *stats * (size_t)n * blocks);
    candidate *c = tlk_cpu_scratch(SCRATCH_C, sizeof *c * (size_t)V * threads);
    float *tmp = tlk_cpu_scratch(SCRATCH_D, sizeof *tmp * (size_t)V * threads);
    logits_of(l, stats, (tlk_mat){mat_row_out(h, t0), h.dtype, h.ld}, w, rows + t0, n, threads);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int i = 0; i < n; i++) {
      const tlk_sample_row *r = &rows[t0 + i];
      const float *row = l + (size_t)i * V;
      const head_stats *s = stats + (size_t)i * blocks;
      size_t me = (size_t)omp_get_thread_num() * (size_t)V;
      int32_t id = r->temperature <= 0                                                             ? argmax(row, s, V)
                   : r->top_p < 1 || r->min_p > 0 || (r->top_k > 0 && r->top_k < V) ? filtered(row, s, V, r, c + me, tmp + me)
                                                                                    : plain(row, s, V, r->u);
      float lse;
      OP(head_finish)(s, blocks, 1, &lse, entropy ? &entropy[t0 + i] : NULL);
      ids[t0 + i] = id;
      logprob[t0 + i] = row[id] - lse;
    }
  }
}
