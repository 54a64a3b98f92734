// rope.c: rotary position embedding (Su et al. 2021), half-split as in Hugging Face, its inverse, and the conversion of rows.
#include "cpu.h"

// (a, b) at (i, i + D/2) -> (a c - b s, b c + a s); sign -1 is the inverse. table row: c, s interleaved.
static void rotate(void *y, int y_bf16, const void *x, int x_bf16, const float *table, float sign, int heads, int D) {
  int half = D / 2;
  for (int i = 0; i < half; i += VL) {
    int n = min_int(VL, half - i);
    float c[VL] = {0}, s[VL] = {0};
    for (int l = 0; l < n; l++) c[l] = table[2 * (i + l)], s[l] = sign * table[2 * (i + l) + 1];
    vf vc = v_load(c), vs = v_load(s);
    for (int h = 0; h < heads; h++) {
      vf a = v_load_as(x, x_bf16, h * D + i, n), b = v_load_as(x, x_bf16, h * D + half + i, n);
      v_store_as(y, y_bf16, h * D + i, v_fma(a, vc, -(b * vs)), n);
      v_store_as(y, y_bf16, h * D + half + i, v_fma(b, vc, a * vs), n);
    }
  }
}

void OP(rope_fwd)(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads, int D) {
#pragma omp parallel for num_threads(threads_for((double)T * heads * D)) schedule(static)
  for (int t = 0; t < T; t++)
    rotate(mat_row_out(y, out_rows ? out_rows[t] : t), y.dtype == TLK_BF16, mat_row(x, t), x.dtype == TLK_BF16,
           table + (size_t)pos[t] * D, 1, heads, D);
}

void OP(rope_bwd)(tlk_mat dx, tlk_mat dy, const int32_t *pos, const float *table, int T, int heads, int D) {
#pragma omp parallel for num_threads(threads_for((double)T * heads * D)) schedule(static)
  for (int t = 0; t < T; t++)
    rotate(mat_row_out(dx, t), dx.dtype == TLK_BF16, mat_row(dy, t), dy.dtype == TLK_BF16, table + (size_t)pos[t] * D, -1, heads, D);
}

void OP(cast)(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C) {
#pragma omp parallel for num_threads(threads_for((double)T * C)) schedule(static)
  for (int t = 0; t < T; t++)
    OP(convert)(mat_row_out(y, out_rows ? out_rows[t] : t), y.dtype == TLK_BF16, mat_row(x, t), x.dtype == TLK_BF16, C);
}
