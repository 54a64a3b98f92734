// hooks.cc: the functions that -fsanitize=thread puts before every load and store, and -fsanitize=alignment where an address is not a
// multiple of what its type asks for, ours instead of the sanitizers'.
#include "cusim.h"

using cusim::access;
#define HOOKS(n)                                                                                                        \
  extern "C" void __tsan_read##n(void *p) { access(p, n, false, __builtin_return_address(0)); }                         \
  extern "C" void __tsan_write##n(void *p) { access(p, n, true, __builtin_return_address(0)); }                         \
  extern "C" void __tsan_unaligned_read##n(void *p) { access(p, n, false, __builtin_return_address(0)); }               \
  extern "C" void __tsan_unaligned_write##n(void *p) { access(p, n, true, __builtin_return_address(0)); }               \
  extern "C" void __tsan_volatile_read##n(void *p) { access(p, n, false, __builtin_return_address(0)); }                \
  extern "C" void __tsan_volatile_write##n(void *p) { access(p, n, true, __builtin_return_address(0)); }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
extern "C" void __tsan_read_range(void *p, size_t n) { access(p, n, false, __builtin_return_address(0)); }
extern "C" void __tsan_write_range(void *p, size_t n) { access(p, n, true, __builtin_return_address(0)); }
extern "C" void __tsan_vptr_update(void **, void *) {}
extern "C" void __tsan_vptr_read(void **) {}
extern "C" void __tsan_func_entry(void *) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}
// std::function and its like in host code
extern "C" int __tsan_atomic32_fetch_add(volatile int *p, int v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); }
extern "C" int __tsan_atomic32_fetch_sub(volatile int *p, int v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); }
extern "C" int __tsan_atomic32_load(const volatile int *p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
extern "C" char __tsan_atomic8_load(const volatile char *p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }
extern "C" void *__tsan_memset(void *p, int v, size_t n) {
  access(p, n, true, __builtin_return_address(0));
  return memset(p, v, n);
}
extern "C" void *__tsan_memcpy(void *d, const void *s, size_t n) {
  access(s, n, false, __builtin_return_address(0));
  access(d, n, true, __builtin_return_address(0));
  return memcpy(d, s, n);
}

// an address that is not aligned as the type that is read or written there must be: a GPU faults, a host may not
struct misaligned {
  const char *file;
  uint32_t line, column;
  const void *type;
  unsigned char log_alignment, kind;
};
extern "C" void __ubsan_handle_type_mismatch_v1(const misaligned *m, const void *p) {
  if (cusim::in_kernel())
    cusim::fault("%s is at %p, where a multiple of %d bytes is needed (%s:%u)", cusim::place_text(cusim::thread_index()).c_str(), p, 1 << m->log_alignment, m->file, m->line);
}
