// hooks.cc: the functions that -fsanitize=thread puts before every load and store, ours instead of ThreadSanitizer's.
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
