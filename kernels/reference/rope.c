// rope.c: rotary position embedding (Su et al. 2021, arXiv:2104.09864), half-split as in Hugging Face, and the conversion of
// rows (reference).
//
//   fwd  for every head and i < D/2, with (c, s) = table[pos][i]:  (a, b) at (i, i + D/2) -> (a c - b s, b c + a s)
//   bwd  the inverse rotation:                                     (a, b)                -> (a c + b s, b c - a s)
#include "ref.h"

static void rotate_row(tlk_mat y, int to, tlk_mat x, int from, const float *cs, double sign, int heads, int D) {
  int half = D / 2;
  for (int h = 0; h < heads; h++)
    for (int i = 0; i < half; i++) {
      int at = h * D + i;
      double c = cs[2 * i], s = sign * cs[2 * i + 1];
      double a = ref_get(x, from, at), b = ref_get(x, from, at + half);
      ref_put(y, to, at, a * c - b * s);
      ref_put(y, to, at + half, b * c + a * s);
    }
}

void ref_rope_fwd(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads,
                  int D) {
  for (int t = 0; t < T; t++)
    if (!out_rows || out_rows[t] >= 0)
      rotate_row(y, out_rows ? out_rows[t] : t, x, t, table + (size_t)pos[t] * D, 1, heads, D);
}

void ref_rope_bwd(tlk_mat dx, tlk_mat dy, const int32_t *pos, const float *table, int T, int heads, int D) {
  for (int t = 0; t < T; t++) rotate_row(dx, t, dy, t, table + (size_t)pos[t] * D, -1, heads, D);
}

void ref_cast(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C) {
  for (int t = 0; t < T; t++)
    for (int c = 0; c < C && (!out_rows || out_rows[t] >= 0); c++) ref_put(y, out_rows ? out_rows[t] : t, c, ref_get(x, t, c));
}

void ref_gather(tlk_mat y, tlk_mat x, const int32_t *rows, int T, int C) {
  for (int t = 0; t < T; t++)
    for (int c = 0; c < C; c++) ref_put(y, t, c, ref_get(x, rows[t], c));
}
