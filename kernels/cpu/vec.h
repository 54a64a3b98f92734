// vec.h: one vector type for every instruction set.
//
// The sources of kernels/cpu are compiled once per instruction set (cpu.cmake). A `vf` is one register of floats: 16 lanes
// with AVX-512, 8 with AVX2, 4 otherwise. Arithmetic is GCC's vector extension. Contraction of a * b + c by the compiler is
// off (-ffp-contract=off): a fused multiply-add is written v_fma, so that the bits of an element never depend on where the
// compiler inlined an expression. Tails run the same vector code with the missing lanes filled in (v_loadn, v_storen).
#ifndef TL_CPU_VEC_H
#define TL_CPU_VEC_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else
#define VL 4
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));
// the same in memory at any alignment
typedef vf vf_mem __attribute__((aligned(4), may_alias));
typedef vu vu_mem __attribute__((aligned(2), may_alias));
typedef vh vh_mem __attribute__((aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline, unused))

INLINE vf v_set(float a) { return a - (vf){0}; }
INLINE vu v_setu(uint32_t a) { return a - (vu){0}; }
INLINE vf v_load(const float *p) { return *(const vf_mem *)p; }
INLINE void v_store(float *p, vf x) { *(vf_mem *)p = x; }

INLINE vf v_fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}
INLINE vf v_sqrt(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}
INLINE vf v_select(vi mask, vf a, vf b) {
#if defined(__AVX512DQ__)
  return (vf)_mm512_mask_mov_ps((__m512)b, _mm512_movepi32_mask((__m512i)mask), (__m512)a);
#else
  return (vf)(((vi)a & mask) | ((vi)b & ~mask));
#endif
}
INLINE vf v_max(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return v_select(a > b, a, b);
#endif
}

// the first n lanes (0 <= n; n >= VL is a full load), the others are `fill`
INLINE vf v_loadn(const float *p, int n, float fill) {
  if (n >= VL) return v_load(p);
#if defined(__AVX512F__)
  return (vf)_mm512_mask_loadu_ps((__m512)v_set(fill), (__mmask16)((1u << n) - 1), p);
#else
  vf x = v_set(fill);
  for (int i = 0; i < n; i++) x[i] = p[i];
  return x;
#endif
}
INLINE void v_storen(float *p, vf x, int n) {
  if (n >= VL) {
    v_store(p, x);
    return;
  }
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
#else
  for (int i = 0; i < n; i++) p[i] = x[i];
#endif
}

// bf16 <-> fp32. Rounding is to nearest even; NaN stays NaN. Where the processor converts, subnormal numbers become 0, which
// its products of bf16 take them for anyway.
INLINE vu v_words(vh h) {
#if defined(__AVX512F__)
  return (vu)_mm512_cvtepu16_epi32((__m256i)h);
#else
  return __builtin_convertvector(h, vu);
#endif
}
INLINE vf v_from_bf16(vh h) { return (vf)(v_words(h) << 16); }
INLINE vh v_to_bf16(vf x) {
#if defined(__AVX512BF16__)
  return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
  vu b = (vu)x;
  vu r = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
  vu nan = (b >> 16) | 0x40;
  vi is_nan = x != x;
  r = (r & ~(vu)is_nan) | (nan & (vu)is_nan);
  return __builtin_convertvector(r, vh);
#endif
}
// 32-bit words of two bf16, as v_from_bf16 and products of pairs take them apart
INLINE vf v_pair(vh low, vh high) { return (vf)(v_words(low) | v_words(high) << 16); }
// fp16 <-> fp32, to nearest even; beyond 65504 and half a step: infinity
INLINE vf v_from_f16(vh h) {
#if defined(__AVX512F__)
  return (vf)_mm512_cvtph_ps((__m256i)h);
#elif defined(__AVX2__)
  return (vf)_mm256_cvtph_ps((__m128i)h);
#else
  vu u = __builtin_convertvector(h, vu), special = (vu)((u & 0x7c00) == 0x7c00), bits = (u & 0x7fff) << 13;
  vu finite = (vu)((vf)bits * v_set(0x1p112f));  // the exponent's bias; subnormals too
  return (vf)((u & 0x8000) << 16 | (finite & ~special) | ((bits | 0x70000000) & special));
#endif
}
INLINE vh v_to_f16(vf x) {
#if defined(__AVX512F__)
  return (vh)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
  return (vh)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  vu b = (vu)x, sign = b >> 16 & 0x8000, a = b & 0x7fffffff;
  vu large = (vu)(a >= 0x477ff000), nan = (vu)(a > 0x7f800000), small = (vu)(a < 0x38800000);
  vu normal = ((a + 0xfff + (a >> 13 & 1)) >> 13) - (112 << 10);
  vu subnormal = (vu)((vf)a + v_set(0.5f)) - 0x3f000000;  // the last place of 0.5 is 2^-24
  vu r = (subnormal & small) | (normal & ~small);
  r = (r & ~large) | (0x7c00 & large) | (0x0200 & nan);
  return __builtin_convertvector(r | sign, vh);
#endif
}
INLINE vh v_loadh(const uint16_t *p, int n) {
  if (n >= VL) return *(const vh_mem *)p;
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return (vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
#else
  vh x = {0};
  for (int i = 0; i < n; i++) x[i] = p[i];
  return x;
#endif
}
INLINE void v_storeh(uint16_t *p, vh x, int n) {
  if (n >= VL) {
    *(vh_mem *)p = x;
    return;
  }
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)x);
#else
  for (int i = 0; i < n; i++) p[i] = x[i];
#endif
}
// n lanes of a row at element i. dtype: of the row, TLK_F32 (0), TLK_BF16 (1) or TLK_F16
INLINE vf v_load_as(const void *row, int dtype, int i, int n) {
  if (dtype == 0) return v_loadn((const float *)row + i, n, 0);
  vh h = v_loadh((const uint16_t *)row + i, n);
  return dtype == 1 ? v_from_bf16(h) : v_from_f16(h);
}
INLINE void v_store_as(void *row, int dtype, int i, vf x, int n) {
  if (dtype == 0)
    v_storen((float *)row + i, x, n);
  else
    v_storeh((uint16_t *)row + i, dtype == 1 ? v_to_bf16(x) : v_to_f16(x), n);
}

// sums and maxima over lanes, in a fixed tree: lane i takes lane i + VL / 2, then i + VL / 4 ...
#if defined(__AVX2__)
#if defined(__AVX512F__)
#define HALVED(x, op) _mm256_##op##_ps(_mm512_castps512_ps256((__m512)x), _mm512_extractf32x8_ps((__m512)x, 1))
#else
#define HALVED(x, op) (__m256) x
#endif
#define FOLD(x, op)                                                                                                           \
  __m256 e = HALVED(x, op);                                                                                                   \
  __m128 q = _mm_##op##_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));                                           \
  q = _mm_##op##_ps(q, _mm_movehl_ps(q, q));                                                                                  \
  return _mm_cvtss_f32(_mm_##op##_ss(q, _mm_movehdup_ps(q)));
INLINE float v_sum(vf x) { FOLD(x, add) }
INLINE float v_hmax(vf x) { FOLD(x, max) }
#else
INLINE float v_sum(vf x) { return x[0] + x[2] + (x[1] + x[3]); }
INLINE float v_hmax(vf x) {
  float a = x[0] > x[2] ? x[0] : x[2], b = x[1] > x[3] ? x[1] : x[3];
  return a > b ? a : b;
}
#endif

// exp, to about 2 ulp: x = n ln 2 + r with |r| <= ln 2 / 2 (two-part ln 2), 1 + r + r^2 p(r) with p of degree 4 fitted to the
// least largest relative error on that interval (3e-9), times 2^n. Below -87.3 the result is 0, above 88.37 it is e^88.37.
INLINE vf v_exp(vf x) {
  const vf magic = v_set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
#if defined(__AVX512F__)
  __mmask16 above = _mm512_cmp_ps_mask((__m512)x, (__m512)v_set(-87.3f), _CMP_NLT_UQ);  // a NaN is
  x = (vf)_mm512_min_ps((__m512)v_set(88.37f), (__m512)x);                               // and stays here
  x = (vf)_mm512_max_ps((__m512)v_set(-87.3f), (__m512)x);
#else
  vi tiny = x < v_set(-87.3f);
  x = v_select(x > v_set(88.37f), v_set(88.37f), x);
  x = v_select(tiny, v_set(-87.3f), x);
#endif
  vf t = v_fma(x, v_set(1.44269504f), magic);
  vf n = t - magic;
  vf r = v_fma(n, v_set(-0.693359375f), x);
  r = v_fma(n, v_set(2.12194440e-4f), r);
  vf p = v_fma(v_set(1.38145395e-3f), r, v_set(8.36874545e-3f));
  p = v_fma(p, r, v_set(4.16683890e-2f));
  p = v_fma(p, r, v_set(1.66665211e-1f));
  p = v_fma(p, r, v_set(4.99999940e-1f));
  p = v_fma(p, r, v_set(1.0f));
  p = v_fma(p, r, v_set(1.0f));
  vf scale = (vf)(((vi)t - (vi)magic + 127) << 23);
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_mul_ps(above, (__m512)p, (__m512)scale);
#else
  return v_select(tiny, v_set(0), p * scale);
#endif
}

INLINE vf v_sigmoid(vf g) { return v_set(1) / (v_set(1) + v_exp(-g)); }
INLINE vf v_swiglu(vf g, vf u) { return g * v_sigmoid(g) * u; }
// dgate and *dup from dh = d of h = silu(gate) up (swiglu.c)
INLINE vf v_swiglu_back(vf g, vf u, vf d, vf *dup) {
  vf s = v_sigmoid(g), slope = s * v_fma(g, v_set(1) - s, v_set(1));
  *dup = d * g * s;
  return d * u * slope;
}
// (a, b) turned by the angle of cosine c and sine s (rope.c): returns the first, *second the other
INLINE vf v_rotate(vf a, vf b, vf c, vf s, vf *second) {
  *second = v_fma(b, c, a * s);
  return v_fma(a, c, -(b * s));
}
// x as a row of that dtype holds it
INLINE vf v_as(vf x, int dtype) { return dtype == 0 ? x : dtype == 1 ? v_from_bf16(v_to_bf16(x)) : v_from_f16(v_to_f16(x)); }
#endif
