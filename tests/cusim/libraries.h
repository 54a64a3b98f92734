// libraries.h: for the stand-ins for NVIDIA's libraries; see libraries.cc.
#ifndef CUSIM_LIBRARIES_H
#define CUSIM_LIBRARIES_H
#include "cusim.h"

namespace cusim {
// column-major (rows, cols) in device memory; size: bytes an element
struct matrix {
  const char *name;
  const void *p;
  long rows, cols, ld;
  size_t size;
};
bool is_right(const char *call, const matrix &m);   // dimensions, and device memory of that size; reports what is wrong
bool reads(const char *call, const matrix &m);      // when the work runs: it must have been written
bool writes(const char *call, const matrix &m);     // when the work runs: from here on it has been
bool library_stream(const char *call, cudaStream_t s);

// ---- stream.cc
int stream_device(cudaStream_t s);                  // -1: no such stream
cudaError_t queue_work(cudaStream_t s, std::function<void()> run, bool with_others = false);  // with other ranks: never before it is waited for
}  // namespace cusim
#endif
