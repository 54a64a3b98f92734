// test_cusim.cu: that the simulator bites: small kernels with one deliberate mistake each, and what must be reported; the same
// kernels without the mistake must pass in every order. The program is built twice: checked (every access is looked at) and
// plain, where a missing barrier must show as results that depend on the order of threads.
#include "cusim.h"
#include <cuda_bf16.h>
#include <cuda_pipeline.h>
#include <mma.h>
#include "../test.h"
#include <csignal>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 128 };
static cudaStream_t stream;
extern __shared__ unsigned char tlk_shared[];

template <class... P, class... A>
static void launch(unsigned grid, unsigned block, size_t shared, void (*kernel)(P...), A... args) {
  cudaLaunchConfig_t c = {};
  c.gridDim = grid, c.blockDim = block, c.dynamicSmemBytes = shared, c.stream = stream;
  cudaLaunchKernelEx(&c, kernel, args...);
}
template <class T>
static T *device(size_t n) {
  void *p = nullptr;
  cudaMalloc(&p, n * sizeof(T));
  return (T *)p;
}
static float *filled(size_t n) {
  float *host = new float[n], *p = device<float>(n);
  for (size_t i = 0; i < n; i++) host[i] = (float)i;
  cudaMemcpyAsync(p, host, n * sizeof *p, cudaMemcpyHostToDevice, stream);
  delete[] host;
  return p;
}
// what was reported while everything queued ran
static const char *outcome() {
  cudaStreamSynchronize(stream);
  const char *text = cusim_take_report();
  cusim_clear_error();
  return text;
}
static void expect(const char *word) {
  const char *text = outcome();
  CHECK(strstr(text, word), "expected a report with '%s', got '%s'", word, text);
}
static void expect_nothing() {
  const char *text = outcome();
  CHECK(!*text, "unexpected report: %s", text);
}
#ifdef CUSIM_CHECKED
static void expect_checked(const char *word) { expect(word); }
#endif

// ---- a sum by halves, with and without its barriers
__global__ void sum(float *out, const float *in, int barriers) {
  float *s = (float *)tlk_shared;
  unsigned t = threadIdx.x;
  s[t] = in[t];
  if (barriers) __syncthreads();
  for (unsigned half = blockDim.x / 2; half; half /= 2) {
    if (t < half) s[t] += s[t + half];
    if (barriers) __syncthreads();
  }
  if (t == 0) *out = s[0];
}
static float run_sum(int barriers) {
  float *in = filled(N), *out = device<float>(1), got = -1;
  launch(1, N, N * 4, sum, out, in, barriers);
  cudaMemcpyAsync(&got, out, 4, cudaMemcpyDeviceToHost, stream);
  return got;
}
static void barriers_in_every_order() {
  for (int o = 0; o < 3; o++) {
    cusim_set_order(o, 5);
    float got = run_sum(1);
    CHECK(got == N * (N - 1) / 2, "order %d: %g", o, got);
    expect_nothing();
  }
}
static void missing_barrier() {
#ifdef CUSIM_CHECKED
  for (int o = 0; o < 3; o++) {
    cusim_set_order(o, 5);
    run_sum(0);
    expect_checked(o == CUSIM_REVERSE ? "without a barrier between them" : "shared memory");  // or unwritten, whichever comes first
  }
#else
  int right = 0;
  for (int o = 0; o < 3; o++) {
    cusim_set_order(o, 5);
    right += run_sum(0) == N * (N - 1) / 2;
    expect_nothing();
  }
  CHECK(right < 3, "a sum without barriers is right in every order");
#endif
}

__global__ void warp_neighbour(float *out, int barrier) {
  float *s = (float *)tlk_shared;
  s[threadIdx.x] = (float)threadIdx.x;
  if (barrier) __syncwarp();
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}

__global__ void warp_swap(float *out, int barrier) {
  float *s = (float *)tlk_shared;
  s[threadIdx.x] = (float)threadIdx.x;
  __syncwarp();
  float other = s[threadIdx.x ^ 1];
  if (barrier) __syncwarp();
  s[threadIdx.x] = other;
  out[threadIdx.x] = other;
}

__global__ void reads_at(float *out, const float *in, int at) { out[threadIdx.x] = in[threadIdx.x + at]; }
__global__ void shared_at(float *out, int at) {
  float *s = (float *)tlk_shared;
  s[threadIdx.x] = 1;
  out[threadIdx.x] = s[threadIdx.x + at];
}
__global__ void same_cell(float *out) { out[0] = (float)blockIdx.x; }
__global__ void leaves_early(float *out) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void two_barriers(float *out) {
  if (threadIdx.x < 32) {
    __syncthreads();
    out[threadIdx.x] = 1;
  } else {
    __syncthreads();
    out[threadIdx.x] = 2;
  }
}
__global__ void half_shuffle(float *out) {
  float v = 1;
  if (threadIdx.x < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
  out[threadIdx.x] = v;
}
__global__ void fetch(float *out, const float *in, int wait) {
  float *s = (float *)tlk_shared;
  s[threadIdx.x] = -1;
  __pipeline_memcpy_async(&s[threadIdx.x], &in[threadIdx.x], 4);
  __pipeline_commit();
  if (wait) __pipeline_wait_prior(0);
  out[threadIdx.x] = s[threadIdx.x];
  __pipeline_wait_prior(0);
}
__global__ void tile(float *out, const __nv_bfloat16 *a, int ld, int shift) {
  using namespace nvcuda;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __nv_bfloat16, wmma::row_major> fa;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __nv_bfloat16, wmma::col_major> fb;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc;
  wmma::fill_fragment(acc, 0.0f);
  wmma::load_matrix_sync(fa, a + shift, (unsigned)ld);
  wmma::load_matrix_sync(fb, a, 16);
  wmma::mma_sync(acc, fa, fb, acc);
  wmma::store_matrix_sync(out, acc, 16, wmma::mem_row_major);
}
__global__ void fours_at(float4 *out, const float *in, int at) { out[threadIdx.x] = *(const float4 *)(in + at + 4 * threadIdx.x); }
__global__ void doubles(float *x) { x[threadIdx.x] *= 2; }

#ifdef CUSIM_CHECKED
static void missing_syncwarp() {
  float *out = device<float>(32);
  launch(1, 32, 128, warp_neighbour, out, 1);
  expect_nothing();
  launch(1, 32, 128, warp_neighbour, out, 0);
  expect_checked("shared memory");
  launch(1, 32, 128, warp_swap, out, 1);
  expect_nothing();
  launch(1, 32, 128, warp_swap, out, 0);
  expect_checked("race in shared memory");
}
static void out_of_bounds() {
  float *in = filled(N), *out = device<float>(N);
  launch(1, N, 0, reads_at, out, in, 1);
  expect_checked("outside every allocation");
  launch(1, 32, 64 * 4, shared_at, out, 64);
  expect_checked("of shared memory, of which the launch has");
}
static void misaligned() {
  float *in = filled(N);
  float4 *out = device<float4>(8);
  launch(1, 8, 0, fours_at, out, in, 4);
  expect_nothing();
  launch(1, 8, 0, fours_at, out, in, 1);
  expect_checked("a multiple of 16 bytes is needed");
}
static void uninitialised() {
  float *in = device<float>(N), *out = device<float>(N), host[N];
  launch(1, N, 0, reads_at, out, in, 0);
  expect_checked("which nothing has written");
  launch(1, 32, 64 * 4, shared_at, out, 32);
  expect_checked("shared memory, which nothing has written");
  cudaMemcpyAsync(host, in, sizeof host, cudaMemcpyDeviceToHost, stream);
  expect_checked("a copy to the host reads byte 0");
}
static void race_between_blocks() {
  float *out = device<float>(1);
  launch(2, 1, 0, same_cell, out);
  expect_checked("of another block wrote it");
}
static void host_pointer() {
  static float host[N];
  float *out = device<float>(N);
  launch(1, N, 0, reads_at, out, (const float *)host, 0);
  expect_checked("which is host memory");
}
static void freed_memory() {
  float *in = filled(N), *out = device<float>(N);
  cudaFree(in);
  launch(1, N, 0, reads_at, out, (const float *)in, 0);
  expect_checked("outside every allocation");
}
#else
static void out_of_bounds() {
  float *in = filled(N), *out = device<float>(N);
  launch(1, N, 0, reads_at, out, in, 1);
  expect("no memory of the device");
}
#endif
static void divergence() {
  float *out = device<float>(64);
  launch(1, 32, 0, leaves_early, out);
  expect("have left the kernel");
  launch(1, 64, 0, two_barriers, out);
  expect("others at one at");
  launch(1, 32, 0, half_shuffle, out);
  expect("has left the kernel");
}
static void missing_wait() {
  float *in = filled(32), *out = device<float>(32), got[32];
  for (int wait = 0; wait < 2; wait++) {
    launch(1, 32, 128, fetch, out, in, wait);
    cudaMemcpyAsync(got, out, sizeof got, cudaMemcpyDeviceToHost, stream);
    CHECK(got[7] == (wait ? 7 : -1), "wait %d: %g", wait, got[7]);
    expect_nothing();
  }
}
static void leading_dimension() {
  __nv_bfloat16 host[16 * 24], *a = device<__nv_bfloat16>(16 * 24);
  float *out = device<float>(256), got[256], want = 0;
  for (int i = 0; i < 16 * 24; i++) host[i] = __float2bfloat16_rn((float)(i % 7) - 3);
  cudaMemcpyAsync(a, host, sizeof host, cudaMemcpyHostToDevice, stream);
  launch(1, 32, 0, tile, out, a, 24, 0);
  cudaMemcpyAsync(got, out, sizeof got, cudaMemcpyDeviceToHost, stream);
  expect_nothing();
  for (int k = 0; k < 16; k++) want += __bfloat162float(host[3 * 24 + k]) * __bfloat162float(host[5 * 16 + k]);
  CHECK(got[3 * 16 + 5] == want, "element (3, 5) is %g, expected %g", got[3 * 16 + 5], want);
  launch(1, 32, 0, tile, out, a, 20, 0);
  expect("leading dimension is 20");
  launch(1, 32, 0, tile, out, a, 24, 1);
  expect("alignment");
#ifdef CUSIM_CHECKED
  launch(1, 32, 0, tile, out, a, 32, 0);
  expect("outside every allocation");
#endif
}
// 1 + 15 2^-25, of which rounding makes 1 + 2^-21: a tensor core cuts every term off 24 bits below the largest
static void sums_are_cut_off() {
  __nv_bfloat16 host[256], *a = device<__nv_bfloat16>(256);
  float *out = device<float>(256), got[256];
  for (int i = 0; i < 256; i++) host[i] = __float2bfloat16_rn(i % 16 && i / 16 != 1 ? 0x1p-25f : 1);
  cudaMemcpyAsync(a, host, sizeof host, cudaMemcpyHostToDevice, stream);
  launch(1, 32, 0, tile, out, a, 16, 0);
  cudaMemcpyAsync(got, out, sizeof got, cudaMemcpyDeviceToHost, stream);
  CHECK(got[1] == 1 && got[17] == 16, "1 + 15 2^-25 gives %.9g, 16 times 1 gives %.9g", got[1], got[17]);
  expect_nothing();
}
static void missing_event() {
  cudaStream_t other, first = stream;
  cudaEvent_t e;
  cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
  cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
  int differs = 0;
  for (int ordered = 0; ordered < 2; ordered++)
    for (int o = 0; o < 2; o++) {
      cusim_set_order(o, 1);
      float *x = filled(32), got[32];
      cudaStreamSynchronize(stream);
      launch(1, 32, 0, doubles, x);
      if (ordered) cudaEventRecord(e, stream), cudaStreamWaitEvent(other, e, 0);
      cudaMemcpyAsync(got, x, sizeof got, cudaMemcpyDeviceToHost, other);
      if (ordered) CHECK(got[3] == 6, "order %d: %g", o, got[3]);
      else differs += got[3] != 6;
      expect_nothing();
    }
  CHECK(differs, "without the event the copy sees the kernel's result in every order");
  stream = first;
}
static void pinned_changed_too_early() {
  void *p;
  cudaHostAlloc(&p, 4, 0);
  float *pinned = (float *)p, *x = device<float>(1), got;
  *pinned = 1;
  cudaMemcpyAsync(x, pinned, 4, cudaMemcpyHostToDevice, stream);
  *pinned = 2;
  cudaMemcpyAsync(&got, x, 4, cudaMemcpyDeviceToHost, stream);
  CHECK(got == 2, "the copy read %g: not when it ran", got);
  expect_nothing();
}
// the host writes what a kernel reads, after the launch: too late on a device that begins at once
static void pinned_written_too_late() {
  void *p;
  cudaHostAlloc(&p, 4, 0);
  float *pinned = (float *)p, *out = device<float>(1), got = 0;
  for (int o = 0; o < 3; o++) {
    int late = 0;
    cusim_set_order(o, 1);
    for (int i = 0; i < 200; i++) {
      *pinned = 1;
      launch(1, 1, 0, reads_at, out, (const float *)pinned, 0);
      *pinned = 2;
      cudaMemcpyAsync(&got, out, 4, cudaMemcpyDeviceToHost, stream);
      late += got == 1;
    }
    CHECK(o == CUSIM_RANDOM ? late > 5 && late < 100 : late == 0, "order %d: the kernel ran at once %d times of 200", o, late);
    expect_nothing();
  }
}
static void graph() {
  float *x = filled(32), got[32];
  cudaStreamSynchronize(stream);
  cudaGraph_t g;
  cudaGraphExec_t exec;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  launch(1, 32, 0, doubles, x);
  cudaStreamEndCapture(stream, &g);
  cudaGraphInstantiate(&exec, g, 0);
  for (int i = 0; i < 3; i++) cudaGraphLaunch(exec, stream);
  cudaMemcpyAsync(got, x, sizeof got, cudaMemcpyDeviceToHost, stream);
  CHECK(got[3] == 24, "three launches of the graph give %g, expected 24", got[3]);
  expect_nothing();
}
// a graph of one kernel over x
static cudaGraphExec_t doubling(float *x) {
  cudaGraph_t g;
  cudaGraphExec_t exec = nullptr;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  launch(1, 32, 0, doubles, x);
  cudaStreamEndCapture(stream, &g);
  cudaGraphInstantiate(&exec, g, 0);
  cudaGraphDestroy(g);
  return exec;
}
// what a capture forbids fails, and the capture gives no graph
template <class Call>
static void refused_in_capture(const char *what, Call call) {
  float *x = filled(32), got[32];
  cudaStreamSynchronize(stream);
  cudaGraph_t g = nullptr;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  launch(1, 32, 0, doubles, x);
  cudaError_t e = call(x);
  CHECK(e == cudaErrorStreamCaptureUnsupported, "%s while a stream is captured: %s", what, cudaGetErrorName(e));
  launch(1, 32, 0, doubles, x);
  e = cudaStreamEndCapture(stream, &g);
  CHECK(e == cudaErrorStreamCaptureInvalidated && !g, "%s: the capture ends with %s", what, cudaGetErrorName(e));
  cudaMemcpyAsync(got, x, sizeof got, cudaMemcpyDeviceToHost, stream);
  CHECK(got[3] == 3, "%s: what was captured ran", what);
  expect_nothing();
}
static void capture_refuses() {
  static float pageable[32];
  static void *pinned, *fresh;
  static cudaEvent_t e;
  cudaHostAlloc(&pinned, sizeof pageable, 0);
  cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
  refused_in_capture("cudaStreamSynchronize", [](float *) { return cudaStreamSynchronize(stream); });
  refused_in_capture("cudaDeviceSynchronize", [](float *) { return cudaDeviceSynchronize(); });
  refused_in_capture("cudaEventSynchronize", [](float *) { return cudaEventSynchronize(e); });
  refused_in_capture("cudaEventRecord", [](float *) { return cudaEventRecord(e, stream); });
  refused_in_capture("a copy to pageable memory", [](float *x) { return cudaMemcpyAsync(pageable, x, 128, cudaMemcpyDeviceToHost, stream); });
  refused_in_capture("a copy from pageable memory", [](float *x) { return cudaMemcpyAsync(x, pageable, 128, cudaMemcpyHostToDevice, stream); });
  refused_in_capture("cudaMalloc", [](float *) { return cudaMalloc(&fresh, 128); });
  refused_in_capture("cudaMallocAsync", [](float *) { return cudaMallocAsync(&fresh, 128, stream); });
  refused_in_capture("cudaFree", [](float *x) { return cudaFree(x); });
  refused_in_capture("cudaFreeAsync", [](float *x) { return cudaFreeAsync(x, stream); });
  refused_in_capture("cudaHostAlloc", [](float *) { return cudaHostAlloc(&fresh, 128, 0); });
  refused_in_capture("cudaFreeHost", [](float *) { return cudaFreeHost(pinned); });
}
static void graph_of_freed_memory() {
  float *x = filled(32);
  cudaStreamSynchronize(stream);
  cudaGraphExec_t exec = doubling(x);
  cudaGraphLaunch(exec, stream);
  cudaFreeAsync(x, stream);
  expect_nothing();  // launched before it was freed
  CHECK(cudaGraphLaunch(exec, stream) != cudaSuccess, "launched");
  expect("128 bytes at");
  void *pinned;
  cudaHostAlloc(&pinned, 128, 0);
  x = filled(32);
  cudaStreamSynchronize(stream);
  cudaGraph_t g;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  cudaMemcpyAsync(x, pinned, 128, cudaMemcpyHostToDevice, stream);
  cudaStreamEndCapture(stream, &g);
  cudaGraphInstantiate(&exec, g, 0);
  cudaFreeHost(pinned);
  CHECK(cudaGraphLaunch(exec, stream) != cudaSuccess, "launched");
  expect("freed after its capture");
}
static void graph_handles() {
  float *x = filled(32);
  cudaStreamSynchronize(stream);
  cudaGraph_t g = nullptr;
  cudaGraphExec_t exec = doubling(x), more = nullptr;
  CHECK(cudaStreamEndCapture(stream, &g) == cudaErrorInvalidValue, "a capture ended that did not begin");
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaErrorInvalidValue, "two captures of one stream");
  CHECK(cudaGraphLaunch(exec, stream) == cudaErrorStreamCaptureUnsupported, "a graph inside a graph, which is not modelled");
  cudaStreamEndCapture(stream, &g);
  CHECK(cudaGraphInstantiate(&more, g, 0) == cudaErrorInvalidValue, "a graph of a spoilt capture");
  CHECK(cudaGraphExecDestroy(exec) == cudaSuccess, "destroyed");
  CHECK(cudaGraphLaunch(exec, stream) == cudaErrorInvalidValue && cudaGraphExecDestroy(exec) == cudaErrorInvalidValue, "used after it was destroyed");
  expect_nothing();
}
// a graph has its arguments from the capture, and pinned memory from when it runs
static void graph_reads_when_it_runs() {
  float *x = device<float>(1), got[2];
  void *p;
  cudaHostAlloc(&p, 4, 0);
  float *pinned = (float *)p;
  cudaGraph_t g;
  cudaGraphExec_t exec;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  cudaMemcpyAsync(x, pinned, 4, cudaMemcpyHostToDevice, stream);
  launch(1, 1, 0, doubles, x);
  cudaStreamEndCapture(stream, &g);
  cudaGraphInstantiate(&exec, g, 0);
  for (int i = 0; i < 2; i++) {
    *pinned = (float)(i + 5);
    cudaGraphLaunch(exec, stream);
    cudaMemcpyAsync(&got[i], x, 4, cudaMemcpyDeviceToHost, stream);
  }
  CHECK(got[0] == 10 && got[1] == 12, "%g, %g", got[0], got[1]);
  expect_nothing();
}
static void launch_limits() {
  float *out = device<float>(32);
  launch(1, 32, 60 << 10, shared_at, out, 0);
  expect("61440 bytes of shared memory, 49152 allowed");
  CHECK(cudaFuncSetAttribute(shared_at, cudaFuncAttributeMaxDynamicSharedMemorySize, 120 << 10) != cudaSuccess, "120 KiB granted");
  expect("122880");
}
static void other_device() {
  float *x = filled(32);
  expect_nothing();
  cudaSetDevice(1);
  launch(1, 32, 0, doubles, x);
  cudaSetDevice(0);
  expect("a launch into a stream of device 0 while device 1 is current");
  CHECK(cudaSetDevice(2) == cudaErrorInvalidDevice, "a device that is not there");
}
static void pinned_freed_too_early() {
  float *x = device<float>(32);
  void *pinned;
  cudaHostAlloc(&pinned, 128, 0);
  cudaMemcpyAsync(x, pinned, 128, cudaMemcpyHostToDevice, stream);
  cudaFreeHost(pinned);
  expect("a copy from of 128 bytes");
}
static void forked_child() {
  pid_t child = fork();
  if (child == 0) _exit(cudaSetDevice(0) == cudaErrorInitializationError ? 7 : 1);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, "a child has the device of its parent");
  CHECK(cudaSetDevice(0) == cudaSuccess, "the parent has it no more");
  expect_nothing();
}
// in a child: the host must not be able to read device memory
static void host_reads_device() {
  float *x = filled(4);
  cudaStreamSynchronize(stream);
  pid_t child = fork();
  if (child == 0) {
    fclose(stderr);
    volatile float v = *(volatile float *)x;
    _exit(v != 0 ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFSIGNALED(status), "host code read device memory");
}

#include "test_libraries.h"

int main() {
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cusim_take_report();
  RUN(barriers_in_every_order);
  RUN(missing_barrier);
  RUN(out_of_bounds);
#ifdef CUSIM_CHECKED
  RUN(missing_syncwarp);
  RUN(misaligned);
  RUN(uninitialised);
  RUN(race_between_blocks);
  RUN(host_pointer);
  RUN(freed_memory);
#endif
  RUN(divergence);
  RUN(missing_wait);
  RUN(leading_dimension);
  RUN(sums_are_cut_off);
  RUN(missing_event);
  RUN(pinned_changed_too_early);
  RUN(pinned_freed_too_early);
  RUN(pinned_written_too_late);
  RUN(graph);
  RUN(capture_refuses);
  RUN(graph_of_freed_memory);
  RUN(graph_handles);
  RUN(graph_reads_when_it_runs);
  RUN(launch_limits);
  RUN(other_device);
  RUN(forked_child);
  RUN(host_reads_device);
  RUN(solver_works);
  RUN(solver_refuses);
  RUN(product_works);
  RUN(product_refuses);
#ifdef CUSIM_NCCL
  RUN(ranks_refuse);
#endif
  return test_done();
}
