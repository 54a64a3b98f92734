// linear.c: frozen linear layers and their gradients (reference).
//
//   fwd    y = x W^T + b + B (R (A x))         W (N, K), one row of x at a time
//   bwd_x  dx = dy W + ((dy B) R) A
//   bwd_w  dW = dy^T x,  db = sum_t dy_t
//
// A packed weight is a row-major float copy whose values were rounded to the compute dtype (int8: a whole number of the row's
// scales; the rows of x that meet it are rounded in the same way as they are read). The low-rank term is described in
// lowrank.c; for rows without one it is left out, not added as zero, so that even the sign of a zero is that of the plain layer.
#include "ref.h"

static float load(const void *w, int dtype, size_t i) {
  if (dtype == TLK_BF16) return ref_from_bf16(((const uint16_t *)w)[i]);
  if (dtype == TLK_F16) return ref_from_f16(((const uint16_t *)w)[i]);
  return ((const float *)w)[i];
}

static float round_compute(float f, int compute) {
  ref_round_to(&f, &f, 1, compute);
  return f;
}

// p's values, as they were given, to what the compute dtype can hold
static void round_rows(tlk_packed *p) {
  for (int n = 0; n < p->N; n++) {
    float *w = p->w + (size_t)n * p->K, max = 0;
    for (int k = 0; k < p->K; k++) max = fmaxf(max, fabsf(w[k]));
    for (int k = 0; k < p->K; k++) w[k] = p->compute == TLK_I8 ? ref_as_byte(w[k], max) : round_compute(w[k], p->compute);
  }
}

tlk_packed *ref_pack(const void *w, int w_dtype, int N, int K, int compute) {
  tlk_packed *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  *p = (tlk_packed){.N = N, .K = K, .compute = compute};
  size_t n = (size_t)N * K;
  p->w = malloc(sizeof *p->w * (n + 1));
  p->order = malloc(sizeof *p->order * ((size_t)N + 1));
  if (!p->w || !p->order) {
    ref_packed_free(p);
    return NULL;
  }
  for (size_t i = 0; i < n; i++) p->w[i] = load(w, w_dtype, i);
  round_rows(p);
  return p;
}

void ref_repack(tlk_packed *p, const float *w) {
  memcpy(p->w, w, sizeof *w * (size_t)p->N * p->K);
  round_rows(p);
}

void ref_unpack(float *w, const tlk_packed *p, int n0, int n1) {
  memcpy(w, ref_row(p, n0), sizeof *w * (size_t)(n1 - n0) * p->K);
}

void ref_packed_free(tlk_packed *p) {
  if (!p) return;
  free(p->w);
  free(p->order);
  free(p);
}

size_t ref_packed_bytes(const tlk_packed *p) {
  return sizeof *p + (size_t)p->N * p->K * sizeof *p->w + (size_t)p->N * sizeof *p->order;
}

void ref_packed_dims(const tlk_packed *p, int *N, int *K, int *compute) {
  *N = p->N, *K = p->K, *compute = p->compute;
}

void ref_linear_fwd(tlk_mat y, float *z, tlk_mat x, const tlk_packed *w, const float *bias, const tlk_lowrank *lr, int T,
                    int accumulate) {
  if (lr) ref_lowrank_z(z, x, lr, T, w->K);
  for (int t = 0; t < T; t++) {
    int none = 1;
    const float *R = lr ? ref_rotation(lr, t, &none) : NULL;
    for (int n0 = 0; n0 < w->N; n0 += REF_BLOCK) {
      int n1 = n0 + REF_BLOCK < w->N ? n0 + REF_BLOCK : w->N;
      double s[REF_BLOCK];
      for (int n = n0; n < n1; n++) s[n - n0] = ref_dot(x, t, w, n) + (bias ? bias[n] : 0);
      for (int a = 0; !none && a < lr->r; a++) {
        double rz = 0;  // (R z)_a
        for (int b = 0; b < lr->r; b++) rz += (R ? R[a * lr->r + b] : a == b) * (double)z[(size_t)t * lr->r + b];
        for (int n = n0; n < n1; n++) s[n - n0] += lr->B[(size_t)n * lr->r + a] * rz;
      }
      for (int n = n0; n < n1; n++) ref_put(y, t, n, accumulate ? ref_get(y, t, n) + s[n - n0] : s[n - n0]);
    }
  }
}

void ref_linear_fwd_group(const tlk_linear *l, int n, tlk_mat x, int T) {
  for (int i = 0; i < n; i++) ref_linear_fwd(l[i].y, l[i].z, x, l[i].w, l[i].bias, l[i].lr, T, 0);
}

void ref_linear_bwd_x(tlk_mat dx, float *g, tlk_mat dy, const tlk_packed *w, const tlk_lowrank *lr, int T, int accumulate) {
  if (lr) ref_lowrank_g(g, dy, lr, T, w->N);
  if (!dx.p) return;
  for (int t = 0; t < T; t++) {
    int none = 1;
    const float *R = lr ? ref_rotation(lr, t, &none) : NULL;
    for (int k0 = 0; k0 < w->K; k0 += REF_BLOCK) {
      int k1 = k0 + REF_BLOCK < w->K ? k0 + REF_BLOCK : w->K;
      double s[REF_BLOCK] = {0};
      for (int n = 0; n < w->N; n++) {
        double d = ref_get(dy, t, n);
        for (int k = k0; k < k1; k++) s[k - k0] += d * ref_row(w, n)[k];
      }
      for (int b = 0; !none && b < lr->r; b++) {
        double gr = 0;  // (g R)_b
        for (int a = 0; a < lr->r; a++) gr += (R ? R[a * lr->r + b] : a == b) * (double)g[(size_t)t * lr->r + a];
        for (int k = k0; k < k1; k++) s[k - k0] += gr * lr->A[(size_t)b * w->K + k];
      }
      for (int k = k0; k < k1; k++) ref_put(dx, t, k, accumulate ? ref_get(dx, t, k) + s[k - k0] : s[k - k0]);
    }
  }
}

void ref_linear_bwd_w(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K) {
  for (int n = 0; n < N; n++)
    for (int k = 0; k < K; k++) {
      double s = 0;
      for (int t = 0; t < T; t++) s += ref_get(a, t, n) * ref_get(b, t, k);
      dw[(size_t)n * K + k] += (float)s;
    }
}

void ref_colsum(float *db, tlk_mat dy, int T, int N) {
  for (int n = 0; n < N; n++) {
    double s = 0;
    for (int t = 0; t < T; t++) s += ref_get(dy, t, n);
    db[n] += (float)s;
  }
}
