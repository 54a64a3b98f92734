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
//
// Groups. tl_comm_split makes two more links: of the group that shares a model, and of the ranks that have the same place in their
// groups, which between them share the prompts. With size 6 in groups of 2: groups 0 1 | 2 3 | 4 5, prompts 0 2 4 | 1 3 5.
#include "comm.h"
#include "../base/base.h"
#include "../base/profile.h"
#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

static tl_comm_link *link_, *group_, *parts_;  // all ranks; those of this group, those of this place in every group: NULL, none made
static int local_rank, local_size = 1;
static char host[256] = "localhost";
static bool sum_failed;
static float *stage;  // for sums, of a device: (STAGE) that the host sees
enum { STAGE = 1 << 20 };

// NULL: this process alone
static tl_comm_link *link_of(tl_comm_scope scope) {
  return scope == TL_COMM_GROUP ? group_ : scope == TL_COMM_PARTS && parts_ ? parts_ : link_;
}

int tl_comm_size(tl_comm_scope scope) { return link_of(scope) ? link_of(scope)->size : 1; }
int tl_comm_shard(void) { return group_ ? group_->rank : 0; }
int tl_comm_shards(void) { return group_ ? group_->size : 1; }

// a rank of a link as one of all
static int among_all(const tl_comm_link *l, int rank) {
  if (l == group_) return link_->rank - group_->rank + rank;
  return l == parts_ ? rank * group_->size + group_->rank : rank;
}

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
  tl_comm_link *found = open ? open(why, sizeof why) : NULL;
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
  bool bad = link_->gather(link_, &me, all, sizeof me);
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
  tl_share_devices(local_rank);
  return TL_OK;
}

tl_status tl_comm_start(void) {
  const char *who, *wanted = getenv("TL_COMM");
  int n = launched(&who);
  if (link_ || n == 1 || (wanted && !strcmp(wanted, "none"))) return TL_OK;
  TL_TRY(join(n, who));
  return find_neighbours();
}

tl_status tl_comm_split(int shards) {
  int n = tl_comm_size(TL_COMM_ALL);
  if (shards < 1) return tl_fail(TL_E_ARG, "tensor parallelism over %d ranks: at least 1", shards);
  if (shards == tl_comm_shards()) return TL_OK;
  if (group_) return tl_fail(TL_E_ARG, "tensor parallelism over %d ranks: this run is in groups of %d already", shards, group_->size);
  if (n % shards)
    return tl_fail(TL_E_ARG, "tensor parallelism over %d ranks: there %s %d process%s; start them with mpirun -n %d, or a multiple of it", shards,
                   n > 1 ? "are" : "is", n, n > 1 ? "es" : "", shards);
  group_ = link_->split(link_, link_->rank / shards);
  parts_ = link_->split(link_, link_->rank % shards);
  return group_ && parts_ ? TL_OK : tl_fail(TL_E_MEMORY, "ranks: out of memory");
}

void tl_comm_get_info(tl_comm_info *out) {
  *out = (tl_comm_info){.rank = link_ ? link_->rank : 0, .size = tl_comm_size(TL_COMM_ALL), .local_rank = local_rank, .local_size = local_size,
                        .shard = tl_comm_shard(), .shards = tl_comm_shards(), .part = link_of(TL_COMM_PARTS) ? link_of(TL_COMM_PARTS)->rank : 0,
                        .parts = tl_comm_size(TL_COMM_PARTS), .host = host, .kind = link_ ? link_->kind : "none"};
}

static uint64_t number_of(const char *tag) {  // FNV-1a
  uint64_t h = 0xcbf29ce484222325u;
  for (; *tag; tag++) h = (h ^ (uint8_t)*tag) * 0x100000001b3u;
  return h;
}

static tl_status gather(tl_comm_link *l, const char *tag, const void *mine, int64_t n, int64_t *heads, char **all, int64_t *sizes) {
  int64_t head[2] = {(int64_t)number_of(tag), n}, total = 0;
  if (l->gather(l, head, heads, sizeof head)) return tl_fail(TL_E_MEMORY, "ranks: out of memory");
  for (int r = 0; r < l->size; r++) {
    if (heads[2 * r] != head[0])
      return tl_fail(TL_E_ARG, "ranks %d and %d have come to different places of the script; this one is at: %s. All ranks must make the same "
                     "calls in the same order (pairs() has another order in every process)", link_->rank, among_all(l, r), tag);
    sizes[r] = heads[2 * r + 1];
    total += sizes[r];
  }
  *all = malloc((size_t)total + 1);
  if (!*all || l->gather_sized(l, mine, *all, sizes)) return tl_fail(TL_E_MEMORY, "ranks: out of memory for %lld bytes", (long long)total);
  (*all)[total] = 0;
  return TL_OK;
}

tl_status tl_comm_gather(tl_comm_scope scope, const char *tag, const void *mine, int64_t n, char **all, int64_t *sizes) {
  tl_comm_link *l = link_of(scope);
  *all = NULL;
  if (n < 0) return tl_fail(TL_E_ARG, "ranks: %lld bytes", (long long)n);
  if (!l) {
    *sizes = n;
    if (!(*all = malloc((size_t)n + 1))) return tl_fail(TL_E_MEMORY, "out of memory");
    memcpy(*all, mine, (size_t)n);
    (*all)[n] = 0;
    return TL_OK;
  }
  int64_t *heads = malloc(2 * sizeof *heads * (size_t)l->size);
  tl_status s = heads ? gather(l, tag, mine, n, heads, all, sizes) : tl_fail(TL_E_MEMORY, "out of memory");
  free(heads);
  if (s == TL_OK) return TL_OK;
  free(*all);
  *all = NULL;
  return s;
}

// ---------------------------------------------------------------- a group's own
static bool sum_staged(float *x, int64_t n) {
  const tlk_ops *ops = tl_ops();
  if (!stage) stage = ops->alloc(sizeof(float) * STAGE, TLK_MEM_BOTH);
  for (int64_t at = 0; stage && at < n; at += STAGE) {
    int64_t k = n - at < STAGE ? n - at : STAGE;
    ops->copy(stage, x + at, sizeof(float) * (size_t)k);
    ops->sync();
    if (group_->sum(group_, stage, k)) return false;
    ops->copy(x + at, stage, sizeof(float) * (size_t)k);
  }
  return stage != NULL;
}

void tl_comm_sum(float *x, int64_t n) {
  if (!group_ || sum_failed) return;
  TL_SECTION("sums over ranks");
  if (tl_comm_device_sum(group_, x, n)) return;
  if (!tl_ops()->host) {
    sum_failed = !sum_staged(x, n);
    return;
  }
  tl_ops()->sync();
  sum_failed = group_->sum(group_, x, n) != 0;
}

bool tl_comm_parts_sum(float *x, int64_t n) {
  tl_comm_link *l = link_of(TL_COMM_PARTS);
  return l && tl_comm_device_sum(l, x, n);
}

tl_status tl_comm_agree(const char *what, const void *bytes, int64_t n) {
  if (!group_) return TL_OK;
  if (sum_failed) return tl_fail(TL_E_MEMORY, "ranks: out of memory for a sum over the ranks that share a model");
  uint64_t mine[2];
  tl_hash128(bytes, (size_t)n, mine);
  mine[0] ^= number_of(what);
  uint64_t *all = malloc(sizeof mine * (size_t)group_->size);
  int other = 0;
  bool bad = !all || group_->gather(group_, mine, all, sizeof mine);
  while (!bad && other < group_->size && !memcmp(all + 2 * other, mine, sizeof mine)) other++;
  free(all);
  if (bad) return tl_fail(TL_E_MEMORY, "ranks: out of memory");
  if (other == group_->size) return TL_OK;
  return tl_fail(TL_E_ARG, "ranks %d and %d share a model, but have other %s: either the script does not do the same on both, or they do not compute alike "
                 "(other programs, or processors of another kind)", link_->rank, among_all(group_, other), what);
}

void tl_comm_stop(int code) {
  if (link_) link_->stop(code);
}

void tl_comm_leave(void) {
  tl_comm_device_leave();
  if (link_) link_->leave();
  link_ = group_ = parts_ = NULL;
}
