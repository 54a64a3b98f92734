// optim.cu: AdamW and small things on vectors of fp32, a thread four numbers.
//   AdamW (Loshchilov & Hutter 2019): decay is decoupled; m and v are corrected for their start at zero.
// sumsq: blocks sum fixed pieces of 16 Ki numbers in double, the host adds the pieces in order.
#include "cuda.cuh"
#include <cmath>
#include <vector>

enum { THREADS = 256, PIECE = 16384 };

// numbers i .. i + 4 of a vector of n (i a multiple of 4), as one load of 16 bytes where vectors are aligned; zeros from n on
static inline bool aligned16(const void *p) { return (uintptr_t)p % 16 == 0; }
__device__ static inline void load4(float *v, const float *p, size_t i, size_t n, bool aligned) {
  if (aligned && i + 4 <= n) {
    const float4 a = *(const float4 *)(p + i);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    return;
  }
#pragma unroll
  for (int k = 0; k < 4; k++) v[k] = i + k < n ? p[i + k] : 0;
}
__device__ static inline void store4(float *p, const float *v, size_t i, size_t n, bool aligned) {
  if (aligned && i + 4 <= n) {
    *(float4 *)(p + i) = make_float4(v[0], v[1], v[2], v[3]);
    return;
  }
#pragma unroll
  for (int k = 0; k < 4; k++)
    if (i + k < n) p[i + k] = v[k];
}
__device__ static inline size_t first_of_four() { return 4 * ((size_t)blockIdx.x * THREADS + threadIdx.x); }
static unsigned fours(size_t n) { return grid_of(div_up_size(n, 4), THREADS); }

__global__ static void adamw(float *param, float *m, float *v, const float *grad, size_t n, float beta1, float beta2, float eps,
                             float step_size, float root, float keep, bool aligned) {
  size_t i = first_of_four();
  if (i >= n) return;
  float p[4], g[4], m4[4], v4[4];
  load4(p, param, i, n, aligned);
  load4(g, grad, i, n, aligned);
  load4(m4, m, i, n, aligned);
  load4(v4, v, i, n, aligned);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    m4[k] = fmaf(beta1, m4[k], (1 - beta1) * g[k]), v4[k] = fmaf(beta2, v4[k], (1 - beta2) * g[k] * g[k]);
    p[k] = fmaf(-step_size, m4[k] / fmaf(sqrtf(v4[k]), root, eps), p[k] * keep);
  }
  store4(m, m4, i, n, aligned);
  store4(v, v4, i, n, aligned);
  store4(param, p, i, n, aligned);
}

void cuda_adamw(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
                float weight_decay, int step) {
  OP("adamw");
  float step_size = (float)(lr / (1 - pow(beta1, step))), root = (float)(1 / sqrt(1 - pow(beta2, step)));
  bool aligned = aligned16(param) && aligned16(m) && aligned16(v) && aligned16(grad);
  if (n) launch(adamw, fours(n), THREADS, 0, param, m, v, grad, n, beta1, beta2, eps, step_size, root, 1 - lr * weight_decay, aligned);
}

__global__ static void squares(double *parts, const float *x, size_t n) {
  double *s = (double *)tlk_shared, sum = 0;
  size_t first = (size_t)blockIdx.x * PIECE, last = first + PIECE < n ? first + PIECE : n;
  for (size_t i = first + threadIdx.x; i < last; i += THREADS) sum = fma((double)x[i], (double)x[i], sum);
  sum = block_sum(sum, s);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

double cuda_sumsq(const float *x, size_t n) {
  OP("sumsq");
  size_t blocks = div_up_size(n, PIECE);
  if (!blocks) return 0;
  double *parts = (double *)scratch(SCRATCH_A, blocks * sizeof(double)), sum = 0;
  std::vector<double> host(blocks);
  launch(squares, (unsigned)blocks, THREADS, 32 * sizeof(double), parts, x, n);
  device_copy(host.data(), parts, blocks * sizeof(double));
  for (double p : host) sum += p;
  return sum;
}

__global__ static void scaled(float *x, float a, size_t n, bool aligned) {
  size_t i = first_of_four();
  float v[4];
  if (i >= n) return;
  load4(v, x, i, n, aligned);
#pragma unroll
  for (int k = 0; k < 4; k++) v[k] *= a;
  store4(x, v, i, n, aligned);
}

void cuda_scale(float *x, float a, size_t n) {
  OP("scale");
  if (n) launch(scaled, fours(n), THREADS, 0, x, a, n, aligned16(x));
}

__global__ static void rounded(float *y, const float *x, size_t n, int dtype, bool aligned) {
  size_t i = first_of_four();
  float v[4];
  if (i >= n) return;
  load4(v, x, i, n, aligned);
#pragma unroll
  for (int k = 0; k < 4; k++)
    v[k] = as_stored(dtype, v[k]);
  store4(y, v, i, n, aligned);
}

void cuda_round_to(float *y, const float *x, size_t n, int dtype) {
  OP("round_to");
  if (n) launch(rounded, fours(n), THREADS, 0, y, x, n, dtype, aligned16(x) && aligned16(y));
}
