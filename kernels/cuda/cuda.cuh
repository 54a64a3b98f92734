// cuda.cuh: what the files of the CUDA backend share: launches, scratch, packed weights, access to rows, sums in fixed order.
//
// Files follow kernels/cpu name for name. The code keeps to what compiles both with nvcc (CUDA 12 and 13, sm_80 and later) and,
// unmodified, with a host compiler against tests/cusim: launches are cudaLaunchKernelEx, shared memory is dynamic only, matrix
// products are wmma fragments of 16 x 16 x 16.
//
// Numerics. Fused multiply-adds are written out (the build has -fmad=false), every sum has an order fixed by shapes, there are no
// atomics on floats; so a row's bits depend on the row alone (kernels/ops.h), and a run repeats bit for bit.
//
// Errors. A launch that fails, or a fault noticed later, ends the program with the op's name: ops return nothing, as scratch of
// kernels/cpu. With TL_SYNC=1 every op is waited for, so that the name is that of the op at fault.
#ifndef TL_CUDA_CUH
#define TL_CUDA_CUH
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
extern "C" {
#include "../ops.h"
}

typedef __nv_bfloat16 bf16;
typedef __half fp16;

// W (N, K) row-major, rows padded with zeros to ld elements (a multiple of 32: 16-byte copies need no tail); int8: rows of ld
// bytes, of which the last SCALE_ROOM hold the row's scale (int8.cu)
struct tlk_packed {
  int N, K, compute, ld;
  void *data;
  bool relaxed;  // a row's bits may depend on its batch: the library may multiply
};
enum { SCALE_ROOM = 16 };  // bytes at the end of an int8 row; keeps rows aligned for 16-byte copies

// ---- device.cu
enum { SCRATCH_A, SCRATCH_B, SCRATCH_C, SCRATCH_D, SCRATCH_ACT, SCRATCH_LIBRARY, SCRATCH_RANKS, N_SCRATCH };
void *scratch(int slot, size_t bytes);          // device memory, contents undefined, valid until the slot's next call
void *device_alloc(size_t bytes);               // given back with cudaFreeAsync; nullptr: there is none left
void empty_pool();                              // before a library takes memory of its own: what the pool does not use goes to the driver
cudaStream_t stream();                          // the one stream, on the device that was opened
int n_multiprocessors();
void check(cudaError_t e, const char *op);      // ends the program with the op's name
void after(const char *op);                     // after an op's last launch
void device_copy(void *dst, const void *src, size_t bytes);
extern const char *current_op;                  // what check names
// ---- record.cu
void add_recordings(tlk_ops *table, bool on);   // the ops of recordings; on: there are any
bool recording();                               // ops are noted and not run: nothing may be waited for
bool scratch_moves();                           // called before a slot grows, which ends all recordings. false: one is being made, so no

template <class... P, class... A>
static inline void launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared, A... args) {
  cudaLaunchConfig_t c = {};
  c.gridDim = grid, c.blockDim = dim3((unsigned)threads), c.dynamicSmemBytes = shared, c.stream = stream();
  if (shared > 48 << 10) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared), current_op);
  check(cudaLaunchKernelEx(&c, kernel, args...), current_op);
}

// an op's first line: OP("rmsnorm_fwd"); at its end errors are looked for
struct op_scope {
  explicit op_scope(const char *name) { current_op = name; }
  ~op_scope() { after(current_op); }
};
#define OP(name) op_scope tlk_op_scope_(name)

static inline int div_up(int a, int b) { return (a + b - 1) / b; }
static inline size_t div_up_size(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t align_up(size_t n, size_t a) { return (n + a - 1) / a * a; }
static inline tlk_mat from_row(tlk_mat m, int t) { return {(char *)m.p + (size_t)t * m.ld * tlk_dtype_size(m.dtype), m.dtype, m.ld}; }
static inline unsigned grid_of(size_t n, int threads) { return (unsigned)div_up_size(n, (size_t)threads); }

// ---- device code
extern __shared__ __align__(1024) unsigned char tlk_shared[];

__device__ static inline float to_float(float v) { return v; }
__device__ static inline float to_float(bf16 v) { return __bfloat162float(v); }
__device__ static inline float to_float(fp16 v) { return __half2float(v); }
template <class T> __device__ static inline T from_float(float v);
template <> __device__ inline float from_float<float>(float v) { return v; }
template <> __device__ inline bf16 from_float<bf16>(float v) { return __float2bfloat16_rn(v); }
template <> __device__ inline fp16 from_float<fp16>(float v) { return __float2half_rn(v); }

// number i of an array of fp32, bf16 or fp16
__device__ static inline float load_as(const void *p, int dtype, size_t i) {
  if (dtype == TLK_F32) return ((const float *)p)[i];
  return dtype == TLK_BF16 ? to_float(((const bf16 *)p)[i]) : to_float(((const fp16 *)p)[i]);
}
__device__ static inline void store_as(void *p, int dtype, size_t i, float v) {
  if (dtype == TLK_F32) ((float *)p)[i] = v;
  else if (dtype == TLK_BF16) ((bf16 *)p)[i] = from_float<bf16>(v);
  else ((fp16 *)p)[i] = from_float<fp16>(v);
}
// v as storing it and loading it again would have it
__device__ static inline float as_stored(int dtype, float v) {
  return dtype == TLK_F32 ? v : dtype == TLK_BF16 ? to_float(from_float<bf16>(v)) : to_float(from_float<fp16>(v));
}
__device__ static inline float get(const tlk_mat &m, int t, int c) { return load_as(m.p, m.dtype, (size_t)t * m.ld + c); }
__device__ static inline void put(const tlk_mat &m, int t, int c, float v) { store_as(m.p, m.dtype, (size_t)t * m.ld + c, v); }

// ---- rows eight numbers at a time: loads and stores of 16 bytes where all rows are aligned to that, else number by number
static inline bool in_eights(const tlk_mat &m) { return (uintptr_t)m.p % 16 == 0 && (size_t)m.ld * tlk_dtype_size(m.dtype) % 16 == 0; }
// columns c .. c + 8 of row t (c a multiple of 8), zeros from C on; whole: in_eights(m)
__device__ static inline void get8(float *v, const tlk_mat &m, bool whole, int t, int c, int C) {
  size_t i = (size_t)t * m.ld + c;
  if (whole && c + 8 <= C && m.dtype != TLK_F32) {
    const uint4 w = *(const uint4 *)((const uint16_t *)m.p + i);
    const unsigned u[4] = {w.x, w.y, w.z, w.w};
    const bool bf = m.dtype == TLK_BF16;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      v[2 * k] = bf ? __uint_as_float(u[k] << 16) : to_float(__ushort_as_half((unsigned short)u[k]));
      v[2 * k + 1] = bf ? __uint_as_float(u[k] & 0xffff0000u) : to_float(__ushort_as_half((unsigned short)(u[k] >> 16)));
    }
  } else if (whole && c + 8 <= C) {
    const float4 a = ((const float4 *)((const float *)m.p + i))[0], b = ((const float4 *)((const float *)m.p + i))[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  } else {
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = c + k < C ? get(m, t, c + k) : 0;
  }
}
__device__ static inline unsigned bits16(int dtype, float v) {
  return dtype == TLK_BF16 ? __bfloat16_as_ushort(from_float<bf16>(v)) : __half_as_ushort(from_float<fp16>(v));
}
__device__ static inline unsigned two16(int dtype, float low, float high) { return bits16(dtype, low) | bits16(dtype, high) << 16; }
__device__ static inline void put8(const tlk_mat &m, bool whole, int t, int c, int C, const float *v) {
  size_t i = (size_t)t * m.ld + c;
  if (whole && c + 8 <= C && m.dtype != TLK_F32) {
    int d = m.dtype;
    *(uint4 *)((uint16_t *)m.p + i) = make_uint4(two16(d, v[0], v[1]), two16(d, v[2], v[3]), two16(d, v[4], v[5]), two16(d, v[6], v[7]));
  } else if (whole && c + 8 <= C) {
    ((float4 *)((float *)m.p + i))[0] = make_float4(v[0], v[1], v[2], v[3]);
    ((float4 *)((float *)m.p + i))[1] = make_float4(v[4], v[5], v[6], v[7]);
  } else {
#pragma unroll
    for (int k = 0; k < 8; k++)
      if (c + k < C) put(m, t, c + k, v[k]);
  }
}

__device__ static inline float row_scale(const void *rows, int ld, int n) {
  return *(const float *)((const char *)rows + (size_t)(n + 1) * ld - SCALE_ROOM);
}
// element (n, k) of a packed weight, as it is used
__device__ static inline float weight_at(const void *data, int ld, int compute, int n, int k) {
  size_t at = (size_t)n * ld + k;
  if (compute == TLK_I8) return row_scale(data, ld, n) * (float)((const int8_t *)data)[at];
  return load_as(data, compute, at);
}

// silu(g) u
__device__ static inline float sigmoid(float g) { return 1.0f / (1.0f + expf(-g)); }
__device__ static inline float swiglu(float g, float u) { return g * sigmoid(g) * u; }

// over the 32 lanes by a butterfly: every lane gets the same bits
template <class T> __device__ static inline T warp_sum(T v) {
  for (int m = 16; m; m /= 2) v += __shfl_xor_sync(0xffffffffu, v, m);
  return v;
}
__device__ static inline float warp_max(float v) {
  for (int m = 16; m; m /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, m));
  return v;
}
// over a block of whole warps; s: room for 32 values. Ends with a barrier, so s may be used again at once.
template <class T> __device__ static inline T block_sum(T v, T *s) {
  int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
  v = warp_sum(v);
  if (lane == 0) s[warp] = v;
  __syncthreads();
  v = lane < warps ? s[lane] : (T)0;
  v = warp_sum(v);
  __syncthreads();
  return v;
}
__device__ static inline float block_max(float v, float *s) {
  int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
  v = warp_max(v);
  if (lane == 0) s[warp] = v;
  __syncthreads();
  v = lane < warps ? s[lane] : -INFINITY;
  v = warp_max(v);
  __syncthreads();
  return v;
}

// ---- between files
tlk_mat as_act(tlk_mat x, int T, int C, int compute);  // x, or a copy of it in the compute dtype (SCRATCH_ACT)
// rope.cu: y row out_rows[t] = x row in_rows[t], converted; NULL: row t, negative: nowhere
void move(tlk_mat y, const int32_t *out_rows, tlk_mat x, const int32_t *in_rows, int T, int C);
// int8.cu: rows of w (rows, K), of a dtype that pack takes, to packed int8 rows of ld bytes
void to_bytes(void *data, int ld, const void *w, int dtype, size_t ldw, int rows, int K);
static inline int bytes_ld(int K) { return (int)align_up((size_t)K, 16) + SCALE_ROOM; }

// what a product's epilogue does with element (t, n): v + bias[n] + sum_a factor[n * fn + a * fa] s[t * r + a], then, in heads of D
// where D is not 0, rotated (linear.cu), stored or added to y
struct epilogue {
  tlk_mat y;
  const int32_t *out_rows;  // (T) the row of y; NULL: t, negative: nowhere
  const float *bias;
  const float *s, *factor;  // NULL: no low-rank term
  const int *active;        // (T) whether the row has one
  int r, fn, fa, accumulate, D;
};
// y (T, N) = x (T, K) W^T, or x (T, N) W with transposed: fixed order of sums, see gemm.cuh
void product(epilogue e, tlk_mat x, const tlk_packed *w, int T, bool transposed);
// dw (N, K) += a (T, N)^T b (T, K)
void outer(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K);
// matmul.cu: the same two by cuBLASLt, in whatever order of sums; false: nothing was done, our own kernels have to
bool library_product(const epilogue &e, tlk_mat x, const tlk_packed *w, int T);
bool library_outer(float *dw, tlk_mat a, tlk_mat b, int T, int N, int K);
// lowrank.cu: of up to MOST_NARROW low-rank terms of one x: z (T, r) = x f^T with f = A (r, K), or x f with f = B (K, r) when columns;
// then s = R z (or z R) and active
enum { MOST_NARROW = 3 };
struct narrow {
  float *z, *s;
  int *active;
  const float *f;
  const tlk_lowrank *lr;
};
void rows_dot(const narrow *n, int count, tlk_mat x, int T, int K, bool columns);
void turn(const narrow *n, int count, int T, bool transposed);

struct head_stats {
  float max, sum, weighted;  // of 128 tokens: max l, sum e^(l - max), sum e^(l - max) (l - max)
};
enum { HEAD_BLOCK = 128 };
// head.cu: stats (T, blocks) of rows; logits (T, ld) kept when not NULL; target logits to picked (T) when targets is given.
// inv_temp NULL: one for all
void head_tiles(head_stats *stats, float *logits, size_t ld, float *picked, tlk_mat h, const tlk_packed *w, const int32_t *targets,
                float inv_temp, const tlk_sample_row *rows, int T);
void head_finish(float *logprob, float *lse, float *entropy, const head_stats *stats, int blocks, const float *picked, int T);

#define TLK_CUDA_OPS(X)                                                                                                     \
  X(pack) X(repack) X(unpack) X(packed_free) X(packed_bytes) X(packed_dims) X(linear_fwd) X(linear_fwd_group) X(linear_swiglu_fwd) X(linear_rope_fwd) X(linear_bwd_x) X(linear_bwd_swiglu) X(linear_bwd_w)   \
  X(colsum) X(lowrank_bwd) X(rmsnorm_fwd) X(rmsnorm_bwd) X(rope_fwd) X(rope_bwd) X(cast) X(gather) X(move_rows) X(attn_fwd) X(attn_bwd)  \
  X(swiglu_fwd) X(swiglu_bwd) X(embed_fwd) X(embed_bwd) X(head_fwd) X(head_bwd) X(head_sample) X(adamw) X(sumsq) X(scale)   \
  X(round_to) X(svd) X(relax) X(ranks_hello) X(ranks_join) X(ranks_sum) X(ranks_leave)
#define TLK_CUDA_NAME(name) cuda_##name
#define TLK_DECLARE(name) extern __typeof__(*((tlk_ops *)0)->name) cuda_##name;
TLK_CUDA_OPS(TLK_DECLARE)
#endif
