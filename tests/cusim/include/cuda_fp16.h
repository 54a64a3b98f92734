// cuda_fp16.h (cusim): half precision as kernels/cuda uses it: storage and conversion to and from fp32 (to nearest even).
#ifndef CUSIM_CUDA_FP16_H
#define CUSIM_CUDA_FP16_H
#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
};
static inline float __half2float(__half h) {
  int e = h.bits >> 10 & 31, m = h.bits & 1023;
  float v = e == 31 ? (m ? NAN : INFINITY) : (float)(e ? 1024 + m : m) * (float)(1u << (e ? e : 1)) * 0x1p-25f;
  return h.bits >> 15 ? -v : v;
}
static inline __half __float2half_rn(float f) {
  uint16_t sign = (uint16_t)(__float_as_uint(f) >> 16 & 0x8000);
  float a = fabsf(f);
  if (f != f) return {0x7fff};
  if (a >= 65520) return {(uint16_t)(sign | 0x7c00)};
  if (a < 0x1p-14f) return {(uint16_t)(sign | (int)nearbyintf(a * 0x1p24f))};  // subnormal; 1024 of them are the first normal one
  unsigned u = __float_as_uint(a);
  return {(uint16_t)(sign | (((u + 0xfff + (u >> 13 & 1)) >> 13) - (112 << 10)))};  // a carry runs into the exponent, as it must
}
static inline unsigned short __half_as_ushort(__half h) { return h.bits; }
static inline __half __ushort_as_half(unsigned short u) { return {u}; }
#endif
