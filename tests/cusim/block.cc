// block.cc: a grid's blocks one after another, a block's threads as fibers.
//
// A fiber runs until it waits: at __syncthreads, at a warp exchange, or at its end; then the next ready one runs, chosen by the
// order in force: forward takes the one that has waited longest, reverse the one that became ready last, random any. A barrier
// or exchange is complete when all that must have arrived; the last to arrive carries it out.
#include "cusim.h"
#include "include/mma.h"
#include <sys/mman.h>
#include <vector>
#ifndef __x86_64__
#include <ucontext.h>
#endif

alignas(1024) unsigned char tlk_shared[cusim::shared_limit];  // extern __shared__ of the kernels
// in a section of their own, so that shadow.cc can tell kernels' reading of them from reading the host's variables
#define PLACE __attribute__((section("cusim_place")))
uint3 threadIdx PLACE = {}, blockIdx PLACE = {};
dim3 blockDim PLACE, gridDim PLACE;

namespace cusim {
char *shared_base = (char *)tlk_shared;
size_t shared_bytes;
char *stack_base;
static const size_t one_stack = 64 << 10;
size_t stack_bytes = one_stack * most_threads;

struct pending_copy {
  char *to;
  const char *from;
  size_t size, zfill;
  unsigned group;
};
struct exchange {  // what a lane brings
  uint64_t bits;
  int mode, lane, predicate;
  void *d;                 // a warp product's
  const void *a, *b, *c;
  int half;
};
struct fiber {
#ifdef __x86_64__
  void *sp;
#else
  ucontext_t context;
#endif
  uint3 thread;
  bool done;
  const char *waits;     // for what; NULL: ready or running
  exchange x;
  unsigned groups;       // commits so far
  std::vector<pending_copy> copies;
};
struct warp {
  unsigned arrived, mask;
  unsigned there;        // lanes that exist and have not left the kernel
  const char *what;
};

static fiber fibers[most_threads];
static warp warps[most_threads / 32];
progress at;
static unsigned n_threads, n_live, n_at_barrier;
static const void *barrier_site;
static fiber *running;
static unsigned ready[most_threads], first_ready, n_ready;  // a ring
static void *arguments;
static void (*call)(void *);
static bool failed;
static fiber host;

bool in_kernel() { return running != nullptr; }

// ---- switching
#ifdef __x86_64__
extern "C" void cusim_switch(void **from, void *to);
asm(".text\n.type cusim_switch,@function\n.hidden cusim_switch\ncusim_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n.size cusim_switch,.-cusim_switch\n");
static void jump(fiber *from, fiber *to) { cusim_switch(&from->sp, to->sp); }
#else
static void jump(fiber *from, fiber *to) { swapcontext(&from->context, &to->context); }
#endif

static void resume(fiber *next) {
  fiber *from = running ? running : &host;
  if (next == running) return;
  running = next == &host ? nullptr : next;
  if (running) threadIdx = running->thread, at.thread = (unsigned)(running - fibers);
  jump(from, next);
}

void abandon_block() {
  failed = true;
  resume(&host);
  __builtin_unreachable();
}

static void deadlock() {
  std::string text;
  unsigned shown = 0;
  for (unsigned i = 0; i < n_threads && shown < 4; i++)
    if (!fibers[i].done) text += " thread " + std::to_string(i) + " waits at " + (fibers[i].waits ? fibers[i].waits : "?") + ";", shown++;
  if (!running) running = &fibers[0], at.thread = 0;
  fault("block (%u, %u, %u) cannot go on:%s %u threads have left the kernel", blockIdx.x, blockIdx.y, blockIdx.z,
        text.c_str(), n_threads - n_live);
}

static unsigned &ready_slot(unsigned i) { return ready[(first_ready + i) % most_threads]; }

static fiber *take_ready() {
  if (n_ready == 0) {
    if (n_live == 0) return &host;
    deadlock();
  }
  int o = order();
  unsigned pick = o == CUSIM_FORWARD ? 0 : o == CUSIM_REVERSE ? n_ready - 1 : random_below(n_ready), t = ready_slot(pick);
  n_ready--;
  if (o == CUSIM_FORWARD) first_ready++;
  else ready_slot(pick) = ready_slot(n_ready);
  return &fibers[t];
}

static void make_ready(unsigned thread) {
  fibers[thread].waits = nullptr;
  ready_slot(n_ready++) = thread;
}

static void wait_here(const char *what) {
  running->waits = what;
  resume(take_ready());
}

static void fiber_main() {
  call(arguments);
  if (!running->copies.empty()) fault("%s ends with asynchronous copies that it never waited for", place_text(thread_index()).c_str());
  running->done = true;
  warps[thread_index() / 32].there &= ~(1u << thread_index() % 32);
  n_live--;
  resume(take_ready());
  __builtin_unreachable();
}

static void prepare(fiber *f, unsigned t) {
  char *top = stack_base + one_stack * (t + 1);
#ifdef __x86_64__
  void **sp = (void **)top - 1;
  *--sp = (void *)fiber_main;  // where the first switch returns to; the stack is then as after a call
  for (int i = 0; i < 6; i++) *--sp = nullptr;
  f->sp = sp;
#else
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = top - one_stack + 4096;
  f->context.uc_stack.ss_size = one_stack - 4096;
  makecontext(&f->context, fiber_main, 0);
#endif
}

static void make_stacks() {
  if (stack_base) return;
  stack_base = (char *)mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack_base == MAP_FAILED) abort();
  for (unsigned t = 0; t < most_threads; t++) mprotect(stack_base + one_stack * t, 4096, PROT_NONE);
}

static void run_block(dim3 block) {
  unsigned n = block.x * block.y * block.z;
  n_threads = n_live = n, n_at_barrier = at.epoch = 0;
  at.serial++;
  memset(warps, 0, sizeof warps);
  memset(at.warp_epoch, 0, sizeof at.warp_epoch);
  n_ready = 0;
  memset(tlk_shared, 0xff, shared_bytes);
  shadow_block(shared_bytes);
  for (unsigned t = 0; t < n; t++) {
    fiber *f = &fibers[t];
    f->thread = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
    f->done = false, f->groups = 0;
    f->copies.clear();
    prepare(f, t);
    warps[t / 32].there |= 1u << t % 32;
    make_ready(t);
  }
  resume(take_ready());
}

void run_grid(dim3 grid, dim3 block, size_t shared, void *arguments_, void (*call_)(void *)) {
  make_stacks();
  arguments = arguments_, call = call_;
  shared_bytes = shared;
  failed = false;
  blockDim = block, gridDim = grid;
  shadow_launch();
  size_t n = (size_t)grid.x * grid.y * grid.z;
  std::vector<unsigned> blocks(n);
  fill_order(blocks.data(), (unsigned)n);
  for (size_t i = 0; i < n && !failed; i++) {
    unsigned b = blocks[i];
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
    run_block(block);
  }
}

// ---- barriers and exchanges
static void barrier(const void *site) {
  if (n_at_barrier && site != barrier_site)
    fault("%s is at a __syncthreads at %s, others at one at %s", place_text(thread_index()).c_str(), source_text(site).c_str(),
          source_text(barrier_site).c_str());
  if (n_live < n_threads)
    fault("%s is at __syncthreads (%s), but %u threads have left the kernel", place_text(thread_index()).c_str(),
          source_text(site).c_str(), n_threads - n_live);
  barrier_site = site;
  if (++n_at_barrier == n_threads) {
    n_at_barrier = 0;
    at.epoch++;
    for (unsigned w = 0; w <= (n_threads - 1) / 32; w++) at.warp_epoch[w]++;
    for (unsigned t = 0; t < n_threads; t++) make_ready(t);
  }
  wait_here("__syncthreads");
}

// finish is carried out by the last lane to arrive, with the fiber of lane 0. what: of each kind of exchange one literal
static void together(const char *what, unsigned mask, void (*finish)(fiber *lanes, unsigned mask)) {
  unsigned t = thread_index(), lane = t % 32, first = t - lane;
  warp &w = warps[t / 32];
  if (!(mask >> lane & 1)) fault("%s is at %s with mask %08x, which does not name its own lane", place_text(t).c_str(), what, mask);
  if (unsigned missing = mask & ~w.there) {
    unsigned l = (unsigned)__builtin_ctz(missing);
    fault("%s is at %s with mask %08x, but lane %u %s", place_text(t).c_str(), what, mask, l,
          first + l >= n_threads ? "does not exist" : "has left the kernel");
  }
  if (w.arrived && (w.mask != mask || w.what != what))
    fault("%s is at %s (mask %08x), other lanes of its warp are at %s (mask %08x)", place_text(t).c_str(), what, mask, w.what, w.mask);
  w.what = what, w.mask = mask;
  w.arrived |= 1u << lane;
  if (w.arrived == mask) {
    w.arrived = 0;
    if (finish) finish(&fibers[first], mask);
    for (unsigned left = mask; left; left &= left - 1) make_ready(first + (unsigned)__builtin_ctz(left));
  }
  wait_here(what);
}

static void finish_shuffle(fiber *lanes, unsigned mask) {
  uint64_t in[32];
  for (int l = 0; l < 32; l++) in[l] = mask >> l & 1 ? lanes[l].x.bits : 0;
  for (int l = 0; l < 32; l++) {
    if (!(mask >> l & 1)) continue;
    const exchange &x = lanes[l].x;
    int from = x.mode == 0 ? x.lane & 31 : x.mode == 1 ? l - x.lane : x.mode == 2 ? l + x.lane : l ^ x.lane;
    if (from < 0 || from > 31) from = l;
    if (!(mask >> from & 1)) fault("lane %d shuffles from lane %d, which is not in the mask %08x", l, from, mask);
    lanes[l].x.bits = in[from];
  }
}

static void finish_vote(fiber *lanes, unsigned mask) {
  unsigned votes = 0;
  for (int l = 0; l < 32; l++)
    if (mask >> l & 1 && lanes[l].x.predicate) votes |= 1u << l;
  for (int l = 0; l < 32; l++) lanes[l].x.bits = votes;
}

static void finish_syncwarp(fiber *lanes, unsigned mask) {
  if (mask == 0xffffffffu) at.warp_epoch[(lanes - fibers) / 32]++;
}

static float as_float(uint16_t h, int half) {
  return half ? __half2float({h}) : __bfloat162float({h});
}

// d = a b + c as the tensor cores of sm_80 do it, the coarsest of those that we compile for (Fasi, Higham, Mikaitis and Pranesh 2021, "Numerical
// behavior of NVIDIA tensor cores"; Khattak and Mikaitis 2025): eight exact products and c are cut off at 24 bits below the largest of them,
// summed, and the sum is cut off to fp32; then the next eight. Never rounded: sums come out too small, as on hardware. Later ones keep more.
enum { TERMS = 8, KEPT_BITS = 24 };
static double two_to(uint64_t biased) {
  double d;
  biased <<= 52;
  memcpy(&d, &biased, 8);
  return d;
}
static void add_eight(double *c, const double *a, const double *b) {  // c (16), a (8), b (8, 16)
  double x[TERMS][16], most[16], sum[16];
  int cut[16];
  for (int j = 0; j < 16; j++) most[j] = fabs(c[j]), sum[j] = c[j];
  for (int k = 0; k < TERMS; k++)
    for (int j = 0; j < 16; j++) {
      x[k][j] = a[k] * b[k * 16 + j];
      sum[j] += x[k][j];
      most[j] = most[j] < fabs(x[k][j]) ? fabs(x[k][j]) : most[j];
    }
  double up[16], down[16];
  for (int j = 0; j < 16; j++) {
    uint64_t e;
    memcpy(&e, &most[j], 8);
    e = e >> 52 < 64 ? 64 : e >> 52;
    up[j] = two_to(2046 - e + KEPT_BITS), down[j] = two_to(e - KEPT_BITS);
  }
  for (int j = 0; j < 16; j++) cut[j] = (int)(c[j] * up[j]);
  for (int k = 0; k < TERMS; k++)
    for (int j = 0; j < 16; j++) cut[j] += (int)(x[k][j] * up[j]);
  for (int j = 0; j < 16; j++) {
    double v = cut[j] * down[j];
    uint64_t bits;
    memcpy(&bits, &v, 8);
    bits &= ~(((uint64_t)1 << 29) - 1);  // 24 of its 53 bits
    memcpy(&v, &bits, 8);
    c[j] = fabs(sum[j]) < INFINITY ? v : sum[j];
  }
}
static void finish_mma(fiber *lanes, unsigned) {
  using namespace nvcuda::wmma;
  static double a[256], b[256], c[256];
  int half = lanes[0].x.half;
  for (int l = 0; l < 32; l++) {
    const exchange &x = lanes[l].x;
    for (int e = 0; e < 8; e++) {
      a[cusim_cell(l, e, cusim_salt_a)] = as_float(((const uint16_t *)x.a)[e], half);
      b[cusim_cell(l, e, cusim_salt_b)] = as_float(((const uint16_t *)x.b)[e], half);
      c[cusim_cell(l, e, cusim_salt_c)] = ((const float *)x.c)[e];
    }
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k += TERMS) add_eight(c + i * 16, a + i * 16 + k, b + k * 16);
  for (int l = 0; l < 32; l++)
    for (int e = 0; e < 8; e++) ((float *)lanes[l].x.d)[e] = (float)c[cusim_cell(l, e, cusim_salt_c)];
}

// exact: sums of bytes' products in int32
static void finish_mma_bytes(fiber *lanes, unsigned) {
  using namespace nvcuda::wmma;
  static int a[256], b[256], c[256];
  for (int l = 0; l < 32; l++) {
    const exchange &x = lanes[l].x;
    for (int e = 0; e < 8; e++) {
      a[cusim_cell(l, e, cusim_salt_a)] = ((const signed char *)x.a)[e];
      b[cusim_cell(l, e, cusim_salt_b)] = ((const signed char *)x.b)[e];
      c[cusim_cell(l, e, cusim_salt_c)] = ((const int *)x.c)[e];
    }
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 16; j++) c[i * 16 + j] += a[i * 16 + k] * b[k * 16 + j];
  for (int l = 0; l < 32; l++)
    for (int e = 0; e < 8; e++) ((int *)lanes[l].x.d)[e] = c[cusim_cell(l, e, cusim_salt_c)];
}
}  // namespace cusim

using namespace cusim;
void __syncthreads() { barrier(__builtin_return_address(0)); }
void __syncwarp(unsigned mask) { together("__syncwarp", mask, finish_syncwarp); }
uint64_t cusim_shuffle(unsigned mask, uint64_t bits, int mode, int lane) {
  running->x.bits = bits, running->x.mode = mode, running->x.lane = lane;
  together("a shuffle", mask, finish_shuffle);
  return running->x.bits;
}
unsigned __ballot_sync(unsigned mask, int predicate) {
  running->x.predicate = predicate;
  together("a vote", mask, finish_vote);
  return (unsigned)running->x.bits;
}
int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

namespace nvcuda {
namespace wmma {
int cusim_lane() { return (int)(thread_index() % 32); }
void cusim_check_tile(const void *p, size_t element, unsigned ld) {
  if ((uintptr_t)p % 32) fault("%s: a fragment at %p; 32-byte alignment is needed", place_text(thread_index()).c_str(), p);
  if (ld * element % 16) fault("%s: a fragment's leading dimension is %u, not a multiple of 16 bytes", place_text(thread_index()).c_str(), ld);
  together("a fragment's load or store", 0xffffffffu, nullptr);
}
void cusim_mma(float *d, const void *a, const void *b, const float *c, int half) {
  exchange &x = running->x;
  x.d = d, x.a = a, x.b = b, x.c = c, x.half = half;
  together("mma_sync", 0xffffffffu, finish_mma);
}
void cusim_mma_bytes(int *d, const signed char *a, const signed char *b, const int *c) {
  exchange &x = running->x;
  x.d = d, x.a = a, x.b = b, x.c = c;
  together("mma_sync of bytes", 0xffffffffu, finish_mma_bytes);
}
}  // namespace wmma
}  // namespace nvcuda

// ---- atomics: one fiber runs at a time
template <class T, class F>
static T atomic(T *p, F change) {
  T old = *p;
  *p = change(old);
  return old;
}
int atomicAdd(int *p, int v) { return atomic(p, [v](int x) { return x + v; }); }
unsigned atomicAdd(unsigned *p, unsigned v) { return atomic(p, [v](unsigned x) { return x + v; }); }
int atomicMax(int *p, int v) { return atomic(p, [v](int x) { return x < v ? v : x; }); }
int atomicMin(int *p, int v) { return atomic(p, [v](int x) { return v < x ? v : x; }); }
unsigned atomicOr(unsigned *p, unsigned v) { return atomic(p, [v](unsigned x) { return x | v; }); }

// ---- asynchronous copies
void __pipeline_memcpy_async(void *to, const void *from, size_t size, size_t zfill) {
  if ((size != 4 && size != 8 && size != 16) || (uintptr_t)to % size || (uintptr_t)from % size || zfill > size)
    fault("%s: an asynchronous copy of %zu bytes (%zu zeros) from %p to %p: sizes 4, 8, 16, both ends aligned to it",
          place_text(thread_index()).c_str(), size, zfill, from, to);
  running->copies.push_back({(char *)to, (const char *)from, size, zfill, running->groups});
}
void __pipeline_commit() { running->groups++; }
void __pipeline_wait_prior(size_t n) {
  std::vector<pending_copy> &q = running->copies;
  size_t done = 0;
  for (; done < q.size() && q[done].group + n < running->groups; done++) {
    const pending_copy &c = q[done];
    const void *pc = __builtin_return_address(0);
    if (c.size > c.zfill) access(c.from, c.size - c.zfill, false, pc);
    access(c.to, c.size, true, pc);
    memcpy(c.to, c.from, c.size - c.zfill);
    memset(c.to + c.size - c.zfill, 0, c.zfill);
  }
  q.erase(q.begin(), q.begin() + (long)done);
}
