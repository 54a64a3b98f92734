// lowrank.c: the small products of a low-rank term: A x per row, R z, and the gradient of R.
//
// A number of z is one dot product in an order fixed by K: VL lanes (k mod VL), two accumulators (even and odd registers), then
// a tree over lanes. Four rows of A are taken at a time, which shares the loads of x and changes no order.
#include "cpu.h"

enum { AT_ONCE = 4 };

// out[i] = x . A[i] for i < n <= AT_ONCE; whole: K is a multiple of 2 VL, otherwise x is padded with zeros to one
INLINE void dots(float *out, const void *x, const int bf16, const float *A, const int n, int K, const int whole) {
  vf even[AT_ONCE], odd[AT_ONCE];
  for (int i = 0; i < n; i++) even[i] = odd[i] = (vf){0};
  for (int k = 0; k < K; k += 2 * VL) {
    vf x0 = v_load_as(x, bf16, k, VL), x1 = v_load_as(x, bf16, k + VL, VL);
    for (int i = 0; i < n; i++) {
      const float *a = A + (size_t)i * K + k;
      even[i] = v_fma(whole ? v_load(a) : v_loadn(a, K - k, 0), x0, even[i]);
      odd[i] = v_fma(whole ? v_load(a + VL) : v_loadn(a + VL, max_int(K - k - VL, 0), 0), x1, odd[i]);
    }
  }
  for (int i = 0; i < n; i++) out[i] = v_sum(even[i] + odd[i]);
}

#define DOTS_CASES(bf16, whole)                                                                                               \
  switch (n) {                                                                                                                \
  case 1: dots(out, x, bf16, a, 1, K, whole); return;                                                                         \
  case 2: dots(out, x, bf16, a, 2, K, whole); return;                                                                         \
  case 3: dots(out, x, bf16, a, 3, K, whole); return;                                                                         \
  default: dots(out, x, bf16, a, 4, K, whole); return;                                                                        \
  }
static void padded_dots(float *out, const void *x, const float *a, int n, int K) { DOTS_CASES(0, 0) }
static void whole_dots(float *out, const void *x, int bf16, const float *a, int n, int K) {
  if (bf16) DOTS_CASES(1, 1)
  DOTS_CASES(0, 1)
}

typedef struct {
  float *z;
  tlk_mat x;
  const float *A;
  int r, K, padded;
  float *buffers;  // one padded row a thread
} dot_job;

// A row that is not whole registers is padded first, in fp32; so is one that would be converted from bf16 many times, and one of fp16.
static void dot_row(const void *ctx, int t, int thread) {
  const dot_job *q = ctx;
  int K = q->K, r = q->r, bf16 = q->x.dtype == TLK_BF16, copy = K < q->padded || (bf16 && r > AT_ONCE) || q->x.dtype == TLK_F16;
  const void *x = mat_row(q->x, t);
  if (copy) {
    float *row = q->buffers + (size_t)q->padded * thread;
    OP(convert)(row, TLK_F32, x, q->x.dtype, K);
    for (int k = K; k < q->padded; k++) row[k] = 0;
    x = row, bf16 = 0;
  }
  for (int i = 0; i < r; i += AT_ONCE) {
    float *out = q->z + (size_t)t * r + i;
    const float *a = q->A + (size_t)i * K;
    int n = min_int(AT_ONCE, r - i);
    if (K < q->padded) padded_dots(out, x, a, n, K);
    else whole_dots(out, x, bf16, a, n, K);
  }
}

void OP(rows_dot)(float *z, tlk_mat x, const float *A, int r, int T, int K) {
  dot_job q = {z, x, A, r, K, div_up(K, 2 * VL) * 2 * VL, NULL};
  q.buffers = tlk_cpu_scratch(SCRATCH_C, sizeof(float) * (size_t)q.padded * tlk_cpu_threads());
  tlk_run(T, (double)T * (r + 1) * K, dot_row, &q);
}

static int all_zero(const float *x, int n) {
  for (int i = 0; i < n; i++)
    if (x[i] != 0) return 0;
  return 1;
}

typedef struct {
  float *s;
  uint8_t *active;
  const float *z;
  const tlk_lowrank *lr;
  int transposed;
} turn_job;

static void turn_row(const void *ctx, int t, int thread) {
  const turn_job *q = ctx;
  int r = q->lr->r, v = q->lr->variant ? q->lr->variant[t] : 0, step = q->transposed ? 1 : r, next = q->transposed ? r : 1;
  const float *R = q->lr->R && v >= 0 ? q->lr->R + (size_t)v * r * r : NULL, *in = q->z + (size_t)t * r;
  float *out = q->s + (size_t)t * r;
  q->active[t] = v >= 0 && !(R && all_zero(R, r * r));
  if (!R || !q->active[t]) {
    memcpy(out, in, sizeof(float) * (size_t)r);
    return;
  }
  memset(out, 0, sizeof(float) * (size_t)r);
  for (int j = 0; j < r; j++, R += next)
    for (int i = 0; i < r; i++) out[i] += R[(size_t)i * step] * in[j];
}

void OP(lowrank_s)(float *s, uint8_t *active, const float *z, const tlk_lowrank *lr, int T, int transposed) {
  turn_job q = {s, active, z, lr, transposed};
  tlk_run(T, (double)T * lr->r * (lr->R ? lr->r : 1), turn_row, &q);
}

// One unit after the other, its rows in order, in double; a unit's sum is added to dR once.
typedef struct {
  double *dR;
  const float *g, *z;
  const int32_t *unit_off;
  int n_units, r;
} outer_job;

// row a of dR
static void outer_row(const void *ctx, int a, int thread) {
  const outer_job *q = ctx;
  int r = q->r;
  for (int b0 = 0; b0 < r; b0 += 64)
    for (int u = 0; u < q->n_units; u++) {
      double sum[64] = {0};
      int n = min_int(64, r - b0);
      for (int t = q->unit_off[u]; t < q->unit_off[u + 1]; t++) {
        double ga = q->g[(size_t)t * r + a];
        for (int b = 0; b < n; b++) sum[b] += ga * q->z[(size_t)t * r + b0 + b];
      }
      for (int b = 0; b < n; b++) q->dR[(size_t)a * r + b0 + b] += sum[b];
    }
}

void OP(lowrank_bwd)(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r) {
  outer_job q = {dR, g, z, unit_off, n_units, r};
  int rows = n_units ? unit_off[n_units] - unit_off[0] : 0;
  tlk_run(r, (double)rows * r * r, outer_row, &q);
}
