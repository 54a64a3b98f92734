// optim.c: AdamW and small things on vectors of fp32. Threads take fixed pieces of 64 Ki numbers; sums are made per piece, in
// double, and added in order.
#include "cpu.h"

enum { PIECE = 65536 };
typedef double vd __attribute__((vector_size(VL * 8)));

INLINE int pieces(size_t n) { return (int)((n + PIECE - 1) / PIECE); }
INLINE int piece_size(size_t n, int i) { return (int)(n - (size_t)i * PIECE < PIECE ? n - (size_t)i * PIECE : PIECE); }

// Loshchilov & Hutter 2019: decay is decoupled; m and v are corrected for their start at zero.
void OP(adamw)(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
               float weight_decay, int step) {
  const float step_size = (float)(lr / (1 - pow(beta1, step))), root = (float)(1 / sqrt(1 - pow(beta2, step)));
  const vf b1 = v_set(beta1), b2 = v_set(beta2), c1 = v_set(1 - beta1), c2 = v_set(1 - beta2);
  const vf keep = v_set(1 - lr * weight_decay), a = v_set(-step_size), rt = v_set(root), e = v_set(eps);
#pragma omp parallel for num_threads(threads_for((double)n)) schedule(static)
  for (int i = 0; i < pieces(n); i++) {
    size_t at = (size_t)i * PIECE;
    int len = piece_size(n, i);
    for (int j = 0; j < len; j += VL) {
      size_t k = at + j;
      int rest = len - j;
      vf g = v_loadn(grad + k, rest, 0);
      vf mm = v_fma(b1, v_loadn(m + k, rest, 0), c1 * g);
      vf vv = v_fma(b2, v_loadn(v + k, rest, 0), c2 * g * g);
      vf p = v_fma(a, mm / (v_fma(v_sqrt(vv), rt, e)), v_loadn(param + k, rest, 0) * keep);
      v_storen(m + k, mm, rest);
      v_storen(v + k, vv, rest);
      v_storen(param + k, p, rest);
    }
  }
}

double OP(sumsq)(const float *x, size_t n) {
  int count = pieces(n);
  double *part = tlk_cpu_scratch(SCRATCH_A, sizeof(double) * (size_t)(count + 1)), sum = 0;
#pragma omp parallel for num_threads(threads_for((double)n)) schedule(static)
  for (int i = 0; i < count; i++) {
    vd s = {0};
    int len = piece_size(n, i);
    for (int j = 0; j < len; j += VL) {
      vd d = __builtin_convertvector(v_loadn(x + (size_t)i * PIECE + j, len - j, 0), vd);
      s += d * d;
    }
    part[i] = 0;
    for (int l = 0; l < VL; l++) part[i] += s[l];
  }
  for (int i = 0; i < count; i++) sum += part[i];
  return sum;
}

void OP(scale)(float *x, float a, size_t n) {
#pragma omp parallel for num_threads(threads_for((double)n)) schedule(static)
  for (int i = 0; i < pieces(n); i++) {
    float *p = x + (size_t)i * PIECE;
    int len = piece_size(n, i);
    for (int j = 0; j < len; j += VL) v_storen(p + j, v_loadn(p + j, len - j, 0) * v_set(a), len - j);
  }
}

// fp16: 10 bits of mantissa kept by adding and subtracting a power of two whose last place is the target's
static float round_f16(float x) {
  union { float f; uint32_t u; } v = {x}, big;
  uint32_t sign = v.u & 0x80000000u;
  v.u ^= sign;
  if (v.u >= 0x7f800000u) return x;
  uint32_t exponent = v.u >> 23 > 113 ? v.u >> 23 : 113;  // below 2^-14 the spacing stays 2^-24
  big.u = (exponent + 13) << 23;
  v.f = (v.f + big.f) - big.f;
  if (v.f > 65504) v.u = 0x7f800000u;
  v.u |= sign;
  return v.f;
}

void OP(round_to)(float *y, const float *x, size_t n, int dtype) {
#pragma omp parallel for num_threads(threads_for((double)n)) schedule(static)
  for (int i = 0; i < pieces(n); i++) {
    size_t at = (size_t)i * PIECE;
    int len = piece_size(n, i);
    if (dtype == TLK_F16) {
      for (int j = 0; j < len; j++) y[at + j] = round_f16(x[at + j]);
      continue;
    }
    for (int j = 0; j < len; j += VL) {
      vf v = v_loadn(x + at + j, len - j, 0);
      v_storen(y + at + j, dtype == TLK_BF16 ? v_from_bf16(v_to_bf16(v)) : v, len - j);
    }
  }
}
