// memory.c: aligned blocks, arenas, pairs of host and ops memory, growing strings.
//
// A block of host memory that is new every step costs the kernel the zeroing of its pages: a seventh of a training pass over a
// model of 135M parameters, and more on a virtual machine. So a pass and a sampler's cache, which are never needed at once, leave
// their block for each other and for the next step (tl_arena_leave, tl_arena_reuse), one block in all. A new one is an eighth larger
// than it has to be, since steps differ a little: pages that nothing touches take no memory. One that is too small is given back
// before a larger one is taken, so that two are never resident where one is needed.
#define _DEFAULT_SOURCE
#include "base.h"
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 8 << 20, SLACK = 8 };  // bytes of a block worth leaving; a new one is larger by one part in so many
static tl_arena left;

void *tl_aligned_alloc(size_t bytes) {
  void *p = NULL;
  if (bytes > SIZE_MAX - 64) return NULL;
  return posix_memalign(&p, 64, tl_align64(bytes ? bytes : 1)) == 0 ? p : NULL;
}

static tl_status init(tl_arena *a, size_t bytes, size_t slack, int kind, const char *what) {
  *a = (tl_arena){.size = tl_align64(bytes ? bytes : 1)};
  a->block = a->size + slack;
  a->base = tl_ops()->alloc(a->block, kind);
  if (a->base) return TL_OK;
  *a = (tl_arena){0};  // who looks at its size tries again
  return tl_fail(TL_E_MEMORY, "out of memory: %s needs %.1f MiB", what, (double)bytes / (1 << 20));
}

tl_status tl_arena_init(tl_arena *a, size_t bytes, const char *what) { return init(a, bytes, 0, TLK_MEM_OPS, what); }

tl_status tl_arena_reuse(tl_arena *a, size_t bytes, int kind, const char *what) {
  if (left.base && left.block >= tl_align64(bytes)) {
    *a = left;
    a->size = tl_align64(bytes ? bytes : 1);
    left = (tl_arena){0};
    return TL_OK;
  }
  tl_arena_drop_left();
  return init(a, bytes, tl_ops()->host && bytes >= LARGE ? bytes / SLACK : 0, kind, what);
}

void *tl_arena_take(tl_arena *a, size_t bytes) {
  bytes = tl_align64(bytes);
  TL_ASSERT(bytes <= a->size - a->used);
  void *p = a->base + a->used;
  a->used += bytes;
  if (a->used > a->peak) a->peak = a->used;
  return p;
}

void tl_arena_reset(tl_arena *a) { a->used = 0; }

void tl_arena_free(tl_arena *a) {
  if (a->base) tl_ops()->release(a->base);
  *a = (tl_arena){0};
}

void tl_arena_drop_left(void) { tl_arena_free(&left); }

void tl_arena_leave(tl_arena *a) {
  if (!tl_ops()->host || a->block < LARGE || a->block < left.block) {
    tl_arena_free(a);
    return;
  }
  tl_arena_drop_left();
  left = (tl_arena){.base = a->base, .block = a->block};
  *a = (tl_arena){0};
}

int64_t tl_left_bytes(void) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uintptr_t at = ((uintptr_t)left.base + page - 1) / page * page, end = (uintptr_t)left.base + left.block;
  int64_t n = 0;
  for (unsigned char in[4096]; left.base && at + page <= end; at += page * sizeof in) {
    size_t pages = (end - at) / page < sizeof in ? (end - at) / page : sizeof in;
    if (mincore((void *)at, pages * page, in)) break;
    for (size_t i = 0; i < pages; i++) n += in[i] & 1;
  }
  return n * (int64_t)page;
}

tl_status tl_pair_init(tl_pair *p, size_t bytes, const char *what) {
  const tlk_ops *ops = tl_ops();
  *p = (tl_pair){.bytes = bytes, .host = ops->alloc(bytes ? bytes : 1, TLK_MEM_BOTH)};
  p->ops = ops->host || !p->host ? p->host : ops->alloc(bytes ? bytes : 1, TLK_MEM_OPS);
  if (p->ops) return TL_OK;
  tl_pair_free(p);
  return tl_fail(TL_E_MEMORY, "out of memory: %s needs %.1f MiB", what, (double)bytes / (1 << 20));
}

void tl_pair_free(tl_pair *p) {
  if (p->ops != p->host) tl_ops()->release(p->ops);
  if (p->host) tl_ops()->release(p->host);
  *p = (tl_pair){0};
}

void tl_pair_send(const tl_pair *p, const void *at, size_t bytes) {
  TL_ASSERT((const char *)at >= (const char *)p->host && bytes <= p->bytes - (size_t)((const char *)at - (const char *)p->host));
  if (p->ops != p->host && bytes) tl_ops()->copy(tl_pair_ops(p, at), at, bytes);
}

void tl_pair_fetch(const tl_pair *p, void *at, size_t bytes) {
  TL_ASSERT((const char *)at >= (const char *)p->host && bytes <= p->bytes - (size_t)((const char *)at - (const char *)p->host));
  if (p->ops != p->host && bytes) tl_ops()->copy(at, tl_pair_ops(p, at), bytes);
}

void tl_str_add(tl_str *s, const char *data, size_t n) {
  if (s->n + n + 1 > s->cap) {
    size_t cap = s->cap ? s->cap : 64;
    while (cap < s->n + n + 1) cap *= 2;
    char *p = realloc(s->p, cap);
    TL_ASSERT(p != NULL);
    s->p = p;
    s->cap = cap;
  }
  memcpy(s->p + s->n, data, n);
  s->n += n;
  s->p[s->n] = 0;
}

void tl_str_printf(tl_str *s, const char *format, ...) {
  char stack[512], *text = stack;
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(stack, sizeof stack, format, ap);
  va_end(ap);
  TL_ASSERT(n >= 0);
  if ((size_t)n >= sizeof stack) {
    text = malloc((size_t)n + 1);
    TL_ASSERT(text != NULL);
    va_start(ap, format);
    vsnprintf(text, (size_t)n + 1, format, ap);
    va_end(ap);
  }
  tl_str_add(s, text, (size_t)n);
  if (text != stack) free(text);
}

void tl_str_free(tl_str *s) {
  free(s->p);
  *s = (tl_str){0};
}

void tl_string_free(char *s) { free(s); }
