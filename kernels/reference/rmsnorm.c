// rmsnorm.c: root mean square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467) (reference).
//
//   fwd  rstd = 1 / sqrt(mean_c(x_c^2) + eps),  y_c = x_c rstd gain_c
//   bwd  with e_c = dy_c gain_c:  dx_c = rstd (e_c - x_c rstd^2 mean(e x)),  dgain_c = sum_t dy_c x_c rstd
#include "ref.h"

void ref_rmsnorm_fwd(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C) {
  for (int t = 0; t < T; t++, x += C) {
    double ss = 0;
    for (int c = 0; c < C; c++) ss += (double)x[c] * x[c];
    double r = 1 / sqrt(ss / C + eps);
    for (int c = 0; c < C; c++) ref_put(y, t, c, x[c] * r * gain[c]);
    rstd[t] = (float)r;
  }
}

static void gain_bwd(float *dgain, const float *dy, const float *x, const float *rstd, int T, int C) {
  for (int c = 0; c < C; c++) {
    double s = 0;
    for (int t = 0; t < T; t++) s += (double)dy[(size_t)t * C + c] * x[(size_t)t * C + c] * rstd[t];
    dgain[c] += (float)s;
  }
}

void ref_rmsnorm_bwd(float *dx, float *dgain, const float *dy, const float *x, const float *gain, const float *rstd, int T,
                     int C) {
  if (dgain) gain_bwd(dgain, dy, x, rstd, T, C);
  for (int t = 0; t < T; t++, dx += C, dy += C, x += C) {
    double r = rstd[t], ex = 0;
    for (int c = 0; c < C; c++) ex += (double)dy[c] * gain[c] * x[c];
    for (int c = 0; c < C; c++) dx[c] = (float)(dx[c] + r * ((double)dy[c] * gain[c] - x[c] * r * r * ex / C));
  }
}
