// comm.h: the ranks of a run, for the runtime; and what a module that connects them provides.
//
// A rank is a process; all ranks run the same script on the same data and share the work of a step (docs/distributed.md). Alone, a
// process is rank 0 of 1 and everything here costs nothing. Ranks are connected by a module beside the program (tl_mpi.so), loaded
// when a launcher started the process: a build without MPI, or a machine without it, loses nothing else.
//
// Ranks may share a model too (tensor parallelism): tl_comm_split puts them into groups of so many, ranks 0 .. n-1 and so on. A group
// does the work of one process, so the prompts of a step are shared out among groups.
#ifndef TL_COMM_H
#define TL_COMM_H
#include "../tl.h"

// ---- the module's side: one function of this type and name. Where an int is returned, 0: done.
typedef struct tl_comm_link tl_comm_link;
struct tl_comm_link {
  const char *kind;  // "mpi"
  int rank, size;    // this process among the ranks of this link
  // all (size * n) = every rank's n bytes, in the order of ranks
  int (*gather)(tl_comm_link *l, const void *mine, void *all, int64_t n);
  // all = every rank's sizes[rank] bytes, one after the other
  int (*gather_sized)(tl_comm_link *l, const void *mine, void *all, const int64_t *sizes);
  // x (n; the host's) = the sum over ranks, element by element in their order, in fp32: (x_0 + x_1) + x_2 ... An element's bits
  // depend on nothing else, so they are the same on every rank and whatever n is.
  int (*sum)(tl_comm_link *l, float *x, int64_t n);
  // the ranks that give the same colour, as a link of their own with their order kept; NULL: out of memory
  tl_comm_link *(*split)(tl_comm_link *l, int colour);
  void (*stop)(int code);  // ends every rank
  void (*leave)(void);     // all ranks have come to their end
};
typedef tl_comm_link *tl_comm_open_fn(char *why, size_t n);  // NULL: why says what is wrong
#define TL_COMM_OPEN "tl_comm_open"

// ---- the runtime's side
int tl_comm_size(tl_comm_scope scope);

// Of the group that shares this rank's model; without groups they do nothing.
int tl_comm_shard(void);   // this rank's place in its group
int tl_comm_shards(void);  // ranks of a group; 1: there are no groups
// x (n; the ops' memory) = its sum over the group, as a link's. A failure is told by the next tl_comm_agree.
void tl_comm_sum(float *x, int64_t n);
// x (n; the ops' memory) = its sum over the ranks of TL_COMM_PARTS, in their order, without the host. false: nothing was done, their
// devices are not connected. All of them call it together.
bool tl_comm_parts_sum(float *x, int64_t n);
// Whether the n bytes are the same on every rank of the group; `what` names them in the message. What the ranks compute together
// stays together only while they compute on the same rows: every pass and every sampled token is held against the others'.
tl_status tl_comm_agree(const char *what, const void *bytes, int64_t n);
// ---- device.c, for comm.c: as a link's sum, of x in the ops' memory, on the devices; false: nothing was done, they are not connected
bool tl_comm_device_sum(tl_comm_link *l, float *x, int64_t n);
void tl_comm_device_leave(void);
#endif
