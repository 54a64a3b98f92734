// table.c: the table of one instruction set, and memory, which is the host's.
#include "cpu.h"

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define ENTRY(op) .op = OP(op),

static void *host_alloc(size_t bytes, int kind) {
  void *p = NULL;
  return posix_memalign(&p, 64, (bytes ? bytes + 63 : 64) / 64 * 64) == 0 ? p : NULL;
}
static void host_copy(void *dst, const void *src, size_t bytes) { memmove(dst, src, bytes); }
static void host_zero(void *p, size_t bytes) { memset(p, 0, bytes); }
static void host_sync(void) {}

static const tlk_ops table = {.name = "cpu", .isa = TEXT(TLK_ISA), .host = &table, .set_threads = tlk_cpu_set_threads,
                              .alloc = host_alloc, .release = free, .copy = host_copy, .zero = host_zero, .sync = host_sync,
                              TLK_CPU_OPS(ENTRY)};

const tlk_ops *OP(cpu_table)(void);
const tlk_ops *OP(cpu_table)(void) { return &table; }
