// record.cu: runs of ops as CUDA graphs: a decode step is some twenty launches a layer, and a graph of them costs the host one.
//
// While ops are recorded the stream is captured: launches and copies on the device become nodes with the arguments of that moment.
// What they point at must stay: the caller's memory is the caller's affair (kernels/ops.h); of this backend's own only scratch can
// move. A slot that has to grow while ops are recorded spoils the recording (the ops then run as they are, and scratch has grown
// the next time); one that grows later ends all recordings, which replay says.
//
// TL_GRAPH=0: nothing is recorded. With TL_SYNC=1, too, unless TL_GRAPH=1: replays are then waited for whole, not op by op.
#include "cuda.cuh"
#include <cstdlib>

struct tlk_recording {
  cudaGraphExec_t run;
  unsigned long long moves;  // of scratch when it was made
};
static bool active, spoilt;
static unsigned long long moves;

bool recording() { return active; }

bool scratch_moves() {
  if (active) spoilt = true;
  else moves++;
  return !active;
}

static int are_there() { return 1; }
static int are_not() { return 0; }

static void record() {
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "record");
  active = true, spoilt = false;
}

static tlk_recording *recorded() {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t run = nullptr;
  check(cudaStreamEndCapture(stream(), &graph), "record");
  active = false;
  cudaError_t e = spoilt ? cudaErrorMemoryAllocation : cudaGraphInstantiate(&run, graph, 0);
  check(cudaGraphDestroy(graph), "record");
  tlk_recording *r = e == cudaSuccess ? (tlk_recording *)malloc(sizeof *r) : nullptr;
  if (r) return *r = {run, moves}, r;
  if (run) check(cudaGraphExecDestroy(run), "record");
  if (e != cudaErrorMemoryAllocation) check(e, "record");
  cudaGetLastError();
  return nullptr;
}

static int replay(tlk_recording *r) {
  OP("replay");
  if (r->moves != moves) return 0;
  cudaError_t e = cudaGraphLaunch(r->run, stream());
  if (e == cudaErrorMemoryAllocation) {  // the first launch takes memory of the driver's: what the pool does not use, else none
    cudaGetLastError();
    empty_pool();
    e = cudaGraphLaunch(r->run, stream());
  }
  if (e == cudaErrorMemoryAllocation) return cudaGetLastError(), 0;
  check(e, "replay");
  return 1;
}

static void recording_free(tlk_recording *r) {
  if (!r) return;
  check(cudaGraphExecDestroy(r->run), "recording_free");
  free(r);
}

void add_recordings(tlk_ops *table, bool on) {
  table->records = on ? are_there : are_not;
  table->record = record, table->recorded = recorded, table->replay = replay, table->recording_free = recording_free;
}
