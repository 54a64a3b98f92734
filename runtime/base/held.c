// held.c: what this process holds of a device's memory.
//
// The host's resident pages say nothing about it, and who plans what a step may take (lua/tl/memory.lua) must know what weights and
// adapters have taken already. So a device's table is used through a copy whose alloc, release, pack and packed_free count. Not counted:
// the backend's own scratch, which lua/tl/memory.lua reserves, and what the driver takes for itself.
#include "base.h"
#include <pthread.h>
#include <search.h>

typedef struct block {
  const void *p;
  size_t bytes;
} block;

static const tlk_ops *device;
static tlk_ops counting;
static void *blocks;  // a tree, by address: release is not told a size
static int64_t held;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int by_address(const void *a, const void *b) {
  uintptr_t x = (uintptr_t)((const block *)a)->p, y = (uintptr_t)((const block *)b)->p;
  return (x > y) - (x < y);
}

static void *counted_alloc(size_t bytes, int kind) {
  void *p = device->alloc(bytes, kind);
  if (!p || kind == TLK_MEM_BOTH) return p;  // pinned memory is the host's
  block *b = malloc(sizeof *b);
  if (b) *b = (block){p, bytes};
  pthread_mutex_lock(&lock);
  bool noted = b && tsearch(b, &blocks, by_address);
  if (noted) held += (int64_t)bytes;
  pthread_mutex_unlock(&lock);
  if (noted) return p;
  free(b);
  device->release(p);
  return NULL;
}

static void counted_release(void *p) {
  block key = {p, 0};
  pthread_mutex_lock(&lock);
  void *node = p ? tfind(&key, &blocks, by_address) : NULL;
  block *b = node ? *(block **)node : NULL;
  if (b) {
    held -= (int64_t)b->bytes;
    tdelete(&key, &blocks, by_address);
  }
  pthread_mutex_unlock(&lock);
  free(b);
  device->release(p);
}

static void count_packed(const tlk_packed *w, int sign) {
  if (!w) return;
  pthread_mutex_lock(&lock);
  held += sign * (int64_t)device->packed_bytes(w);
  pthread_mutex_unlock(&lock);
}

static tlk_packed *counted_pack(const void *w, int dtype, int N, int K, int compute) {
  tlk_packed *p = device->pack(w, dtype, N, K, compute);
  count_packed(p, 1);
  return p;
}

static void counted_packed_free(tlk_packed *w) {
  count_packed(w, -1);
  device->packed_free(w);
}

const tlk_ops *tl_count_held(const tlk_ops *ops) {
  if (ops->host) return ops;
  device = ops, counting = *ops;
  counting.alloc = counted_alloc, counting.release = counted_release;
  counting.pack = counted_pack, counting.packed_free = counted_packed_free;
  return &counting;
}

bool tl_on_device(void) { return !tl_ops()->host; }

int64_t tl_held_bytes(void) {
  if (!tl_on_device()) return tl_rss_bytes() - tl_left_bytes();
  pthread_mutex_lock(&lock);
  int64_t n = held;
  pthread_mutex_unlock(&lock);
  return n;
}
