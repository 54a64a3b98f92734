// cuda_fp16.h (cusim): half precision as kernels/cuda uses it: storage and conversion to and from fp32 (to nearest even).
#ifndef CUSIM_CUDA_FP16_H
#define CUSIM_CUDA_FP16_H
#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
};
static inline float __half2float(__half h) {
  int e = h.bits >> 10 & 31, m = h.bits & 1023;
  float v = e == 0 ? ldexpf((float)m, -24) : e == 31 ? (m ? NAN : INFINITY) : ldexpf((float)(1024 + m), e - 25);
  return h.bits >> 15 ? -v : v;
}
static inline __half __float2half_rn(float f) {
  uint16_t sign = (uint16_t)(__float_as_uint(f) >> 16 & 0x8000);
  float a = fabsf(f);
  if (f != f) return {0x7fff};
  if (a == 0) return {sign};
  if (a >= 65520) return {(uint16_t)(sign | 0x7c00)};
  int e;
  frexpf(a, &e);
  int step = e - 11 < -24 ? -24 : e - 11;
  int m = (int)nearbyintf(ldexpf(a, -step));
  return {(uint16_t)(sign | (step == -24 ? m : ((step + 24) << 10) + m))};  // a carry runs into the exponent, as it must
}
static inline unsigned short __half_as_ushort(__half h) { return h.bits; }
static inline __half __ushort_as_half(unsigned short u) { return {u}; }
#endif
