// rmsnorm.cu: y = x rstd gain, rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019), and its gradients:
//   e = dy gain,  dx += rstd (e - x rstd^2 mean(e x)),  dgain += sum_t dy x rstd.
// A block a row: each thread sums every 256th column, then a tree; the order is that of C. dgain: a block takes 32 columns, its
// 8 warps every 8th row, then warps in order. Bytes: fwd 4 + 4 (gain, cached) + 2 a number, read twice from L1.
#include "cuda.cuh"

enum { THREADS = 256, GAIN_ROWS = 8 };

__global__ static void fwd(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int C) {
  float *s = (float *)tlk_shared, sum = 0;
  int t = (int)blockIdx.x;
  x += (size_t)t * C;
  for (int c = (int)threadIdx.x; c < C; c += THREADS) sum = fmaf(x[c], x[c], sum);
  float r = 1.0f / sqrtf(block_sum(sum, s) / (float)C + eps);
  for (int c = (int)threadIdx.x; c < C; c += THREADS) put(y, t, c, x[c] * r * gain[c]);
  if (threadIdx.x == 0) rstd[t] = r;
}

void cuda_rmsnorm_fwd(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C) {
  OP("rmsnorm_fwd");
  if (T > 0) launch(fwd, (unsigned)T, THREADS, 128, y, rstd, x, gain, eps, C);
}

__global__ static void bwd(float *dx, const float *dy, const float *x, const float *gain, const float *rstd, int C) {
  float *s = (float *)tlk_shared, sum = 0;
  size_t at = (size_t)blockIdx.x * C;
  for (int c = (int)threadIdx.x; c < C; c += THREADS) sum = fmaf(dy[at + c] * gain[c], x[at + c], sum);
  float r = rstd[blockIdx.x], m = block_sum(sum, s) / (float)C * r * r;
  for (int c = (int)threadIdx.x; c < C; c += THREADS) dx[at + c] = fmaf(r, dy[at + c] * gain[c] - x[at + c] * m, dx[at + c]);
}

__global__ static void gain_bwd(float *dgain, const float *dy, const float *x, const float *rstd, int T, int C) {
  float *s = (float *)tlk_shared, sum = 0;  // (8, 32)
  int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, c = (int)blockIdx.x * 32 + lane;
  for (int t = warp; t < T && c < C; t += GAIN_ROWS) sum = fmaf(dy[(size_t)t * C + c] * x[(size_t)t * C + c], rstd[t], sum);
  s[warp * 32 + lane] = sum;
  __syncthreads();
  if (warp || c >= C) return;
  for (int w = 1; w < GAIN_ROWS; w++) sum += s[w * 32 + lane];
  dgain[c] += sum;
}

void cuda_rmsnorm_bwd(float *dx, float *dgain, const float *dy, const float *x, const float *gain, const float *rstd, int T, int C) {
  OP("rmsnorm_bwd");
  if (T <= 0) return;
  if (dgain) launch(gain_bwd, grid_of((size_t)C, 32), GAIN_ROWS * 32, GAIN_ROWS * 128, dgain, dy, x, rstd, T, C);
  launch(bwd, (unsigned)T, THREADS, 128, dx, dy, x, gain, rstd, C);
}
