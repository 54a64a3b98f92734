// lowrank.c: the small products around a linear's low-rank term y += B (R (A x)), and the gradient of R.
//
// z = A x (T, r) and g = dy B (T, r) are dot products of a row with r vectors: each number is summed by lanes in rising order and
// the lanes in a fixed tree, so it depends on its row alone. dR sums g z^T over a unit's rows, in double, in order.
#include "cpu.h"

// up to 4 of the r vectors at once, so that a row is read once for them
INLINE void dots(float *z, const void *x, int x_bf16, const float *A, size_t stride, const int n, int K) {
  vf acc[4] = {(vf){0}, (vf){0}, (vf){0}, (vf){0}};
  for (int k = 0; k < K; k += VL) {
    vf v = v_load_as(x, x_bf16, k, K - k);
#pragma GCC unroll 4
    for (int a = 0; a < n; a++) acc[a] = v_fma(v, v_loadn(A + (size_t)a * stride + k, K - k, 0), acc[a]);
  }
#pragma GCC unroll 4
  for (int a = 0; a < n; a++) z[a] = v_sum(acc[a]);
}

void OP(rows_dot)(float *z, tlk_mat x, const float *A, int r, int T, int K) {
  int bf16 = x.dtype == TLK_BF16;
#pragma omp parallel for num_threads(threads_for((double)T * r * K)) schedule(static)
  for (int t = 0; t < T; t++) {
    const void *row = mat_row(x, t);
    for (int a = 0; a < r; a += 4) {
      float *out = z + (size_t)t * r + a;
      const float *at = A + (size_t)a * K;
      switch (min_int(4, r - a)) {
      case 1: dots(out, row, bf16, at, (size_t)K, 1, K); break;
      case 2: dots(out, row, bf16, at, (size_t)K, 2, K); break;
      case 3: dots(out, row, bf16, at, (size_t)K, 3, K); break;
      default: dots(out, row, bf16, at, (size_t)K, 4, K); break;
      }
    }
  }
}

// s = R z, or R^T z when transposed, of rows t0..t1; active[t] is 0 where the row has no term: variant -1, or R all zero
void OP(lowrank_s)(float *s, uint8_t *active, const float *z, const tlk_lowrank *lr, int t0, int t1, int transposed) {
  int r = lr->r, last = -2, last_active = 0;
  for (int t = t0; t < t1; t++) {
    int v = lr->variant ? lr->variant[t] : 0;
    const float *R = lr->R ? lr->R + (size_t)(v > 0 ? v : 0) * r * r : NULL;
    if (v != last) {
      last_active = v >= 0 && !R;
      for (int i = 0; R && v >= 0 && i < r * r; i++) last_active |= R[i] != 0;
      last = v;
    }
    active[t] = (uint8_t)last_active;
    if (!last_active) continue;
    for (int a = 0; a < r; a++) {
      float sum = R ? 0 : z[(size_t)t * r + a];
      for (int b = 0; R && b < r; b++) sum += R[transposed ? b * r + a : a * r + b] * z[(size_t)t * r + b];
      s[(size_t)t * r + a] = sum;
    }
  }
}

void OP(lowrank_bwd)(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r) {
  double work = n_units ? (double)(unit_off[n_units] - unit_off[0]) * r * r : 0;
#pragma omp parallel for num_threads(threads_for(work)) schedule(static)
  for (int i = 0; i < n_units; i++)
    for (int t = unit_off[i]; t < unit_off[i + 1]; t++)
      for (int a = 0; a < r; a++)
        for (int b = 0; b < r; b++)
          dR[((size_t)i * r + a) * r + b] += (double)g[(size_t)t * r + a] * z[(size_t)t * r + b];
}
