// optim.c: AdamW and small operations on vectors (reference).
//
//   AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), step counts from 1:
//   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
//   param = (1 - lr wd) param - lr (m / (1 - b1^step)) / (sqrt(v / (1 - b2^step)) + eps)
#include "ref.h"

void ref_adamw(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
               float weight_decay, int step) {
  double b1 = beta1, b2 = beta2, unbias1 = 1 - pow(b1, step), unbias2 = 1 - pow(b2, step);
  for (size_t i = 0; i < n; i++) {
    double g = grad[i], mi = b1 * m[i] + (1 - b1) * g, vi = b2 * v[i] + (1 - b2) * g * g;
    param[i] = (float)((1 - (double)lr * weight_decay) * param[i] - lr * (mi / unbias1) / (sqrt(vi / unbias2) + eps));
    m[i] = (float)mi;
    v[i] = (float)vi;
  }
}

double ref_sumsq(const float *x, size_t n) {
  double s = 0;
  for (size_t i = 0; i < n; i++) s += (double)x[i] * x[i];
  return s;
}

void ref_scale(float *x, float a, size_t n) {
  for (size_t i = 0; i < n; i++) x[i] *= a;
}

// Half precision: sign, 5 exponent bits (bias 15), 10 fraction bits; exponent 0 is subnormal, 31 infinity or NaN.
float ref_from_f16(uint16_t h) {
  int exponent = h >> 10 & 31, fraction = h & 1023;
  double v = exponent == 0 ? fraction * 0x1p-24 : (1024 + fraction) * (double)(1u << exponent) * 0x1p-25;
  if (exponent == 31) v = fraction ? NAN : INFINITY;
  return (float)(h >> 15 ? -v : v);
}

float ref_round_f16(float f) {
  if (!(fabsf(f) < 65520)) return f != f ? f : copysignf(INFINITY, f);
  int e;
  frexpf(f, &e);                                            // |f| in [2^(e-1), 2^e)
  double step = (e > -13 ? 1 << (e + 13) : 1) * 0x1p-24;  // the value of the last place
  return (float)(nearbyint(f / step) * step);
}

uint16_t ref_to_f16(float f) {
  float y = fabsf(ref_round_f16(f));
  int sign = signbit(f) ? 0x8000 : 0;
  if (y != y) return (uint16_t)(sign | 0x7e00);
  if (isinf(y)) return (uint16_t)(sign | 0x7c00);
  if (y < 0x1p-14f) return (uint16_t)(sign | (int)(y * 0x1p24f));  // subnormal
  union { float f; uint32_t u; } bits = {y};
  return (uint16_t)(sign | ((bits.u >> 13) - ((127 - 15) << 10)));  // the same fields, narrower
}

void ref_round_to(float *y, const float *x, size_t n, int dtype) {
  for (size_t i = 0; i < n; i++)
    y[i] = dtype == TLK_BF16 ? ref_from_bf16(ref_to_bf16(x[i])) : dtype == TLK_F16 ? ref_round_f16(x[i]) : x[i];
}
