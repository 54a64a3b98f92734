// rmsnorm.cu: y = x rstd gain, rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019), and its gradients:
//   e = dy gain,  dx += rstd (e - x rstd^2 mean(e x)),  dgain += sum_t dy x rstd.
// A block a row, of one warp for rows of up to 256 numbers (heads), else of eight: each thread sums eight numbers in a row of every
// 8 x threads, then a tree; the order is that of C. dgain: a block takes 32 columns, its
// 8 warps every 8th row, then warps in order. Bytes: fwd 4 + 4 (gain, cached) + 2 a number, read twice from L1.
// The residual stream is added to by the product before it (linear_fwd's accumulate), so the norm has no sum of its own to make.
#include "cuda.cuh"

enum { GAIN_ROWS = 8 };
static inline int threads_of(int C) { return C <= 256 ? 32 : 256; }
static inline bool rows_in_eights(const float *x, int C) { return in_eights({(void *)x, TLK_F32, C}); }

__global__ static void fwd(tlk_mat y, float *rstd, tlk_mat x, tlk_mat gain, float eps, int C, bool in, bool out) {
  float sum = 0, v[8], g[8];
  int t = (int)blockIdx.x, step = 8 * (int)blockDim.x;
  for (int c = 8 * (int)threadIdx.x; c < C; c += step) {
    get8(v, x, in, t, c, C);
#pragma unroll
    for (int k = 0; k < 8; k++) sum = fmaf(v[k], v[k], sum);
  }
  float r = 1.0f / sqrtf(block_sum(sum, (float *)tlk_shared) / (float)C + eps);
  for (int c = 8 * (int)threadIdx.x; c < C; c += step) {
    get8(v, x, in, t, c, C);
    get8(g, gain, in, 0, c, C);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = v[k] * r * g[k];
    put8(y, out, t, c, C, v);
  }
  if (threadIdx.x == 0) rstd[t] = r;
}

void cuda_rmsnorm_fwd(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C) {
  OP("rmsnorm_fwd");
  tlk_mat rows = {(void *)x, TLK_F32, C}, g = {(void *)gain, TLK_F32, C};
  if (T > 0)
    launch(fwd, (unsigned)T, threads_of(C), 128, y, rstd, rows, g, eps, C, rows_in_eights(x, C) && rows_in_eights(gain, C), in_eights(y));
}

__global__ static void bwd(tlk_mat dx, tlk_mat dy, tlk_mat x, tlk_mat gain, const float *rstd, int C, bool in) {
  float sum = 0, d[8], v[8], g[8], old[8];
  int t = (int)blockIdx.x, step = 8 * (int)blockDim.x;
  for (int c = 8 * (int)threadIdx.x; c < C; c += step) {
    get8(d, dy, in, t, c, C);
    get8(v, x, in, t, c, C);
    get8(g, gain, in, 0, c, C);
#pragma unroll
    for (int k = 0; k < 8; k++) sum = fmaf(d[k] * g[k], v[k], sum);
  }
  float r = rstd[t], m = block_sum(sum, (float *)tlk_shared) / (float)C * r * r;
  for (int c = 8 * (int)threadIdx.x; c < C; c += step) {
    get8(d, dy, in, t, c, C);
    get8(v, x, in, t, c, C);
    get8(g, gain, in, 0, c, C);
    get8(old, dx, in, t, c, C);
#pragma unroll
    for (int k = 0; k < 8; k++) old[k] = fmaf(r, d[k] * g[k] - v[k] * m, old[k]);
    put8(dx, in, t, c, C, old);
  }
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
  bool in = rows_in_eights(dx, C) && rows_in_eights(dy, C) && rows_in_eights(x, C) && rows_in_eights(gain, C);
  tlk_mat out = {dx, TLK_F32, C}, d = {(void *)dy, TLK_F32, C}, rows = {(void *)x, TLK_F32, C}, g = {(void *)gain, TLK_F32, C};
  launch(bwd, (unsigned)T, threads_of(C), 128, out, d, rows, g, rstd, C, in);
}
