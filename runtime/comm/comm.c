// comm.c: which rank this process is, and what all ranks do together.
//
// A launcher says in the environment how many processes it started: Open MPI's mpirun (OMPI_COMM_WORLD_SIZE), MPICH's and Intel's
// (PMI_SIZE), srun for a job's step (SLURM_STEP_NUM_TASKS with SLURM_PROCID). More than one means that this process is a rank, and
// that it must find the others: without the module, or when the module sees another number, it fails instead of running the same
// thing N times. TL_COMM=none makes a process alone whatever started it.
//
// Every call that all ranks make together carries a tag. Ranks that have come to different places of their script (an order that
// is not the same in every process, say of pairs()) find different tags and fail, instead of taking each other's data for their own.
//
// Cores. Ranks of one host that may run on the same cores share them: each counts its part.
#include "comm.h"
#include "../base/base.h"
#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

static const tl_comm_link *link_;
static int local_rank, local_size = 1;
static char host[256] = "localhost";

int tl_comm_rank(void) { return link_ ? link_->rank : 0; }
int tl_comm_size(void) { return link_ ? link_->size : 1; }

// how many processes the launcher that is named in *who started; 1: none did
static int launched(const char **who) {
  static const struct { const char *size, *rank, *name; } known[] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"},
                                                                     {"PMI_SIZE", "PMI_RANK", "mpirun"},
                                                                     {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "srun"}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    const char *size = getenv(known[i].size);
    *who = known[i].name;
    if (size && getenv(known[i].rank) && atoi(size) > 1) return atoi(size);
  }
  return 1;
}

static tl_status join(int n, const char *who) {
  char path[4200], why[512] = "";
  if (!tl_module_path(path, sizeof path, "mpi"))
    return tl_fail(TL_E_UNSUPPORTED, "%s started %d processes, but this build has no MPI (tl_mpi.so is not beside the program): build with "
                   "-DTL_MPI=ON; TL_COMM=none runs each process alone", who, n);
  void *module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);  // MPI's own plugins look its names up globally
  if (!module) return tl_fail(TL_E_UNSUPPORTED, "%s started %d processes, but MPI cannot be loaded: %s", who, n, dlerror());
  tl_comm_open_fn *open = NULL;
  *(void **)&open = dlsym(module, TL_COMM_OPEN);
  const tl_comm_link *found = open ? open(why, sizeof why) : NULL;
  if (!found) return tl_fail(TL_E_UNSUPPORTED, "%s: %s", path, open ? why : "not a module of this program");
  if (found->size != n)
    return tl_fail(TL_E_UNSUPPORTED, "%s started %d processes, but MPI sees %d: launcher and MPI do not fit together (with srun, try --mpi=pmix)",
                   who, n, found->size);
  link_ = found;
  return TL_OK;
}

// where a rank runs
typedef struct place {
  char host[256];
  cpu_set_t cores;
} place;

static tl_status find_neighbours(void) {
  int n = link_->size, sum = 0;
  place me = {0}, *all = calloc((size_t)n, sizeof *all);
  if (!all) return tl_fail(TL_E_MEMORY, "out of memory");
  gethostname(me.host, sizeof me.host - 1);
  snprintf(host, sizeof host, "%.255s", me.host);
  sched_getaffinity(0, sizeof me.cores, &me.cores);
  bool bad = link_->gather(&me, all, sizeof me);
  cpu_set_t together;
  CPU_ZERO(&together);
  local_size = 0;
  for (int r = 0; !bad && r < n; r++) {
    if (strcmp(all[r].host, me.host)) continue;
    if (r == link_->rank) local_rank = local_size;
    local_size++;
    sum += CPU_COUNT(&all[r].cores);
    CPU_OR(&together, &together, &all[r].cores);
  }
  free(all);
  if (bad) return tl_fail(TL_E_INTERNAL, "ranks: the first exchange failed");
  if (sum > CPU_COUNT(&together)) tl_share_cores(local_size);
  return TL_OK;
}

tl_status tl_comm_start(void) {
  const char *who, *wanted = getenv("TL_COMM");
  int n = launched(&who);
  if (link_ || n == 1 || (wanted && !strcmp(wanted, "none"))) return TL_OK;
  TL_TRY(join(n, who));
  return find_neighbours();
}

void tl_comm_get_info(tl_comm_info *out) {
  *out = (tl_comm_info){.rank = tl_comm_rank(), .size = tl_comm_size(), .local_rank = local_rank, .local_size = local_size, .host = host,
                        .kind = link_ ? link_->kind : "none"};
}

static uint64_t number_of(const char *tag) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325u;
  for (; *tag; tag++) h = (h ^ (uint8_t)*tag) * 0x100000001b3u;
  return h;
}

static tl_status gather(const char *tag, const void *mine, int64_t n, int64_t *heads, char **all, int64_t *sizes) {
  int64_t head[2] = {(int64_t)number_of(tag), n}, total = 0;
  if (link_->gather(head, heads, sizeof head)) return tl_fail(TL_E_MEMORY, "ranks: out of memory");
  for (int r = 0; r < link_->size; r++) {
    if (heads[2 * r] != head[0])
      return tl_fail(TL_E_ARG, "ranks %d and %d have come to different places of the script; this one is at: %s. All ranks must make the same "
                     "calls in the same order (pairs() has another order in every process)", link_->rank, r, tag);
    sizes[r] = heads[2 * r + 1];
    total += sizes[r];
  }
  *all = malloc((size_t)total + 1);
  if (!*all || link_->gather_sized(mine, *all, sizes)) return tl_fail(TL_E_MEMORY, "ranks: out of memory for %lld bytes", (long long)total);
  (*all)[total] = 0;
  return TL_OK;
}

tl_status tl_comm_gather(const char *tag, const void *mine, int64_t n, char **all, int64_t *sizes) {
  *all = NULL;
  if (n < 0) return tl_fail(TL_E_ARG, "ranks: %lld bytes", (long long)n);
  if (!link_) {
    *sizes = n;
    if (!(*all = malloc((size_t)n + 1))) return tl_fail(TL_E_MEMORY, "out of memory");
    memcpy(*all, mine, (size_t)n);
    (*all)[n] = 0;
    return TL_OK;
  }
  int64_t *heads = malloc(2 * sizeof *heads * (size_t)link_->size);
  tl_status s = heads ? gather(tag, mine, n, heads, all, sizes) : tl_fail(TL_E_MEMORY, "out of memory");
  free(heads);
  if (s == TL_OK) return TL_OK;
  free(*all);
  *all = NULL;
  return s;
}

void tl_comm_stop(int code) {
  if (link_) link_->stop(code);
}

void tl_comm_leave(void) {
  if (link_) link_->leave();
  link_ = NULL;
}
