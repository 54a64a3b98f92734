// optim.c: AdamW (Loshchilov & Hutter 2019) and small operations on vectors. Numbers are independent of each other; the sum of
// squares is made in blocks of a fixed size that are added in order.
#include "cpu.h"

void OP(adamw)(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
               float weight_decay, int step) {
  vf b1 = v_set(beta1), b2 = v_set(beta2), c1 = v_set(1 - beta1), c2 = v_set(1 - beta2), e = v_set(eps);
  vf rate = v_set((float)((double)lr / (1 - pow((double)beta1, step))));
  vf unbias2 = v_set((float)(1 / sqrt(1 - pow((double)beta2, step)))), keep = v_set((float)(1 - (double)lr * weight_decay));
  int64_t blocks = (int64_t)((n + 4095) / 4096);
#pragma omp parallel for num_threads(threads_for((double)n)) schedule(static)
  for (int64_t block = 0; block < blocks; block++) {
    size_t end = (size_t)(block + 1) * 4096 < n ? (size_t)(block + 1) * 4096 : n;
    for (size_t i = (size_t)block * 4096; i < end; i += VL) {
      int left = end - i < VL ? (int)(end - i) : VL;
      vf g = v_loadn(grad + i, left, 0);
      vf mi = v_fma(b1, v_loadn(m + i, left, 0), c1 * g), vi_ = v_fma(b2, v_loadn(v + i, left, 0), c2 * g * g);
      vf p = v_loadn(param + i, left, 0) * keep - rate * mi / v_fma(v_sqrt(vi_), unbias2, e);
      v_storen(param + i, p, left);
      v_storen(m + i, mi, left);
      v_storen(v + i, vi_, left);
    }
  }
}

double OP(sumsq)(const float *x, size_t n) {
  int64_t blocks = (int64_t)((n + 4095) / 4096);
  double *part = tlk_cpu_scratch(SCRATCH_D, sizeof(double) * (size_t)(blocks + 1)), sum = 0;
#pragma omp parallel for num_threads(threads_for((double)n)) schedule(static)
  for (int64_t b = 0; b < blocks; b++) {
    size_t end = (size_t)(b + 1) * 4096 < n ? (size_t)(b + 1) * 4096 : n;
    double s = 0;
    for (size_t i = (size_t)b * 4096; i < end; i++) s += (double)x[i] * x[i];
    part[b] = s;
  }
  for (int64_t b = 0; b < blocks; b++) sum += part[b];
  return sum;
}

void OP(scale)(float *x, float a, size_t n) {
#pragma omp parallel for num_threads(threads_for((double)n)) schedule(static)
  for (size_t i = 0; i < n; i++) x[i] *= a;
}

// Half precision by adding and subtracting a power of two that leaves 10 fraction bits; subnormals have a fixed last place.
static float round_f16(float f) {
  union { float f; uint32_t u; } x = {f}, p;
  uint32_t exponent = x.u >> 23 & 255;
  if (exponent == 255 || f == 0) return f;
  p.u = (exponent < 113 ? 113 + 13 : exponent + 13) << 23 | (x.u & 0x80000000u);
  volatile float sum = f + p.f;
  float y = sum - p.f;
  return y == 0 ? copysignf(0, f) : fabsf(y) > 65504 ? copysignf(INFINITY, f) : y;
}

void OP(round_to)(float *y, const float *x, size_t n, int dtype) {
#pragma omp parallel for num_threads(threads_for((double)n)) schedule(static)
  for (size_t i = 0; i < n; i++) {
    if (dtype == TLK_F16) {
      y[i] = round_f16(x[i]);
    } else if (dtype == TLK_BF16) {
      uint16_t h;
      OP(convert)(&h, 1, &x[i], 0, 1);
      OP(convert)(&y[i], 0, &h, 1, 1);
    } else {
      y[i] = x[i];
    }
  }
}
