// matmul.cu: products by cuBLASLt, where a row's bits may depend on the rows beside it: with weights that the runtime has relaxed
// (merged ones, whose rollouts are corrected by importance sampling) and in the gradients of weights, whose sums over rows have an
// order given by the shape alone. All else goes through gemm.cuh; see docs/cuda.md, Choices.
//
// Row-major is column-major transposed, so with D' (N, T) = W'^T X' in the library's terms:
//   product   y (T, N) = x W^T + bias     D = y (N, T; ld of y), A = W (K, N; its ld) transposed, B = x (K, T)
//   outer     dw (N, K) += a^T b          D = dw (K, N), A = b (K, T), B = a (N, T) transposed
// W is read where it lies: packed rows are row-major, a multiple of 64 bytes apart.
//
// Plans. For each shape (sizes, dtypes, leading dimensions, epilogue) the library's heuristic is asked once, for an algorithm that
// needs 16-byte alignment, at most the fixed work space, and no split of the reduction but one whose parts are added in order in that
// work space; the plan is kept, so that a shape always has the same bits. Operands that are not aligned so, and shapes that the
// library has nothing for, are left to our own kernels.
//
// bias: the library adds it in D's own dtype. A y of 16 bits with a bias is therefore made in fp32 and then rounded once, as elsewhere.
#include "library.cuh"
#if __has_include(<cublasLt.h>)
#include <array>
#include <cublasLt.h>
#include <map>

#define LT_FUNCTIONS(X)                                                                                                  \
  X(cublasLtCreate) X(cublasLtGetStatusName) X(cublasLtMatmulDescCreate) X(cublasLtMatmulDescSetAttribute)               \
  X(cublasLtMatrixLayoutCreate) X(cublasLtMatmulPreferenceCreate) X(cublasLtMatmulPreferenceSetAttribute)                \
  X(cublasLtMatmulPreferenceDestroy) X(cublasLtMatmulAlgoGetHeuristic) X(cublasLtMatmul)
TLK_LIBRARY(lt, "libcublasLt.so." TLK_TEXT(CUBLAS_VER_MAJOR), "own kernels make all products", LT_FUNCTIONS)

#define MATMUL(f, ...)                                                                              \
  do {                                                                                              \
    cublasStatus_t status_ = lt.f(__VA_ARGS__);                                                     \
    if (status_ != CUBLAS_STATUS_SUCCESS) library_failed(#f, lt.cublasLtGetStatusName(status_));    \
  } while (0)

static const size_t workspace_bytes = (size_t)32 << 20;  // what NVIDIA advises for Hopper; enough for all others
enum { ALIGNMENT = 16 };

// opA(A) (m, k), opB(B) (k, n), D (m, n), all column-major
struct shape {
  int m, n, k, lda, ldb, ldd, type, d_type, transA, transB, bias, accumulate;
  bool operator<(const shape &o) const { return key() < o.key(); }
  std::array<int, 12> key() const { return {m, n, k, lda, ldb, ldd, type, d_type, transA, transB, bias, accumulate}; }
};
struct plan {
  bool found, warm;  // warm: it has run, so the library has loaded what it needs, and scratch is large enough
  cublasLtMatmulDesc_t what;
  cublasLtMatrixLayout_t A, B, D;
  cublasLtMatmulAlgo_t algo;
};

static cublasLtHandle_t handle() {
  static cublasLtHandle_t h;
  if (!h) {
    stream();  // makes the device that was opened the thread's
    if (!recording()) empty_pool();
    MATMUL(cublasLtCreate, &h);
  }
  return h;
}

static cudaDataType cuda_type(int dtype) { return dtype == TLK_BF16 ? CUDA_R_16BF : dtype == TLK_F16 ? CUDA_R_16F : CUDA_R_32F; }

template <class T> static void describe(plan &p, cublasLtMatmulDescAttributes_t a, T value) {
  MATMUL(cublasLtMatmulDescSetAttribute, p.what, a, &value, sizeof value);
}
template <class T> static void prefer(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, T value) {
  MATMUL(cublasLtMatmulPreferenceSetAttribute, p, a, &value, sizeof value);
}

static void choose(plan &p) {
  cublasLtMatmulPreference_t pref;
  cublasLtMatmulHeuristicResult_t best = {};
  int n = 0;
  MATMUL(cublasLtMatmulPreferenceCreate, &pref);
  prefer(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)workspace_bytes);
  prefer(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)ALIGNMENT);
  prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)ALIGNMENT);
  prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)ALIGNMENT);
  prefer(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)ALIGNMENT);
  cublasStatus_t s = lt.cublasLtMatmulAlgoGetHeuristic(handle(), p.what, p.A, p.B, p.D, p.D, pref, 1, &best, &n);
  MATMUL(cublasLtMatmulPreferenceDestroy, pref);
  if (s != CUBLAS_STATUS_SUCCESS && s != CUBLAS_STATUS_NOT_SUPPORTED) library_failed("cublasLtMatmulAlgoGetHeuristic", lt.cublasLtGetStatusName(s));
  p.found = s == CUBLAS_STATUS_SUCCESS && n > 0 && best.state == CUBLAS_STATUS_SUCCESS;
  p.algo = best.algo;
}

static plan &plan_of(const shape &s, const float *bias) {
  static std::map<shape, plan> plans;
  auto at = plans.find(s);
  if (at != plans.end()) return at->second;
  plan p = {};
  int a_rows = s.transA ? s.k : s.m, a_cols = s.transA ? s.m : s.k, b_rows = s.transB ? s.n : s.k, b_cols = s.transB ? s.k : s.n;
  MATMUL(cublasLtMatmulDescCreate, &p.what, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  describe(p, CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)(s.transA ? CUBLAS_OP_T : CUBLAS_OP_N));
  describe(p, CUBLASLT_MATMUL_DESC_TRANSB, (int32_t)(s.transB ? CUBLAS_OP_T : CUBLAS_OP_N));
  if (bias) describe(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)bias);
  describe(p, CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)(s.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT));
  MATMUL(cublasLtMatrixLayoutCreate, &p.A, cuda_type(s.type), (uint64_t)a_rows, (uint64_t)a_cols, s.lda);
  MATMUL(cublasLtMatrixLayoutCreate, &p.B, cuda_type(s.type), (uint64_t)b_rows, (uint64_t)b_cols, s.ldb);
  MATMUL(cublasLtMatrixLayoutCreate, &p.D, cuda_type(s.d_type), (uint64_t)s.m, (uint64_t)s.n, s.ldd);
  choose(p);
  return plans.emplace(s, p).first->second;
}

static bool aligned(const void *p, int ld, int dtype) {
  return (uintptr_t)p % ALIGNMENT == 0 && (size_t)ld * tlk_dtype_size(dtype) % ALIGNMENT == 0;
}

// A recording (record.cu) takes plans that are warm; one that is not spoils it, and runs when the ops do.
static bool must_wait(const plan &p) { return recording() && !p.warm && !scratch_moves(); }

static void run(plan &p, const shape &s, void *D, const void *A, const void *B, const float *bias) {
  const float one = 1, beta = s.accumulate ? 1 : 0;
  if (bias) describe(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, (const void *)bias);
  MATMUL(cublasLtMatmul, handle(), p.what, &one, A, p.A, B, p.B, &beta, D, p.D, D, p.D, &p.algo, scratch(SCRATCH_LIBRARY, workspace_bytes),
         workspace_bytes, stream());
  p.warm = true;
}

bool library_product(const epilogue &e, tlk_mat x, const tlk_packed *w, int T) {
  if (w->compute == TLK_I8 || e.factor || e.D || e.out_rows || x.dtype != w->compute || !lt_is_here()) return false;
  if (!aligned(x.p, x.ld, x.dtype) || !aligned(e.y.p, e.y.ld, e.y.dtype) || (uintptr_t)e.bias % ALIGNMENT) return false;
  tlk_mat y = e.y;
  bool rounded = e.bias && y.dtype != TLK_F32;
  if (rounded) y.ld = (int)align_up((size_t)w->N, ALIGNMENT), y.dtype = TLK_F32;
  shape s = {w->N, T, w->K, w->ld, x.ld, y.ld, w->compute, y.dtype, 1, 0, e.bias != nullptr, e.accumulate};
  plan &p = plan_of(s, e.bias);
  if (!p.found) return false;
  if (must_wait(p)) return true;
  if (rounded) y.p = scratch(SCRATCH_B, sizeof(float) * (size_t)T * y.ld);
  run(p, s, y.p, w->data, x.p, e.bias);
  if (rounded) cuda_cast(e.y, nullptr, y, T, w->N);
  return true;
}

bool library_outer(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K) {
  if (a.dtype != b.dtype || !aligned(a.p, a.ld, a.dtype) || !aligned(b.p, b.ld, b.dtype) || !aligned(dw, K, TLK_F32)) return false;
  if (!lt_is_here()) return false;
  shape s = {K, N, T, b.ld, a.ld, K, a.dtype, TLK_F32, 0, 1, 0, 1};
  plan &p = plan_of(s, nullptr);
  if (!p.found) return false;
  if (!must_wait(p)) run(p, s, dw, b.p, a.p, nullptr);
  return true;
}

void cuda_relax(tlk_packed *w) {
  OP("relax");
  w->relaxed = lt_is_here();
  if (w->relaxed) handle(), scratch(SCRATCH_LIBRARY, workspace_bytes);  // now, not in a step
}

#else  // built without cuBLASLt's header
bool library_product(const epilogue &, tlk_mat, const tlk_packed *, int) { return false; }
bool library_outer(float *, tlk_mat, tlk_mat, int, int, int) { return false; }
void cuda_relax(tlk_packed *) {}
#endif
