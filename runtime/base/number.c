// number.c: bf16 and fp16 scalars, and the names of the dtypes. All roundings are to nearest, ties to even.
#include "base.h"

uint16_t tl_f32_to_bf16(float f) {
  union { float f; uint32_t u; } x = {f};
  if ((x.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((x.u >> 16) | 0x40);  // NaN stays NaN
  return (uint16_t)((x.u + 0x7fffu + ((x.u >> 16) & 1)) >> 16);
}

float tl_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 1023;
  union { uint32_t u; float f; } x;
  if (exp == 31) x.u = sign | 0x7f800000u | man << 13;
  else if (exp) x.u = sign | (exp + 112) << 23 | man << 13;
  else {
    x.f = (float)man * 0x1p-24f;  // subnormal or zero, exact
    x.u |= sign;
  }
  return x.f;
}

uint16_t tl_f32_to_f16(float f) {
  union { float f; uint32_t u; } x = {f}, y;
  uint16_t sign = (uint16_t)((x.u >> 16) & 0x8000);
  x.u &= 0x7fffffffu;
  if (x.u > 0x7f800000u) return sign | 0x7e00;        // NaN
  if (x.u >= 0x477ff000u) return sign | 0x7c00;       // 65520 and above round to infinity
  if (x.u < 0x38800000u) {                            // subnormal: adding 0.5 puts the rounding at 2^-24
    y.f = x.f + 0.5f;
    return sign | (uint16_t)(y.u - 0x3f000000u);
  }
  uint32_t r = x.u + 0xfffu + ((x.u >> 13) & 1);
  return sign | (uint16_t)((r - 0x38000000u) >> 13);
}

const char *tl_dtype_name(int dtype) {
  switch (dtype) {
  case TL_F32: return "F32";
  case TL_BF16: return "BF16";
  case TL_F16: return "F16";
  case TL_I32: return "I32";
  case TL_I8: return "I8";
  default: return "?";
  }
}
