// sample.cu: one token a row, on the device: only ids, log-probabilities and entropies leave it.
//
// Logits of as many rows as fit 256 MiB are kept; then a block a row chooses. The kept tokens are always a beginning of the order
// "falling logit, ties by rising id" (kernels/reference/head.c), so they are described by two numbers: a threshold on the logit
// and the last id kept of those equal to it. Both come from a search over the 32 bits of an order-preserving integer of the
// logit: for top_k the largest threshold that at least k tokens reach, for top_p the largest that enough mass reaches. Masses are
// fp32 exponentials added in double, each thread its tokens in order, then a tree. The draw: every thread adds the kept masses of
// one contiguous piece of the vocabulary in order; the first piece whose running sum exceeds u times the whole has the token.
// Banned tokens get the logit -inf first: the lowest of the order, without mass. What lse and entropy are made from is older.
// Cost: up to 32 passes over a row's logits (from L2) for each of top_k and top_p, 4 passes without them.
#include "cuda.cuh"

enum { THREADS = 256 };
static const size_t logits_bytes = (size_t)256 << 20;

__device__ static inline unsigned order_of(float l) {  // larger logits have larger numbers
  unsigned u = __float_as_uint(l == 0 ? 0.0f : l);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

struct row_view {
  const float *l;
  int V;
  float max;
  unsigned threshold;  // kept: order above it, or equal to it and id at most last_equal
  int last_equal;
  double *s;           // shared: 32 for sums, then THREADS
};

__device__ static inline bool kept(const row_view &v, int i) {
  unsigned o = order_of(v.l[i]);
  return o > v.threshold || (o == v.threshold && i <= v.last_equal);
}
__device__ static inline float mass(const row_view &v, int i) { return expf(v.l[i] - v.max); }

__device__ static int count_from(const row_view &v, unsigned least) {
  int n = 0;
  for (int i = (int)threadIdx.x; i < v.V; i += THREADS) n += order_of(v.l[i]) >= least;
  return block_sum(n, (int *)v.s);
}
// of the kept tokens
__device__ static double mass_from(const row_view &v, unsigned least) {
  double sum = 0;
  for (int i = (int)threadIdx.x; i < v.V; i += THREADS)
    if (order_of(v.l[i]) >= least && kept(v, i)) sum += mass(v, i);
  return block_sum(sum, v.s);
}

__device__ static inline void piece(const row_view &v, int *from, int *to) {
  int n = (v.V + THREADS - 1) / THREADS;
  *from = min((int)threadIdx.x * n, v.V);
  *to = min(*from + n, v.V);
}

// the id of the n-th (from 1) token equal to the threshold
__device__ static int nth_equal(const row_view &v, int n) {
  int *counts = (int *)(v.s + 32), from, to, mine = 0, before = 0;
  int *found = counts + THREADS;
  piece(v, &from, &to);
  for (int i = from; i < to; i++) mine += order_of(v.l[i]) == v.threshold;
  counts[threadIdx.x] = mine;
  if (threadIdx.x == 0) *found = v.V;
  __syncthreads();
  for (int i = 0; i < (int)threadIdx.x; i++) before += counts[i];
  if (before < n && before + mine >= n)
    for (int i = from; i < to; i++)
      if (order_of(v.l[i]) == v.threshold && ++before == n) *found = i;
  __syncthreads();
  int id = *found;
  __syncthreads();
  return id;
}

__device__ static void keep_top_k(row_view &v, int k) {
  unsigned at = 0;
  for (int bit = 31; bit >= 0; bit--)
    if (count_from(v, at | 1u << bit) >= k) at |= 1u << bit;
  int above = at == 0xffffffffu ? 0 : count_from(v, at + 1);
  v.threshold = at;
  v.last_equal = nth_equal(v, k - above);
}

__device__ static void keep_top_p(row_view &v, float top_p) {
  double goal = top_p * mass_from(v, 0);
  unsigned at = 0;  // not v.threshold: bit by bit only numbers that contain its bits would be found
  for (int bit = 31; bit >= 0; bit--) {
    double m = mass_from(v, at | 1u << bit);
    if (m >= goal && m > 0) at |= 1u << bit;
  }
  double above = at == 0xffffffffu ? 0 : mass_from(v, at + 1), all = mass_from(v, at);
  int equal = count_from(v, at) - (at == 0xffffffffu ? 0 : count_from(v, at + 1));
  bool same = at == v.threshold;
  if (same && v.last_equal < v.V) {  // top_k has already cut among these
    int n = 0;
    for (int i = (int)threadIdx.x; i <= v.last_equal; i += THREADS) n += order_of(v.l[i]) == at;
    equal = block_sum(n, (int *)v.s);
  }
  double each = equal > 0 ? (all - above) / equal : 1;
  int n = (int)ceil((goal - above) / each);
  v.threshold = at;
  v.last_equal = nth_equal(v, max(1, min(n, equal)));
}

// tokens below min_p of the largest mass go; the first of the order stays
__device__ static void keep_min_p(row_view &v, float min_p) {
  unsigned least = 0xffffffffu;
  for (int i = (int)threadIdx.x; i < v.V; i += THREADS)
    if (exp((double)v.l[i] - v.max) >= min_p) least = min(least, order_of(v.l[i]));
  unsigned *all = (unsigned *)(v.s + 32);
  all[threadIdx.x] = least;
  __syncthreads();
  for (int i = 0; i < THREADS; i++) least = min(least, all[i]);
  __syncthreads();
  if (least == 0xffffffffu) {
    v.threshold = order_of(v.max);
    v.last_equal = nth_equal(v, 1);
  } else if (least > v.threshold) {
    v.threshold = least;
    v.last_equal = v.V;
  }
}

__device__ static int draw(const row_view &v, float u) {
  double *sums = v.s + 32, before = 0, total = 0, mine = 0;
  int *found = (int *)(sums + THREADS), from, to, last = -1;
  piece(v, &from, &to);
  for (int i = from; i < to; i++)
    if (kept(v, i)) {
      float m = mass(v, i);
      mine += m;
      if (m > 0) last = i;
    }
  sums[threadIdx.x] = mine;
  if (threadIdx.x == 0) *found = -1;
  __syncthreads();
  for (int i = 0; i < THREADS; i++) {
    if (i < (int)threadIdx.x) before += sums[i];
    total += sums[i];
  }
  double goal = u * total;
  if (before <= goal && before + mine > goal) {
    double sum = 0;
    for (int i = from; i < to; i++)
      if (kept(v, i)) {
        sum += mass(v, i);
        if (before + sum > goal) {
          *found = i;
          break;
        }
      }
  }
  __syncthreads();
  int id = *found, *lasts = (int *)sums;
  __syncthreads();
  if (id >= 0) return id;
  lasts[threadIdx.x] = last;  // u so close to 1 that rounding has left nothing: the last kept token
  __syncthreads();
  for (int i = 0; i < THREADS; i++) id = max(id, lasts[i]);
  return id;
}

__global__ static void __launch_bounds__(THREADS, 4) choose(int32_t *ids, float *picked, float *logits, size_t ld, int V, const tlk_sample_row *rows) {
  const tlk_sample_row &r = rows[blockIdx.x];
  row_view v = {logits + blockIdx.x * ld, V, -INFINITY, 0, V, (double *)tlk_shared};
  if ((int)threadIdx.x < r.n_banned) logits[blockIdx.x * ld + (size_t)r.banned[threadIdx.x]] = -INFINITY;
  __syncthreads();
  for (int i = (int)threadIdx.x; i < V; i += THREADS) v.max = fmaxf(v.max, v.l[i]);
  v.max = block_max(v.max, (float *)v.s);
  int id;
  if (!(r.temperature > 0)) {
    v.threshold = order_of(v.max);
    id = nth_equal(v, 1);
  } else {
    if (r.top_k > 0 && r.top_k < V) keep_top_k(v, r.top_k);
    if (r.top_p < 1) keep_top_p(v, r.top_p);
    if (r.min_p > 0) keep_min_p(v, r.min_p);
    id = draw(v, r.u);
  }
  if (id < 0 || id >= V) id = 0;  // no logit is a number
  if (threadIdx.x == 0) ids[blockIdx.x] = id, picked[blockIdx.x] = v.l[id];
}

void cuda_head_sample(int32_t *ids, float *logprob, float *lse, float *entropy, tlk_mat h, const tlk_packed *w, const tlk_sample_row *rows,
                      int T) {
  OP("head_sample");
  if (T <= 0) return;
  size_t ld = align_up((size_t)w->N, 32);
  int most = (int)(logits_bytes / (ld * 4)), blocks = div_up(w->N, HEAD_BLOCK);
  most = most < 1 ? 1 : most > T ? T : most;
  float *logits = (float *)scratch(SCRATCH_A, ld * 4 * (size_t)most);
  head_stats *stats = (head_stats *)scratch(SCRATCH_B, sizeof(head_stats) * (size_t)blocks * most);
  for (int t = 0; t < T; t += most) {
    int n = T - t < most ? T - t : most;
    tlk_mat part = {(char *)h.p + (size_t)t * h.ld * tlk_dtype_size(h.dtype), h.dtype, h.ld};
    head_tiles(stats, logits, ld, nullptr, part, w, nullptr, 1, rows + t, n);
    launch(choose, (unsigned)n, THREADS, (32 + THREADS + 1) * sizeof(double), ids + t, logprob + t, logits, ld, w->N, rows + t);
    head_finish(logprob + t, lse ? lse + t : nullptr, entropy ? entropy + t : nullptr, stats, blocks, logprob + t, n);
  }
}
