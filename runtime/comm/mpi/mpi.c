// mpi.c: ranks connected by MPI. Built as a module of its own (tl_mpi.so), which the program loads when mpirun or srun started it
// (comm.c), so that the program itself does not depend on MPI. Calls come from the main thread alone.
//
// An error inside MPI ends all ranks with MPI's own message (its default handler): there is nothing to save then.
#include "../comm.h"
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct mpi_link {
  tl_comm_link link;
  MPI_Comm comm;
  float *room;   // for sums: ROOM floats and one more a rank
  int *counts;   // (4 * size)
} mpi_link;

enum { PIECE = 1 << 30 };                // MPI counts are ints
enum { ROOM = 1 << 20, SMALL = 1 << 14 };  // floats that are summed at a time; up to so many (all ranks' together) in one exchange

static MPI_Comm comm_of(tl_comm_link *l) { return ((mpi_link *)l)->comm; }

static int gather_sized(tl_comm_link *l, const void *mine, void *all, const int64_t *sizes) {
  int64_t total = 0;
  for (int r = 0; r < l->size; r++) total += sizes[r];
  if (total <= INT_MAX) {
    int *n = malloc(sizeof(int) * 2 * (size_t)l->size), *at = n + l->size;
    if (!n) return 1;
    for (int r = 0, sum = 0; r < l->size; sum += n[r++]) n[r] = (int)sizes[r], at[r] = sum;
    MPI_Allgatherv(mine, n[l->rank], MPI_BYTE, all, n, at, MPI_BYTE, comm_of(l));
    free(n);
    return 0;
  }
  char *to = all;
  for (int r = 0; r < l->size; to += sizes[r++]) {
    if (r == l->rank)
      for (int64_t i = 0; i < sizes[r]; i++) to[i] = ((const char *)mine)[i];
    for (int64_t i = 0; i < sizes[r]; i += PIECE)
      MPI_Bcast(to + i, (int)(sizes[r] - i < PIECE ? sizes[r] - i : PIECE), MPI_BYTE, r, comm_of(l));
  }
  return 0;
}

static int gather(tl_comm_link *l, const void *mine, void *all, int64_t n) {
  if (n * l->size <= INT_MAX) {
    MPI_Allgather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, comm_of(l));
    return 0;
  }
  int64_t *sizes = malloc(sizeof *sizes * (size_t)l->size);
  if (!sizes) return 1;
  for (int r = 0; r < l->size; r++) sizes[r] = n;
  int bad = gather_sized(l, mine, all, sizes);
  free(sizes);
  return bad;
}

// ---- sums. MPI_Allreduce adds in an order of its own, which depends on the number of elements: these are added in the order of ranks.

// out (n) = the sum of rows (size, n), one after the other
static void add_rows(float *out, const float *rows, int size, int n) {
  for (int i = 0; i < n; i++) out[i] = rows[i];
  for (int r = 1; r < size; r++)
    for (int i = 0; i < n; i++) out[i] += rows[(size_t)r * (size_t)n + (size_t)i];
}

// Everyone gets everything and adds it up.
static void sum_at_once(mpi_link *m, float *x, int n) {
  MPI_Allgather(x, n, MPI_FLOAT, m->room, n, MPI_FLOAT, m->comm);
  add_rows(x, m->room, m->link.size, n);
}

// Rank r gets and adds up everyone's r-th piece, then all get it: two exchanges, of 2 / size as much data.
static void sum_in_pieces(mpi_link *m, float *x, int n) {
  int size = m->link.size, rank = m->link.rank, *count = m->counts, *at = count + size, *mine = at + size, *to = mine + size;
  for (int r = 0; r < size; r++) {
    at[r] = (int)((int64_t)n * r / size);
    count[r] = (int)((int64_t)n * (r + 1) / size) - at[r];
  }
  for (int r = 0; r < size; r++) mine[r] = count[rank], to[r] = r * count[rank];
  MPI_Alltoallv(x, count, at, MPI_FLOAT, m->room, mine, to, MPI_FLOAT, m->comm);
  add_rows(x + at[rank], m->room, size, count[rank]);
  MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, count, at, MPI_FLOAT, m->comm);
}

static int sum(tl_comm_link *l, float *x, int64_t n) {
  mpi_link *m = (mpi_link *)l;
  if (!m->room) m->room = malloc(sizeof(float) * (ROOM + (size_t)l->size));
  if (!m->counts) m->counts = malloc(sizeof(int) * 4 * (size_t)l->size);
  if (!m->room || !m->counts) return 1;
  for (int64_t i = 0; i < n; i += ROOM) {
    int k = (int)(n - i < ROOM ? n - i : ROOM);
    ((int64_t)k * l->size <= SMALL ? sum_at_once : sum_in_pieces)(m, x + i, k);
  }
  return 0;
}

static void stop(int code) { MPI_Abort(MPI_COMM_WORLD, code); }
static void leave(void) { MPI_Finalize(); }

static tl_comm_link *split(tl_comm_link *l, int colour);

static tl_comm_link *link_on(MPI_Comm comm) {
  mpi_link *m = calloc(1, sizeof *m);
  if (!m) return NULL;
  m->link = (tl_comm_link){.kind = "mpi", .gather = gather, .gather_sized = gather_sized, .sum = sum, .split = split, .stop = stop, .leave = leave};
  m->comm = comm;
  MPI_Comm_rank(comm, &m->link.rank);
  MPI_Comm_size(comm, &m->link.size);
  return &m->link;
}

static tl_comm_link *split(tl_comm_link *l, int colour) {
  MPI_Comm comm;
  MPI_Comm_split(comm_of(l), colour, l->rank, &comm);
  return link_on(comm);
}

tl_comm_link *tl_comm_open(char *why, size_t n) {
  int have = 0, bad = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &have);
  if (bad || have < MPI_THREAD_FUNNELED) {
    snprintf(why, n, "MPI cannot be started with threads beside it (MPI_Init_thread gave %d, level %d)", bad, have);
    return NULL;
  }
  tl_comm_link *all = link_on(MPI_COMM_WORLD);
  if (!all) snprintf(why, n, "out of memory");
  return all;
}
