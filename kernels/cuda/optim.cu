// optim.cu: AdamW and small things on vectors of fp32, a thread a number.
//   AdamW (Loshchilov & Hutter 2019): decay is decoupled; m and v are corrected for their start at zero.
// sumsq: blocks sum fixed pieces of 16 Ki numbers in double, the host adds the pieces in order.
#include "cuda.cuh"
#include <cmath>
#include <vector>

enum { THREADS = 256, PIECE = 16384 };

__global__ static void adamw(float *param, float *m, float *v, const float *grad, size_t n, float beta1, float beta2, float eps,
                             float step_size, float root, float keep) {
  size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  float g = grad[i], mi = fmaf(beta1, m[i], (1 - beta1) * g), vi = fmaf(beta2, v[i], (1 - beta2) * g * g);
  m[i] = mi;
  v[i] = vi;
  param[i] = fmaf(-step_size, mi / fmaf(sqrtf(vi), root, eps), param[i] * keep);
}

void cuda_adamw(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
                float weight_decay, int step) {
  OP("adamw");
  float step_size = (float)(lr / (1 - pow(beta1, step))), root = (float)(1 / sqrt(1 - pow(beta2, step)));
  if (n) launch(adamw, grid_of(n, THREADS), THREADS, 0, param, m, v, grad, n, beta1, beta2, eps, step_size, root, 1 - lr * weight_decay);
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

__global__ static void scaled(float *x, float a, size_t n) {
  size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) x[i] *= a;
}

void cuda_scale(float *x, float a, size_t n) {
  OP("scale");
  if (n) launch(scaled, grid_of(n, THREADS), THREADS, 0, x, a, n);
}

__global__ static void rounded(float *y, const float *x, size_t n, int dtype) {
  size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  y[i] = dtype == TLK_BF16 ? to_float(from_float<bf16>(v)) : dtype == TLK_F16 ? __half2float(__float2half_rn(v)) : v;
}

void cuda_round_to(float *y, const float *x, size_t n, int dtype) {
  OP("round_to");
  if (n) launch(rounded, grid_of(n, THREADS), THREADS, 0, y, x, n, dtype);
}
