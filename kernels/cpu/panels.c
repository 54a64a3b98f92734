// panels.c: filling panels (cpu.h): transposition of 32-bit words, pairing of bf16 rows, conversion.
#include "cpu.h"

// Transposes the VL x VL words in x: VL = 2^s stages of exchanging blocks of 1, 2, 4, ... lanes between rows that far apart.
#define STAGE(d)                                                                                                              \
  _Pragma("GCC unroll 16") for (int i = 0; i < VL; i++) if (!(i & (d))) {                                                     \
    vu a = x[i], b = x[i + (d)];                                                                                              \
    vi low, high;                                                                                                             \
    _Pragma("GCC unroll 16") for (int l = 0; l < VL; l++) {                                                                   \
      low[l] = l & (d) ? VL + l - (d) : l;                                                                                    \
      high[l] = l & (d) ? VL + l : l + (d);                                                                                   \
    }                                                                                                                         \
    x[i] = __builtin_shuffle(a, b, low);                                                                                      \
    x[i + (d)] = __builtin_shuffle(a, b, high);                                                                               \
  }
INLINE void transpose(vu x[VL]) {
  STAGE(1)
  STAGE(2)
#if VL >= 8
  STAGE(4)
#endif
#if VL >= 16
  STAGE(8)
#endif
}

INLINE vu load_words(const void *p, int n) {
  if (n >= VL) return *(const vu_mem *)p;
  uint32_t w[VL] = {0};
  if (n > 0) memcpy(w, p, (size_t)n * 4);
  return *(const vu_mem *)w;
}

void OP(panel_strip)(uint32_t *dst, const void *const *rows, int n_rows, int n_words) {
  for (int w = 0; w < n_words; w += VL) {
    vu x[VL];
    for (int i = 0; i < VL; i++) x[i] = i < n_rows ? load_words((const char *)rows[i] + (size_t)w * 4, n_words - w) : (vu){0};
    transpose(x);
    for (int i = 0; i < min_int(VL, n_words - w); i++) *(vu_mem *)(dst + (size_t)(w + i) * PANEL) = x[i];
  }
}

void OP(panel_of_rows)(uint32_t *dst, const void *const *rows, int n_rows, int n_words) {
  for (int r = 0; r < PANEL; r += VL) OP(panel_strip)(dst + r, rows + r, max_int(0, min_int(VL, n_rows - r)), n_words);
}

// one step of bf16 pairs: low halves from a, high halves from b
INLINE void pair_rows(uint32_t *dst, const uint16_t *a, const uint16_t *b, int n) {
  for (int j = 0; j < PANEL; j += VL) {
    vu low = (vu)v_from_bf16(v_loadh(a + j, max_int(n - j, 0))) >> 16;
    vu high = b ? (vu)v_from_bf16(v_loadh(b + j, max_int(n - j, 0))) : (vu){0};
    *(vu_mem *)(dst + j) = low | high;
  }
}

void OP(panel_of_columns)(void *dst, int bf16, tlk_mat m, int t0, int t1, int c0, int n_cols) {
  size_t at = (size_t)c0 * tlk_dtype_size(m.dtype);
  if (bf16)
    for (int t = t0; t < t1; t += 2, dst = (char *)dst + STEP_BYTES)
      pair_rows(dst, (const void *)((const char *)mat_row(m, t) + at),
                t + 1 < t1 ? (const void *)((const char *)mat_row(m, t + 1) + at) : NULL, n_cols);
  else
    for (int t = t0; t < t1; t++, dst = (char *)dst + STEP_BYTES)
      for (int j = 0; j < PANEL; j += VL)
        v_store((float *)dst + j, v_load_as((const char *)mat_row(m, t) + at, m.dtype == TLK_BF16, j, max_int(n_cols - j, 0)));
}

// fp32: words (k, n) -> (n, k). bf16: words are pairs along k; their transposition has rows n of k, paired then along n.
void OP(panel_transposed)(uint32_t *dst, const tlk_packed *w, int k0, int n0, int n1) {
  int bf16 = w->compute == TLK_BF16, s0 = bf16 ? k0 / 2 : k0;
  int n_words = min_int(bf16 ? PANEL / 2 : PANEL, w->steps - s0);
  const void *rows[PANEL];
  uint32_t turned[PANEL * PANEL];
  for (int n = n0; n < n1; n += PANEL) {
    const uint32_t *panel = w->data + (size_t)(n / PANEL) * w->panel_words + (size_t)s0 * PANEL;
    for (int i = 0; i < n_words; i++) rows[i] = panel + (size_t)i * PANEL;
    if (!bf16) {
      OP(panel_of_rows)(dst, rows, n_words, PANEL);
      dst += PANEL * PANEL;
      continue;
    }
    OP(panel_of_rows)(turned, rows, n_words, PANEL);
    for (int i = 0; i < PANEL; i += 2, dst += PANEL)
      pair_rows(dst, (const uint16_t *)(turned + i * PANEL), (const uint16_t *)(turned + (i + 1) * PANEL), PANEL);
  }
}

void OP(convert)(void *y, int y_bf16, const void *x, int x_bf16, int n) {
  for (int i = 0; i < n; i += VL) v_store_as(y, y_bf16, i, v_load_as(x, x_bf16, i, n - i), n - i);
}

tlk_mat OP(as_act)(tlk_mat x, int T, int C, int compute) {
  if (x.dtype == compute) return x;
  tlk_mat y = {tlk_cpu_scratch(SCRATCH_ACT, (size_t)T * C * tlk_dtype_size(compute)), compute, C};
  OP(cast)(y, NULL, x, T, C);
  return y;
}
