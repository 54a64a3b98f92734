// svd.c: truncated singular value decomposition of a weight, W (n, k) ~ U diag(S) V^T at rank r, in double precision.
//
// A weight whose smaller side is beyond always_direct goes to the backend first, which may have a device for it (tlk_ops.svd, the
// krylov way below); what it leaves, and all else, is done here. Two ways, chosen by size (the smaller side up to always_direct: direct; beyond direct_limit: krylov; between them by rank):
//   direct  Gram matrix of the smaller side, its r largest eigenpairs (LAPACK dsyevr), the other side by one product.
//           When sigma_r is so small that squaring has eaten its digits, the full SVD (dgesdd) instead.
//   krylov  block Krylov subspace with Rayleigh-Ritz and restarts (Musco and Musco 2015, "Randomized block Krylov methods
//           for stronger and faster approximate singular value decomposition"): from a random block X of b = r + 6 columns
//           the space K = [X, (W^T W) X, (W^T W)^2 X, ...] is built with full reorthogonalisation; the SVD of W K gives
//           Ritz triplets; the b best start the next round. The start block is drawn by Philox, so a weight always gives
//           the same bits. W passes through in panels of rows, so a large weight is never copied to double as a whole.
//
// Error: max_i ||W^T u_i - sigma_i v_i|| / sigma_1; W v_i = sigma_i u_i holds to rounding. Rounds end when it is below
// krylov_tolerance; when they run out, a matrix small enough goes the direct way, and a larger one must be below
// accept_tolerance (about fp32's own rounding) or the call fails.
//
// Signs: the entry of largest magnitude of every column of U is positive (the first such entry).
// Threads: LAPACK and BLAS run on one thread here, so that results do not depend on how many there are; the callers
// decompose several weights at a time.
//
// Cache file (one per weight and rank; all little-endian, written whole or not at all):
//   0   8  magic "TLSVD\0\0\1"     8  4  algorithm version    12 12  n, k, rank
//   24 16  hash of the weight      40 8  error (double)       48 16  hash of what follows
//   64     U (n, r), S (r), V (k, r) as fp32
#include "svd.h"
#include <cblas.h>
#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>

enum { algorithm_version = 1, krylov_steps = 8, oversampling = 6, max_rounds = 40, small_rounds = 5, always_direct = 1024, direct_limit = 2048 };
static const double krylov_tolerance = 1e-11, accept_tolerance = 1e-6;
static const size_t panel_bytes = (size_t)64 << 20;

void openblas_set_num_threads(int n);
static void one_blas_thread(void) { openblas_set_num_threads(1); }

// A weight seen through row panels in double: panel i covers rows i * rows .. ; the whole weight when it fits.
typedef struct {
  const float *w;
  int n, k, rows;
  double *panel;  // (rows, k)
  bool whole;     // the panel already holds all of W
} operand;

static tl_status operand_init(operand *o, const float *w, int n, int k) {
  size_t fit = panel_bytes / (sizeof(double) * (size_t)k);
  int rows = fit >= (size_t)n ? n : fit < 16 ? (n < 16 ? n : 16) : (int)fit;
  *o = (operand){.w = w, .n = n, .k = k, .rows = rows, .whole = rows == n};
  o->panel = malloc(sizeof(double) * (size_t)rows * (size_t)k);
  if (!o->panel) return tl_fail(TL_E_MEMORY, "svd: out of memory for a (%d, %d) panel", rows, k);
  if (o->whole)
    for (size_t i = 0; i < (size_t)n * k; i++) o->panel[i] = w[i];
  return TL_OK;
}

static const double *operand_rows(operand *o, int row, int *count) {
  *count = o->n - row < o->rows ? o->n - row : o->rows;
  if (!o->whole)
    for (size_t i = 0, m = (size_t)*count * o->k, base = (size_t)row * o->k; i < m; i++) o->panel[i] = o->w[base + i];
  return o->panel;
}

// y (n, b) = W x (k, b), and, when given, z (k, b) = W^T y; ld: row strides
static void apply(operand *o, double *y, int ldy, double *z, const double *x, int ldx, int b) {
  if (z) memset(z, 0, sizeof(double) * (size_t)o->k * b);
  for (int row = 0, count; row < o->n; row += count) {
    const double *p = operand_rows(o, row, &count);
    double *yr = y + (size_t)row * ldy;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, count, b, o->k, 1, p, o->k, x, ldx, 0, yr, ldy);
    if (z) cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, o->k, b, count, 1, p, o->k, yr, ldy, 1, z, b);
  }
}

// z (k, b) = W^T y (n, b)
static void apply_t(operand *o, double *z, const double *y, int b) {
  memset(z, 0, sizeof(double) * (size_t)o->k * b);
  for (int row = 0, count; row < o->n; row += count) {
    const double *p = operand_rows(o, row, &count);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, o->k, b, count, 1, p, o->k, y + (size_t)row * b, b, 1, z, b);
  }
}

// max_i ||W^T u_i - s_i v_i|| / s_1 for U (n, r), V (k, r); t (k, r) is scratch
static double residual(operand *o, const double *U, const double *S, const double *V, double *t, int r) {
  apply_t(o, t, U, r);
  double worst = 0;
  for (int i = 0; i < r; i++) {
    double sum = 0;
    for (int j = 0; j < o->k; j++) {
      double d = t[(size_t)j * r + i] - S[i] * V[(size_t)j * r + i];
      sum += d * d;
    }
    worst = fmax(worst, sqrt(sum));
  }
  return S[0] > 0 ? worst / S[0] : worst;
}

// Full SVD of a (n, k) matrix (destroyed): the first r triplets into U (n, r), S (r), V (k, r).
static tl_status full_svd(double *a, int n, int k, int r, double *U, double *S, double *V) {
  int m = n < k ? n : k;
  double *u = malloc(sizeof(double) * (size_t)n * m), *vt = malloc(sizeof(double) * (size_t)m * k);
  double *s = malloc(sizeof(double) * (size_t)m);
  tl_status st = TL_OK;
  if (!u || !vt || !s) st = tl_fail(TL_E_MEMORY, "svd: out of memory for the full decomposition of (%d, %d)", n, k);
  else if (LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'S', n, k, a, k, s, u, m, vt, k) != 0)
    st = tl_fail(TL_E_INTERNAL, "svd: dgesdd did not converge on a (%d, %d) matrix", n, k);
  for (int i = 0; st == TL_OK && i < r; i++) {
    S[i] = s[i];
    for (int j = 0; j < n; j++) U[(size_t)j * r + i] = u[(size_t)j * m + i];
    for (int j = 0; j < k; j++) V[(size_t)j * r + i] = vt[(size_t)i * k + j];
  }
  free(u);
  free(vt);
  free(s);
  return st;
}

// The r largest eigenpairs of the symmetric g (m, m, lower triangle; destroyed): e (r) falling, x (m, r).
static tl_status top_eigen(double *g, int m, int r, double *e, double *x) {
  double *w = malloc(sizeof(double) * (size_t)m), *z = malloc(sizeof(double) * (size_t)m * r);
  lapack_int *support = malloc(sizeof(lapack_int) * 2 * (size_t)m), found = 0;
  tl_status st = TL_OK;
  if (!w || !z || !support) st = tl_fail(TL_E_MEMORY, "svd: out of memory for %d eigenpairs of %d", r, m);
  else if (LAPACKE_dsyevr(LAPACK_ROW_MAJOR, 'V', 'I', 'L', m, g, m, 0, 0, m - r + 1, m, 0, &found, w, z, r, support) != 0 ||
           found != r)
    st = tl_fail(TL_E_INTERNAL, "svd: dsyevr did not converge on a (%d, %d) matrix", m, m);
  for (int i = 0; st == TL_OK && i < r; i++) {
    e[i] = w[r - 1 - i];
    for (int j = 0; j < m; j++) x[(size_t)j * r + i] = z[(size_t)j * r + r - 1 - i];
  }
  free(w);
  free(z);
  free(support);
  return st;
}

static tl_status direct(const float *w, int n, int k, int r, double *U, double *S, double *V) {
  int m = n < k ? n : k;
  size_t count = (size_t)n * k;
  double *a = malloc(sizeof(double) * count), *g = malloc(sizeof(double) * (size_t)m * m);
  tl_status st = TL_OK;
  if (!a || !g) st = tl_fail(TL_E_MEMORY, "svd: out of memory for (%d, %d) in double", n, k);
  if (st == TL_OK) {
    for (size_t i = 0; i < count; i++) a[i] = w[i];
    cblas_dsyrk(CblasRowMajor, CblasLower, n < k ? CblasNoTrans : CblasTrans, m, n < k ? k : n, 1, a, k, 0, g, m);
    st = top_eigen(g, m, r, S, n < k ? U : V);
  }
  if (st == TL_OK) {
    for (int i = 0; i < r; i++) S[i] = sqrt(fmax(S[i], 0));
    if (S[r - 1] > 1e-5 * S[0]) {  // sigma^2 is good to 1e-16 sigma_1^2: sigma_r then to 1e-6 of its own size at worst
      double *other = n < k ? V : U;
      if (n < k) cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, k, r, n, 1, a, k, U, r, 0, V, r);
      else cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, r, k, 1, a, k, V, r, 0, U, r);
      for (int i = 0, len = n < k ? k : n; i < r; i++) cblas_dscal(len, 1 / S[i], other + i, r);
    } else {
      st = full_svd(a, n, k, r, U, S, V);
    }
  }
  free(a);
  free(g);
  return st;
}

// Orthonormalises q (k, b; row stride ld) against the columns 0 .. d-1 of basis (k, ld) and within itself. Columns that
// are dependent become arbitrary orthonormal ones, which does no harm.
static tl_status orthonormalise(double *basis, int ld, int d, double *q, int k, int b, double *t, double *tau) {
  for (int pass = 0; pass < 2; pass++) {
    if (d) {
      cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, d, b, k, 1, basis, ld, q, b, 0, t, b);
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, k, b, d, -1, basis, ld, t, b, 1, q, b);
    }
    if (LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, k, b, q, b, tau) != 0 || LAPACKE_dorgqr(LAPACK_ROW_MAJOR, k, b, b, q, b, tau) != 0)
      return tl_fail(TL_E_INTERNAL, "svd: QR of a (%d, %d) block failed", k, b);
  }
  for (int i = 0; i < k; i++) memcpy(basis + (size_t)i * ld + d, q + (size_t)i * b, sizeof(double) * b);
  return TL_OK;
}

typedef struct {
  int r, b, d;                          // rank, block, size of the whole space
  double *Q, *WQ, *block, *tall, *t, *tau, *u, *s, *vd, *vb;
} krylov;

static tl_status krylov_round(operand *o, krylov *y, double *U, double *S, double *V) {
  int n = o->n, k = o->k, b = y->b, d = y->d, r = y->r;
  for (int at = 0; at < d; at += b) {
    TL_TRY(orthonormalise(y->Q, d, at, y->block, k, b, y->t, y->tau));
    apply(o, y->tall, b, y->block, y->Q + at, d, b);
    for (int i = 0; i < n; i++) memcpy(y->WQ + (size_t)i * d + at, y->tall + (size_t)i * b, sizeof(double) * b);
  }
  TL_TRY(full_svd(y->WQ, n, d, b, y->u, y->s, y->vd));  // vd (d, b)
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, k, b, d, 1, y->Q, d, y->vd, b, 0, y->block, b);
  for (int i = 0; i < r; i++) {
    S[i] = y->s[i];
    for (int j = 0; j < n; j++) U[(size_t)j * r + i] = y->u[(size_t)j * b + i];
    for (int j = 0; j < k; j++) V[(size_t)j * r + i] = y->block[(size_t)j * b + i];
  }
  return TL_OK;
}

// error: reached after the last round
static tl_status krylov_svd(const float *w, int n, int k, int r, int steps, int rounds, double *U, double *S, double *V,
                            double *error) {
  int b = r + oversampling, d = b * steps;
  operand o = {0};
  krylov y = {.r = r, .b = b, .d = d};
  struct { double **p; size_t n; } need[] = {
    {&y.Q, (size_t)k * d}, {&y.WQ, (size_t)n * d}, {&y.block, (size_t)k * b}, {&y.tall, (size_t)n * b}, {&y.t, (size_t)d * b},
    {&y.tau, (size_t)b}, {&y.u, (size_t)n * b}, {&y.s, (size_t)b}, {&y.vd, (size_t)d * b}, {&y.vb, (size_t)k * b},
  };
  enum { n_need = sizeof need / sizeof *need };
  tl_status st = operand_init(&o, w, n, k);
  for (int i = 0; i < n_need && st == TL_OK; i++)
    if (!(*need[i].p = malloc(sizeof(double) * need[i].n)))
      st = tl_fail(TL_E_MEMORY, "svd: out of memory for a Krylov space of %d vectors of a (%d, %d) weight", d, n, k);
  if (st == TL_OK) {
    float *x = (float *)y.vb;  // (k, b) floats fit in as many doubles
    tl_normal_fill(x, (size_t)k * b, 0x7c5d5u, (uint64_t)n << 32 | (uint32_t)k);
    for (size_t i = 0; i < (size_t)k * b; i++) y.block[i] = x[i];
  }
  *error = DBL_MAX;
  for (int round = 0; st == TL_OK && round < rounds && *error > krylov_tolerance; round++) {
    st = tl_interrupted() ? tl_fail(TL_E_INTERRUPTED, "interrupted during an SVD") : krylov_round(&o, &y, U, S, V);
    if (st == TL_OK) *error = residual(&o, U, S, V, y.vb, r);
  }
  for (int i = 0; i < n_need; i++) free(*need[i].p);
  free(o.panel);
  return st;
}

// Rounds to fp32 with the sign convention.
static void deliver(const double *u, const double *s, const double *v, int n, int k, int r, float *U, float *S, float *V) {
  for (int i = 0; i < r; i++) {
    double top = 0;
    for (int j = 0; j < n; j++)
      if (fabs(u[(size_t)j * r + i]) > fabs(top)) top = u[(size_t)j * r + i];
    double sign = top < 0 ? -1 : 1;
    S[i] = (float)s[i];
    for (int j = 0; j < n; j++) U[(size_t)j * r + i] = (float)(sign * u[(size_t)j * r + i]);
    for (int j = 0; j < k; j++) V[(size_t)j * r + i] = (float)(sign * v[(size_t)j * r + i]);
  }
}

static bool by_backend(const float *w, int n, int k, int r, double *U, double *S, double *V, double *error) {
  const tlk_ops *ops = tl_ops();
  int done = 0;
  if (!ops->svd || (n < k ? n : k) <= always_direct) return false;
#pragma omp critical(tl_backend)  // a backend is not for two callers
  done = ops->svd(U, S, V, error, w, n, k, r);
  return done;
}

static tl_status decompose(const float *w, int n, int k, int r, double *U, double *S, double *V, double *error) {
  if (by_backend(w, n, k, r, U, S, V, error)) return TL_OK;
  int m = n < k ? n : k, b = r + oversampling;
  bool small = m <= direct_limit;
  int steps = small || b * krylov_steps <= m ? krylov_steps : m / b < 2 ? 1 : m / b;
  bool use_krylov = b < m && (!small || (m > always_direct && b * krylov_steps <= m / 4));
  if (use_krylov) {
    TL_TRY(krylov_svd(w, n, k, r, steps, small ? small_rounds : max_rounds, U, S, V, error));
    if (*error <= krylov_tolerance || (!small && *error <= accept_tolerance)) return TL_OK;
    if (!small)
      return tl_fail(TL_E_INTERNAL, "svd: rank %d of a (%d, %d) weight: relative residual %.1e after %d rounds, wanted %.0e",
                     r, n, k, *error, max_rounds, accept_tolerance);
  }
  TL_TRY(direct(w, n, k, r, U, S, V));
  operand o;
  TL_TRY(operand_init(&o, w, n, k));
  double *t = malloc(sizeof(double) * (size_t)k * r);
  if (t) *error = residual(&o, U, S, V, t, r);
  free(t);
  free(o.panel);
  return t ? TL_OK : tl_fail(TL_E_MEMORY, "svd: out of memory for (%d, %d)", k, r);
}

static tl_status check(const float *w, int n, int k, int rank) {
  if (n < 1 || k < 1 || rank < 1)
    return tl_fail(TL_E_ARG, "svd: rank %d of a (%d, %d) matrix: all must be positive", rank, n, k);
  if (rank > n || rank > k)
    return tl_fail(TL_E_SHAPE, "svd: rank %d is more than a (%d, %d) matrix has; at most %d", rank, n, k, n < k ? n : k);
  for (size_t i = 0; i < (size_t)n * k; i++)
    if (!isfinite(w[i])) return tl_fail(TL_E_ARG, "svd: entry (%zu, %zu) of the matrix is not finite", i / k, i % k);
  return TL_OK;
}

tl_status tl_svd(const float *w, int n, int k, int rank, float *U, float *S, float *V, double *error) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, one_blas_thread);
  TL_TRY(check(w, n, k, rank));
  double *u = malloc(sizeof(double) * (size_t)n * rank), *s = malloc(sizeof(double) * (size_t)rank);
  double *v = malloc(sizeof(double) * (size_t)k * rank), e = 0;
  tl_status st = u && s && v ? decompose(w, n, k, rank, u, s, v, &e) : tl_fail(TL_E_MEMORY, "svd: out of memory");
  if (st == TL_OK) {
    deliver(u, s, v, n, k, rank, U, S, V);
    if (error) *error = e;
  }
  free(u);
  free(s);
  free(v);
  return st;
}

// ---------------------------------------------------------------- cache
typedef struct {
  char magic[8];
  uint32_t version;
  int32_t n, k, rank;
  uint64_t weight[2];
  double error;
  uint64_t payload[2];
} header;
_Static_assert(sizeof(header) == 64, "the cache file's header is 64 bytes");
static const char magic[8] = {'T', 'L', 'S', 'V', 'D', 0, 0, 1};

static bool cache_read(const char *path, const header *want, float *U, float *S, float *V, double *error) {
  if (!tl_file_exists(path)) return false;
  char *data = NULL;
  size_t n = 0, nu = sizeof(float) * (size_t)want->n * want->rank, ns = sizeof(float) * (size_t)want->rank;
  size_t nv = sizeof(float) * (size_t)want->k * want->rank;
  if (tl_read_file(path, &data, &n) != TL_OK) return false;
  header h;
  bool ok = n == sizeof h + nu + ns + nv;
  if (ok) {
    memcpy(&h, data, sizeof h);
    uint64_t sum[2];
    tl_hash128(data + sizeof h, n - sizeof h, sum);
    ok = !memcmp(h.magic, magic, 8) && h.version == want->version && h.n == want->n && h.k == want->k && h.rank == want->rank &&
         !memcmp(h.weight, want->weight, 16) && !memcmp(h.payload, sum, 16);
  }
  if (ok) {
    const char *p = data + sizeof h;
    memcpy(U, p, nu);
    memcpy(S, p + nu, ns);
    memcpy(V, p + nu + ns, nv);
    if (error) *error = h.error;
  }
  free(data);
  return ok;
}

static void cache_write(const char *dir, const char *path, header *h, const float *U, const float *S, const float *V) {
  tl_str s = {0};
  tl_str_add(&s, (const char *)h, sizeof *h);
  tl_str_add(&s, (const char *)U, sizeof(float) * (size_t)h->n * h->rank);
  tl_str_add(&s, (const char *)S, sizeof(float) * (size_t)h->rank);
  tl_str_add(&s, (const char *)V, sizeof(float) * (size_t)h->k * h->rank);
  tl_hash128(s.p + sizeof *h, s.n - sizeof *h, h->payload);
  memcpy(s.p, h, sizeof *h);
  // a read-only or full cache folder is no reason to fail: the result is there
  if (tl_mkdirs(dir) == TL_OK) (void)tl_write_file(path, s.p, s.n);
  tl_str_free(&s);
}

tl_status tl_svd_cached(const float *w, int n, int k, int rank, const char *cache_dir, float *U, float *S, float *V,
                        double *error, bool *hit) {
  if (hit) *hit = false;
  if (!cache_dir || !*cache_dir) return tl_svd(w, n, k, rank, U, S, V, error);
  TL_TRY(check(w, n, k, rank));
  header h = {.version = algorithm_version, .n = n, .k = k, .rank = rank};
  memcpy(h.magic, magic, 8);
  tl_hash128(w, sizeof(float) * (size_t)n * k, h.weight);
  char path[4096];
  if (snprintf(path, sizeof path, "%s/svd-%016llx%016llx-%dx%d-r%d-v%d.bin", cache_dir, (unsigned long long)h.weight[0],
               (unsigned long long)h.weight[1], n, k, rank, algorithm_version) >= (int)sizeof path)
    return tl_fail(TL_E_ARG, "%s: path of the SVD cache is too long", cache_dir);
  if (cache_read(path, &h, U, S, V, error)) {
    if (hit) *hit = true;
    return TL_OK;
  }
  TL_TRY(tl_svd(w, n, k, rank, U, S, V, &h.error));
  if (error) *error = h.error;
  cache_write(cache_dir, path, &h, U, S, V);
  return TL_OK;
}
