// test_svd.c: the truncated SVD against a matrix whose singular triplets are known, on both of its ways, and its cache.
// Would catch: a wrong side or order, vectors that are not orthonormal, a sign that changes between runs, a cache that trusts
// a damaged file.
#include "../../runtime/tensor/svd.h"
#include "../test.h"
#include <dirent.h>
#include <unistd.h>

// W = sum_i s_i u_i v_i^T with orthonormal u, v (products of Householder reflections of a random basis) and s_i = 10 * decay^i
typedef struct {
  int n, k, terms;
  float *w;
  double *u, *v, *s;  // (n, terms), (k, terms), (terms)
} known;

static void orthonormal(double *q, int n, int terms, uint64_t stream) {
  float *x = malloc(sizeof(float) * (size_t)n * terms);
  tl_normal_fill(x, (size_t)n * terms, 21, stream);
  for (int c = 0; c < terms; c++) {
    for (int j = 0; j < n; j++) q[(size_t)j * terms + c] = x[(size_t)j * terms + c];
    for (int pass = 0; pass < 2; pass++)
      for (int p = 0; p < c; p++) {
        double dot = 0;
        for (int j = 0; j < n; j++) dot += q[(size_t)j * terms + c] * q[(size_t)j * terms + p];
        for (int j = 0; j < n; j++) q[(size_t)j * terms + c] -= dot * q[(size_t)j * terms + p];
      }
    double norm = 0;
    for (int j = 0; j < n; j++) norm += q[(size_t)j * terms + c] * q[(size_t)j * terms + c];
    for (int j = 0; j < n; j++) q[(size_t)j * terms + c] /= sqrt(norm);
  }
  free(x);
}

static known make(int n, int k, int terms, double decay) {
  known m = {.n = n, .k = k, .terms = terms, .w = malloc(sizeof(float) * (size_t)n * k),
             .u = malloc(sizeof(double) * (size_t)n * terms), .v = malloc(sizeof(double) * (size_t)k * terms),
             .s = malloc(sizeof(double) * (size_t)terms)};
  orthonormal(m.u, n, terms, 1);
  orthonormal(m.v, k, terms, 2);
  for (int c = 0; c < terms; c++) m.s[c] = 10 * pow(decay, c);
  for (int i = 0; i < n; i++)
    for (int j = 0; j < k; j++) {
      double sum = 0;
      for (int c = 0; c < terms; c++) sum += m.s[c] * m.u[(size_t)i * terms + c] * m.v[(size_t)j * terms + c];
      m.w[(size_t)i * k + j] = (float)sum;
    }
  return m;
}

static void known_free(known *m) {
  free(m->w);
  free(m->u);
  free(m->v);
  free(m->s);
}

// |x_c - sign y_c| over the columns; the sign is what makes the largest entry of the true u positive
static void check_columns(const known *m, const float *U, const float *S, const float *V, int r, double tolerance) {
  for (int c = 0; c < r; c++) {
    double top = 0, worst = 0;
    for (int j = 0; j < m->n; j++)
      if (fabs(m->u[(size_t)j * m->terms + c]) > fabs(top)) top = m->u[(size_t)j * m->terms + c];
    double sign = top < 0 ? -1 : 1;
    for (int j = 0; j < m->n; j++) worst = fmax(worst, fabs(U[(size_t)j * r + c] - sign * m->u[(size_t)j * m->terms + c]));
    for (int j = 0; j < m->k; j++) worst = fmax(worst, fabs(V[(size_t)j * r + c] - sign * m->v[(size_t)j * m->terms + c]));
    CHECK(worst <= tolerance, "(%d, %d) column %d of U or V is off by %.2e", m->n, m->k, c, worst);
    CHECK(fabs(S[c] - m->s[c]) <= 1e-6 * m->s[c], "(%d, %d) sigma %d is %.9g, wanted %.9g", m->n, m->k, c,
          (double)S[c], m->s[c]);
  }
}

// The weight itself is rounded to fp32: a perturbation of about 6e-8 |w|, which a gap of 10% of sigma turns into 1e-5 at most.
static void known_case(int n, int k, int terms, double decay, int r) {
  known m = make(n, k, terms, decay);
  float *U = malloc(sizeof(float) * (size_t)n * r), *S = malloc(sizeof(float) * (size_t)r);
  float *V = malloc(sizeof(float) * (size_t)k * r);
  double error = 1;
  CHECK_OK(tl_svd(m.w, n, k, r, U, S, V, &error));
  CHECK(error < 1e-10, "(%d, %d): residual %.2e", n, k, error);
  check_columns(&m, U, S, V, r, 1e-5);
  float *again = malloc(sizeof(float) * (size_t)n * r);
  CHECK_OK(tl_svd(m.w, n, k, r, again, S, V, NULL));
  CHECK(!memcmp(U, again, sizeof(float) * (size_t)n * r), "two runs differ");
  free(U);
  free(S);
  free(V);
  free(again);
  known_free(&m);
}

// A weight beyond 1024 is the backend's where it has an svd (TL_BACKEND=cusim): then the error that is told is its own, to the bit.
static void svd_by_backend(void) {
  enum { n = 1100, k = 1060, r = 2 };
  known m = make(n, k, 12, 0.8);
  float *U = malloc(sizeof(float) * n * r), *S = malloc(sizeof(float) * r), *V = malloc(sizeof(float) * k * r);
  double *u = malloc(sizeof(double) * n * r), *v = malloc(sizeof(double) * k * r), s[r], error = -1, mine = -2;
  if (!tl_ops()->svd) {
    test_skip("svd_by_backend", "this backend has none");
  } else {
    CHECK(tl_ops()->svd(u, s, v, &mine, m.w, n, k, r) == 1, "it was left to the host");
    CHECK_OK(tl_svd(m.w, n, k, r, U, S, V, &error));
    CHECK(error == mine, "the backend's error is %.17g, what is told %.17g", mine, error);
    check_columns(&m, U, S, V, r, 1e-5);
  }
  free(U), free(S), free(V), free(u), free(v);
  known_free(&m);
}

static void svd_small(void) {
  known_case(5, 7, 5, 0.8, 3);
  known_case(7, 5, 5, 0.8, 5);
  known_case(1, 9, 1, 1, 1);
  known_case(64, 33, 20, 0.85, 4);
}
static void svd_direct_wide_and_tall(void) {
  known_case(90, 210, 30, 0.9, 2);
  known_case(210, 90, 30, 0.9, 2);
}
static void svd_krylov(void) {
  known_case(1100, 1300, 24, 0.9, 2);
  known_case(2300, 2100, 12, 0.8, 3);
}

// Rank below r: the missing triplets have sigma 0 and the columns are still orthonormal (here: finite, unit length).
static void svd_of_deficient(void) {
  enum { n = 40, k = 30, r = 4 };
  known m = make(n, k, 2, 0.5);
  float U[n * r], S[r], V[k * r];
  CHECK_OK(tl_svd(m.w, n, k, r, U, S, V, NULL));
  CHECK(S[1] > 4.9f && S[2] < 1e-5f && S[3] < 1e-5f, "sigma %g %g %g", (double)S[1], (double)S[2], (double)S[3]);
  for (int c = 0; c < r; c++) {
    double norm = 0;
    for (int j = 0; j < n; j++) norm += (double)U[j * r + c] * U[j * r + c];
    CHECK(fabs(norm - 1) < 1e-5, "column %d has length %g", c, sqrt(norm));
  }
  float zero[n * k] = {0};
  CHECK_OK(tl_svd(zero, n, k, 2, U, S, V, NULL));
  CHECK(S[0] == 0 && isfinite(U[0]), "zero matrix");
  known_free(&m);
}

static void svd_refuses(void) {
  float w[6] = {1, 2, 3, 4, 5, NAN}, U[9], S[3], V[9];
  CHECK(tl_svd(w, 2, 3, 3, U, S, V, NULL) == TL_E_SHAPE, "rank above the sides");
  CHECK(tl_svd(w, 2, 3, 0, U, S, V, NULL) == TL_E_ARG, "rank 0");
  CHECK(tl_svd(w, 2, 3, 1, U, S, V, NULL) == TL_E_ARG, "NaN");
}

static int only_file(const char *dir, char *path, size_t n) {
  int count = 0;
  DIR *d = opendir(dir);
  for (struct dirent *e; d && (e = readdir(d));)
    if (e->d_name[0] != '.') {
      count++;
      snprintf(path, n, "%s/%s", dir, e->d_name);
    }
  if (d) closedir(d);
  return count;
}

static void damage(const char *path, long at) {
  FILE *f = fopen(path, "r+b");
  CHECK(f, "cannot open %s", path);
  if (!f) return;
  fseek(f, at, SEEK_SET);
  int c = fgetc(f);
  fseek(f, at, SEEK_SET);
  fputc(c ^ 0x40, f);
  fclose(f);
}

static void svd_cache(void) {
  enum { n = 50, k = 20, r = 2 };
  char dir[] = "/tmp/tl-svd-XXXXXX", path[300] = "";
  CHECK(mkdtemp(dir), "no temporary folder");
  known m = make(n, k, 10, 0.8);
  float U[n * r], S[r], V[k * r], first[n * r];
  bool hit;
  double error;
  CHECK_OK(tl_svd_cached(m.w, n, k, r, dir, first, S, V, &error, &hit));
  CHECK(!hit, "a hit in an empty cache");
  CHECK_OK(tl_svd_cached(m.w, n, k, r, dir, U, S, V, &error, &hit));
  CHECK(hit && !memcmp(U, first, sizeof U), "no hit, or other values");
  CHECK(only_file(dir, path, sizeof path) == 1, "one file");
  long places[] = {0, 9, 30, 70, 64 + sizeof U + 3};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    damage(path, places[i]);
    CHECK_OK(tl_svd_cached(m.w, n, k, r, dir, U, S, V, NULL, &hit));
    CHECK(!hit && !memcmp(U, first, sizeof U), "byte %ld of the cache file was damaged and not noticed", places[i]);
  }
  CHECK(truncate(path, 100) == 0, "truncate");
  CHECK_OK(tl_svd_cached(m.w, n, k, r, dir, U, S, V, NULL, &hit));
  CHECK(!hit, "a truncated file was used");
  m.w[3] += 1;
  CHECK_OK(tl_svd_cached(m.w, n, k, r, dir, U, S, V, NULL, &hit));
  CHECK(!hit, "another weight hit");
  CHECK_OK(tl_svd_cached(m.w, n, k, r, "/proc/no/such/folder", U, S, V, NULL, &hit));
  while (only_file(dir, path, sizeof path)) unlink(path);
  rmdir(dir);
  known_free(&m);
}

int main(void) {
  RUN(svd_small);
  RUN(svd_direct_wide_and_tall);
  RUN(svd_krylov);
  RUN(svd_by_backend);
  RUN(svd_of_deficient);
  RUN(svd_refuses);
  RUN(svd_cache);
  return test_done();
}
