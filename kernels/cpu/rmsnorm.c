// rmsnorm.c: y = x rstd gain with rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019), and its gradients:
//   dx += rstd (gain dy - x rstd^2 mean(gain dy x)),   dgain += sum over rows of dy x rstd.
// A row is reduced over VL lanes, then a tree. dgain is summed within blocks of 64 rows, then over blocks in order.
#include "cpu.h"

enum { BLOCK = 64 };

void OP(rmsnorm_fwd)(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C) {
#pragma omp parallel for num_threads(threads_for((double)T * C)) schedule(static)
  for (int t = 0; t < T; t++) {
    const float *row = x + (size_t)t * C;
    vf s = {0};
    for (int c = 0; c < C; c += VL) {
      vf v = v_loadn(row + c, C - c, 0);
      s = v_fma(v, v, s);
    }
    rstd[t] = 1.0f / sqrtf(v_sum(s) / (float)C + eps);
    void *out = mat_row_out(y, t);
    for (int c = 0; c < C; c += VL) {
      vf v = v_loadn(row + c, C - c, 0) * v_set(rstd[t]) * v_loadn(gain + c, C - c, 0);
      v_store_as(out, y.dtype == TLK_BF16, c, v, C - c);
    }
  }
}

static void row_bwd(float *dx, float *dgain, const float *dy, const float *x, const float *gain, float rstd, int C) {
  vf s = {0}, r = v_set(rstd);
  for (int c = 0; c < C; c += VL)
    s = v_fma(v_loadn(gain + c, C - c, 0) * v_loadn(dy + c, C - c, 0), v_loadn(x + c, C - c, 0), s);
  vf m = v_set(v_sum(s) / (float)C * rstd * rstd);
  for (int c = 0; c < C; c += VL) {
    vf d = v_loadn(dy + c, C - c, 0), v = v_loadn(x + c, C - c, 0), g = v_loadn(gain + c, C - c, 0);
    vf u = v_fma(-m, v, g * d);
    v_storen(dx + c, v_fma(r, u, v_loadn(dx + c, C - c, 0)), C - c);
    if (dgain) v_storen(dgain + c, v_fma(d * v, r, v_loadn(dgain + c, C - c, 0)), C - c);
  }
}

void OP(rmsnorm_bwd)(float *dx, float *dgain, const float *dy, const float *x, const float *gain, const float *rstd, int T,
                     int C) {
  int blocks = div_up(T, BLOCK);
  float *part = dgain ? tlk_cpu_scratch(SCRATCH_A, sizeof(float) * (size_t)blocks * C) : NULL;
#pragma omp parallel num_threads(threads_for((double)T * C))
  {
#pragma omp for schedule(static)
    for (int i = 0; i < blocks; i++) {
      float *sum = part ? part + (size_t)i * C : NULL;
      if (sum) memset(sum, 0, sizeof(float) * (size_t)C);
      for (int t = i * BLOCK; t < min_int(T, (i + 1) * BLOCK); t++)
        row_bwd(dx + (size_t)t * C, sum, dy + (size_t)t * C, x + (size_t)t * C, gain, rstd[t], C);
    }
    if (part) {
#pragma omp for schedule(static)
      for (int c = 0; c < C; c++) {
        float s = 0;
        for (int i = 0; i < blocks; i++) s += part[(size_t)i * C + c];
        dgain[c] += s;
      }
    }
  }
}
