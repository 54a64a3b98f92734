// cusolver.cc: cuSOLVER's QR and Jacobi SVD in double, over LAPACK. Checked beyond what the real one checks: pointers are device
// memory of the size that the dimensions say, what is read has been written, the work space is as large as bufferSize said (which
// asks for more than LAPACK would) and what was in it is lost.
#include "libraries.h"
#include <cusolverDn.h>
#include <lapacke.h>
#include <limits>
#include <set>
#include <vector>

using namespace cusim;

struct cusolverDnContext {
  cudaStream_t stream;
};
struct gesvdjInfo {
  int sweeps;
};
static std::set<cusolverDnHandle_t> handles;
static std::set<gesvdjInfo_t> infos;
extern "C" void openblas_set_num_threads(int n);

static matrix doubles(const char *name, const double *p, long rows, long cols, long ld) { return {name, p, rows, cols, ld, sizeof(double)}; }
static matrix column(const char *name, const double *p, long n) { return doubles(name, p, n, n ? 1 : 0, n ? n : 1); }
static matrix word(const int *p) { return {"devInfo", p, 1, 1, 1, sizeof(int)}; }

static cusolverStatus_t usable(const char *call, cusolverDnHandle_t h) {
  if (!handles.count(h)) return report("%s: no such handle", call), CUSOLVER_STATUS_NOT_INITIALIZED;
  return library_stream(call, h->stream) ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_INVALID_VALUE;
}
static cusolverStatus_t right_room(const char *call, int given, int wanted) {
  if (given >= wanted) return CUSOLVER_STATUS_SUCCESS;
  report("%s: a work space of %d numbers, %d are needed", call, given, wanted);
  return CUSOLVER_STATUS_INVALID_VALUE;
}
static void spoil(const char *call, double *work, int n) {
  writes(call, column("Workspace", work, n));
  for (int i = 0; i < n; i++) work[i] = std::numeric_limits<double>::quiet_NaN();
}
static void tell(const char *call, int *info, int value) {
  if (writes(call, word(info))) *info = value;
}
static cusolverStatus_t queued(const char *call, cusolverDnHandle_t h, std::initializer_list<matrix> all, int given, int wanted,
                               std::function<void()> run) {
  cusolverStatus_t s = usable(call, h);
  if (s == CUSOLVER_STATUS_SUCCESS) s = right_room(call, given, wanted);
  for (const matrix &m : all)
    if (s == CUSOLVER_STATUS_SUCCESS && !is_right(call, m)) s = CUSOLVER_STATUS_INVALID_VALUE;
  if (s != CUSOLVER_STATUS_SUCCESS) return s;
  return queue_work(h->stream, std::move(run)) == cudaSuccess ? s : CUSOLVER_STATUS_EXECUTION_FAILED;
}

extern "C" {
cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle) {
  guard g(lock);
  if (!handle) return CUSOLVER_STATUS_INVALID_VALUE;
  openblas_set_num_threads(1);
  handles.insert(*handle = new cusolverDnContext{});
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  guard g(lock);
  if (!handles.erase(handle)) return CUSOLVER_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  guard g(lock);
  if (!handles.count(handle)) return CUSOLVER_STATUS_NOT_INITIALIZED;
  handle->stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateGesvdjInfo(gesvdjInfo_t *info) {
  guard g(lock);
  if (!info) return CUSOLVER_STATUS_INVALID_VALUE;
  infos.insert(*info = new gesvdjInfo{});
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyGesvdjInfo(gesvdjInfo_t info) {
  guard g(lock);
  if (!infos.erase(info)) return CUSOLVER_STATUS_INVALID_VALUE;
  delete info;
  return CUSOLVER_STATUS_SUCCESS;
}

// ---- A = Q R
static int geqrf_room(int m, int n) { return 3 * n + m / 4 + 32; }
cusolverStatus_t cusolverDnDgeqrf_bufferSize(cusolverDnHandle_t handle, int m, int n, double *A, int lda, int *lwork) {
  guard g(lock);
  cusolverStatus_t s = usable("cusolverDnDgeqrf_bufferSize", handle);
  if (s != CUSOLVER_STATUS_SUCCESS) return s;
  if (!is_right("cusolverDnDgeqrf_bufferSize", doubles("A", A, m, n, lda))) return CUSOLVER_STATUS_INVALID_VALUE;
  return *lwork = geqrf_room(m, n), CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDgeqrf(cusolverDnHandle_t handle, int m, int n, double *A, int lda, double *TAU, double *Workspace, int Lwork,
                                  int *devInfo) {
  guard g(lock);
  static const char call[] = "cusolverDnDgeqrf";
  matrix a = doubles("A", A, m, n, lda), tau = column("TAU", TAU, m < n ? m : n);
  return queued(call, handle, {a, tau, column("Workspace", Workspace, Lwork), word(devInfo)}, Lwork, geqrf_room(m, n), [=] {
    if (!reads(call, a) || !writes(call, tau)) return;
    tell(call, devInfo, LAPACKE_dgeqrf(LAPACK_COL_MAJOR, m, n, A, lda, TAU));
    spoil(call, Workspace, Lwork);
  });
}

// ---- Q, of its reflectors
static int orgqr_room(int m, int n) { return 2 * n + m / 4 + 64; }
static bool right_reflectors(const char *call, int m, int n, int k) {
  if (m >= n && n >= k && k >= 0) return true;
  return report("%s: %d columns of Q (%d rows) of %d reflectors", call, n, m, k), false;
}
cusolverStatus_t cusolverDnDorgqr_bufferSize(cusolverDnHandle_t handle, int m, int n, int k, const double *A, int lda, const double *tau,
                                             int *lwork) {
  guard g(lock);
  cusolverStatus_t s = usable("cusolverDnDorgqr_bufferSize", handle);
  if (s != CUSOLVER_STATUS_SUCCESS) return s;
  bool right = right_reflectors("cusolverDnDorgqr_bufferSize", m, n, k) && is_right("cusolverDnDorgqr_bufferSize", doubles("A", A, m, n, lda)) &&
               is_right("cusolverDnDorgqr_bufferSize", column("tau", tau, k));
  if (!right) return CUSOLVER_STATUS_INVALID_VALUE;
  return *lwork = orgqr_room(m, n), CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDorgqr(cusolverDnHandle_t handle, int m, int n, int k, double *A, int lda, const double *tau, double *work,
                                  int lwork, int *info) {
  guard g(lock);
  static const char call[] = "cusolverDnDorgqr";
  if (!right_reflectors(call, m, n, k)) return CUSOLVER_STATUS_INVALID_VALUE;
  matrix a = doubles("A", A, m, n, lda), t = column("tau", tau, k);
  return queued(call, handle, {a, t, column("work", work, lwork), word(info)}, lwork, orgqr_room(m, n), [=] {
    if (!reads(call, a) || !reads(call, t)) return;
    tell(call, info, LAPACKE_dorgqr(LAPACK_COL_MAJOR, m, n, k, A, lda, tau));
    spoil(call, work, lwork);
  });
}

// ---- C = Q C
static int ormqr_room(int m, int n) { return 2 * n + m / 4 + 96; }
static bool right_sides(const char *call, cublasSideMode_t side, cublasOperation_t trans, int m, int n, int k) {
  int most = side == CUBLAS_SIDE_LEFT ? m : n;
  if ((side == CUBLAS_SIDE_LEFT || side == CUBLAS_SIDE_RIGHT) && (trans == CUBLAS_OP_N || trans == CUBLAS_OP_T) && k >= 0 && k <= most) return true;
  return report("%s: side %d, operation %d, %d reflectors of %d", call, (int)side, (int)trans, k, most), false;
}
cusolverStatus_t cusolverDnDormqr_bufferSize(cusolverDnHandle_t handle, cublasSideMode_t side, cublasOperation_t trans, int m, int n, int k,
                                             const double *A, int lda, const double *tau, const double *C, int ldc, int *lwork) {
  guard g(lock);
  static const char call[] = "cusolverDnDormqr_bufferSize";
  cusolverStatus_t s = usable(call, handle);
  if (s != CUSOLVER_STATUS_SUCCESS) return s;
  bool right = right_sides(call, side, trans, m, n, k) && is_right(call, doubles("A", A, side == CUBLAS_SIDE_LEFT ? m : n, k, lda)) &&
               is_right(call, column("tau", tau, k)) && is_right(call, doubles("C", C, m, n, ldc));
  if (!right) return CUSOLVER_STATUS_INVALID_VALUE;
  return *lwork = ormqr_room(m, n), CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDormqr(cusolverDnHandle_t handle, cublasSideMode_t side, cublasOperation_t trans, int m, int n, int k,
                                  const double *A, int lda, const double *tau, double *C, int ldc, double *work, int lwork, int *devInfo) {
  guard g(lock);
  static const char call[] = "cusolverDnDormqr";
  if (!right_sides(call, side, trans, m, n, k)) return CUSOLVER_STATUS_INVALID_VALUE;
  matrix a = doubles("A", A, side == CUBLAS_SIDE_LEFT ? m : n, k, lda), t = column("tau", tau, k), c = doubles("C", C, m, n, ldc);
  return queued(call, handle, {a, t, c, column("work", work, lwork), word(devInfo)}, lwork, ormqr_room(m, n), [=] {
    if (!reads(call, a) || !reads(call, t) || !reads(call, c)) return;
    tell(call, devInfo, LAPACKE_dormqr(LAPACK_COL_MAJOR, side == CUBLAS_SIDE_LEFT ? 'L' : 'R', trans == CUBLAS_OP_N ? 'N' : 'T', m, n, k, A,
                                       lda, tau, C, ldc));
    spoil(call, work, lwork);
  });
}

// ---- A = U S V^T, the economy form; A is lost
static int gesvdj_room(int m, int n) { return 2 * m * n + 4 * (m + n) + 128; }
static cusolverStatus_t right_svd(const char *call, cusolverDnHandle_t h, cusolverEigMode_t jobz, int econ, gesvdjInfo_t params) {
  cusolverStatus_t s = usable(call, h);
  if (s == CUSOLVER_STATUS_SUCCESS && !infos.count(params)) s = (report("%s: no such gesvdjInfo", call), CUSOLVER_STATUS_INVALID_VALUE);
  if (s == CUSOLVER_STATUS_SUCCESS && (jobz != CUSOLVER_EIG_MODE_VECTOR || econ != 1))
    s = (report("%s: the simulator has the economy form with vectors alone", call), CUSOLVER_STATUS_NOT_SUPPORTED);
  return s;
}
cusolverStatus_t cusolverDnDgesvdj_bufferSize(cusolverDnHandle_t handle, cusolverEigMode_t jobz, int econ, int m, int n, const double *A,
                                              int lda, const double *S, const double *U, int ldu, const double *V, int ldv, int *lwork,
                                              gesvdjInfo_t params) {
  guard g(lock);
  static const char call[] = "cusolverDnDgesvdj_bufferSize";
  cusolverStatus_t s = right_svd(call, handle, jobz, econ, params);
  if (s != CUSOLVER_STATUS_SUCCESS) return s;
  int least = m < n ? m : n;
  bool right = is_right(call, doubles("A", A, m, n, lda)) && is_right(call, column("S", S, least)) &&
               is_right(call, doubles("U", U, m, least, ldu)) && is_right(call, doubles("V", V, n, least, ldv));
  if (!right) return CUSOLVER_STATUS_INVALID_VALUE;
  return *lwork = gesvdj_room(m, n), CUSOLVER_STATUS_SUCCESS;
}
static void run_svd(const char *call, int m, int n, matrix a, matrix s, matrix u, matrix v, int *info) {
  int least = m < n ? m : n;
  std::vector<double> vt((size_t)least * (size_t)n);
  double *V = (double *)v.p;
  if (!reads(call, a) || !writes(call, s) || !writes(call, u) || !writes(call, v)) return;
  int bad = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'S', m, n, (double *)a.p, (int)a.ld, (double *)s.p, (double *)u.p, (int)u.ld, vt.data(), least);
  for (int i = 0; i < least; i++)
    for (int j = 0; j < n; j++) V[(size_t)i * (size_t)v.ld + (size_t)j] = vt[(size_t)j * (size_t)least + (size_t)i];
  for (long c = 0; c < a.cols; c++)
    for (long r = 0; r < a.rows; r++) ((double *)a.p)[c * a.ld + r] = std::numeric_limits<double>::quiet_NaN();
  tell(call, info, bad > 0 ? least + 1 : bad);
}
cusolverStatus_t cusolverDnDgesvdj(cusolverDnHandle_t handle, cusolverEigMode_t jobz, int econ, int m, int n, double *A, int lda, double *S,
                                   double *U, int ldu, double *V, int ldv, double *work, int lwork, int *info, gesvdjInfo_t params) {
  guard g(lock);
  static const char call[] = "cusolverDnDgesvdj";
  cusolverStatus_t st = right_svd(call, handle, jobz, econ, params);
  if (st != CUSOLVER_STATUS_SUCCESS) return st;
  int least = m < n ? m : n;
  matrix a = doubles("A", A, m, n, lda), s = column("S", S, least), u = doubles("U", U, m, least, ldu), v = doubles("V", V, n, least, ldv);
  return queued(call, handle, {a, s, u, v, column("work", work, lwork), word(info)}, lwork, gesvdj_room(m, n), [=] {
    run_svd(call, m, n, a, s, u, v, info);
    spoil(call, work, lwork);
  });
}
}
