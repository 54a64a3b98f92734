// attention.h: what the forward and backward of attention share: dot products of one row with VL gathered rows.
//
// Rows are seen as 32-bit words (one fp32, or two bf16 neighbours). Scores of VL keys at a time are made as VL vectors of partial
// products, then reduced together by a tree of exchanges: lane l of the result is key l's product. Keys are grouped by absolute
// position (position mod VL is the lane), so a score's bits do not depend on what is computed beside it.
#ifndef TL_CPU_ATTENTION_H
#define TL_CPU_ATTENTION_H
#include "cpu.h"

enum { MAX_WORDS = 512 };  // of a head: D up to 512 in fp32, 1024 in bf16

INLINE vu words_at(const void *p, int n) {
  if (n >= VL) return *(const vu_mem *)p;
  uint32_t w[VL] = {0};
  memcpy(w, p, (size_t)n * 4);
  return *(const vu_mem *)w;
}
INLINE vf multiply_words(int bf16, vf acc, vu a, vu b) {
  if (!bf16) return v_fma((vf)a, (vf)b, acc);
#ifdef __AVX512BF16__
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
  acc = v_fma((vf)(a << 16), (vf)(b << 16), acc);
  return v_fma((vf)(a & 0xffff0000u), (vf)(b & 0xffff0000u), acc);
#endif
}

// lane l: l & d ? b[l] + b[l ^ d] : a[l] + a[l ^ d]
#define MERGE(d)                                                                                                              \
  INLINE vf merge##d(vf a, vf b) {                                                                                            \
    vi low, high;                                                                                                             \
    _Pragma("GCC unroll 16") for (int l = 0; l < VL; l++) {                                                                   \
      low[l] = l & (d) ? VL + l - (d) : l;                                                                                    \
      high[l] = l & (d) ? VL + l : l + (d);                                                                                   \
    }                                                                                                                         \
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);                                                      \
  }
MERGE(1)
MERGE(2)
#if VL >= 8
MERGE(4)
#endif
#if VL >= 16
MERGE(8)
#endif

// lane l of the result: the sum of the lanes of x[l]
INLINE vf sum_rows(vf x[VL]) {
#pragma GCC unroll 8
  for (int i = 0; i < VL / 2; i++) x[i] = merge1(x[2 * i], x[2 * i + 1]);
#pragma GCC unroll 4
  for (int i = 0; i < VL / 4; i++) x[i] = merge2(x[2 * i], x[2 * i + 1]);
#if VL >= 8
#pragma GCC unroll 2
  for (int i = 0; i < VL / 8; i++) x[i] = merge4(x[2 * i], x[2 * i + 1]);
#endif
#if VL >= 16
  x[0] = merge8(x[0], x[1]);
#endif
  return x[0];
}

// products of q (words) with the n <= VL rows; lanes from n on are 0
INLINE vf dot_keys(int bf16, const uint32_t *q, const char *const *rows, int n, int words) {
  vf acc[VL];
#pragma GCC unroll 16
  for (int i = 0; i < VL; i++) acc[i] = (vf){0};
  if (n == VL && words % VL == 0) {
    for (int w = 0; w < words; w += VL) {
      vu qv = *(const vu_mem *)(q + w);
#pragma GCC unroll 16
      for (int i = 0; i < VL; i++) acc[i] = multiply_words(bf16, acc[i], qv, *(const vu_mem *)(rows[i] + (size_t)w * 4));
    }
  } else {
    for (int w = 0; w < words; w += VL) {
      vu qv = words_at(q + w, words - w);
      for (int i = 0; i < n; i++) acc[i] = multiply_words(bf16, acc[i], qv, words_at(rows[i] + (size_t)w * 4, words - w));
    }
  }
  return sum_rows(acc);
}

// the rows of keys j0 .. j0 + n - 1 of a list, at head offset `at` bytes
INLINE void gather_rows(const char **rows, tlk_mat m, const int32_t *list, int j0, int n, size_t at) {
  size_t stride = (size_t)m.ld * tlk_dtype_size(m.dtype);
  for (int i = 0; i < n; i++) rows[i] = (const char *)m.p + (size_t)list[j0 + i] * stride + at;
}

INLINE vi lanes(void) {
  vi x;
#pragma GCC unroll 16
  for (int i = 0; i < VL; i++) x[i] = i;
  return x;
}
INLINE vi set_vi(int a) { return a - (vi){0}; }
#endif
