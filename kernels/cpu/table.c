// table.c: the table of one instruction set, and memory, which is the host's: large blocks in huge pages, so that rows far apart
// do not miss the TLB and a block that is new every step costs a fault per 2 MiB. Sparse blocks (the key/value cache) stay in small
// ones: a huge page for every sequence's first key would zero gigabytes.
#define _DEFAULT_SOURCE
#include "cpu.h"
#define COMPOSE(op) OP(op)
#include "../compose.h"
#include <sys/mman.h>

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define ENTRY(op) .op = OP(op),

static void *host_alloc(size_t bytes, int kind) {
  void *p = NULL;
  size_t align = bytes >= (size_t)8 << 20 && kind != TLK_MEM_SPARSE ? (size_t)2 << 20 : 64;
  if (bytes > SIZE_MAX - 64 || posix_memalign(&p, align, (bytes ? bytes + 63 : 64) / 64 * 64)) return NULL;
  if (align > 64) madvise(p, bytes / align * align, MADV_HUGEPAGE);
  return p;
}

enum { PIECE = 256 << 10 };  // bytes that a thread copies or zeroes at a time
typedef struct {
  char *dst;
  const char *src;  // NULL: zeros
  size_t bytes;
} move;

static void move_piece(const void *ctx, int i, int thread) {
  const move *m = ctx;
  size_t at = (size_t)i * PIECE, n = m->bytes - at < PIECE ? m->bytes - at : PIECE;
  if (m->src) memcpy(m->dst + at, m->src + at, n);
  else memset(m->dst + at, 0, n);
}
static void in_pieces(move m) { tlk_run((int)((m.bytes + PIECE - 1) / PIECE), (double)m.bytes / 16, move_piece, &m); }

static void host_copy(void *dst, const void *src, size_t bytes) {
  uintptr_t a = (uintptr_t)dst, b = (uintptr_t)src;
  if (a < b + bytes && b < a + bytes) memmove(dst, src, bytes);
  else in_pieces((move){dst, src, bytes});
}
static void host_zero(void *p, size_t bytes) { in_pieces((move){p, NULL, bytes}); }
static void host_sync(void) {}

static const tlk_ops table = {.name = "cpu", .isa = TEXT(TLK_ISA), .host = &table, .set_threads = tlk_cpu_set_threads,
                              .alloc = host_alloc, .release = free, .copy = host_copy, .zero = host_zero, .sync = host_sync, COMPOSED,
                              TLK_CPU_OPS(ENTRY)};

const tlk_ops *OP(cpu_table)(void);
const tlk_ops *OP(cpu_table)(void) { return &table; }
