// rope.c: rotary positions (Su et al. 2021), half-split as in Hugging Face, and conversion of rows.
//   (a, b) at (i, i + D/2) -> (a c - b s, b c + a s); the gradient is the rotation by the opposite angle.
#include "cpu.h"

enum { MAX_HALF = 512 };

// cos and sin of a position, apart; pairs beyond MAX_HALF are handled by the caller's pieces
INLINE void split(float *c, float *s, const float *pairs, int n) {
  for (int i = 0; i < n; i++) c[i] = pairs[2 * i], s[i] = pairs[2 * i + 1];
}

// one head's pairs i0 .. i0 + n
INLINE void rotate(void *y, int yb, const void *x, int xb, const float *c, const float *s, int i0, int n, int half, float sign) {
  for (int i = 0; i < n; i += VL) {
    vf a = v_load_as(x, xb, i0 + i, n - i), b = v_load_as(x, xb, half + i0 + i, n - i);
    vf cv = v_loadn(c + i, n - i, 0), sv = v_loadn(s + i, n - i, 0) * v_set(sign);
    v_store_as(y, yb, i0 + i, v_fma(a, cv, -(b * sv)), n - i);
    v_store_as(y, yb, half + i0 + i, v_fma(b, cv, a * sv), n - i);
  }
}

static void rotate_rows(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads,
                        int D, float sign) {
  int half = D / 2, yb = y.dtype == TLK_BF16, xb = x.dtype == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)T * heads * D)) schedule(static)
  for (int t = 0; t < T; t++) {
    const char *in = mat_row(x, t);
    char *out = mat_row_out(y, out_rows ? out_rows[t] : t);
    float c[MAX_HALF], s[MAX_HALF];
    for (int i0 = 0; i0 < half; i0 += MAX_HALF) {
      int n = min_int(MAX_HALF, half - i0);
      split(c, s, table + ((size_t)pos[t] * half + i0) * 2, n);
      for (int h = 0; h < heads; h++)
        rotate(out + (size_t)h * D * (yb ? 2 : 4), yb, in + (size_t)h * D * (xb ? 2 : 4), xb, c, s, i0, n, half, sign);
    }
  }
}

void OP(rope_fwd)(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads,
                  int D) {
  rotate_rows(y, out_rows, x, pos, table, T, heads, D, 1);
}

void OP(rope_bwd)(tlk_mat dx, tlk_mat dy, const int32_t *pos, const float *table, int T, int heads, int D) {
  rotate_rows(dx, NULL, dy, pos, table, T, heads, D, -1);
}

void OP(cast)(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C) {
#pragma omp parallel for num_threads(threads_for((double)T * C)) schedule(static)
  for (int t = 0; t < T; t++)
    OP(convert)(mat_row_out(y, out_rows ? out_rows[t] : t), y.dtype == TLK_BF16, mat_row(x, t), x.dtype == TLK_BF16, C);
}
