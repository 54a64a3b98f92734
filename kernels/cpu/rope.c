// rope.c: rotary positions (Su et al. 2021), half-split as in Hugging Face, and conversion of rows.
//   (a, b) at (i, i + D/2) -> (a c - b s, b c + a s); the gradient is the rotation by the opposite angle.
#include "cpu.h"

enum { MAX_HALF = 512 };

// cos and sin of n pairs of a position, apart
INLINE void split(float *c, float *s, const float *pairs, int n) {
  for (int i = 0; i < n; i++) c[i] = pairs[2 * i], s[i] = pairs[2 * i + 1];
}

// one head's pairs i0 .. i0 + n
INLINE void rotate(void *y, int y_dtype, const void *x, int x_dtype, const float *c, const float *s, int i0, int n, int half,
                   float sign) {
  for (int i = 0; i < n; i += VL) {
    vf a = v_load_as(x, x_dtype, i0 + i, n - i), b = v_load_as(x, x_dtype, half + i0 + i, n - i);
    vf cv = v_loadn(c + i, n - i, 0), sv = v_loadn(s + i, n - i, 0) * v_set(sign);
    vf second, first = v_rotate(a, b, cv, sv, &second);
    v_store_as(y, y_dtype, i0 + i, first, n - i);
    v_store_as(y, y_dtype, half + i0 + i, second, n - i);
  }
}

typedef struct {
  tlk_mat y, x;
  const int32_t *out_rows, *pos;
  const float *table;
  int heads, D;
  float sign;
} job;

static void rotate_row(const void *ctx, int t, int thread) {
  const job *q = ctx;
  int D = q->D, half = D / 2;
  size_t in_head = (size_t)D * tlk_dtype_size(q->x.dtype), out_head = (size_t)D * tlk_dtype_size(q->y.dtype);
  if (q->out_rows && q->out_rows[t] < 0) return;
  const char *in = mat_row(q->x, t);
  char *out = mat_row_out(q->y, q->out_rows ? q->out_rows[t] : t);
  float c[MAX_HALF], s[MAX_HALF];
  for (int i0 = 0; i0 < half; i0 += MAX_HALF) {
    int n = min_int(MAX_HALF, half - i0);
    split(c, s, q->table + ((size_t)q->pos[t] * half + i0) * 2, n);
    for (int h = 0; h < q->heads; h++)
      rotate(out + h * out_head, q->y.dtype, in + h * in_head, q->x.dtype, c, s, i0, n, half, q->sign);
  }
}

void OP(rope_fwd)(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *pos, const float *table, int T, int heads,
                  int D) {
  job q = {y, x, out_rows, pos, table, heads, D, 1};
  tlk_run(T, (double)T * heads * D, rotate_row, &q);
}

void OP(rope_bwd)(tlk_mat dx, tlk_mat dy, const int32_t *pos, const float *table, int T, int heads, int D) {
  job q = {dx, dy, NULL, pos, table, heads, D, -1};
  tlk_run(T, (double)T * heads * D, rotate_row, &q);
}

static void cast_row(const void *ctx, int t, int thread) {
  const job *q = ctx;
  if (q->out_rows && q->out_rows[t] < 0) return;
  OP(convert)(mat_row_out(q->y, q->out_rows ? q->out_rows[t] : t), q->y.dtype, mat_row(q->x, t), q->x.dtype, q->D);
}

void OP(cast)(tlk_mat y, const int32_t *out_rows, tlk_mat x, int T, int C) {
  job q = {.y = y, .x = x, .out_rows = out_rows, .D = C};
  tlk_run(T, (double)T * C, cast_row, &q);
}

typedef struct {
  tlk_mat y, x;
  const int32_t *rows;
  size_t bytes;
} gather_job;

static void gather_row(const void *ctx, int t, int thread) {
  const gather_job *q = ctx;
  memcpy(mat_row_out(q->y, t), mat_row(q->x, q->rows[t]), q->bytes);
}

void OP(gather)(tlk_mat y, tlk_mat x, const int32_t *rows, int T, int C) {
  gather_job q = {y, x, rows, (size_t)C * tlk_dtype_size(x.dtype)};
  tlk_run(T, (double)T * C / 4, gather_row, &q);
}
