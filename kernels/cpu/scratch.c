// scratch.c: the buffers that the CPU backend computes in; shared by all instruction sets.
//
// A slot grows by doubling and is kept, so after the first step nothing is allocated. Ops return nothing, so running out of
// memory for scratch (which is small beside weights and activations) cannot be reported: it ends the program with a message,
// the one place of the backend that does.
#include "cpu.h"
#include <stdio.h>

static struct {
  void *p;
  size_t bytes;
} slots[N_SCRATCH];

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
