// shadow.cc: what is known of every byte of simulated memory, for checked builds (CUSIM_CHECKED).
//
//   state    a byte per byte of the region and of shared memory: 0 nothing there, 1 allocated, 2 written
//   writers  per two bytes (the smallest that kernels store), who wrote last: block, thread, and the counts of barriers then
//   readers  the same for shared memory; `several` when more than one thread has read since the last barrier
//
// Two accesses of one block are ordered when a __syncthreads lies between them, or a __syncwarp if both are of one warp.
// Accesses of different blocks of one launch are never ordered. Launches are: they run one after another in a stream, and
// streams are ordered by events, which the order of streams tests.
#include "cusim.h"
#include <sys/mman.h>

namespace cusim {
#ifndef CUSIM_CHECKED
void shadow_init(char *, size_t) {}
void shadow_allocated(char *, size_t, bool) {}
void shadow_released(char *, size_t) {}
void shadow_written(const void *, size_t) {}
void shadow_copied(void *, const void *, size_t) {}
void shadow_must_be_initialised(const void *, size_t, const char *) {}
void shadow_block(size_t) {}
void shadow_launch() {}
void access(const void *, size_t, bool, const void *) {}
#else
struct mark {
  uint32_t serial;  // of the block; 0: nobody
  uint32_t block_epoch, warp_epoch;
  uint16_t thread, several;
  const void *pc;
  uint64_t pad;
};
enum { NOTHING, FRESH, WRITTEN };

static char *base;
static size_t size;
static uint8_t *state;
static mark *writers;
static uint8_t shared_state[shared_limit];
static mark shared_writers[shared_limit / 2], shared_readers[shared_limit / 2];
static uint32_t launch_serial;  // the first block of this launch

static void *reserve(size_t bytes) {
  void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) abort();
  return p;
}

void shadow_init(char *base_, size_t bytes) {
  base = base_, size = bytes;
  state = (uint8_t *)reserve(bytes);
  writers = (mark *)reserve(bytes / 2 * sizeof(mark));
}
void shadow_allocated(char *p, size_t bytes, bool initialised) { memset(state + (p - base), initialised ? WRITTEN : FRESH, bytes); }
void shadow_released(char *p, size_t bytes) {
  memset(state + (p - base), NOTHING, bytes);
  char *from = (char *)&writers[(p - base) / 2], *to = (char *)&writers[(p - base + bytes + 1) / 2];
  from = (char *)(((uintptr_t)from + 4095) & ~(uintptr_t)4095), to = (char *)((uintptr_t)to & ~(uintptr_t)4095);
  if (from < to) madvise(from, (size_t)(to - from), MADV_DONTNEED);
}
void shadow_written(const void *p, size_t bytes) { memset(state + ((const char *)p - base), WRITTEN, bytes); }
void shadow_copied(void *dst, const void *src, size_t bytes) {
  memmove(state + ((char *)dst - base), state + ((const char *)src - base), bytes);
}
void shadow_must_be_initialised(const void *p, size_t bytes, const char *what) {
  const uint8_t *s = state + ((const char *)p - base);
  for (size_t i = 0; i < bytes; i++)
    if (s[i] != WRITTEN) {
      report("%s reads byte %zu of %zu, which nothing has written", what, i, bytes);
      return;
    }
}
void shadow_block(size_t shared) {
  memset(shared_state, FRESH, shared);
  memset(shared_state + shared, NOTHING, shared_limit - shared);
}
void shadow_launch() { launch_serial = at.serial + 1; }

static bool ordered(const mark &m, unsigned me) {  // for marks of this block
  if (m.thread == me && !m.several) return true;
  if (m.block_epoch != at.epoch) return true;
  return m.several < 2 && m.thread / 32 == me / 32 && m.warp_epoch != at.warp_epoch[me / 32];
}

static mark now(unsigned me, const void *pc) {
  return {at.serial, at.epoch, at.warp_epoch[me / 32], (uint16_t)me, 0, pc, 0};
}

static void race(const char *where, size_t offset, const mark &m, bool wrote, unsigned me, bool writes, const void *pc) {
  fault("race in %s memory at byte %zu: thread %u%s %s it at %s, and %s %s it at %s without a barrier between them", where, offset,
        m.thread, m.serial != at.serial ? " of another block" : m.several ? " among others" : "", wrote ? "wrote" : "read",
        source_text(m.pc).c_str(), place_text(me).c_str(), writes ? "writes" : "reads", source_text(pc).c_str());
}

// of the bytes' states, all as one number: 4 bytes at a time where they are aligned
static inline bool all_are(const uint8_t *s, size_t bytes, uint8_t what) {
  if (bytes == 4) {
    uint32_t v;
    memcpy(&v, s, 4);
    return v == what * 0x01010101u;
  }
  for (size_t i = 0; i < bytes; i++)
    if (s[i] != what) return false;
  return true;
}

static void shared_states(size_t from, size_t bytes, bool write, const void *pc) {
  unsigned me = thread_index();
  for (size_t i = from; i < from + bytes; i++) {
    if (shared_state[i] == NOTHING)
      fault("%s %s byte %zu of shared memory, of which the launch has %zu (%s)", place_text(me).c_str(), write ? "writes" : "reads", i,
            shared_bytes, source_text(pc).c_str());
    if (!write && shared_state[i] == FRESH)
      fault("%s reads byte %zu of shared memory, which nothing has written (%s)", place_text(me).c_str(), i, source_text(pc).c_str());
    if (write) shared_state[i] = WRITTEN;
  }
}

static void shared_access(size_t from, size_t bytes, bool write, const void *pc) {
  unsigned me = thread_index();
  if (!all_are(shared_state + from, bytes, WRITTEN)) shared_states(from, bytes, write, pc);
  for (size_t c = from / 2; c <= (from + bytes - 1) / 2; c++) {
    mark &w = shared_writers[c], &r = shared_readers[c];
    if (w.serial == at.serial && w.block_epoch == at.epoch && !ordered(w, me)) race("shared", c * 2, w, true, me, write, pc);
    bool read_since = r.serial == at.serial && r.block_epoch == at.epoch;
    if (write) {
      if (read_since && !ordered(r, me)) race("shared", c * 2, r, false, me, true, pc);
      w = now(me, pc);
    } else if (!read_since) {
      r = now(me, pc);
    } else if (r.several < 2 && (r.thread != me || r.warp_epoch != at.warp_epoch[me / 32])) {
      bool same_warp = r.thread / 32 == me / 32, since = same_warp && r.warp_epoch == at.warp_epoch[me / 32];
      unsigned several = !same_warp ? 2 : !since ? 0 : 1;
      r = now(me, pc);
      r.several = (uint16_t)several;
    }
  }
}

static void global_states(const char *p, size_t bytes, bool write, const void *pc) {
  unsigned me = thread_index();
  size_t from = (size_t)(p - base);
  for (size_t i = from; i < from + bytes; i++) {
    if (state[i] == NOTHING) {
      const allocation *a = nearest(p);
      fault("%s %s %zu bytes at %p (%s): outside every allocation; the nearest has %zu bytes and this is byte %td of it",
            place_text(me).c_str(), write ? "writes" : "reads", bytes, (const void *)p, source_text(pc).c_str(), a ? a->bytes : 0, a ? p - a->p : 0);
    }
    if (!write && state[i] == FRESH)
      fault("%s reads %p (%s), byte %td of its allocation, which nothing has written", place_text(me).c_str(), (const void *)p,
            source_text(pc).c_str(), p - find(p)->p);
    if (write) state[i] = WRITTEN;
  }
}

static void global_access(const char *p, size_t bytes, bool write, const void *pc) {
  unsigned me = thread_index();
  size_t from = (size_t)(p - base);
  if (!all_are(state + from, bytes, WRITTEN)) global_states(p, bytes, write, pc);
  for (size_t c = from / 2; c <= (from + bytes - 1) / 2; c++) {
    mark &w = writers[c];
    if (w.serial >= launch_serial && (w.serial != at.serial || !ordered(w, me))) {
      const allocation *a = find(p);
      race("global", (size_t)(p - a->p), w, true, me, write, pc);
    }
    if (write) w = now(me, pc);
  }
}

// what a kernel may read of the program itself: constants, which the linker puts between these, and threadIdx and its like
#define HIDDEN __attribute__((visibility("hidden")))
extern "C" const char __ehdr_start[] HIDDEN, _DYNAMIC[] HIDDEN, __start_cusim_place[] HIDDEN, __stop_cusim_place[] HIDDEN;

void access(const void *address, size_t bytes, bool write, const void *pc) {
  const char *p = (const char *)address;
  if (!in_kernel()) {
    const allocation *a = (size_t)(p - base) < size ? find(p) : nullptr;
    if (a && a->kind == DEVICE) fault("host code %s device memory at %p (%s)", write ? "writes" : "reads", address, source_text(pc).c_str());
    return;
  }
  if ((size_t)(p - stack_base) < stack_bytes) return;
  if ((size_t)(p - shared_base) < shared_limit) return shared_access((size_t)(p - shared_base), bytes, write, pc);
  if ((size_t)(p - base) < size) return global_access(p, bytes, write, pc);
  if (in_arguments(p) || (p >= __start_cusim_place && p < __stop_cusim_place)) return;
  if (!write && p >= __ehdr_start && p < _DYNAMIC) return;
  fault("%s %s %p (%s), which is host memory", place_text(thread_index()).c_str(), write ? "writes" : "reads", address, source_text(pc).c_str());
}
#endif
}  // namespace cusim
