// test_libraries.h: for test_cusim.cu: that the stand-ins for NVIDIA's libraries bite: each call with one wrong argument must be
// refused, with a report that names it, and the same call without it must work.
#include <cublasLt.h>
#include <cusolverDn.h>
#include <nccl.h>

// what a call that must fail gave, and what was reported; then the error is cleared, so that the next mistake is seen
static void refused(int status, const char *word) {
  CHECK(status != 0, "a call that must be refused ('%s') says that it is done", word);
  expect(word);
}

// a 9 x 4 matrix of which QR and SVD are asked for
enum { QM = 9, QN = 4 };
struct solver_case {
  cusolverDnHandle_t h;
  gesvdjInfo_t jacobi;
  double *a, *tau, *work, host[QM * QN];
  int *info, room;
};
static solver_case make_solver_case() {
  solver_case c = {};
  cusolverDnCreate(&c.h);
  cusolverDnSetStream(c.h, stream);
  cusolverDnCreateGesvdjInfo(&c.jacobi);
  c.a = device<double>(QM * QN), c.tau = device<double>(QN), c.info = device<int>(1);
  for (int i = 0; i < QM * QN; i++) c.host[i] = (i * 37 % 11) - 5 + (i % QM == i / QM ? 9 : 0);
  cudaMemcpyAsync(c.a, c.host, sizeof c.host, cudaMemcpyHostToDevice, stream);
  cusolverDnDgeqrf_bufferSize(c.h, QM, QN, c.a, QM, &c.room);
  c.work = device<double>(4096);
  return c;
}

static void solver_works() {
  solver_case c = make_solver_case();
  double q[QM * QN], dot = 0, length = 0;
  int info = -1;
  CHECK(cusolverDnDgeqrf(c.h, QM, QN, c.a, QM, c.tau, c.work, c.room, c.info) == CUSOLVER_STATUS_SUCCESS, "geqrf");
  CHECK(cusolverDnDorgqr(c.h, QM, QN, QN, c.a, QM, c.tau, c.work, 4096, c.info) == CUSOLVER_STATUS_SUCCESS, "orgqr");
  cudaMemcpyAsync(q, c.a, sizeof q, cudaMemcpyDeviceToHost, stream);
  cudaMemcpyAsync(&info, c.info, sizeof info, cudaMemcpyDeviceToHost, stream);
  for (int i = 0; i < QM; i++) dot += q[i] * q[QM + i], length += q[i] * q[i];
  CHECK(info == 0 && fabs(dot) < 1e-14 && fabs(length - 1) < 1e-14, "info %d, product %g, length %g", info, dot, length);
  expect_nothing();
}

static void solver_refuses() {
  solver_case c = make_solver_case();
  expect_nothing();
  refused(cusolverDnDgeqrf(nullptr, QM, QN, c.a, QM, c.tau, c.work, c.room, c.info), "no such handle");
  refused(cusolverDnDgeqrf(c.h, QM, QN, c.a, QM - 1, c.tau, c.work, c.room, c.info), "with a leading dimension of 8");
  refused(cusolverDnDgeqrf(c.h, QM, QN + 1, c.a, QM, c.tau, c.work, c.room + 16, c.info), "A takes 360 bytes, and 288 are left");
  refused(cusolverDnDgeqrf(c.h, QM, QN, c.host, QM, c.tau, c.work, c.room, c.info), "no device memory");
  refused(cusolverDnDgeqrf(c.h, QM, QN, c.a, QM, c.tau, c.work, c.room - 1, c.info), "a work space of");
  refused(cusolverDnDgeqrf(c.h, QM, QN, c.a, QM, c.tau, c.work, c.room, nullptr), "devInfo is at");
  refused(cusolverDnDorgqr(c.h, QM, QN, QN + 1, c.a, QM, c.tau, c.work, 4096, c.info), "of 5 reflectors");
  refused(cusolverDnDormqr(c.h, CUBLAS_SIDE_LEFT, CUBLAS_OP_N, QM, 1, QM + 1, c.a, QM, c.tau, c.work, QM, c.work, 4096, c.info), "10 reflectors of 9");
  int room = 0;
  refused(cusolverDnDgesvdj_bufferSize(c.h, CUSOLVER_EIG_MODE_VECTOR, 1, QN, QN, c.a, QN, c.tau, c.work, QN, c.work, QN - 1, &room, c.jacobi),
          "V is (4, 4) with a leading dimension of 3");
  cusolverDnSetStream(c.h, nullptr);
  refused(cusolverDnDgeqrf(c.h, QM, QN, c.a, QM, c.tau, c.work, c.room, c.info), "no such stream");
  cusolverDnSetStream(c.h, stream);
  cudaSetDevice(1);
  refused(cusolverDnDgeqrf(c.h, QM, QN, c.a, QM, c.tau, c.work, c.room, c.info), "into a stream of device 0 while device 1 is current");
  cudaSetDevice(0);
#ifdef CUSIM_CHECKED
  cusolverDnDgeqrf(c.h, QM, QN, device<double>(QM * QN), QM, c.tau, c.work, c.room, c.info);
  expect("cusolverDnDgeqrf: A reads byte 0");
#endif
  cudaFreeAsync(c.a, stream);
  cusolverDnDgeqrf(c.h, QM, QN, c.a, QM, c.tau, c.work, c.room, c.info);
  expect("A is at");  // its memory is gone when the work runs
}

// ---- cuBLASLt: D (8, 16) = A (24, 8)^T B (24, 16) + bias
enum { LM = 8, LN = 16, LK = 24 };
struct product_case {
  cublasLtHandle_t h;
  cublasLtMatmulDesc_t what;
  cublasLtMatrixLayout_t A, B, D;
  cublasLtMatmulPreference_t pref;
  cublasLtMatmulHeuristicResult_t best;
  __nv_bfloat16 *a, *b, host[LK * LN];
  float *d, *bias;
  void *room;
  size_t room_bytes;
};
template <class T> static void attribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, T v) { cublasLtMatmulDescSetAttribute(d, a, &v, sizeof v); }
template <class T> static void attribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, T v) {
  cublasLtMatmulPreferenceSetAttribute(p, a, &v, sizeof v);
}
static int choose(product_case &c) {
  int n = 0;
  return cublasLtMatmulAlgoGetHeuristic(c.h, c.what, c.A, c.B, c.D, c.D, c.pref, 1, &c.best, &n);
}
static product_case make_product_case() {
  product_case c = {};
  cublasLtCreate(&c.h);
  cublasLtMatmulDescCreate(&c.what, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  cublasLtMatrixLayoutCreate(&c.A, CUDA_R_16BF, LK, LM, LK);
  cublasLtMatrixLayoutCreate(&c.B, CUDA_R_16BF, LK, LN, LK);
  cublasLtMatrixLayoutCreate(&c.D, CUDA_R_32F, LM, LN, LM);
  cublasLtMatmulPreferenceCreate(&c.pref);
  c.a = device<__nv_bfloat16>(LK * LM), c.b = device<__nv_bfloat16>(LK * LN), c.d = device<float>(LM * LN), c.bias = filled(LM);
  for (int i = 0; i < LK * LN; i++) c.host[i] = __float2bfloat16_rn((float)(i % 5) - 2);
  cudaMemcpyAsync(c.a, c.host, sizeof(__nv_bfloat16) * LK * LM, cudaMemcpyHostToDevice, stream);
  cudaMemcpyAsync(c.b, c.host, sizeof c.host, cudaMemcpyHostToDevice, stream);
  attribute(c.what, CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)CUBLAS_OP_T);
  attribute(c.what, CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_BIAS);
  attribute(c.what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)c.bias);
  attribute(c.pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)1 << 20);
  attribute(c.pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  for (int i = 0; i < 4; i++) attribute(c.pref, (cublasLtMatmulPreferenceAttributes_t)(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i), (uint32_t)16);
  c.room = device<char>(c.room_bytes = 1 << 20);
  CHECK(choose(c) == CUBLAS_STATUS_SUCCESS, "no algorithm");
  return c;
}
static int multiply(product_case &c, const void *a, void *d, size_t room_bytes, cudaStream_t s) {
  float one = 1, zero = 0;
  return cublasLtMatmul(c.h, c.what, &one, a, c.A, c.b, c.B, &zero, d, c.D, d, c.D, &c.best.algo, c.room, room_bytes, s);
}

static void product_works() {
  product_case c = make_product_case();
  float got[LM * LN], want = 3;  // element (3, 5), with its bias
  for (int k = 0; k < LK; k++) want += __bfloat162float(c.host[3 * LK + k]) * __bfloat162float(c.host[5 * LK + k]);
  CHECK(multiply(c, c.a, c.d, c.room_bytes, stream) == CUBLAS_STATUS_SUCCESS, "the product");
  cudaMemcpyAsync(got, c.d, sizeof got, cudaMemcpyDeviceToHost, stream);
  CHECK(got[5 * LM + 3] == want, "element (3, 5) is %g, expected %g", got[5 * LM + 3], want);
  expect_nothing();
}

static void product_refuses() {
  product_case c = make_product_case();
  cublasLtMatrixLayout_t other, right = c.A;
  expect_nothing();
  refused(multiply(c, c.a + 1, c.d, c.room_bytes, stream), "A is not aligned to the 16 bytes");
  refused(multiply(c, c.host, c.d, c.room_bytes, stream), "no device memory");
  refused(multiply(c, c.a, device<float>(LM * LN - 1), c.room_bytes, stream), "takes 512 bytes, and 508 are left");
  refused(multiply(c, c.a, c.d, 8, stream), "a work space of 8 bytes");
  refused(multiply(c, c.a, c.d, c.room_bytes, nullptr), "no such stream");
  refused(cublasLtMatrixLayoutCreate(&other, CUDA_R_16BF, LK, LM, LK - 1), "with a leading dimension of 23");
  cublasLtMatrixLayoutCreate(&other, CUDA_R_16BF, LK, LM, LK + 8);
  c.A = other;
  refused(multiply(c, c.a, c.d, c.room_bytes, stream), "an algorithm that is for another product");
  cublasLtMatrixLayoutCreate(&other, CUDA_R_32F, LK, LM, LK);
  c.A = other;
  refused(multiply(c, c.a, c.d, c.room_bytes, stream), "dtypes 0, 14 give 0, 0");
  cublasLtMatrixLayoutCreate(&other, CUDA_R_16BF, LK, LM + 8, LK);
  c.A = other;
  refused(multiply(c, c.a, c.d, c.room_bytes, stream), "is not (8, 16)");
  c.A = right;
  attribute(c.pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)7);
  refused(choose(c), "its order is not fixed");
  attribute(c.what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)c.host);
  refused(multiply(c, c.a, c.d, c.room_bytes, stream), "bias is at");
#ifdef CUSIM_CHECKED
  attribute(c.what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)c.bias);
  multiply(c, device<__nv_bfloat16>(LK * LM), c.d, c.room_bytes, stream);
  expect("cublasLtMatmul: A reads byte 0");
#endif
}

// ---- NCCL, as far as one process goes
#ifdef CUSIM_NCCL
static void ranks_refuse() {
  ncclUniqueId id, none = {};
  ncclComm_t c = nullptr;
  enum { n = 64 };
  float *x = filled(n), *y = device<float>(n), host[n] = {};
  ncclGetUniqueId(&id);
  expect_nothing();
  refused(ncclCommInitRank(&c, 1, none, 0), "an id that ncclGetUniqueId did not make");
  refused(ncclCommInitRank(&c, 2, id, 2), "rank 2 of 2");
  refused(ncclCommInitRank(&c, 2, id, 0), "need MPI");
  refused(ncclAllGather(x, y, n, ncclFloat32, c, stream), "no such communicator");
  CHECK(ncclCommInitRank(&c, 1, id, 0) == ncclSuccess, "a communicator of one");
  CHECK(ncclAllGather(x, y, n, ncclFloat32, c, stream) == ncclSuccess, "all-gather");
  cudaMemcpyAsync(host, y, sizeof host, cudaMemcpyDeviceToHost, stream);
  CHECK(host[5] == 5, "it gathered %g", host[5]);
  expect_nothing();
  refused(ncclAllGather(x, host, n, ncclFloat32, c, stream), "recvbuff is at");
  refused(ncclAllGather(x + 1, y, n, ncclFloat32, c, stream), "sendbuff takes 256 bytes, and 252 are left");
  refused(ncclAllGather(x + 1, x, n - 1, ncclFloat32, c, stream), "not at the rank's own part");
  refused(ncclAllGather(x, y, n, ncclFloat32, c, nullptr), "no such stream");
  refused(ncclSend(x, n, ncclFloat32, 1, c, stream), "no such peer");
  refused(ncclSend(x, n, ncclFloat32, 0, c, stream), "to oneself, outside of a group");
  refused(ncclGroupEnd(), "without its start");
  cudaSetDevice(1);
  refused(ncclAllGather(x, y, n, ncclFloat32, c, stream), "of another device");
  cudaSetDevice(0);
  ncclCommDestroy(c);
  refused(ncclAllGather(x, y, n, ncclFloat32, c, stream), "no such communicator");
}
#endif
