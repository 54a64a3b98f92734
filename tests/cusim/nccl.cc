// nccl.cc: NCCL's communicators, all-gather, send and receive, over MPI between processes (a communicator of one needs none).
//
// Checked: communicators that exist and were made with one id, by as many ranks as said, each on a card of its own; the communicator's
// device is the current one; pointers as in libraries.cc; an all-gather in place has its part where it belongs; ranks that come together
// do the same with the same number of elements; a message's size is what the receiver expects; send and receive to oneself, or in both
// directions, only inside a group (the real ones would wait for ever).
//
// The id holds the place in MPI_COMM_WORLD of the rank that made it; the others send it theirs, and it tells all who they are.
#include "libraries.h"
#include <mpi.h>
#include <nccl.h>
#include <set>
#include <unistd.h>
#include <vector>

using namespace cusim;

struct ncclComm {
  int rank, size, device;
  MPI_Comm mpi;  // MPI_COMM_NULL: alone
};
struct message {
  bool send;
  void *p;
  size_t count;
  int peer;
};
static std::set<ncclComm_t> comms;
static std::vector<message> group;
static ncclComm_t group_comm;
static cudaStream_t group_stream;
static int group_depth;
static std::string last;
static const char id_mark[] = "cusim-nccl";

static ncclResult_t refuse(ncclResult_t r, const std::string &why) {
  report("nccl: %s", why.c_str());
  last = why;
  return r;
}
static matrix floats(const char *name, const void *p, size_t n) { return {name, p, (long)n, 1, n ? (long)n : 1, sizeof(float)}; }

static ncclResult_t usable(const char *call, ncclComm_t c, ncclDataType_t type, cudaStream_t s, const matrix &m) {
  int current = 0;
  if (!comms.count(c)) return refuse(ncclInvalidArgument, std::string(call) + ": no such communicator");
  cudaGetDevice(&current);
  if (current != c->device) return refuse(ncclInvalidUsage, std::string(call) + ": the communicator is of another device than the current one");
  if (type != ncclFloat32) return refuse(ncclInvalidArgument, std::string(call) + ": the simulator sends fp32 alone");
  return library_stream(call, s) && is_right(call, m) ? ncclSuccess : ncclInvalidArgument;
}

// every rank's n bytes; of a communicator of one a copy
static void gather(ncclComm_t c, const void *mine, void *all, size_t n) {
  if (c->mpi == MPI_COMM_NULL) memmove(all, mine, n);
  else MPI_Allgather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, c->mpi);
}
// that all ranks are here for the same thing
static bool together(const char *call, ncclComm_t c, size_t count) {
  struct head { uint64_t what, count; } mine = {0, count};
  for (const char *p = call; *p; p++) mine.what = (mine.what ^ (uint64_t)*p) * 0x100000001b3u;
  std::vector<head> all((size_t)c->size);
  gather(c, &mine, all.data(), sizeof mine);
  for (int r = 0; r < c->size; r++)
    if (all[(size_t)r].what != mine.what || all[(size_t)r].count != count) {
      report("%s of %zu elements on rank %d, while rank %d is at another call, or has %llu", call, count, c->rank, r, (unsigned long long)all[(size_t)r].count);
      return false;
    }
  return true;
}

// the communicator of nranks processes that have this id
static MPI_Comm meet(const ncclUniqueId &id, int nranks, int rank) {
  int root, me, tag;
  memcpy(&root, id.internal + 32, sizeof root);
  memcpy(&tag, id.internal + 40, sizeof tag);
  MPI_Comm_rank(MPI_COMM_WORLD, &me);
  std::vector<int> members((size_t)nranks, -1);
  if (me == root) {
    members[(size_t)rank] = me;
    for (int i = 1; i < nranks; i++) {
      int from[2];
      MPI_Recv(from, 2, MPI_INT, MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      members[(size_t)from[0]] = from[1];
    }
    for (int r = 0; r < nranks; r++)
      if (members[(size_t)r] != me && members[(size_t)r] >= 0) MPI_Send(members.data(), nranks, MPI_INT, members[(size_t)r], tag, MPI_COMM_WORLD);
  } else {
    int mine[2] = {rank, me};
    MPI_Send(mine, 2, MPI_INT, root, tag, MPI_COMM_WORLD);
    MPI_Recv(members.data(), nranks, MPI_INT, root, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  }
  for (int m : members)
    if (m < 0) return MPI_COMM_NULL;
  MPI_Group world, mine;
  MPI_Comm made;
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Group_incl(world, nranks, members.data(), &mine);
  MPI_Comm_create_group(MPI_COMM_WORLD, mine, tag, &made);
  return made;
}

static bool own_card(ncclComm_t c) {
  struct place { char host[120], card[16]; } mine = {};
  gethostname(mine.host, sizeof mine.host - 1);
  cudaDeviceGetPCIBusId(mine.card, sizeof mine.card, c->device);
  std::vector<place> all((size_t)c->size);
  gather(c, &mine, all.data(), sizeof mine);
  for (int r = 0; r < c->size; r++)
    if (r != c->rank && !memcmp(&all[(size_t)r], &mine, sizeof mine)) return false;
  return true;
}

// one after the other in the order of ranks' pairs would wait; so all at once, sizes first
static void exchange(ncclComm_t c, const std::vector<message> &list) {
  std::vector<MPI_Request> requests;
  std::vector<unsigned long long> sizes(list.size());
  for (int data = 0; data < 2; data++) {
    requests.clear();
    for (size_t i = 0; i < list.size(); i++) {
      const message &m = list[i];
      matrix what = floats(m.send ? "what is sent" : "what is received", m.p, m.count);
      MPI_Request q;
      if (!data) {
        if (m.send ? !reads("ncclSend", what) : !writes("ncclRecv", what)) MPI_Abort(MPI_COMM_WORLD, 1);
        sizes[i] = m.count;
      }
      void *p = data ? m.p : &sizes[i];
      int n = data ? (int)(m.count * sizeof(float)) : (int)sizeof sizes[i];
      if (m.send) MPI_Isend(p, n, MPI_BYTE, m.peer, data, c->mpi, &q);
      else MPI_Irecv(p, n, MPI_BYTE, m.peer, data, c->mpi, &q);
      requests.push_back(q);
    }
    MPI_Waitall((int)requests.size(), requests.data(), MPI_STATUSES_IGNORE);
    for (size_t i = 0; !data && i < list.size(); i++)
      if (sizes[i] != list[i].count) {
        report("ncclRecv of %zu elements from rank %d, which sends %llu", list[i].count, list[i].peer, sizes[i]);
        MPI_Abort(MPI_COMM_WORLD, 1);
      }
  }
}
static void exchange_alone(const std::vector<message> &list) {
  for (const message &m : list)
    for (const message &to : list)
      if (m.send && !to.send && m.count == to.count && reads("ncclSend", floats("what is sent", m.p, m.count)) &&
          writes("ncclRecv", floats("what is received", to.p, to.count)))
        memmove(to.p, m.p, m.count * sizeof(float));
}

static ncclResult_t queue_messages(ncclComm_t c, std::vector<message> list, cudaStream_t s) {
  return queue_work(s, [c, list] { c->mpi == MPI_COMM_NULL ? exchange_alone(list) : exchange(c, list); }, true) == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}
static ncclResult_t post(const char *call, message m, ncclDataType_t type, ncclComm_t c, cudaStream_t s) {
  ncclResult_t r = usable(call, c, type, s, floats("the buffer", m.p, m.count));
  if (r != ncclSuccess) return r;
  if (m.peer < 0 || m.peer >= c->size) return refuse(ncclInvalidArgument, std::string(call) + ": no such peer");
  if (!group_depth && m.peer == c->rank) return refuse(ncclInvalidUsage, std::string(call) + ": to oneself, outside of a group");
  if (!group_depth) return queue_messages(c, {m}, s);
  if (group_comm && (group_comm != c || group_stream != s)) return refuse(ncclInvalidUsage, std::string(call) + ": a group over two communicators or streams");
  group_comm = c, group_stream = s;
  group.push_back(m);
  return ncclSuccess;
}

extern "C" {
ncclResult_t ncclGetVersion(int *version) { return *version = 22809, ncclSuccess; }
const char *ncclGetErrorString(ncclResult_t r) { return r == ncclSuccess ? "no error" : r == ncclInvalidUsage ? "invalid usage" : "invalid argument"; }
const char *ncclGetLastError(ncclComm_t) { return last.c_str(); }
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
  guard g(lock);
  return comms.count(comm) ? *state = ncclSuccess, ncclSuccess : ncclInvalidArgument;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int made;
  int started = 0, me = 0, tag = 0;
  MPI_Initialized(&started);
  if (started) MPI_Comm_rank(MPI_COMM_WORLD, &me);
  tag = 1000 + made++;
  memset(id, 0, sizeof *id);
  memcpy(id->internal, id_mark, sizeof id_mark);
  memcpy(id->internal + 32, &me, sizeof me);
  memcpy(id->internal + 40, &tag, sizeof tag);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank) {
  guard g(lock);
  int started = 0, device = 0;
  MPI_Initialized(&started);
  if (!comm || nranks < 1 || rank < 0 || rank >= nranks) return refuse(ncclInvalidArgument, "ncclCommInitRank: rank " + std::to_string(rank) + " of " + std::to_string(nranks));
  if (strcmp(id.internal, id_mark)) return refuse(ncclInvalidArgument, "ncclCommInitRank: an id that ncclGetUniqueId did not make");
  if (nranks > 1 && !started) return refuse(ncclInvalidUsage, "ncclCommInitRank: the simulator's ranks need MPI");
  cudaGetDevice(&device);
  ncclComm_t c = new ncclComm{rank, nranks, device, nranks > 1 ? meet(id, nranks, rank) : MPI_COMM_NULL};
  if (nranks > 1 && c->mpi == MPI_COMM_NULL) return refuse(ncclInvalidArgument, "ncclCommInitRank: two ranks have the same number");
  if (!own_card(c)) return refuse(ncclInvalidUsage, "ncclCommInitRank: Duplicate GPU detected");
  comms.insert(*comm = c);
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  guard g(lock);
  if (!comms.erase(comm)) return ncclInvalidArgument;
  if (comm->mpi != MPI_COMM_NULL) MPI_Comm_free(&comm->mpi);
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream) {
  guard g(lock);
  static const char call[] = "ncclAllGather";
  matrix from = floats("sendbuff", sendbuff, sendcount);
  ncclResult_t r = usable(call, comm, datatype, stream, from);
  if (r != ncclSuccess) return r;
  matrix to = floats("recvbuff", recvbuff, sendcount * (size_t)comm->size);
  if (!is_right(call, to)) return ncclInvalidArgument;
  const char *s = (const char *)sendbuff, *d = (const char *)recvbuff;
  size_t bytes = sendcount * sizeof(float);
  bool overlaps = s < d + bytes * (size_t)comm->size && d < s + bytes;
  if (overlaps && s != d + bytes * (size_t)comm->rank) return refuse(ncclInvalidUsage, "ncclAllGather: in place, but not at the rank's own part");
  if (group_depth) return refuse(ncclInvalidUsage, "ncclAllGather: the simulator has none inside a group");
  cudaError_t e = queue_work(stream, [=] {
    if (!reads(call, from) || !together(call, comm, sendcount)) {
      if (comm->size > 1) MPI_Abort(MPI_COMM_WORLD, 1);  // the others wait
      return;
    }
    std::vector<char> mine(s, s + bytes);
    if (writes(call, to)) gather(comm, mine.data(), recvbuff, bytes);
  }, true);
  return e == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

ncclResult_t ncclSend(const void *sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm, cudaStream_t stream) {
  guard g(lock);
  return post("ncclSend", {true, (void *)sendbuff, count, peer}, datatype, comm, stream);
}
ncclResult_t ncclRecv(void *recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm, cudaStream_t stream) {
  guard g(lock);
  return post("ncclRecv", {false, recvbuff, count, peer}, datatype, comm, stream);
}
ncclResult_t ncclGroupStart() {
  guard g(lock);
  return group_depth++, ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  guard g(lock);
  if (!group_depth) return refuse(ncclInvalidUsage, "ncclGroupEnd without its start");
  if (--group_depth) return ncclSuccess;
  std::vector<message> list;
  list.swap(group);
  ncclComm_t c = group_comm;
  group_comm = nullptr;
  return list.empty() ? ncclSuccess : queue_messages(c, list, group_stream);
}
}
