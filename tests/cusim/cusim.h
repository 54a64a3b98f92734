// cusim.h: a host implementation of the CUDA language and runtime that kernels/cuda uses, stricter than the hardware.
//
// What runs. The .cu files are compiled by the host's C++ compiler against tests/cusim/include. A launch is queued in its
// stream; queues run when the host synchronises, in random order some also at once, as hardware does; blocks run one after another, the
// threads of a block as fibers that switch at barriers and warp exchanges. The order of threads, blocks and streams is forward, reverse, or
// random by seed, so code that leans on an order gives different results.
//
// What is checked always
//   memory     every allocation lies between unmapped pages; fresh memory is filled with 0xff (NaN as a float); device memory is
//              unmapped while host code runs, so the host cannot touch it; a kernel that leaves its memory stops with a report
//   barriers   every thread of a block at the same __syncthreads, every lane of a mask at the same exchange; a deadlock or a
//              thread that left the kernel is reported with where the others wait
//   launches   sizes within limits, shared memory within what was granted (99 KiB at most: what every architecture has)
//   transfers  pinned memory is read when the copy runs, not when it is asked for, and freeing it waits for nothing
//   processes  a child that fork made of one that has called this has no device
//   graphs     what a capture forbids (waiting for the captured stream, allocating, freeing, copies with pageable memory, events)
//              fails and spoils the capture; a graph is not launched when memory that its nodes name was freed since, and takes memory with its first launch. Not modelled:
//              capture across streams by events, child graphs, memory nodes; these are refused, too
// What is checked when the sources are compiled with -fsanitize=thread,alignment (CUSIM_CHECKED; the hooks are ours, hooks.cc)
//   every load and store of kernel code: inside an allocation, to the byte; aligned as its type must be; initialised before it is read; never to host memory;
//   two threads that touch the same bytes, one of them writing, without a barrier between them are a race: in shared memory in
//   both directions, in global memory write before read or write, within a launch
// A report goes to stderr (or to cusim_take_report) and the launch fails with cudaErrorIllegalAddress, which sticks.
//
// Environment: CUSIM_ORDER=forward|reverse|random, CUSIM_SEED=n; CUSIM_DRIVER=0: no driver; CUSIM_DEVICES=n (2): devices, which
// differ in nothing, but a launch must go to a stream of the current one; CUSIM_CARD=n (0): in which slot the first of them is, as
// CUDA_VISIBLE_DEVICES would choose. One host thread at a time is inside (a lock).
// Not modelled: timing, clusters, memory that one device has and another has not, managed memory, textures, legacy default stream (a NULL stream is refused).
#ifndef CUSIM_H
#define CUSIM_H
#include "include/cuda_pipeline.h"
#include "include/cuda_runtime.h"
#include <functional>
#include <mutex>
#include <string>

enum cusim_order { CUSIM_FORWARD, CUSIM_REVERSE, CUSIM_RANDOM };
extern "C" void cusim_set_order(int order, unsigned seed);  // of threads, blocks and streams from here on
extern "C" const char *cusim_take_report();                 // reports since the last call, and no print to stderr from now on
extern "C" void cusim_clear_error();                        // tests only: CUDA's own sticky errors cannot be cleared

namespace cusim {
// ---- order.cc
unsigned random_below(unsigned n);
int order();
void fill_order(unsigned *list, unsigned n);                // 0 .. n - 1 in the order in force

// ---- report.cc: printf-like; fails the running launch (does not return inside a kernel)
[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
std::string place_text(unsigned thread);                    // "thread 5 of block (0, 1, 0)"
std::string source_text(const void *pc);                    // "rmsnorm.cu:41" where debug information tells
extern cudaError_t sticky;

// ---- memory.cc
enum { DEVICE = 1, PINNED = 2 };
struct allocation {
  char *p;
  size_t bytes;
  int kind;
  uint64_t serial;                                          // no other allocation has it, also at the same address
};
void *allocate(size_t bytes, int kind);                     // NULL: out of the simulated memory
bool release(void *p, int kind);                            // false: not an allocation of that kind
const allocation *find(const void *p);                      // that p lies in; NULL: host memory
const allocation *nearest(const void *p);                   // the closest one, for reports
bool in_region(const void *p);
bool in_arguments(const void *p);                          // of a launch
void open_memory();                                         // device memory can be touched: kernels and copies run
void close_memory();
void copy(void *dst, const void *src, size_t bytes);        // checks both sides
void set(void *p, int value, size_t bytes);
size_t used_bytes();
size_t capacity_bytes();                                    // what cudaMemGetInfo says: 2 GiB, or CUSIM_MEMORY of MiB

// ---- shadow.cc: what is known of every byte, when CUSIM_CHECKED
void shadow_init(char *base, size_t bytes);
void shadow_allocated(char *p, size_t bytes, bool initialised);
void shadow_released(char *p, size_t bytes);
void shadow_written(const void *p, size_t bytes);           // by the host or a copy
void shadow_copied(void *dst, const void *src, size_t bytes);
void shadow_must_be_initialised(const void *p, size_t bytes, const char *what);
void shadow_block(size_t shared_bytes);                     // a block starts
void shadow_launch();                                       // a launch starts
void access(const void *p, size_t bytes, bool write, const void *pc);

// ---- block.cc
extern char *shared_base;                                   // dynamic shared memory of the running block
extern size_t shared_bytes;
enum { shared_limit = 99 << 10, shared_default = 48 << 10, most_threads = 1024 };
extern char *stack_base;
extern size_t stack_bytes;
bool in_kernel();
struct progress {
  unsigned thread;                                          // that runs
  unsigned serial;                                          // of the running block, over the whole process
  unsigned epoch;                                           // counts __syncthreads of this block
  unsigned warp_epoch[most_threads / 32];                   // counts __syncwarp (whole warp) and __syncthreads of a warp
};
extern progress at __attribute__((visibility("hidden")));
static inline unsigned thread_index() { return at.thread; }
void run_grid(dim3 grid, dim3 block, size_t shared, void *arguments, void (*call)(void *));
[[noreturn]] void abandon_block();                          // back to run_grid, which stops the launch

extern std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> guard;
}  // namespace cusim
#endif
