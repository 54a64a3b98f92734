// scratch.c: the buffers that the CPU backend computes in, and its number of threads; shared by all instruction sets.
//
// A slot grows by doubling and is kept, so after the first step nothing is allocated. Ops return nothing, so running out of
// memory for scratch (which is small beside weights and activations) cannot be reported: it ends the program with a message,
// the one place of the backend that does.
#define _GNU_SOURCE
#include "cpu.h"
#include <sched.h>
#include <stdio.h>

static struct {
  void *p;
  size_t bytes;
} slots[N_SCRATCH];
static int n_threads;

void *tlk_cpu_scratch(int slot, size_t bytes) {
  if (bytes > slots[slot].bytes) {
    size_t n = slots[slot].bytes * 2 > bytes ? slots[slot].bytes * 2 : bytes;
    n = (n + 4095) / 4096 * 4096;
    free(slots[slot].p);
    slots[slot].bytes = n;
    slots[slot].p = aligned_alloc(4096, n);
    if (!slots[slot].p) {
      fprintf(stderr, "tlrun: no memory for %zu bytes of kernel scratch\n", n);
      abort();
    }
  }
  return slots[slot].p;
}

static int online(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return 1;
}

int tlk_cpu_threads(void) {
  if (!n_threads) n_threads = online();
  return n_threads;
}

void tlk_cpu_set_threads(int n) { n_threads = n > 0 ? n : online(); }
