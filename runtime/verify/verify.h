// verify.h: private to runtime/verify. A cell is one Lua state that holds one verifier and judges one job at a time under a
// wall clock limit and a memory limit; pool.c runs cells in threads.
#ifndef TL_VERIFY_H
#define TL_VERIFY_H
#include "../base/base.h"
#include <lua.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/types.h>

typedef struct tl_cell_options { // owned by the pool, read-only for the cells
  double timeout_s;
  size_t memory_bytes;
  int64_t instructions;                  // of one call; 0: no limit
  char *lua_path, *module, *config_json; // module NULL: chunk
  char *chunk;
  size_t chunk_bytes;
} tl_cell_options;

typedef struct tl_cell {
  const tl_cell_options *options;
  lua_State *L;            // NULL: not loaded, or thrown away after a memory failure
  size_t used;             // bytes held by L, kept by the allocator
  double began, limit;     // of the running call: tl_seconds() at its start, seconds that it may take
  double deadline;         // tl_seconds() at which it is over, as far as is known: see tl_cell_over
  double waited;           // what its thread had waited for a processor at its start, in seconds
  int clock_fd;            // the thread's /proc/self/task/TID/schedstat; -1: not told here
  struct tl_block *blocks; // every block of L, a list
  lua_Alloc below;         // LuaJIT's own allocator, where it takes no other; else NULL
  void *below_ud;
  int64_t instructions;    // of the running call so far, in steps of the hook
  sigjmp_buf back;         // where stop.c jumps to
  bool timed_out;          // the hook stopped the running call
  bool over_instructions;  // and it was the limit on instructions that did
  bool memory_hit;         // the allocator refused during the running call
  atomic_bool cancelled;   // set from outside: stop the running call now
  void *json[3];           // cJSON trees of the running call, freed after it however it ends
} tl_cell;

// A call's time is wall time, less what its thread spent ready to run and without a processor: workers give way to the sampler
// (pool.c), and a verifier is not to be blamed for that.
void tl_cell_clock_open(tl_cell *c); // by the thread that the cell belongs to
void tl_cell_clock(const tl_cell *c, double *ran, double *waited); // of its thread, in seconds
void tl_cell_begin(tl_cell *c, double seconds_limit);
double tl_cell_due(const tl_cell *c); // tl_seconds() at which the running call is over, by what its thread has waited so far
// Is the running call over by more than `late` seconds, or cancelled? Moves the deadline by what its thread has waited. Also
// called in a signal handler.
bool tl_cell_over(tl_cell *c, double late);

#define TL_LATE_S 0.02 // how far past its deadline a call may come back and still count

typedef enum tl_outcome { TL_V_OK, TL_V_ABSTAIN, TL_V_ERROR, TL_V_TIMEOUT, TL_V_MEMORY } tl_outcome;
const char *tl_outcome_name(tl_outcome o);

// Makes the state and loads the verifier; tl_cell_begin was called before it, with seconds_limit. On failure the cell has no state and message says why.
bool tl_cell_load(tl_cell *c, double seconds_limit, tl_str *message);
// One call; tl_cell_begin was called before it. reward is NaN unless TL_V_OK; message gets the error or the info as JSON.
tl_outcome tl_cell_call(tl_cell *c, const char *problem_json, const char *completion_json, double *reward, tl_str *message);
void tl_cell_close(tl_cell *c);

// stop.c
#define TL_SIGSTOP_CALL (SIGRTMIN + 6)
void tl_stop_prepare(void);   // once for the process; any number of calls
void tl_stop_arm(tl_cell *c); // from now on this thread may be sent back to c->back; NULL: no more
void tl_stop_send(pid_t tid); // asks a thread whose deadline is over
#endif
