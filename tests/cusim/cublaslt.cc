// cublaslt.cc: cuBLASLt's product, in plain loops.
//
// Like the real one it sums in another order for another shape: the reduction is cut in two where the sizes say. So code that is to
// be independent of the batch and uses it all the same is found by test_conformance_batch.
//
// Checked: objects that exist; dtypes that go together (bf16, fp16 or fp32 operands of one dtype, D of theirs or fp32, fp32 sums and scales);
// sizes that fit; an algorithm that the heuristic gave for these very layouts and this epilogue; the alignment and work space that it
// was asked for; alpha and beta in host memory; a bias of D's dtype. Pointers as in libraries.cc. What was in the work space is lost.
#include "libraries.h"
#include <cublasLt.h>
#include <cstdarg>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <set>
#include <vector>

using namespace cusim;

struct cublasLtContext {};
struct cusim_matmul_desc {
  int transA = CUBLAS_OP_N, transB = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void *bias = nullptr;
};
struct cusim_matrix_layout {
  cudaDataType type;
  long rows, cols, ld;
};
struct cusim_matmul_preference {
  uint64_t workspace = 0;
  uint32_t reductions = 7, alignment[4] = {256, 256, 256, 256};
};
static std::set<const void *> objects;
template <class T, class... A> static cublasStatus_t create(T **out, A... a) {
  guard g(lock);
  if (!out) return CUBLAS_STATUS_INVALID_VALUE;
  objects.insert(*out = new T{a...});
  return CUBLAS_STATUS_SUCCESS;
}
template <class T> static cublasStatus_t destroy(T *p) {
  guard g(lock);
  if (!objects.erase(p)) return CUBLAS_STATUS_INVALID_VALUE;
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}
template <class T> static cublasStatus_t set(T *to, const void *value, size_t bytes) {
  if (bytes != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
  memcpy(to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t refuse(cublasStatus_t s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static cublasStatus_t refuse(cublasStatus_t s, const char *format, ...) {
  char text[512];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  report("cublasLt: %s", text);
  return s;
}

static size_t size_of(cudaDataType t) { return t == CUDA_R_16BF || t == CUDA_R_16F ? 2 : 4; }
static matrix matrix_of(const char *name, const void *p, const cusim_matrix_layout &l) { return {name, p, l.rows, l.cols, l.ld, size_of(l.type)}; }
static float value_at(const void *p, cudaDataType t, size_t i) {
  if (t == CUDA_R_16F) return __half2float(((const __half *)p)[i]);
  return t == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16 *)p)[i]) : ((const float *)p)[i];
}

// what a product is, without its pointers: what an algorithm is for
struct problem {
  int transA, transB;
  uint32_t epilogue;
  cusim_matrix_layout A, B, C, D;
  uint64_t number() const {  // FNV-1a
    const long all[] = {transA, transB, (long)epilogue, A.type, A.rows, A.cols, A.ld, B.type, B.rows, B.cols, B.ld, C.type, C.rows, C.cols, C.ld, D.type,
                        D.rows, D.cols, D.ld};
    uint64_t h = 0xcbf29ce484222325u;
    for (long v : all) h = (h ^ (uint64_t)v) * 0x100000001b3u;
    return h;
  }
  long m() const { return D.rows; }
  long n() const { return D.cols; }
  long k() const { return transA ? A.rows : A.cols; }
};

static cublasStatus_t right_problem(const problem &p) {
  if (p.A.type != p.B.type || (p.A.type != CUDA_R_16BF && p.A.type != CUDA_R_16F && p.A.type != CUDA_R_32F) || p.C.type != p.D.type || (p.D.type != p.A.type && p.D.type != CUDA_R_32F))
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "dtypes %d, %d give %d, %d", p.A.type, p.B.type, p.C.type, p.D.type);
  long am = p.transA ? p.A.cols : p.A.rows, bk = p.transB ? p.B.cols : p.B.rows, bn = p.transB ? p.B.rows : p.B.cols;
  if (am != p.m() || bk != p.k() || bn != p.n() || p.C.rows != p.m() || p.C.cols != p.n())
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "(%ld, %ld) times (%ld, %ld) is not (%ld, %ld)", am, p.k(), bk, bn, p.m(), p.n());
  if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p.epilogue != CUBLASLT_EPILOGUE_BIAS)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "the simulator has no epilogue %u", p.epilogue);
  return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t problem_of(problem *p, cublasLtHandle_t h, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t A, cublasLtMatrixLayout_t B,
                                 cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D) {
  if (!objects.count(h)) return refuse(CUBLAS_STATUS_NOT_INITIALIZED, "no such handle");
  for (const void *o : {(const void *)desc, (const void *)A, (const void *)B, (const void *)C, (const void *)D})
    if (!objects.count(o)) return refuse(CUBLAS_STATUS_INVALID_VALUE, "no such descriptor");
  *p = {desc->transA, desc->transB, desc->epilogue, *A, *B, *C, *D};
  return right_problem(*p);
}

// D = alpha A B + beta C + bias in fp32, the reduction in two parts that are added: where they meet depends on every size
static void multiply(const problem &p, float alpha, const void *A, const void *B, float beta, const void *C, void *D, const float *bias) {
  size_t m = (size_t)p.m(), n = (size_t)p.n(), k = (size_t)p.k(), cut = 1 + p.number() % k;
  std::vector<float> a(m * k), sum(2 * m);  // a (k, m): column i of A in a row
  for (size_t i = 0; i < m; i++)
    for (size_t q = 0; q < k; q++) a[q * m + i] = value_at(A, p.A.type, p.transA ? i * (size_t)p.A.ld + q : q * (size_t)p.A.ld + i);
  for (size_t j = 0; j < n; j++) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (size_t q = 0; q < k; q++) {
      float b = value_at(B, p.B.type, p.transB ? q * (size_t)p.B.ld + j : j * (size_t)p.B.ld + q), *to = sum.data() + (q < cut ? 0 : m);
      for (size_t i = 0; i < m; i++) to[i] += a[q * m + i] * b;
    }
    for (size_t i = 0; i < m; i++) {
      float v = alpha * (sum[i] + sum[m + i]) + (beta != 0 ? beta * value_at(C, p.C.type, j * (size_t)p.C.ld + i) : 0) + (bias ? bias[i] : 0);
      if (p.D.type == CUDA_R_16BF) ((__nv_bfloat16 *)D)[j * (size_t)p.D.ld + i] = __float2bfloat16_rn(v);
      else if (p.D.type == CUDA_R_16F) ((__half *)D)[j * (size_t)p.D.ld + i] = __float2half_rn(v);
      else ((float *)D)[j * (size_t)p.D.ld + i] = v;
    }
  }
}

extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) { return create(handle); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy(handle); }
const char *cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
  case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
  case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
  case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
  case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
  default: return "a cuBLAS error";
  }
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute, cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "the simulator sums and scales in fp32 alone");
  return create(desc);
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attr, const void *value, size_t bytes) {
  guard g(lock);
  if (!objects.count(desc) || !value) return refuse(CUBLAS_STATUS_INVALID_VALUE, "no such descriptor");
  if (attr == CUBLASLT_MATMUL_DESC_TRANSA) return set(&desc->transA, value, bytes);
  if (attr == CUBLASLT_MATMUL_DESC_TRANSB) return set(&desc->transB, value, bytes);
  if (attr == CUBLASLT_MATMUL_DESC_EPILOGUE) return set(&desc->epilogue, value, bytes);
  return set(&desc->bias, value, bytes);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld) {
  if (!rows || !cols || ld < (int64_t)rows)
    return refuse(CUBLAS_STATUS_INVALID_VALUE, "a (%llu, %llu) matrix with a leading dimension of %lld", (unsigned long long)rows, (unsigned long long)cols,
                  (long long)ld);
  return create(layout, type, (long)rows, (long)cols, (long)ld);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *pref) { return create(pref); }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t pref) { return destroy(pref); }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t pref, cublasLtMatmulPreferenceAttributes_t attr, const void *value,
                                                    size_t bytes) {
  guard g(lock);
  if (!objects.count(pref) || !value) return refuse(CUBLAS_STATUS_INVALID_VALUE, "no such preference");
  if (attr == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return set(&pref->workspace, value, bytes);
  if (attr == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) return set(&pref->reductions, value, bytes);
  return set(&pref->alignment[attr - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
}

// algo: 0 the problem's number, 1 work space, 2..5 alignments
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t A, cublasLtMatrixLayout_t B,
                                              cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D, cublasLtMatmulPreference_t pref, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
  guard g(lock);
  problem p;
  cublasStatus_t s = problem_of(&p, handle, desc, A, B, C, D);
  if (s != CUBLAS_STATUS_SUCCESS) return s;
  if (!objects.count(pref) || wanted < 1 || !results || !found) return refuse(CUBLAS_STATUS_INVALID_VALUE, "a heuristic without a preference or room");
  if (pref->reductions & 1) return refuse(CUBLAS_STATUS_INVALID_VALUE, "a split of the reduction into the output is allowed: its order is not fixed");
  for (int i = 0; i < 4; i++) {
    const cusim_matrix_layout &l = i == 0 ? p.A : i == 1 ? p.B : i == 2 ? p.C : p.D;
    if ((size_t)l.ld * size_of(l.type) % pref->alignment[i]) return *found = 0, CUBLAS_STATUS_NOT_SUPPORTED;
  }
  size_t room = pref->workspace < ((size_t)1 << 20) ? 0 : (size_t)p.m() * 4;
  results[0] = {{{p.number(), room, pref->alignment[0], pref->alignment[1], pref->alignment[2], pref->alignment[3], 0, 0}}, room, CUBLAS_STATUS_SUCCESS, 1, {}};
  return *found = 1, CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *A, cublasLtMatrixLayout_t Adesc,
                              const void *B, cublasLtMatrixLayout_t Bdesc, const void *beta, const void *C, cublasLtMatrixLayout_t Cdesc, void *D,
                              cublasLtMatrixLayout_t Ddesc, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  guard g(lock);
  static const char call[] = "cublasLtMatmul";
  problem p;
  cublasStatus_t s = problem_of(&p, handle, desc, Adesc, Bdesc, Cdesc, Ddesc);
  if (s != CUBLAS_STATUS_SUCCESS) return s;
  if (!alpha || !beta || in_region(alpha) || in_region(beta)) return refuse(CUBLAS_STATUS_INVALID_VALUE, "alpha and beta are the host's");
  if (!algo || algo->data[0] != p.number()) return refuse(CUBLAS_STATUS_INVALID_VALUE, "an algorithm that is for another product");
  if (workspace_bytes < algo->data[1]) return refuse(CUBLAS_STATUS_INVALID_VALUE, "a work space of %zu bytes, %llu are needed", workspace_bytes, (unsigned long long)algo->data[1]);
  const void *pointers[] = {A, B, C, D};
  for (int i = 0; i < 4; i++)
    if ((uintptr_t)pointers[i] % algo->data[2 + i]) return refuse(CUBLAS_STATUS_INVALID_VALUE, "%c is not aligned to the %llu bytes that were promised", "ABCD"[i], (unsigned long long)algo->data[2 + i]);
  if (C == D && (p.C.ld != p.D.ld)) return refuse(CUBLAS_STATUS_INVALID_VALUE, "C is D, in another layout");
  float al = *(const float *)alpha, be = *(const float *)beta;
  matrix a = matrix_of("A", A, p.A), b = matrix_of("B", B, p.B), c = matrix_of("C", C, p.C), d = matrix_of("D", D, p.D);
  matrix room = {"the work space", workspace, (long)workspace_bytes, 1, (long)workspace_bytes, 1}, bias = {"bias", desc->bias, p.m(), 1, p.m(), 4};
  bool with_bias = p.epilogue == CUBLASLT_EPILOGUE_BIAS;
  if (with_bias && p.D.type != CUDA_R_32F) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a bias is of D's dtype, and the simulator has fp32 alone");
  for (const matrix &m : {a, b, c, d, room})
    if (!is_right(call, m)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!library_stream(call, stream) || (with_bias && !is_right(call, bias))) return CUBLAS_STATUS_INVALID_VALUE;
  matrix used = room;
  used.rows = used.ld = (long)algo->data[1];
  cudaError_t e = queue_work(stream, [=] {
    if (!reads(call, a) || !reads(call, b) || (be != 0 && !reads(call, c)) || (with_bias && !reads(call, bias)) || !writes(call, d)) return;
    multiply(p, al, A, B, be, C, D, with_bias ? (const float *)bias.p : nullptr);
    if (used.rows && writes(call, used)) memset(workspace, 0xff, (size_t)used.rows);
  });
  return e == cudaSuccess ? s : CUBLAS_STATUS_EXECUTION_FAILED;
}
}
