// head.cu: log-probability, log-sum-exp and entropy over the vocabulary without ever holding (T, V) logits.
//
// A block makes a tile of logits (rows x 128 tokens) in shared memory and reduces each row at once to three numbers: m = max l,
// s = sum e^(l - m), w = sum e^(l - m) (l - m). A warp folds a row's blocks in double (a lane every 32nd in order, then a butterfly):
// lse = M + log S, entropy = log S - W / S. The sampler (sample.cu) keeps the logits of its rows and reduces with the same code, so that its
// log-probabilities are these bits. Memory: 12 bytes a row and 128 tokens, for at most 2048 rows at a time.
#include "gemm.cuh"

enum { ROWS_AT_ONCE = 2048 };

__device__ static inline float inverse(float temperature) { return temperature > 0 ? 1.0f / temperature : 1.0f; }

// of the lane's four values, -inf where there is no token
__device__ static inline head_stats row_stats(const float *v) {
  float m = warp_max(fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]))), sum = 0, weighted = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float x = fmaxf(v[i] - m, -200.0f), e = expf(x);  // e^-200 is 0; keeps 0 * inf out of the weighted sum
    sum += e;
    weighted = fmaf(e, x, weighted);
  }
  return {m, warp_sum(sum), warp_sum(weighted)};
}

template <class T, int ROWS>
__global__ static void __launch_bounds__(WARPS * 32, (gemm_tile<T, ROWS>::resident)) tile(head_stats *stats, float *logits, size_t ld, float *picked, operands<T> p, const int32_t *targets,
                                                         float inv_temp, const tlk_sample_row *rows, int T_) {
  typedef gemm_tile<T, ROWS> G;
  int v0 = (int)blockIdx.y * TILE_COLS, t0 = (int)blockIdx.x * ROWS, lane = (int)threadIdx.x % 32;
  typename G::sums total;
  gemm_loop<T, ROWS, false>(total, p, t0, T_, v0, 0, p.K);
  const float *c = gemm_rows<T, ROWS>(total);
  for (int r = (int)threadIdx.x / 32; r < ROWS && t0 + r < T_; r += WARPS) {
    int t = t0 + r;
    float v[4], scale = rows ? inverse(rows[t].temperature) : inv_temp;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int n = v0 + lane + 32 * i;
      v[i] = n < p.N ? sum_value(p, t, n, c[r * G::ldc + lane + 32 * i]) * scale : -INFINITY;
      if (logits && n < p.N) logits[(size_t)t * ld + n] = v[i];
      if (targets && n == targets[t]) picked[t] = v[i];
    }
    head_stats s = row_stats(v);
    if (lane == 0) stats[(size_t)t * gridDim.y + blockIdx.y] = s;
  }
}

// Blocks that run beside each other share their tokens' rows of W and go through all of h, which stays in L2: W is read once.
template <class T>
static void run(head_stats *stats, float *logits, size_t ld, float *picked, tlk_mat h, const tlk_packed *w, const int32_t *targets, float inv_temp,
                const tlk_sample_row *rows, int T_) {
  operands<T> p = operands_of<T>(h, w);
  unsigned across = (unsigned)div_up(w->N, TILE_COLS);
  if (T_ <= 32)
    launch(tile<T, 16>, dim3((unsigned)div_up(T_, 16), across), WARPS * 32, gemm_tile<T, 16>::shared_bytes, stats, logits, ld, picked, p, targets, inv_temp,
           rows, T_);
  else
    launch(tile<T, 64>, dim3((unsigned)div_up(T_, 64), across), WARPS * 32, gemm_tile<T, 64>::shared_bytes, stats, logits, ld, picked, p, targets, inv_temp,
           rows, T_);
}

void head_tiles(head_stats *stats, float *logits, size_t ld, float *picked, tlk_mat h, const tlk_packed *w, const int32_t *targets, float inv_temp,
                const tlk_sample_row *rows, int T) {
  h = as_act(h, T, w->K, w->compute);
  if (w->compute == TLK_I8) run<int8_t>(stats, logits, ld, picked, h, w, targets, inv_temp, rows, T);
  else if (w->compute == TLK_BF16) run<bf16>(stats, logits, ld, picked, h, w, targets, inv_temp, rows, T);
  else if (w->compute == TLK_F16) run<fp16>(stats, logits, ld, picked, h, w, targets, inv_temp, rows, T);
  else run<float>(stats, logits, ld, picked, h, w, targets, inv_temp, rows, T);
}

// a warp a row; logprob holds the picked logits
__global__ static void fold(float *logprob, float *lse, float *entropy, const head_stats *stats, int blocks, const float *picked, int T_) {
  int t = (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32), lane = (int)threadIdx.x % 32;
  if (t >= T_) return;
  const head_stats *row = stats + (size_t)t * blocks;
  float top = -INFINITY;
  double sum = 0, weighted = 0;
  for (int b = lane; b < blocks; b += 32) top = fmaxf(top, row[b].max);
  top = warp_max(top);
  for (int b = lane; b < blocks; b += 32) {
    head_stats s = row[b];
    double d = (double)s.max - top, e = exp(d);
    sum += e * s.sum;
    weighted += e * (s.weighted + d * s.sum);
  }
  sum = warp_sum(sum), weighted = warp_sum(weighted);
  if (lane) return;
  double log_sum = log(sum);
  float l = (float)(top + log_sum);
  if (lse) lse[t] = l;
  if (entropy) entropy[t] = (float)(log_sum - weighted / sum);
  if (picked) logprob[t] = picked[t] - l;
}

void head_finish(float *logprob, float *lse, float *entropy, const head_stats *stats, int blocks, const float *picked, int T) {
  launch(fold, grid_of((size_t)T, 8), 256, 0, logprob, lse, entropy, stats, blocks, picked, T);
}

void cuda_head_fwd(float *logprob, float *lse, float *entropy, float *logits, tlk_mat h, const tlk_packed *w, const int32_t *targets, float inv_temp, int T) {
  OP("head_fwd");
  int blocks = div_up(w->N, HEAD_BLOCK), most = T < ROWS_AT_ONCE ? T : ROWS_AT_ONCE;
  if (T <= 0) return;
  head_stats *stats = (head_stats *)scratch(SCRATCH_A, sizeof(head_stats) * (size_t)blocks * most);
  for (int t = 0; t < T; t += most) {
    int n = T - t < most ? T - t : most;
    tlk_mat rows = {(char *)h.p + (size_t)t * h.ld * tlk_dtype_size(h.dtype), h.dtype, h.ld};
    head_tiles(stats, nullptr, 0, targets ? logprob + t : nullptr, rows, w, targets ? targets + t : nullptr, inv_temp, nullptr, n);
    head_finish(logprob + t, lse + t, entropy ? entropy + t : nullptr, stats, blocks, targets ? logprob + t : nullptr, n);
  }
}
