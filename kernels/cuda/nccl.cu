// nccl.cu: sums over the ranks of a run from device to device by NCCL, in the order of ranks, so that they have the bits that the host's
// sums over MPI have (runtime/comm) and are the same on every rank: NCCL's own all-reduce promises no order.
//
//   few numbers   all ranks' arrays to all (all-gather), which add them
//   many          x is cut into a share a rank; every rank gets its share of all the others, adds, and gives the sum to all. Then
//                 2 n (size - 1) / size numbers leave a rank instead of n (size - 1).
//
// Joining. Each rank says hello (whether NCCL is here, which one, which card; rank 0 also the id that NCCL's ranks meet by); the runtime
// carries all hellos to all ranks (MPI), which come to the same conclusion: NCCL refuses two ranks on one card, for one, and then
// everything goes through the host.
#include "library.cuh"
#if __has_include(<nccl.h>)
#include <cstdio>
#include <cstring>
#include <nccl.h>
#include <unistd.h>

#define NCCL_FUNCTIONS(X)                                                                                                      \
  X(ncclGetVersion) X(ncclGetUniqueId) X(ncclCommInitRank) X(ncclCommDestroy) X(ncclCommGetAsyncError) X(ncclGetErrorString) \
  X(ncclGetLastError) X(ncclAllGather) X(ncclSend) X(ncclRecv) X(ncclGroupStart) X(ncclGroupEnd)
TLK_LIBRARY(nccl, "libnccl.so.2", "ranks exchange through the host", NCCL_FUNCTIONS)

struct tlk_ranks {
  ncclComm_t comm;
  int rank, size;
};
struct hello {
  int version;  // 0: no NCCL
  char host[128], card[32];
  ncclUniqueId id;
};
static_assert(sizeof(hello) <= TLK_HELLO, "a hello fits what travels");
enum { THREADS = 256, FEW = 1 << 14, PIECE = 1 << 23, ALIGNMENT = 4 };  // floats

#define RANKS(comm_, f, ...)                                                                                 \
  do {                                                                                                       \
    ncclResult_t result_ = nccl.f(__VA_ARGS__);                                                              \
    if (result_ != ncclSuccess) failed(comm_, #f, result_);                                                  \
  } while (0)
static void failed(ncclComm_t comm, const char *call, ncclResult_t r) {
  char text[512];
  snprintf(text, sizeof text, "%s (%s)", nccl.ncclGetErrorString(r), nccl.ncclGetLastError(comm));
  library_failed(call, text);
}

void cuda_ranks_hello(void *out, int rank) {
  OP("ranks_hello");
  hello h = {};
  int device = 0;
  stream();
  check(cudaGetDevice(&device), "ranks_hello");
  check(cudaDeviceGetPCIBusId(h.card, sizeof h.card, device), "ranks_hello");
  gethostname(h.host, sizeof h.host - 1);
  if (nccl_is_here()) RANKS(nullptr, ncclGetVersion, &h.version);
  if (h.version && rank == 0) RANKS(nullptr, ncclGetUniqueId, &h.id);
  memset(out, 0, TLK_HELLO);
  memcpy(out, &h, sizeof h);
}

static hello hello_of(const void *hellos, int rank) {
  hello h;
  memcpy(&h, (const char *)hellos + (size_t)rank * TLK_HELLO, sizeof h);
  return h;
}

static bool can_join(const void *hellos, int size, char *why, size_t n) {
  int version = hello_of(hellos, 0).version;
  for (int r = 0; r < size; r++) {
    hello h = hello_of(hellos, r);
    if (!h.version) return snprintf(why, n, "rank %d has no NCCL", r), false;
    if (h.version != version) return snprintf(why, n, "rank %d has NCCL %d, rank 0 %d", r, h.version, version), false;
    for (int q = 0; q < r; q++) {
      hello g = hello_of(hellos, q);
      if (!strcmp(g.host, h.host) && !strcmp(g.card, h.card)) return snprintf(why, n, "ranks %d and %d are on the same card, %s of %s", q, r, h.card, h.host), false;
    }
  }
  return true;
}

tlk_ranks *cuda_ranks_join(const void *hellos, int rank, int size, char *why, size_t n) {
  OP("ranks_join");
  if (!can_join(hellos, size, why, n)) return nullptr;
  tlk_ranks *r = new tlk_ranks{nullptr, rank, size};
  empty_pool();
  RANKS(nullptr, ncclCommInitRank, &r->comm, size, hello_of(hellos, 0).id, rank);
  return r;
}

// x (n) = the sum over ranks, in their order, of parts (size, n)
__global__ static void add_ranks(float *x, const float *parts, int size, size_t n) {
  size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float sum = parts[i];
  for (int r = 1; r < size; r++) sum += parts[(size_t)r * n + i];
  x[i] = sum;
}

static void add(float *x, const float *parts, int size, size_t n) { launch(add_ranks, grid_of(n, THREADS), THREADS, 0, x, parts, size, n); }

static void sum_few(tlk_ranks *r, float *x, size_t n) {
  float *parts = (float *)scratch(SCRATCH_RANKS, sizeof(float) * n * (size_t)r->size);
  RANKS(r->comm, ncclAllGather, x, parts, n, ncclFloat32, r->comm, stream());
  add(x, parts, r->size, n);
}

// x (size, share): every rank sums the share of its own place
static void sum_shares(tlk_ranks *r, float *x, size_t share) {
  float *parts = (float *)scratch(SCRATCH_RANKS, sizeof(float) * share * (size_t)r->size), *mine = x + share * (size_t)r->rank;
  check(cudaMemcpyAsync(parts + share * (size_t)r->rank, mine, sizeof(float) * share, cudaMemcpyDeviceToDevice, stream()), current_op);
  RANKS(r->comm, ncclGroupStart);
  for (int q = 0; q < r->size; q++) {
    if (q == r->rank) continue;
    RANKS(r->comm, ncclSend, x + share * (size_t)q, share, ncclFloat32, q, r->comm, stream());
    RANKS(r->comm, ncclRecv, parts + share * (size_t)q, share, ncclFloat32, q, r->comm, stream());
  }
  RANKS(r->comm, ncclGroupEnd);
  add(mine, parts, r->size, share);
  RANKS(r->comm, ncclAllGather, mine, x, share, ncclFloat32, r->comm, stream());
}

void cuda_ranks_sum(tlk_ranks *r, float *x, size_t n) {
  OP("ranks_sum");
  for (size_t at = 0; at < n;) {
    size_t piece = n - at < PIECE ? n - at : (size_t)PIECE, share = piece <= FEW ? 0 : piece / (size_t)r->size / ALIGNMENT * ALIGNMENT;
    if (share) sum_shares(r, x + at, share), at += share * (size_t)r->size;
    else sum_few(r, x + at, piece), at += piece;
  }
  ncclResult_t state = ncclSuccess;
  RANKS(r->comm, ncclCommGetAsyncError, r->comm, &state);
  if (state != ncclSuccess) failed(r->comm, "a sum over ranks", state);
}

void cuda_ranks_leave(tlk_ranks *r) {
  if (!r) return;
  OP("ranks_leave");
  check(cudaStreamSynchronize(stream()), current_op);
  RANKS(r->comm, ncclCommDestroy, r->comm);
  delete r;
}

#else  // built without NCCL's header
#include <cstdio>
#include <cstring>
void cuda_ranks_hello(void *out, int) { memset(out, 0, TLK_HELLO); }
tlk_ranks *cuda_ranks_join(const void *, int, int, char *why, size_t n) { return snprintf(why, n, "this build is without NCCL"), nullptr; }
void cuda_ranks_sum(tlk_ranks *, float *, size_t) {}
void cuda_ranks_leave(tlk_ranks *) {}
#endif
