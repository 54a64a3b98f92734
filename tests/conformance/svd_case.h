// svd_case.h: what the rows of the optional op svd run, judged by LAPACK's full decomposition in double instead of the reference, which
// has no such op: the r largest values; vectors that are orthonormal and belong to them; the error as it is said to be; the same
// bits in a second run. The weight is a sum of T terms of falling size, with noise below them unless it is of a lower rank (EXTRA).
#ifndef SVD_CASE_H
#define SVD_CASE_H
#include "conformance.h"
#include <lapacke.h>

static float *svd_weight(const row *r) {
  size_t n = (size_t)r->N * r->K;
  float *w = take(sizeof *w * n);
  for (size_t i = 0; i < n; i++) w[i] = r->flags & EXTRA ? 0 : (float)(0.01 * rng_normal());
  for (int t = 0; t < r->T; t++) {
    float *u = vec_random((size_t)r->N, pow(0.8, t)), *v = vec_random((size_t)r->K, 1);
    for (size_t i = 0; i < n; i++) w[i] += u[i / (size_t)r->K] * v[i % (size_t)r->K];
  }
  for (size_t i = 0; compute == TLK_BF16 && i < n; i++) w[i] = from_bf16(to_bf16(w[i]));
  return w;
}

static void orthonormal_columns(const char *what, const double *q, int rows, int r) {
  for (int a = 0; a < r; a++)
    for (int b = 0; b <= a; b++) {
      double dot = 0;
      for (int i = 0; i < rows; i++) dot += q[(size_t)i * r + a] * q[(size_t)i * r + b];
      CHECK(fabs(dot - (a == b)) <= 1e-12, "columns %d and %d of %s: their product is %.3g", a, b, what, dot);
    }
}

static void svd_case(const row *c) {
  int N = c->N, K = c->K, r = c->r, m = N < K ? N : K;
  float *w = svd_weight(c);
  double *U = calloc((size_t)N * r, sizeof *U), *V = calloc((size_t)K * r, sizeof *V), S[16], error = -1;
  const char *libraries = getenv("TL_LIBRARIES");  // 0: then all is left to the host
  int done = ops->svd(U, S, V, &error, w, N, K, r);
  CHECK(done == (c->T > 0 && !(libraries && !strcmp(libraries, "0"))), "it says %d", done);
  if (done) {
    double *a = calloc((size_t)N * K, sizeof *a), *want = calloc((size_t)m, sizeof *want), unused[1], worst = 0;
    for (size_t i = 0; i < (size_t)N * K; i++) a[i] = w[i];
    LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'N', N, K, a, K, want, unused, m, unused, K);
    for (int i = 0; i < r; i++) {
      CHECK(fabs(S[i] - want[i]) <= tolerance(c) * want[0], "value %d is %.17g, expected %.17g", i, S[i], want[i]);
      double of_v = 0, of_u = 0;
      for (int j = 0; j < N; j++) {
        double sum = -S[i] * U[(size_t)j * r + i];
        for (int k = 0; k < K; k++) sum += (double)w[(size_t)j * K + k] * V[(size_t)k * r + i];
        of_v += sum * sum;
      }
      for (int k = 0; k < K; k++) {
        double sum = -S[i] * V[(size_t)k * r + i];
        for (int j = 0; j < N; j++) sum += (double)w[(size_t)j * K + k] * U[(size_t)j * r + i];
        of_u += sum * sum;
      }
      CHECK(sqrt(of_v) <= 1e-12 * want[0], "W v - s u of triplet %d: %.3g", i, sqrt(of_v));
      worst = fmax(worst, sqrt(of_u) / want[0]);
    }
    CHECK(error <= 1e-11 && fabs(error - worst) <= 1e-13, "the error is said to be %.3g and is %.3g", error, worst);
    orthonormal_columns("U", U, N, r);
    orthonormal_columns("V", V, K, r);
    double *again = calloc((size_t)N * r, sizeof *again);
    CHECK(ops->svd(again, S, V, &error, w, N, K, r) == 1, "the second run");
    same_bits("U of a second run", U, again, sizeof *U * (size_t)N * r);
    free(a), free(want), free(again);
  }
  free(U), free(V);
}
#endif
