// optim.c: AdamW and small things on vectors of fp32. Threads take fixed pieces of 16 Ki numbers; sums are made per piece, in
// double, and added in order.
#include "cpu.h"

enum { PIECE = 16384 };
typedef double vd __attribute__((vector_size(VL * 8)));

INLINE int pieces(size_t n) { return (int)((n + PIECE - 1) / PIECE); }
INLINE int piece_size(size_t n, int i) { return (int)(n - (size_t)i * PIECE < PIECE ? n - (size_t)i * PIECE : PIECE); }

// Loshchilov & Hutter 2019: decay is decoupled; m and v are corrected for their start at zero.
typedef struct {
  float *param, *m, *v;
  const float *grad;
  size_t n;
  float beta1, beta2, eps, step_size, root, keep;
} adam_job;

static void adam_piece(const void *ctx, int i, int thread) {
  const adam_job *q = ctx;
  const vf b1 = v_set(q->beta1), b2 = v_set(q->beta2), c1 = v_set(1 - q->beta1), c2 = v_set(1 - q->beta2);
  const vf keep = v_set(q->keep), a = v_set(-q->step_size), root = v_set(q->root), eps = v_set(q->eps);
  size_t at = (size_t)i * PIECE;
  float *param = q->param + at, *m = q->m + at, *v = q->v + at;
  for (int j = 0, len = piece_size(q->n, i); j < len; j += VL) {
    int rest = len - j;
    vf g = v_loadn(q->grad + at + j, rest, 0);
    vf mm = v_fma(b1, v_loadn(m + j, rest, 0), c1 * g);
    vf vv = v_fma(b2, v_loadn(v + j, rest, 0), c2 * g * g);
    v_storen(m + j, mm, rest);
    v_storen(v + j, vv, rest);
    v_storen(param + j, v_fma(a, mm / v_fma(v_sqrt(vv), root, eps), v_loadn(param + j, rest, 0) * keep), rest);
  }
}

void OP(adamw)(float *param, float *m, float *v, const float *grad, size_t n, float lr, float beta1, float beta2, float eps,
               float weight_decay, int step) {
  adam_job q = {param, m, v, grad, n, beta1, beta2, eps, .keep = 1 - lr * weight_decay};
  q.step_size = (float)(lr / (1 - pow(beta1, step)));
  q.root = (float)(1 / sqrt(1 - pow(beta2, step)));
  tlk_run(pieces(n), (double)n, adam_piece, &q);
}

typedef struct {
  float *y;
  const float *x;
  double *part;
  size_t n;
  float a;
  int dtype;
} vector_job;

static void sumsq_piece(const void *ctx, int i, int thread) {
  const vector_job *q = ctx;
  vd s = {0};
  for (int j = 0, len = piece_size(q->n, i); j < len; j += VL) {
    vd d = __builtin_convertvector(v_loadn(q->x + (size_t)i * PIECE + j, len - j, 0), vd);
    s += d * d;
  }
  q->part[i] = 0;
  for (int l = 0; l < VL; l++) q->part[i] += s[l];
}

double OP(sumsq)(const float *x, size_t n) {
  vector_job q = {.x = x, .n = n, .part = tlk_cpu_scratch(SCRATCH_A, sizeof(double) * (size_t)(pieces(n) + 1))};
  double sum = 0;
  tlk_run(pieces(n), (double)n, sumsq_piece, &q);
  for (int i = 0; i < pieces(n); i++) sum += q.part[i];
  return sum;
}

static void scale_piece(const void *ctx, int i, int thread) {
  const vector_job *q = ctx;
  float *p = q->y + (size_t)i * PIECE;
  int len = piece_size(q->n, i);
  for (int j = 0; j < len; j += VL) v_storen(p + j, v_loadn(p + j, len - j, 0) * v_set(q->a), len - j);
}

void OP(scale)(float *x, float a, size_t n) {
  vector_job q = {.y = x, .a = a, .n = n};
  tlk_run(pieces(n), (double)n, scale_piece, &q);
}

static void round_piece(const void *ctx, int i, int thread) {
  const vector_job *q = ctx;
  const float *x = q->x + (size_t)i * PIECE;
  float *y = q->y + (size_t)i * PIECE;
  int len = piece_size(q->n, i);
  for (int j = 0; j < len; j += VL) {
    vf v = v_loadn(x + j, len - j, 0);
    if (q->dtype == TLK_BF16) v = v_from_bf16(v_to_bf16(v));
    if (q->dtype == TLK_F16) v = v_from_f16(v_to_f16(v));
    v_storen(y + j, v, len - j);
  }
}

void OP(round_to)(float *y, const float *x, size_t n, int dtype) {
  vector_job q = {.y = y, .x = x, .n = n, .dtype = dtype};
  tlk_run(pieces(n), (double)n, round_piece, &q);
}
