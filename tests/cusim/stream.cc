// stream.cc: the runtime API: devices, memory calls, streams, events, graphs, launches.
//
// A stream is a queue of work. It runs when the host synchronises (or copies to memory of its own) and not when it is asked for, but in
// random order, where some of it does: a device may begin at once, before the host has done what it does next. Streams take turns: forward runs the stream that is waited for as far as events let it, reverse the others first,
// random any; so work that depends on another stream without an event between them finds its input unwritten in some order.
#include "libraries.h"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

using namespace cusim;

struct work {
  std::function<void()> run;
  cudaEvent_t waits = nullptr, records = nullptr;
  uint64_t mark = 0;  // of the event
  bool with_others = false;
};
struct cusim_stream {
  std::deque<work> queue;
  cusim_graph *capturing = nullptr;
  bool capture_failed = false;
  int device = 0;
};
struct cusim_event {
  uint64_t asked = 0, reached = 0;
};
struct cusim_graph {
  std::vector<work> works;
  std::map<const char *, allocation> named;  // allocations that its nodes name
  int device;
};
enum { UPLOADED = 64 << 10 };  // bytes of device memory that a graph takes with its first launch, of which CUDA tells no number
struct cusim_graph_exec {
  cusim_graph graph;
  void *uploaded = nullptr;
};

static std::set<cudaStream_t> streams;
static std::set<cudaEvent_t> events;
static std::set<cudaGraph_t> graphs;
static std::set<cudaGraphExec_t> execs;
static std::map<const void *, size_t> granted;  // dynamic shared memory by kernel
static cudaError_t last_error;

// A driver lives in the process that woke it: a child that fork made of that has none.
static bool forked() {
  static const pid_t woken = getpid();
  return getpid() != woken;
}
static cudaError_t answer(cudaError_t e) {
  if (sticky != cudaSuccess) e = sticky;
  else if (forked()) e = cudaErrorInitializationError;
  if (e != cudaSuccess) last_error = e;
  return e;
}
static bool known(cudaStream_t s) { return streams.count(s) != 0; }

static bool capturing(cudaStream_t s) { return known(s) && s->capturing; }
static cudaError_t spoil(cudaStream_t s) {
  s->capture_failed = true;
  return answer(cudaErrorStreamCaptureUnsupported);
}
// for a call that no capture allows, wherever it is under way: all of them are spoilt
static bool forbidden() {
  bool any = false;
  for (cudaStream_t s : streams)
    if (s->capturing) any = s->capture_failed = true;
  if (any) answer(cudaErrorStreamCaptureUnsupported);
  return any;
}
static void name_memory(cusim_graph *g, const void *p) {
  const allocation *a = in_region(p) ? find(p) : nullptr;
  if (a) g->named[a->p] = *a;
}

static cudaError_t add(cudaStream_t s, work w);
int cusim::stream_device(cudaStream_t s) { return known(s) ? s->device : -1; }
cudaError_t cusim::queue_work(cudaStream_t s, std::function<void()> run, bool with_others) {
  work w;
  w.run = std::move(run), w.with_others = with_others;
  return add(s, std::move(w));
}

static bool can_run(cudaStream_t s) {
  if (s->queue.empty()) return false;
  const work &w = s->queue.front();
  return !w.waits || w.waits->reached >= w.mark;
}

static void run_one(cudaStream_t s) {
  work w = std::move(s->queue.front());
  s->queue.pop_front();
  if (w.records) w.records->reached = std::max(w.records->reached, w.mark);
  if (w.run && sticky == cudaSuccess) w.run();
}

// in random order one time in eight: what the stream has, as far as events let it
static void begin_some(cudaStream_t s) {
  if (order() != CUSIM_RANDOM || random_below(8)) return;
  open_memory();
  while (can_run(s) && !s->queue.front().with_others && sticky == cudaSuccess) run_one(s);
  close_memory();
}

static cudaError_t add(cudaStream_t s, work w) {
  if (!known(s)) return answer(cudaErrorInvalidResourceHandle);
  if (sticky != cudaSuccess) return answer(sticky);
  if (s->capturing && s->capture_failed) return answer(cudaErrorStreamCaptureInvalidated);
  if (s->capturing) s->capturing->works.push_back(std::move(w));
  else s->queue.push_back(std::move(w)), begin_some(s);
  return answer(cudaSuccess);
}

// runs until done() holds; wanted: the stream that is waited for
template <class Done>
static cudaError_t run_until(cudaStream_t wanted, Done done) {
  open_memory();
  while (!done() && sticky == cudaSuccess) {
    std::vector<cudaStream_t> able;
    for (cudaStream_t s : streams)
      if (can_run(s)) able.push_back(s);
    if (able.empty()) {
      report("streams wait for events that nothing records");
      break;
    }
    cudaStream_t pick = nullptr;
    bool mine = std::find(able.begin(), able.end(), wanted) != able.end();
    if (order() == CUSIM_RANDOM) pick = able[random_below((unsigned)able.size())];
    else if (order() == CUSIM_FORWARD) pick = mine ? wanted : able[0];
    else pick = able.size() > 1 && able.back() == wanted ? able[able.size() - 2] : able.back();
    run_one(pick);
  }
  for (cudaStream_t s : streams)
    if (sticky != cudaSuccess) s->queue.clear();  // after a fault nothing more runs, as in CUDA
  close_memory();
  return answer(cudaSuccess);
}
static cudaError_t run_stream(cudaStream_t s) {
  return run_until(s, [s] { return s->queue.empty(); });
}

// ---- errors and devices
const char *cudaGetErrorName(cudaError_t e) {
  switch (e) {
  case cudaSuccess: return "cudaSuccess";
  case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
  case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
  case cudaErrorInitializationError: return "cudaErrorInitializationError";
  case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
  case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
  case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
  case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
  case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
  case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
  case cudaErrorNoDevice: return "cudaErrorNoDevice";
  case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
  default: return "a CUDA error";
  }
}
const char *cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorIllegalAddress ? "cusim reported a fault (see stderr)" : cudaGetErrorName(e);
}
cudaError_t cudaGetLastError() {
  guard g(lock);
  cudaError_t e = sticky != cudaSuccess ? sticky : last_error;
  last_error = cudaSuccess;
  return e;
}
cudaError_t cudaPeekAtLastError() {
  guard g(lock);
  return sticky != cudaSuccess ? sticky : last_error;
}
static int from_environment(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text && *text ? atoi(text) : otherwise;
}
static bool no_driver() { return from_environment("CUSIM_DRIVER", CUDART_VERSION) == 0; }
static int n_devices() { return from_environment("CUSIM_DEVICES", 2); }
static thread_local int current_device;
cudaError_t cudaDriverGetVersion(int *v) { return *v = no_driver() ? 0 : CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *v) { return *v = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) {
  *n = no_driver() ? 0 : n_devices();
  return answer(no_driver() ? cudaErrorInsufficientDriver : *n == 0 ? cudaErrorNoDevice : cudaSuccess);
}
cudaError_t cudaSetDevice(int device) {
  if (no_driver()) return answer(cudaErrorInsufficientDriver);
  if (device < 0 || device >= n_devices()) return answer(cudaErrorInvalidDevice);
  return current_device = device, answer(cudaSuccess);
}
cudaError_t cudaGetDevice(int *device) { return *device = current_device, cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char *text, int n, int device) {
  if (!text || n < 13 || device < 0 || device >= n_devices()) return answer(cudaErrorInvalidValue);
  snprintf(text, (size_t)n, "0000:%02x:00.0", 16 + from_environment("CUSIM_CARD", 0) + device);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
  if (device < 0 || device >= n_devices()) return answer(cudaErrorInvalidDevice);
  *p = {};
  device ? snprintf(p->name, sizeof p->name, "cusim %d", device) : snprintf(p->name, sizeof p->name, "cusim");
  p->totalGlobalMem = capacity_bytes();
  p->sharedMemPerBlock = shared_default, p->sharedMemPerBlockOptin = shared_limit;
  p->major = 8, p->minor = 0, p->multiProcessorCount = 4;
  p->regsPerBlock = 65536, p->maxThreadsPerMultiProcessor = 1536, p->sharedMemPerMultiprocessor = 100 << 10;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
  guard g(lock);
  *total_bytes = capacity_bytes();
  *free_bytes = capacity_bytes() - used_bytes();
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  guard g(lock);
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  return run_until(nullptr, [] {
    return std::all_of(streams.begin(), streams.end(), [](cudaStream_t s) { return s->queue.empty(); });
  });
}

// ---- memory
static cudaError_t make(void **p, size_t bytes, int kind) {
  if (!p) return answer(cudaErrorInvalidValue);
  *p = bytes ? allocate(bytes, kind) : nullptr;
  if (bytes && !*p) return last_error = cudaErrorMemoryAllocation;
  return answer(cudaSuccess);
}
cudaError_t cudaMalloc(void **p, size_t bytes) {
  guard g(lock);
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  return make(p, bytes, DEVICE);
}
cudaError_t cudaFree(void *p) {
  guard g(lock);
  if (!p) return answer(cudaSuccess);
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  cudaError_t e = cudaDeviceSynchronize();
  if (!release(p, DEVICE)) {
    report("cudaFree of %p, which is no device allocation", p);
    return answer(cudaErrorInvalidValue);
  }
  return e;
}
// The address is given at once; the memory is there for work that follows in the stream.
cudaError_t cudaMallocAsync(void **p, size_t bytes, cudaStream_t s) {
  guard g(lock);
  if (!known(s)) return answer(cudaErrorInvalidResourceHandle);
  if (capturing(s)) return spoil(s);
  return make(p, bytes, DEVICE);
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t s) {
  guard g(lock);
  if (capturing(s)) return spoil(s);
  if (!p) return answer(cudaErrorInvalidValue);
  return add(s, {[p] {
    if (!release(p, DEVICE)) report("cudaFreeAsync of %p, which is no device allocation", p);
  }});
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
  guard g(lock);
  if (flags & ~3u) return answer(cudaErrorInvalidValue);
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  return make(p, bytes, PINNED);
}
// waits for nothing: CUDA's documentation does not say that it does
cudaError_t cudaFreeHost(void *p) {
  guard g(lock);
  if (!p) return answer(cudaSuccess);
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  if (!release(p, PINNED)) {
    report("cudaFreeHost of %p, which is no pinned allocation", p);
    return answer(cudaErrorInvalidValue);
  }
  return answer(cudaSuccess);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p) {
  guard g(lock);
  const allocation *x = in_region(p) ? find(p) : nullptr;
  *a = {};
  a->type = !x ? cudaMemoryTypeUnregistered : x->kind == DEVICE ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
  a->devicePointer = x ? (void *)p : nullptr;
  a->hostPointer = !x || x->kind == PINNED ? (void *)p : nullptr;
  return answer(cudaSuccess);
}

struct cusim_pool {
  int device;
};
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device) {
  static cusim_pool pools[64];
  if (!pool || device < 0 || device >= n_devices() || device >= 64) return answer(cudaErrorInvalidDevice);
  pools[device].device = device;
  *pool = &pools[device];
  return cudaSuccess;
}
// of value 8 bytes are read, as CUDA does; what a pool keeps is not modelled
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr a, void *value) {
  if (!pool || a != cudaMemPoolAttrReleaseThreshold || !value) return answer(cudaErrorInvalidValue);
  volatile uint64_t bytes = *(uint64_t *)value;
  (void)bytes;
  return cudaSuccess;
}

// what was given back in the stream and not yet waited for is not there, which is why the program waits before it trims
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t) {
  guard g(lock);
  if (!pool) return answer(cudaErrorInvalidValue);
  return forbidden() ? cudaErrorStreamCaptureUnsupported : answer(cudaSuccess);
}

static int kind_of(const void *p) { return in_region(p) ? (find(p) ? find(p)->kind : 0) : -1; }

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
  guard g(lock);
  if (!bytes) return answer(known(s) ? cudaSuccess : cudaErrorInvalidResourceHandle);
  int to = kind_of(dst), from = kind_of(src);
  bool wrong = (kind == cudaMemcpyHostToDevice && (to != DEVICE || from == DEVICE)) ||
               (kind == cudaMemcpyDeviceToHost && (to == DEVICE || from != DEVICE)) ||
               (kind == cudaMemcpyDeviceToDevice && (to != DEVICE || from != DEVICE));
  if (wrong || !to || !from) {
    report("cudaMemcpyAsync of kind %d from %p to %p, which are not that", (int)kind, src, dst);
    return answer(cudaErrorInvalidValue);
  }
  if (capturing(s) && (to == -1 || from == -1)) return spoil(s);
  if (capturing(s)) name_memory(s->capturing, dst), name_memory(s->capturing, src);
  if (from == -1) {  // pageable memory is read before the call returns
    std::shared_ptr<std::vector<char>> staged(new std::vector<char>((const char *)src, (const char *)src + bytes));
    cudaError_t e = add(s, {[dst, staged] { copy(dst, staged->data(), staged->size()); }});
    return e == cudaSuccess && to == -1 ? run_stream(s) : e;
  }
  cudaError_t e = add(s, {[dst, src, bytes] { copy(dst, src, bytes); }});
  return e == cudaSuccess && to == -1 ? run_stream(s) : e;  // and written before it returns
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s) {
  guard g(lock);
  if (bytes && kind_of(p) <= 0) {
    report("cudaMemsetAsync of %p, which is not the device's", p);
    return answer(cudaErrorInvalidValue);
  }
  if (capturing(s)) name_memory(s->capturing, p);
  return add(s, {[p, value, bytes] {
    if (bytes) set(p, value, bytes);
  }});
}

// ---- streams and events
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
  guard g(lock);
  if (!s || flags > 1) return answer(cudaErrorInvalidValue);
  streams.insert(*s = new cusim_stream);
  (*s)->device = current_device;
  return answer(cudaSuccess);
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  guard g(lock);
  if (!known(s)) return answer(cudaErrorInvalidResourceHandle);
  if (s->capturing) return spoil(s);
  run_stream(s);
  streams.erase(s);
  delete s;
  return answer(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  guard g(lock);
  if (!known(s)) return answer(cudaErrorInvalidResourceHandle);
  if (s->capturing) return spoil(s);
  return run_stream(s);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) {
  guard g(lock);
  if (!e || flags & ~2u) return answer(cudaErrorInvalidValue);
  events.insert(*e = new cusim_event);
  return answer(cudaSuccess);
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  guard g(lock);
  if (!events.count(e)) return answer(cudaErrorInvalidResourceHandle);
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  cudaDeviceSynchronize();
  events.erase(e);
  delete e;
  return answer(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  guard g(lock);
  if (!events.count(e)) return answer(cudaErrorInvalidResourceHandle);
  if (capturing(s)) return spoil(s);
  work w;
  w.records = e, w.mark = ++e->asked;
  return add(s, std::move(w));
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
  guard g(lock);
  if (!events.count(e) || flags) return answer(cudaErrorInvalidValue);
  if (capturing(s)) return spoil(s);
  work w;
  w.waits = e, w.mark = e->asked;
  return add(s, std::move(w));
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  guard g(lock);
  if (!events.count(e)) return answer(cudaErrorInvalidResourceHandle);
  if (forbidden()) return cudaErrorStreamCaptureUnsupported;
  uint64_t mark = e->asked;
  return run_until(nullptr, [e, mark] { return e->reached >= mark; });
}

// ---- graphs
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  guard g(lock);
  if (!known(s) || s->capturing || mode != cudaStreamCaptureModeThreadLocal) return answer(cudaErrorInvalidValue);
  s->capturing = new cusim_graph{};
  s->capturing->device = s->device;
  s->capture_failed = false;
  return answer(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out) {
  guard g(lock);
  if (!known(s) || !s->capturing || !out) return answer(cudaErrorInvalidValue);
  *out = s->capturing;
  s->capturing = nullptr;
  if (!s->capture_failed) return graphs.insert(*out), answer(cudaSuccess);
  delete *out;
  *out = nullptr;
  return answer(cudaErrorStreamCaptureInvalidated);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t graph, unsigned long long flags) {
  guard g(lock);
  if (!x || !graphs.count(graph) || flags) return answer(cudaErrorInvalidValue);
  execs.insert(*x = new cusim_graph_exec{*graph, nullptr});
  return answer(cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) {
  guard g(lock);
  if (!execs.count(x)) return answer(cudaErrorInvalidValue);
  if (!known(s)) return answer(cudaErrorInvalidResourceHandle);
  if (s->capturing) return spoil(s);
  if (s->device != x->graph.device) {
    report("a graph of device %d is launched into a stream of device %d", x->graph.device, s->device);
    return answer(cudaErrorInvalidValue);
  }
  for (const auto &named : x->graph.named) {
    const allocation *a = find(named.first);
    if (a && a->serial == named.second.serial) continue;
    report("a graph is launched that uses %zu bytes at %p, which were freed after its capture", named.second.bytes, (void *)named.first);
    return answer(cudaErrorInvalidValue);
  }
  if (!x->uploaded && !(x->uploaded = allocate(UPLOADED, DEVICE))) return last_error = cudaErrorMemoryAllocation;
  for (const work &w : x->graph.works) {
    cudaError_t e = add(s, w);
    if (e != cudaSuccess) return e;
  }
  return answer(cudaSuccess);
}
// what was launched is in its stream's queue, and stays
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) {
  guard g(lock);
  if (!execs.erase(x)) return answer(cudaErrorInvalidValue);
  if (x->uploaded) release(x->uploaded, DEVICE);
  delete x;
  return answer(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  guard g(lock);
  if (!graphs.erase(graph)) return answer(cudaErrorInvalidValue);
  delete graph;
  return answer(cudaSuccess);
}

// ---- launches
cudaError_t cusim_func_set_attribute(const void *kernel, cudaFuncAttribute a, int value) {
  guard g(lock);
  if (a != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > shared_limit) {
    report("cudaFuncSetAttribute: %d bytes of dynamic shared memory; at most %d", value, (int)shared_limit);
    return answer(cudaErrorInvalidValue);
  }
  granted[kernel] = (size_t)value;
  return answer(cudaSuccess);
}

static const size_t slot_bytes = 4096, slots_bytes = (size_t)1 << 32;
static char *slots, *next_slot;
static std::vector<char *> free_slots;

bool cusim::in_arguments(const void *p) { return (size_t)((const char *)p - slots) < slots_bytes; }

void *cusim_arguments(size_t bytes) {
  guard g(lock);
  if (bytes > slot_bytes) fault("a launch with %zu bytes of arguments; at most 4096", bytes);
  if (!slots) {
    slots = next_slot = (char *)mmap(nullptr, slots_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slots == MAP_FAILED) abort();
  }
  if (free_slots.empty()) return next_slot += slot_bytes, next_slot - slot_bytes;
  char *p = free_slots.back();
  free_slots.pop_back();
  memset(p, 0, bytes);  // of an earlier launch
  return p;
}

// CUSIM_LAUNCHES=file: for docs/make_cuda_table.py, a line "offset threads shared" of every kernel and size launched, once
static void note_launch(const void *kernel, size_t threads, size_t shared) {
  static const char *path = getenv("CUSIM_LAUNCHES");
  static std::set<std::tuple<const void *, size_t, size_t>> seen;
  Dl_info info;
  if (!path || !seen.insert({kernel, threads, shared}).second || !dladdr(kernel, &info)) return;
  FILE *f = fopen(path, "a");
  if (!f) return;
  fprintf(f, "%zx %zu %zu\n", (size_t)((const char *)kernel - (const char *)info.dli_fbase), threads, shared);
  fclose(f);
}

// the allocations that a launch's arguments point into: every word of them that is such an address
static void name_arguments(cusim_graph *g, const void *arguments, size_t bytes) {
  for (size_t at = 0; at + sizeof(void *) <= bytes; at += sizeof(void *)) {
    const void *p;
    memcpy(&p, (const char *)arguments + at, sizeof p);
    name_memory(g, p);
  }
}

cudaError_t cusim_launch(const cudaLaunchConfig_t *c, const void *kernel, void *arguments, size_t bytes, void (*call)(void *)) {
  guard g(lock);
  std::shared_ptr<void> kept(arguments, [](void *p) { free_slots.push_back((char *)p); });
  if (known(c->stream) && c->stream->device != current_device) {
    report("a launch into a stream of device %d while device %d is current", c->stream->device, current_device);
    return answer(cudaErrorInvalidResourceHandle);
  }
  const dim3 grid = c->gridDim, block = c->blockDim;
  size_t threads = (size_t)block.x * block.y * block.z, shared = c->dynamicSmemBytes;
  note_launch(kernel, threads, shared);
  size_t allowed = std::max((size_t)shared_default, granted.count(kernel) ? granted[kernel] : 0);
  if (!threads || threads > most_threads || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu ||
      grid.y > 65535 || grid.z > 65535 || shared > allowed || c->numAttrs) {
    report("a launch of (%u, %u, %u) blocks of (%u, %u, %u) threads with %zu bytes of shared memory, %zu allowed", grid.x, grid.y,
           grid.z, block.x, block.y, block.z, shared, allowed);
    return answer(cudaErrorInvalidConfiguration);
  }
  if (capturing(c->stream)) name_arguments(c->stream->capturing, arguments, bytes);
  return add(c->stream, {[grid, block, shared, kept, call] { run_grid(grid, block, shared, kept.get(), call); }});
}
