// lowrank.c: the low-rank term of a linear, y += B (R (A x)), and the gradient of R (reference).
//
//   z = A x (T, r) is kept by the forward pass, g = dy B (T, r) comes out of the backward pass, and
//   dR += sum_t g_t z_t^T, one sum for every unit (a prompt's rows), in double, rows in order, units in order.
//
// TinyLoRA's v and LoRA-XS's R get their gradients from dR; for LoRA (R the identity) dB = dy^T z and dA = g^T x are plain
// linear_bwd_w calls.
#include "ref.h"

const float *ref_rotation(const tlk_lowrank *lr, int t, int *none) {
  int v = lr->variant ? lr->variant[t] : 0;
  *none = v < 0;
  if (!lr->R || v < 0) return NULL;
  const float *R = lr->R + (size_t)v * lr->r * lr->r;
  *none = 1;
  for (int i = 0; i < lr->r * lr->r; i++)
    if (R[i] != 0) *none = 0;
  return R;
}

void ref_lowrank_z(float *z, tlk_mat x, const tlk_lowrank *lr, int T, int K) {
  for (int t = 0; t < T; t++)
    for (int a = 0; a < lr->r; a++) {
      double s = 0;
      for (int k = 0; k < K; k++) s += lr->A[(size_t)a * K + k] * ref_get(x, t, k);
      z[(size_t)t * lr->r + a] = (float)s;
    }
}

void ref_lowrank_g(float *g, tlk_mat dy, const tlk_lowrank *lr, int T, int N) {
  for (int t = 0; t < T; t++)
    for (int a = 0; a < lr->r; a++) {
      double s = 0;
      for (int n = 0; n < N; n++) s += ref_get(dy, t, n) * lr->B[(size_t)n * lr->r + a];
      g[(size_t)t * lr->r + a] = (float)s;
    }
}

void ref_lowrank_bwd(double *dR, const float *g, const float *z, const int32_t *unit_off, int n_units, int r) {
  for (int a = 0; a < r; a++)
    for (int b = 0; b < r; b++)
      for (int i = 0; i < n_units; i++) {
        double sum = 0;
        for (int t = unit_off[i]; t < unit_off[i + 1]; t++) sum += (double)g[(size_t)t * r + a] * z[(size_t)t * r + b];
        dR[a * r + b] += sum;
      }
}
