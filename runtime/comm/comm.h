// comm.h: the ranks of a run, for the runtime; and what a module that connects them provides.
//
// A rank is a process; all ranks run the same script on the same data and share the work of a step (docs/distributed.md). Alone, a
// process is rank 0 of 1 and everything here costs nothing. Ranks are connected by a module beside the program (tl_mpi.so), loaded
// when a launcher started the process: a build without MPI, or a machine without it, loses nothing else.
#ifndef TL_COMM_H
#define TL_COMM_H
#include "../tl.h"

// ---- the module's side: one function of this type and name
typedef struct tl_comm_link {
  const char *kind;  // "mpi"
  int rank, size;
  // all (size * n) = every rank's n bytes, in the order of ranks. 0: done
  int (*gather)(const void *mine, void *all, int64_t n);
  // all = every rank's sizes[rank] bytes, one after the other
  int (*gather_sized)(const void *mine, void *all, const int64_t *sizes);
  void (*stop)(int code);  // ends every rank
  void (*leave)(void);     // all ranks have come to their end
} tl_comm_link;
typedef const tl_comm_link *tl_comm_open_fn(char *why, size_t n);  // NULL: why says what is wrong
#define TL_COMM_OPEN "tl_comm_open"

// ---- the runtime's side
int tl_comm_rank(void);
int tl_comm_size(void);
#endif
