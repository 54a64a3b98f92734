// blocks.c: memory for packed weights, in huge pages; shared by all instruction sets.
//
// A layer's weights are of one or two MiB and less, which no huge page could hold one by one, and a decode step reads all of them:
// in pages of 4 KiB it misses the TLB in every one. So weights are cut from blocks of 32 MiB that are aligned to and advised as
// huge pages; a large one (embedding, head) has a block of its own. A block goes when its last weight does.
#define _DEFAULT_SOURCE
#include "cpu.h"
#include <sys/mman.h>

static const size_t BLOCK = (size_t)32 << 20, HUGE_PAGE = (size_t)2 << 20;

struct tlk_block {
  char *base;
  size_t used, bytes;
  int live;  // weights in it
};

static tlk_block *open;  // the one that is cut from

static tlk_block *new_block(size_t bytes) {
  tlk_block *b = calloc(1, sizeof *b);
  if (!b) return NULL;
  b->bytes = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  b->base = aligned_alloc(HUGE_PAGE, b->bytes);
  if (!b->base) {
    free(b);
    return NULL;
  }
  madvise(b->base, b->bytes, MADV_HUGEPAGE);
  return b;
}

static void *cut(tlk_block *b, size_t bytes) {
  void *p = b->base + b->used;
  b->used += bytes;
  b->live++;
  return p;
}

void *tlk_cpu_block_alloc(size_t bytes, tlk_block **block) {
  if (bytes > SIZE_MAX - HUGE_PAGE) return NULL;
  bytes = (bytes + 63) / 64 * 64;
  if (bytes > BLOCK / 4) {
    *block = new_block(bytes);
    return *block ? cut(*block, bytes) : NULL;
  }
  if (!open || open->bytes - open->used < bytes) {
    tlk_block *b = new_block(BLOCK);
    if (!b) return NULL;
    open = b;  // the one before goes with its last weight
  }
  *block = open;
  return cut(open, bytes);
}

void tlk_cpu_block_release(tlk_block *b) {
  if (!b || --b->live) return;
  if (b == open) open = NULL;
  free(b->base);
  free(b);
}
