// mpi.c: ranks connected by MPI. Built as a module of its own (tl_mpi.so), which the program loads when mpirun or srun started it
// (comm.c), so that the program itself does not depend on MPI. Calls come from the main thread alone.
//
// An error inside MPI ends all ranks with MPI's own message (its default handler): there is nothing to save then.
#include "../comm.h"
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static tl_comm_link self;

enum { PIECE = 1 << 30 };  // MPI counts are ints

static int gather_sized(const void *mine, void *all, const int64_t *sizes) {
  int64_t total = 0;
  for (int r = 0; r < self.size; r++) total += sizes[r];
  if (total <= INT_MAX) {
    int *n = malloc(sizeof(int) * 2 * (size_t)self.size), *at = n + self.size;
    if (!n) return 1;
    for (int r = 0, sum = 0; r < self.size; sum += n[r++]) n[r] = (int)sizes[r], at[r] = sum;
    MPI_Allgatherv(mine, n[self.rank], MPI_BYTE, all, n, at, MPI_BYTE, MPI_COMM_WORLD);
    free(n);
    return 0;
  }
  char *to = all;
  for (int r = 0; r < self.size; to += sizes[r++]) {
    if (r == self.rank)
      for (int64_t i = 0; i < sizes[r]; i++) to[i] = ((const char *)mine)[i];
    for (int64_t i = 0; i < sizes[r]; i += PIECE)
      MPI_Bcast(to + i, (int)(sizes[r] - i < PIECE ? sizes[r] - i : PIECE), MPI_BYTE, r, MPI_COMM_WORLD);
  }
  return 0;
}

static int gather(const void *mine, void *all, int64_t n) {
  if (n * self.size <= INT_MAX) {
    MPI_Allgather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, MPI_COMM_WORLD);
    return 0;
  }
  int64_t *sizes = malloc(sizeof *sizes * (size_t)self.size);
  if (!sizes) return 1;
  for (int r = 0; r < self.size; r++) sizes[r] = n;
  int bad = gather_sized(mine, all, sizes);
  free(sizes);
  return bad;
}

static void stop(int code) { MPI_Abort(MPI_COMM_WORLD, code); }
static void leave(void) { MPI_Finalize(); }

const tl_comm_link *tl_comm_open(char *why, size_t n) {
  int have = 0, bad = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &have);
  if (bad || have < MPI_THREAD_FUNNELED) {
    snprintf(why, n, "MPI cannot be started with threads beside it (MPI_Init_thread gave %d, level %d)", bad, have);
    return NULL;
  }
  self = (tl_comm_link){.kind = "mpi", .gather = gather, .gather_sized = gather_sized, .stop = stop, .leave = leave};
  MPI_Comm_rank(MPI_COMM_WORLD, &self.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &self.size);
  return &self;
}
