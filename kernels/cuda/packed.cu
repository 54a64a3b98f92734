// packed.cu: frozen weights in device memory: rows as they were, converted to the compute dtype, padded with zeros to 32 numbers.
// They are there once: products read them as W^T and as W alike (gemm.cuh). Host data pass through a device buffer of at most
// 64 MiB, where the conversion runs; nothing is converted on the host.
#include "cuda.cuh"
#include <cstdlib>

enum { THREADS = 256 };
static const size_t stage_bytes = (size_t)64 << 20;

// rows n0 .. of the packed weight from w (rows, K)
__global__ static void pack_rows(void *data, int ld, int compute, const void *w, int dtype, int n0, int rows, int K) {
  int k = (int)(blockIdx.x * THREADS + threadIdx.x);
  for (int n = (int)blockIdx.y; n < rows && k < ld; n += (int)gridDim.y) {
    float v = k < K ? load_as(w, dtype, (size_t)n * K + k) : 0;
    store_as(data, compute, (size_t)(n0 + n) * ld + k, v);
  }
}

__global__ static void unpack_rows(float *w, const void *data, int ld, int compute, int n0, int rows, int K) {
  int k = (int)(blockIdx.x * THREADS + threadIdx.x);
  for (int n = (int)blockIdx.y; n < rows && k < K; n += (int)gridDim.y) {
    w[(size_t)n * K + k] = weight_at(data, ld, compute, n0 + n, k);
  }
}

static dim3 grid(int rows, int ld) { return dim3(grid_of((size_t)ld, THREADS), (unsigned)(rows < 65535 ? rows : 65535)); }
static int stage_rows(int N, size_t row_bytes) {
  size_t n = stage_bytes / row_bytes;
  return n < 1 ? 1 : n > (size_t)N ? N : (int)n;
}

// rows n0 .. of p from w (rows, K) in device memory
static void fill(tlk_packed *p, const void *w, int dtype, int n0, int rows) {
  if (p->compute == TLK_I8) to_bytes((char *)p->data + (size_t)n0 * p->ld, p->ld, w, dtype, (size_t)p->K, rows, p->K);
  else launch(pack_rows, grid(rows, p->ld), THREADS, 0, p->data, p->ld, p->compute, w, dtype, n0, rows, p->K);
}

tlk_packed *cuda_pack(const void *w, int w_dtype, int N, int K, int compute) {
  OP("pack");
  tlk_packed *p = (tlk_packed *)malloc(sizeof *p);
  if (!p) return nullptr;
  *p = {N, K, compute, compute == TLK_I8 ? bytes_ld(K) : (int)align_up((size_t)K, 32), nullptr, false};
  p->data = device_alloc(cuda_packed_bytes(p));
  if (!p->data) {
    free(p);
    return nullptr;
  }
  size_t row = (size_t)K * tlk_dtype_size(w_dtype);
  int rows = stage_rows(N, row);
  for (int n = 0; n < N; n += rows) {
    int m = N - n < rows ? N - n : rows;
    void *stage = scratch(SCRATCH_A, row * (size_t)m);
    device_copy(stage, (const char *)w + row * (size_t)n, row * (size_t)m);
    fill(p, stage, w_dtype, n, m);
  }
  return p;
}

void cuda_repack(tlk_packed *p, const float *w) {
  OP("repack");
  fill(p, w, TLK_F32, 0, p->N);
}

void cuda_unpack(float *w, const tlk_packed *p, int n0, int n1) {
  OP("unpack");
  int rows = stage_rows(n1 - n0, (size_t)p->K * 4);
  for (int n = n0; n < n1; n += rows) {
    int m = n1 - n < rows ? n1 - n : rows;
    float *stage = (float *)scratch(SCRATCH_A, (size_t)m * p->K * 4);
    launch(unpack_rows, grid(m, p->K), THREADS, 0, stage, (const void *)p->data, p->ld, p->compute, n, m, p->K);
    device_copy(w + (size_t)(n - n0) * p->K, stage, (size_t)m * p->K * 4);
  }
}

void cuda_packed_free(tlk_packed *p) {
  if (!p) return;
  check(cudaFreeAsync(p->data, stream()), "packed_free");
  free(p);
}
size_t cuda_packed_bytes(const tlk_packed *p) { return (size_t)p->N * p->ld * tlk_dtype_size(p->compute); }
void cuda_packed_dims(const tlk_packed *p, int *N, int *K, int *compute) { *N = p->N, *K = p->K, *compute = p->compute; }
