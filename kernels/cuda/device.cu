// device.cu: the device: opening it, its one stream, memory, scratch, errors.
//
// Everything runs in one stream, in the order of calls. Device memory comes from the driver's stream-ordered pool, which keeps
// what is given back, so growing scratch or a key/value cache needs no synchronisation, unless the pool says that there is no memory: then
// what is on its way back is waited for, what lies idle in pieces too small goes to the driver, and it is asked again. Host memory for
// both sides is pinned.
// One device a process: several devices are several ranks.
#include "cuda.cuh"
#include <cstdio>
#include <cstdlib>
#include <cstring>

const char *current_op = "start";
static cudaStream_t the_stream;
static cudaMemPool_t the_pool;
static int the_device = -1, sms;
static bool synchronous;
static char device_name[256];
static struct {
  void *p;
  size_t bytes;
} slots[N_SCRATCH];

void check(cudaError_t e, const char *op) {
  if (e == cudaSuccess) return;
  fprintf(stderr, "tlrun: cuda:%d: %s: %s (%s)%s\n", the_device, op, cudaGetErrorString(e), cudaGetErrorName(e),
          synchronous ? "" : "; TL_SYNC=1 names the op that is at fault");
  abort();
}

cudaStream_t stream() {
  cudaSetDevice(the_device);  // the current device is a thread's own
  return the_stream;
}
int n_multiprocessors() { return sms; }

void after(const char *op) {
  if (synchronous && !recording()) check(cudaStreamSynchronize(the_stream), op);
  else check(cudaPeekAtLastError(), op);
}

void empty_pool() {
  check(cudaStreamSynchronize(stream()), current_op);
  check(cudaMemPoolTrimTo(the_pool, 0), current_op);
}

void *device_alloc(size_t bytes) {
  void *p = nullptr;
  cudaError_t e = cudaMallocAsync(&p, bytes ? bytes : 1, stream());
  if (e == cudaErrorMemoryAllocation && !recording()) {
    cudaGetLastError();
    empty_pool();
    e = cudaMallocAsync(&p, bytes ? bytes : 1, the_stream);
  }
  if (e == cudaErrorMemoryAllocation) cudaGetLastError();
  else check(e, "alloc");
  return e == cudaSuccess ? p : nullptr;
}

void *scratch(int slot, size_t bytes) {
  if (bytes > slots[slot].bytes && scratch_moves()) {
    size_t n = align_up(slots[slot].bytes + slots[slot].bytes / 2 > bytes ? slots[slot].bytes + slots[slot].bytes / 2 : bytes, 4096);
    if (slots[slot].p) check(cudaFreeAsync(slots[slot].p, stream()), current_op);
    slots[slot].p = device_alloc(n);
    if (!slots[slot].p) slots[slot].p = device_alloc(n = align_up(bytes, 4096));  // no room to grow beyond what is needed now
    slots[slot].bytes = n;
    if (!slots[slot].p) {
      fprintf(stderr, "tlrun: cuda:%d: %s: no memory for %zu bytes of scratch\n", the_device, current_op, n);
      abort();
    }
  }
  return slots[slot].p;
}

static bool is_host(const void *p) {
  cudaPointerAttributes a;
  check(cudaPointerGetAttributes(&a, p), "copy");
  return a.type == cudaMemoryTypeUnregistered;
}
static bool is_device(const void *p) {
  cudaPointerAttributes a;
  check(cudaPointerGetAttributes(&a, p), "copy");
  return a.type == cudaMemoryTypeDevice;
}

// A copy into memory that the host reads is waited for; one from pageable memory is staged by the driver.
void device_copy(void *dst, const void *src, size_t bytes) {
  if (!bytes) return;
  check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, stream()), "copy");
  if (is_host(src) || !is_device(dst)) check(cudaStreamSynchronize(the_stream), "copy");
}

static void *op_alloc(size_t bytes, int kind) {
  if (kind != TLK_MEM_BOTH) return device_alloc(bytes);
  void *p = nullptr;
  stream();
  cudaError_t e = cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocPortable | cudaHostAllocMapped);
  if (e == cudaErrorMemoryAllocation) cudaGetLastError();
  else check(e, "alloc");
  return e == cudaSuccess ? p : nullptr;
}

// What uses p still runs to its end: of device memory in the order of the stream, of pinned memory by waiting, which cudaFreeHost is
// not said to do.
static void op_release(void *p) {
  if (!p) return;
  stream();
  if (is_device(p)) return check(cudaFreeAsync(p, the_stream), "release");
  check(cudaStreamSynchronize(the_stream), "release");
  check(cudaFreeHost(p), "release");
}

static void op_zero(void *p, size_t bytes) {
  if (bytes) check(cudaMemsetAsync(p, 0, bytes, stream()), "zero");
}
static void op_sync() { check(cudaStreamSynchronize(stream()), "sync"); }
static void op_set_threads(int) {}  // the device's are all its own

static bool usable(cudaError_t e, const char *what, char *why, size_t n) {
  if (e == cudaSuccess) return true;
  snprintf(why, n, "%s: %s", what, cudaGetErrorString(e));
  return false;
}

extern "C" const tlk_ops *tlk_open(int device, char *why, size_t n);
extern "C" const tlk_ops *tlk_open(int device, char *why, size_t n) {
  static tlk_ops table;
  int count = 0, driver = 0;
  cudaDeviceProp prop;
  if (!usable(cudaDriverGetVersion(&driver), "the driver", why, n)) return nullptr;
  if (driver == 0) return snprintf(why, n, "there is no CUDA driver"), nullptr;
  if (!usable(cudaGetDeviceCount(&count), "looking for devices", why, n)) return nullptr;
  if (device < 0 && count > 0) device = (-1 - device) % count;  // a launcher may show every rank a single device, its own
  if (device >= count) return snprintf(why, n, "device %d of %d", device, count), nullptr;
  if (!usable(cudaSetDevice(device), "opening the device", why, n)) return nullptr;
  if (!usable(cudaGetDeviceProperties(&prop, device), "the device's properties", why, n)) return nullptr;
  if (prop.major < 8) return snprintf(why, n, "%s has compute capability %d.%d; 8.0 is needed", prop.name, prop.major, prop.minor), nullptr;
  uint64_t all = UINT64_MAX;  // by default the pool gives everything back to the driver whenever the host waits
  if (!usable(cudaDeviceGetDefaultMemPool(&the_pool, device), "the memory pool", why, n)) return nullptr;
  if (!usable(cudaMemPoolSetAttribute(the_pool, cudaMemPoolAttrReleaseThreshold, &all), "the memory pool", why, n)) return nullptr;
  if (!usable(cudaStreamCreateWithFlags(&the_stream, cudaStreamNonBlocking), "a stream", why, n)) return nullptr;
  the_device = device, sms = prop.multiProcessorCount;
  snprintf(device_name, sizeof device_name, "%s", prop.name);
  const char *sync = getenv("TL_SYNC"), *graph = getenv("TL_GRAPH");
  synchronous = sync && strcmp(sync, "1") == 0;
  table.name = "cuda", table.isa = device_name;
  table.set_threads = op_set_threads;
  add_recordings(&table, graph && *graph ? strcmp(graph, "0") != 0 : !synchronous);
  table.alloc = op_alloc, table.release = op_release, table.copy = device_copy, table.zero = op_zero, table.sync = op_sync;
#define TLK_SET(op) table.op = cuda_##op;
  TLK_CUDA_OPS(TLK_SET)
  return &table;
}
