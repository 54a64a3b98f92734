// cuda_runtime.h (cusim): the part of the CUDA C++ language and runtime API that kernels/cuda uses, for a host compiler.
//
// The .cu files compile unmodified against this folder instead of the toolkit's. What is not declared here does not compile,
// so the part of CUDA in use stays small and known:
//   language   __global__ __device__ __shared__ (dynamic only: extern) __launch_bounds__, threadIdx and its like
//   warp       __syncthreads, __syncwarp, __shfl_*_sync, __ballot_sync, __any_sync, __all_sync
//   atomics    on integers only: sums of floats would depend on the order of threads
//   copies     __pipeline_memcpy_async (cuda_pipeline.h): performed when they are waited for, not before
//   runtime    devices, memory (device, pinned, stream-ordered), streams, events, graphs, launches by cudaLaunchKernelEx
// Names, argument orders and error codes are those of CUDA; what each does is in tests/cusim/cusim.h.
#ifndef CUSIM_CUDA_RUNTIME_H
#define CUSIM_CUDA_RUNTIME_H
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <tuple>
#include <type_traits>

#define TLK_CUSIM 1
#define CUDART_VERSION 13000
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __shared__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

// ---- vector types
struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- where a thread is
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
enum { warpSize = 32 };

// ---- barriers and warp exchanges. Every lane named in the mask must arrive at the same one.
void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);
uint64_t cusim_shuffle(unsigned mask, uint64_t bits, int mode, int lane);  // mode 0 idx, 1 up, 2 down, 3 xor
unsigned __ballot_sync(unsigned mask, int predicate);
int __any_sync(unsigned mask, int predicate);
int __all_sync(unsigned mask, int predicate);

template <class T>
T cusim_shuffle_as(unsigned mask, T v, int mode, int lane) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "shuffles carry 4 or 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &v, sizeof v);
  bits = cusim_shuffle(mask, bits, mode, lane);
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}
template <class T> T __shfl_sync(unsigned mask, T v, int lane) { return cusim_shuffle_as(mask, v, 0, lane); }
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned d) { return cusim_shuffle_as(mask, v, 1, (int)d); }
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned d) { return cusim_shuffle_as(mask, v, 2, (int)d); }
template <class T> T __shfl_xor_sync(unsigned mask, T v, int m) { return cusim_shuffle_as(mask, v, 3, m); }

// ---- atomics, on integers
int atomicAdd(int *p, int v);
unsigned atomicAdd(unsigned *p, unsigned v);
int atomicMax(int *p, int v);
int atomicMin(int *p, int v);
unsigned atomicOr(unsigned *p, unsigned v);

// ---- arithmetic
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline int __float2int_rn(float f) { return (int)nearbyintf(f); }
static inline int __float_as_int(float f) { int i; __builtin_memcpy(&i, &f, 4); return i; }
static inline unsigned __float_as_uint(float f) { unsigned i; __builtin_memcpy(&i, &f, 4); return i; }
static inline float __int_as_float(int i) { float f; __builtin_memcpy(&f, &i, 4); return f; }
static inline float __uint_as_float(unsigned i) { float f; __builtin_memcpy(&f, &i, 4); return f; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

// ---- the runtime
typedef enum cudaError {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901
} cudaError_t;
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();

cudaError_t cudaDriverGetVersion(int *v);
cudaError_t cudaRuntimeGetVersion(int *v);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaDeviceGetPCIBusId(char *text, int n, int device);
cudaError_t cudaDeviceSynchronize();
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount, regsPerBlock, maxThreadsPerMultiProcessor, sharedMemPerMultiprocessor;
  int l2CacheSize, memoryBusWidth;
};
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);

typedef struct cusim_stream *cudaStream_t;
typedef struct cusim_event *cudaEvent_t;
typedef struct cusim_graph *cudaGraph_t;
typedef struct cusim_graph_exec *cudaGraphExec_t;
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0,
       cudaHostAllocPortable = 1, cudaHostAllocMapped = 2 };

cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t s);
cudaError_t cudaFreeAsync(void *p, cudaStream_t s);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s);


typedef struct cusim_pool *cudaMemPool_t;
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr a, void *value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep);

enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void *devicePointer, *hostPointer;
};
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);
cudaError_t cudaGraphDestroy(cudaGraph_t g);

// ---- launches
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
cudaError_t cusim_func_set_attribute(const void *kernel, cudaFuncAttribute a, int value);
template <class F> cudaError_t cudaFuncSetAttribute(F *kernel, cudaFuncAttribute a, int value) {
  return cusim_func_set_attribute((const void *)kernel, a, value);
}
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute *attrs;
  unsigned numAttrs;
};
void *cusim_arguments(size_t bytes);  // room for a launch's arguments, where kernels may read; at most 4 KiB, as in CUDA
cudaError_t cusim_launch(const cudaLaunchConfig_t *c, const void *kernel, void *arguments, size_t bytes, void (*call)(void *));
// Arguments are copied when the launch is made, as CUDA does, and converted to the kernel's own parameter types.
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *c, void (*kernel)(P...), A &&...args) {
  static_assert((std::is_trivially_copyable<P>::value && ...), "kernel parameters are copied byte by byte");
  struct kept {
    void (*kernel)(P...);
    std::tuple<P...> args;
  };
  void *at = cusim_arguments(sizeof(kept));
  new (at) kept{kernel, std::tuple<P...>((P)args...)};
  return cusim_launch(c, (const void *)kernel, at, sizeof(kept), [](void *p) { std::apply(((kept *)p)->kernel, ((kept *)p)->args); });
}
#endif
