// rmsnorm.c: y = x rstd gain with rstd = 1 / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019), and its gradients:
//   dx += rstd (gain dy - x rstd^2 mean(gain dy x)),   dgain += sum over rows of dy x rstd.
// A row is reduced over VL lanes, then a tree. dgain is summed within blocks of 64 rows, then over blocks in order.
#include "cpu.h"

enum { BLOCK = 64 };

typedef struct {
  tlk_mat y;
  float *rstd;
  const float *x, *gain;
  float eps;
  int C;
} fwd_job;

static void fwd_row(const void *ctx, int t, int thread) {
  const fwd_job *q = ctx;
  int C = q->C;
  const float *row = q->x + (size_t)t * C;
  void *out = mat_row_out(q->y, t);
  vf s = {0};
  for (int c = 0; c < C; c += VL) {
    vf v = v_loadn(row + c, C - c, 0);
    s = v_fma(v, v, s);
  }
  float rstd = q->rstd[t] = 1.0f / sqrtf(v_sum(s) / (float)C + q->eps);
  for (int c = 0; c < C; c += VL) {
    vf v = v_loadn(row + c, C - c, 0) * v_set(rstd) * v_loadn(q->gain + c, C - c, 0);
    v_store_as(out, q->y.dtype, c, v, C - c);
  }
}

void OP(rmsnorm_fwd)(tlk_mat y, float *rstd, const float *x, const float *gain, float eps, int T, int C) {
  fwd_job q = {y, rstd, x, gain, eps, C};
  tlk_run(T, (double)T * C, fwd_row, &q);
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

typedef struct {
  float *dx, *part;  // part (blocks, C) or NULL
  const float *dy, *x, *gain, *rstd;
  int T, C;
} bwd_job;

static void bwd_block(const void *ctx, int i, int thread) {
  const bwd_job *q = ctx;
  size_t C = (size_t)q->C;
  float *sum = q->part ? q->part + i * C : NULL;
  if (sum) memset(sum, 0, sizeof(float) * C);
  for (int t = i * BLOCK; t < min_int(q->T, (i + 1) * BLOCK); t++)
    row_bwd(q->dx + t * C, sum, q->dy + t * C, q->x + t * C, q->gain, q->rstd[t], q->C);
}

void OP(rmsnorm_bwd)(float *dx, float *dgain, const float *dy, const float *x, const float *gain, const float *rstd, int T,
                     int C) {
  int blocks = div_up(T, BLOCK);
  bwd_job q = {dx, dgain ? tlk_cpu_scratch(SCRATCH_A, sizeof(float) * (size_t)blocks * C) : NULL, dy, x, gain, rstd, T, C};
  tlk_run(blocks, (double)T * C * 3, bwd_block, &q);
  if (dgain) OP(sum_parts)(dgain, q.part, blocks, C);
}
