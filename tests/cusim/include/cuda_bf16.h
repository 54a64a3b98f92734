// cuda_bf16.h (cusim): bfloat16 as kernels/cuda uses it: storage, conversion to and from fp32 (to nearest even, NaN kept).
#ifndef CUSIM_CUDA_BF16_H
#define CUSIM_CUDA_BF16_H
#include "cuda_runtime.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
static inline float __bfloat162float(__nv_bfloat16 h) { return __uint_as_float((unsigned)h.bits << 16); }
static inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  unsigned u = __float_as_uint(f);
  return {(uint16_t)(f != f ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16)};  // CUDA's NaN
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { return {u}; }
#endif
