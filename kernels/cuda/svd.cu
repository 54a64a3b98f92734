// svd.cu: the r largest singular triplets of a weight W (n, k), in double precision: the way that runtime/tensor/svd.c goes for large
// weights (block Krylov with full reorthogonalisation, Rayleigh-Ritz and restarts; Musco and Musco 2015), on the device:
//
//   X (k, b), b = r + 6, random.  A round: for each of 8 steps X is made orthogonal to the basis Q so far, twice, and within
//   itself (QR), joins Q (k, d) and gives the next X = W^T (W X).  Then W Q = Z R (QR), R = A S B^T (Jacobi), so that
//   U = Z A, V = Q B; the b best columns of V start the next round.
//   Rounds end when max_i ||W^T u_i - s_i v_i|| / s_1 is below 1e-11; that number is given out.
//
// QR (geqrf, orgqr, ormqr) and the Jacobi SVD of the small R (gesvdj) are cuSOLVER's. The products are our own: W stays in fp32 and
// is read once for all b columns of a product with double sums, where a library would first want all of W in double. They are bound by
// the memory that holds W (2 b = 16 double operations a number), and every sum has an order fixed by shapes.
//
// Matrices here are column-major with the number of rows as leading dimension, as cuSOLVER wants them: Q (k, d), Y = W Q (n, d). W is
// row-major, and what is column-major is a row-major transpose, so two products serve all:
//   rows_times   out[c][i] = sum_j M[i][j] x[c][j]        W X; Q^T X (M = Q's columns as rows)
//   cols_times   out[c][j] = sum_i M[i][j] y[c][i]        W^T Y; Q T (M the same)
//
// Left to the host (0 is returned): a rank that is near the matrix's own, no memory, no cuSOLVER, no convergence.
#include "library.cuh"
#if __has_include(<cusolverDn.h>)
#include <cusolverDn.h>
#include <cstdlib>
#include <vector>

#define SOLVER_FUNCTIONS(X)                                                                                                   \
  X(cusolverDnCreate) X(cusolverDnSetStream) X(cusolverDnCreateGesvdjInfo) X(cusolverDnDgeqrf_bufferSize) X(cusolverDnDgeqrf) \
  X(cusolverDnDorgqr_bufferSize) X(cusolverDnDorgqr) X(cusolverDnDormqr_bufferSize) X(cusolverDnDormqr)                       \
  X(cusolverDnDgesvdj_bufferSize) X(cusolverDnDgesvdj)
TLK_LIBRARY(solver, "libcusolver.so." TLK_TEXT(CUSOLVER_VER_MAJOR), "the CPU decomposes weights", SOLVER_FUNCTIONS)

enum { STEPS = 8, OVERSAMPLING = 6, MAX_ROUNDS = 40, MAX_SPACE = 1024 };
static const double tolerance = 1e-11, accepted = 1e-6;

static const char *status_name(cusolverStatus_t s) {
  switch (s) {
  case CUSOLVER_STATUS_NOT_INITIALIZED: return "CUSOLVER_STATUS_NOT_INITIALIZED";
  case CUSOLVER_STATUS_ALLOC_FAILED: return "CUSOLVER_STATUS_ALLOC_FAILED";
  case CUSOLVER_STATUS_INVALID_VALUE: return "CUSOLVER_STATUS_INVALID_VALUE";
  case CUSOLVER_STATUS_ARCH_MISMATCH: return "CUSOLVER_STATUS_ARCH_MISMATCH";
  case CUSOLVER_STATUS_EXECUTION_FAILED: return "CUSOLVER_STATUS_EXECUTION_FAILED";
  case CUSOLVER_STATUS_INTERNAL_ERROR: return "CUSOLVER_STATUS_INTERNAL_ERROR";
  case CUSOLVER_STATUS_NOT_SUPPORTED: return "CUSOLVER_STATUS_NOT_SUPPORTED";
  default: return "a cuSOLVER error";
  }
}
#define SOLVE(f, ...)                                                       \
  do {                                                                      \
    cusolverStatus_t status_ = solver.f(__VA_ARGS__);                       \
    if (status_ != CUSOLVER_STATUS_SUCCESS) library_failed(#f, status_name(status_)); \
  } while (0)

// ---- products in double. part (chunks, b, outer): sums over a chunk of the reduction; add_parts adds them in order
enum { THREADS = 256, N_WARPS = THREADS / 32, WARP_ROWS = 4, BLOCK_ROWS = N_WARPS * WARP_ROWS, GROUP = 8, PIECE = 128,
       ROWS_CHUNK = 4096, COLS_CHUNK = 256, LANES = 33 };
static const size_t rows_shared = sizeof(double) * (GROUP * PIECE + N_WARPS * GROUP * LANES);
static const size_t cols_shared = sizeof(double) * GROUP * COLS_CHUNK;

// a warp makes 4 rows of 8 columns: each lane sums every 32nd product, then one lane a column adds the lanes in order
template <class E>
__global__ static void __launch_bounds__(THREADS) rows_times(double *part, const E *m, int rows, int len, const double *x, int b) {
  double *sx = (double *)tlk_shared;  // (GROUP, PIECE)
  int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
  double *lanes = sx + GROUP * PIECE + warp * GROUP * LANES;
  int i0 = (int)blockIdx.x * BLOCK_ROWS + warp * WARP_ROWS, c0 = (int)blockIdx.y * GROUP, first = (int)blockIdx.z * ROWS_CHUNK;
  int end = first + ROWS_CHUNK < len ? first + ROWS_CHUNK : len;
  double sum[WARP_ROWS][GROUP] = {};
  for (int at = first; at < end; at += PIECE) {
    for (int i = (int)threadIdx.x; i < GROUP * PIECE; i += THREADS) {
      int c = c0 + i / PIECE, j = at + i % PIECE;
      sx[i] = c < b && j < end ? x[(size_t)c * len + j] : 0;
    }
    __syncthreads();
    for (int j = lane; j < PIECE && at + j < end; j += 32)
#pragma unroll
      for (int q = 0; q < WARP_ROWS; q++) {
        double v = i0 + q < rows ? (double)m[(size_t)(i0 + q) * len + at + j] : 0;
#pragma unroll
        for (int c = 0; c < GROUP; c++) sum[q][c] = fma(v, sx[c * PIECE + j], sum[q][c]);
      }
    __syncthreads();
  }
#pragma unroll
  for (int q = 0; q < WARP_ROWS; q++) {
#pragma unroll
    for (int c = 0; c < GROUP; c++) lanes[c * LANES + lane] = sum[q][c];
    __syncwarp();
    if (lane < GROUP && c0 + lane < b && i0 + q < rows) {
      double total = 0;
      for (int l = 0; l < 32; l++) total += lanes[lane * LANES + l];
      part[((size_t)blockIdx.z * b + c0 + lane) * rows + i0 + q] = total;
    }
    __syncwarp();
  }
}

// a thread makes one column of M's for 8 columns of y, over a chunk of M's rows
template <class E>
__global__ static void __launch_bounds__(THREADS) cols_times(double *part, const E *m, int rows, int len, const double *y, int b) {
  double *sy = (double *)tlk_shared;  // (GROUP, COLS_CHUNK)
  int j = (int)(blockIdx.x * THREADS + threadIdx.x), c0 = (int)blockIdx.y * GROUP, first = (int)blockIdx.z * COLS_CHUNK;
  int n = rows - first < COLS_CHUNK ? rows - first : COLS_CHUNK;
  for (int i = (int)threadIdx.x; i < GROUP * COLS_CHUNK; i += THREADS) {
    int c = c0 + i / COLS_CHUNK, row = i % COLS_CHUNK;
    sy[i] = c < b && row < n ? y[(size_t)c * rows + first + row] : 0;
  }
  __syncthreads();
  if (j >= len) return;
  double sum[GROUP] = {};
  for (int i = 0; i < n; i++) {
    double v = (double)m[(size_t)(first + i) * len + j];
#pragma unroll
    for (int c = 0; c < GROUP; c++) sum[c] = fma(v, sy[c * COLS_CHUNK + i], sum[c]);
  }
#pragma unroll
  for (int c = 0; c < GROUP; c++)
    if (c0 + c < b) part[((size_t)blockIdx.z * b + c0 + c) * len + j] = sum[c];
}

// out (n) = the sum of part (chunks, n), or out -= it
__global__ static void add_parts(double *out, const double *part, int chunks, size_t n, int subtract) {
  size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double sum = 0;
  for (int c = 0; c < chunks; c++) sum += part[(size_t)c * n + i];
  out[i] = subtract ? out[i] - sum : sum;
}

__device__ static inline uint64_t mixed(uint64_t z) {  // splitmix64 (Steele, Lea & Flood 2014)
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
__global__ static void random_block(double *x, size_t n) {  // uniform in (-1, 1), of the index alone
  size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] = (double)(int64_t)mixed(i) * 0x1p-63;
}

// small (d, d) = the upper triangle that geqrf left in y (n, d)
__global__ static void upper(double *small, const double *y, int n, int d) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < d * d) small[i] = i % d <= i / d ? y[(size_t)(i / d) * n + i % d] : 0;
}
// tall (n, r) = the first r columns of a (d, d), zeros below
__global__ static void heighten(double *tall, const double *a, int n, int d, int r) {
  size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, row = i % (size_t)n;
  if (i < (size_t)n * r) tall[i] = row < (size_t)d ? a[i / (size_t)n * d + row] : 0;
}
// norm[i] = || t_i - s_i v_i ||; t, v (k, r); a block a column
__global__ static void distances(double *norm, const double *t, const double *s, const double *v, int k) {
  double sum = 0;
  const double *ti = t + (size_t)blockIdx.x * k, *vi = v + (size_t)blockIdx.x * k;
  for (int j = (int)threadIdx.x; j < k; j += THREADS) {
    double d = ti[j] - s[blockIdx.x] * vi[j];
    sum = fma(d, d, sum);
  }
  sum = block_sum(sum, (double *)tlk_shared);
  if (threadIdx.x == 0) norm[blockIdx.x] = sqrt(sum);
}

// ---- one decomposition
struct decomposition {
  int n, k, r, b, d;
  float *w = nullptr;                                            // (n, k) row-major
  double *Q = nullptr, *Y = nullptr, *next = nullptr;            // (k, d), (n, d), (k, b)
  double *part = nullptr, *T = nullptr, *tau = nullptr;          // chunks; (d, b); (d)
  double *R = nullptr, *A = nullptr, *S = nullptr, *B = nullptr; // (d, d), (d, d), (d), (d, d)
  double *U = nullptr, *t = nullptr, *norm = nullptr;            // (n, r), (k, r), (r)
  double *work = nullptr;
  int *info = nullptr;                                           // geqrf, orgqr, gesvdj, ormqr
  int n_work = 0;
  std::vector<void *> taken;

  template <class T> bool take(T **p, size_t count) {
    *p = (T *)device_alloc(count * sizeof(T));
    if (!*p) return false;
    taken.push_back(*p);
    return true;
  }
  ~decomposition() {
    for (void *p : taken) check(cudaFreeAsync(p, stream()), current_op);
  }
};

static cusolverDnHandle_t handle() {
  static cusolverDnHandle_t h;
  if (!h) {
    empty_pool();
    SOLVE(cusolverDnCreate, &h);
  }
  SOLVE(cusolverDnSetStream, h, stream());
  return h;
}
static gesvdjInfo_t jacobi() {  // its defaults: machine precision, 100 sweeps, sorted
  static gesvdjInfo_t j;
  if (!j) SOLVE(cusolverDnCreateGesvdjInfo, &j);
  return j;
}

static int chunks_of(int len, int chunk) { return div_up(len, chunk); }

// out (rows, b) = M x, or out -= M x; M (rows, len) row-major, x (len, b)
template <class E> static void rows_product(decomposition &z, double *out, const E *m, int rows, int len, const double *x, int b) {
  int chunks = chunks_of(len, ROWS_CHUNK);
  size_t n = (size_t)rows * b;
  launch(rows_times<E>, dim3((unsigned)div_up(rows, BLOCK_ROWS), (unsigned)div_up(b, GROUP), (unsigned)chunks), THREADS, rows_shared,
         z.part, m, rows, len, x, b);
  launch(add_parts, grid_of(n, THREADS), THREADS, 0, out, (const double *)z.part, chunks, n, 0);
}
// out (len, b) = M^T y, or out -= M^T y; y (rows, b)
template <class E>
static void cols_product(decomposition &z, double *out, const E *m, int rows, int len, const double *y, int b, int subtract) {
  int chunks = chunks_of(rows, COLS_CHUNK);
  size_t n = (size_t)len * b;
  launch(cols_times<E>, dim3(grid_of((size_t)len, THREADS), (unsigned)div_up(b, GROUP), (unsigned)chunks), THREADS, cols_shared, z.part,
         m, rows, len, y, b);
  launch(add_parts, grid_of(n, THREADS), THREADS, 0, out, (const double *)z.part, chunks, n, subtract);
}

static bool make_room(decomposition &z) {
  size_t n = (size_t)z.n, k = (size_t)z.k, b = (size_t)z.b, d = (size_t)z.d, r = (size_t)z.r, most = n > k ? n : k;
  size_t parts = (size_t)chunks_of((int)most, ROWS_CHUNK) * b * (d > n ? d : n), cols = (size_t)chunks_of(z.n, COLS_CHUNK) * b * k;
  size_t more = (size_t)chunks_of(z.d, COLS_CHUNK) * b * k;
  if (cols > parts) parts = cols;
  if (more > parts) parts = more;
  bool ok = z.take(&z.w, n * k) && z.take(&z.Q, k * d) && z.take(&z.Y, n * d) && z.take(&z.next, k * b) && z.take(&z.part, parts) &&
            z.take(&z.T, d * b) && z.take(&z.tau, d) && z.take(&z.R, d * d) && z.take(&z.A, d * d) && z.take(&z.S, d) &&
            z.take(&z.B, d * d) && z.take(&z.U, n * r) && z.take(&z.t, k * r) && z.take(&z.norm, r) && z.take(&z.info, 4);
  if (!ok) return false;
  int size[5];
  SOLVE(cusolverDnDgeqrf_bufferSize, handle(), z.k, z.b, z.Q, z.k, &size[0]);
  SOLVE(cusolverDnDorgqr_bufferSize, handle(), z.k, z.b, z.b, z.Q, z.k, z.tau, &size[1]);
  SOLVE(cusolverDnDgeqrf_bufferSize, handle(), z.n, z.d, z.Y, z.n, &size[2]);
  SOLVE(cusolverDnDormqr_bufferSize, handle(), CUBLAS_SIDE_LEFT, CUBLAS_OP_N, z.n, z.r, z.d, z.Y, z.n, z.tau, z.U, z.n, &size[3]);
  SOLVE(cusolverDnDgesvdj_bufferSize, handle(), CUSOLVER_EIG_MODE_VECTOR, 1, z.d, z.d, z.R, z.d, z.S, z.A, z.d, z.B, z.d, &size[4], jacobi());
  for (int s : size)
    if (s > z.n_work) z.n_work = s;
  return z.take(&z.work, (size_t)(z.n_work ? z.n_work : 1));
}

// the b columns of Q from `at` on: orthogonal to those before them and to each other. Dependent ones become any that are.
static void orthonormalise(decomposition &z, int at) {
  double *x = z.Q + (size_t)at * z.k;
  for (int pass = 0; pass < 2; pass++) {
    if (at) {
      rows_product(z, z.T, (const double *)z.Q, at, z.k, x, z.b);
      cols_product(z, x, (const double *)z.Q, at, z.k, z.T, z.b, 1);
    }
    SOLVE(cusolverDnDgeqrf, handle(), z.k, z.b, x, z.k, z.tau, z.work, z.n_work, z.info);
    SOLVE(cusolverDnDorgqr, handle(), z.k, z.b, z.b, x, z.k, z.tau, z.work, z.n_work, z.info + 1);
  }
}

// from the block that Q starts with: U (n, r), S, and in next (k, b) V and the block of the next round
static void krylov_round(decomposition &z) {
  for (int at = 0; at < z.d; at += z.b) {
    double *y = z.Y + (size_t)at * z.n;
    orthonormalise(z, at);
    rows_product(z, y, (const float *)z.w, z.n, z.k, z.Q + (size_t)at * z.k, z.b);
    if (at + z.b < z.d) cols_product(z, z.Q + (size_t)(at + z.b) * z.k, (const float *)z.w, z.n, z.k, y, z.b, 0);
  }
  SOLVE(cusolverDnDgeqrf, handle(), z.n, z.d, z.Y, z.n, z.tau, z.work, z.n_work, z.info);
  launch(upper, grid_of((size_t)z.d * z.d, THREADS), THREADS, 0, z.R, (const double *)z.Y, z.n, z.d);
  SOLVE(cusolverDnDgesvdj, handle(), CUSOLVER_EIG_MODE_VECTOR, 1, z.d, z.d, z.R, z.d, z.S, z.A, z.d, z.B, z.d, z.work, z.n_work, z.info + 2,
        jacobi());
  cols_product(z, z.next, (const double *)z.Q, z.d, z.k, z.B, z.b, 0);
  launch(heighten, grid_of((size_t)z.n * z.r, THREADS), THREADS, 0, z.U, (const double *)z.A, z.n, z.d, z.r);
  SOLVE(cusolverDnDormqr, handle(), CUBLAS_SIDE_LEFT, CUBLAS_OP_N, z.n, z.r, z.d, z.Y, z.n, z.tau, z.U, z.n, z.work, z.n_work, z.info + 3);
}

// max_i || W^T u_i - s_i v_i || / s_1; -1: cuSOLVER's Jacobi did not converge
static double error_of(decomposition &z, double *S) {
  int info[4];
  std::vector<double> norm((size_t)z.r);
  cols_product(z, z.t, (const float *)z.w, z.n, z.k, z.U, z.r, 0);
  launch(distances, dim3((unsigned)z.r), THREADS, 32 * sizeof(double), z.norm, (const double *)z.t, (const double *)z.S, (const double *)z.next, z.k);
  device_copy(info, z.info, sizeof info);
  device_copy(norm.data(), z.norm, sizeof(double) * norm.size());
  device_copy(S, z.S, sizeof(double) * (size_t)z.r);
  if (info[2] > 0) return -1;
  for (int i : info)
    if (i) library_failed("devInfo", "an argument is wrong");
  double worst = 0;
  for (double d : norm) worst = d > worst ? d : worst;
  return S[0] > 0 ? worst / S[0] : worst;
}

// host (rows, r) row-major = columns (rows, r) column-major in device memory
static void give(double *host, const double *columns, int rows, int r) {
  std::vector<double> c((size_t)rows * (size_t)r);
  device_copy(c.data(), columns, sizeof(double) * c.size());
  for (int j = 0; j < rows; j++)
    for (int i = 0; i < r; i++) host[(size_t)j * r + i] = c[(size_t)i * rows + j];
}

int cuda_svd(double *U, double *S, double *V, double *error, const float *w, int n, int k, int r) {
  OP("svd");
  int m = n < k ? n : k, b = r + OVERSAMPLING;
  if (2 * b > m || !solver_is_here()) return 0;
  int steps = m / b < STEPS ? m / b : STEPS;
  if (b * steps > MAX_SPACE) steps = MAX_SPACE / b < 2 ? 2 : MAX_SPACE / b;
  decomposition z = {};
  z.n = n, z.k = k, z.r = r, z.b = b, z.d = b * steps;
  if (!make_room(z)) return 0;
  device_copy(z.w, w, sizeof(float) * (size_t)n * k);
  launch(random_block, grid_of((size_t)k * b, THREADS), THREADS, 0, z.Q, (size_t)k * b);
  double e = 1;
  for (int round = 0; round < MAX_ROUNDS && e > tolerance; round++) {
    if (round) check(cudaMemcpyAsync(z.Q, z.next, sizeof(double) * (size_t)k * b, cudaMemcpyDeviceToDevice, stream()), "svd");
    krylov_round(z);
    e = error_of(z, S);
    if (e < 0) return 0;
  }
  if (!(e <= accepted)) return 0;
  give(U, z.U, n, r);
  give(V, z.next, k, r);
  *error = e;
  return 1;
}

#else
int cuda_svd(double *, double *, double *, double *, const float *, int, int, int) { return 0; }  // built without cuSOLVER's header
#endif
