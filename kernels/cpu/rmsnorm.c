// rmsnorm.c: y = x rstd gain with rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019), and its gradient.
//
//   bwd  with u = dy gain and s = sum_c(u x) rstd^2 / C:   dx += rstd (u - x s),   dgain += sum_t dy x rstd
// Rows are independent; dgain's columns are, so both are shared among threads without changing a bit.
#include "cpu.h"

void OP(rmsnorm_fwd)(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C) {
  int bf16 = y.dtype == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)T * C)) schedule(static)
  for (int t = 0; t < T; t++) {
    const float *row = x + (size_t)t * C;
    vf sum = (vf){0};
    for (int c = 0; c < C; c += VL) {
      vf v = v_loadn(row + c, C - c, 0);
      sum = v_fma(v, v, sum);
    }
    float r = 1.0f / sqrtf(v_sum(sum) / (float)C + eps);
    rstd[t] = r;
    void *out = mat_row_out(y, t);
    for (int c = 0; c < C; c += VL) v_store_as(out, bf16, c, v_loadn(row + c, C - c, 0) * v_set(r) * v_loadn(gain + c, C - c, 0), C - c);
  }
}

void OP(rmsnorm_bwd)(float *dx, float *dgain, const float *dy, const float *x, const float *gain, const float *rstd, int T, int C) {
  int threads = threads_for((double)T * C);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int t = 0; t < T; t++) {
    const float *d = dy + (size_t)t * C, *row = x + (size_t)t * C;
    float *out = dx + (size_t)t * C;
    vf sum = (vf){0};
    for (int c = 0; c < C; c += VL)
      sum = v_fma(v_loadn(d + c, C - c, 0) * v_loadn(gain + c, C - c, 0), v_loadn(row + c, C - c, 0), sum);
    float r = rstd[t];
    vf s = v_set(-(v_sum(sum) / (float)C) * r * r);
    for (int c = 0; c < C; c += VL) {
      vf u = v_loadn(d + c, C - c, 0) * v_loadn(gain + c, C - c, 0);
      u = v_fma(v_loadn(row + c, C - c, 0), s, u);
      v_storen(out + c, v_fma(u, v_set(r), v_loadn(out + c, C - c, 0)), C - c);
    }
  }
  if (!dgain) return;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int c = 0; c < C; c += VL) {
    vf sum = v_loadn(dgain + c, C - c, 0);
    for (int t = 0; t < T; t++)
      sum = v_fma(v_loadn(dy + (size_t)t * C + c, C - c, 0) * v_set(rstd[t]), v_loadn(x + (size_t)t * C + c, C - c, 0), sum);
    v_storen(dgain + c, sum, C - c);
  }
}
