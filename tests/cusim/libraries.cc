// libraries.cc: what the stand-ins for NVIDIA's libraries (cusolver.cc, cublaslt.cc, nccl.cc) share: how they are found, matrices in
// device memory, and their work in a stream.
//
// A call of a library checks its arguments when it is made, as the real one does, and the pointers too, which the real one does not:
// device memory of the size that the dimensions say. Its work is queued in the stream; when it runs, the memory must still be there
// and what is read must have been written.
#include "libraries.h"
#include <cstdlib>
#include <dlfcn.h>
#undef dlopen

namespace cusim {
static size_t span_bytes(const matrix &m) {
  return m.rows > 0 && m.cols > 0 ? ((size_t)(m.cols - 1) * (size_t)m.ld + (size_t)m.rows) * m.size : 0;
}

bool is_right(const char *call, const matrix &m) {
  if (m.rows < 0 || m.cols < 0 || m.ld < (m.rows > 1 ? m.rows : 1)) {
    report("%s: %s is (%ld, %ld) with a leading dimension of %ld", call, m.name, m.rows, m.cols, m.ld);
    return false;
  }
  size_t bytes = span_bytes(m);
  if (!bytes) return true;
  const allocation *a = in_region(m.p) ? find(m.p) : nullptr;
  if (!a) {  // pinned memory is the device's too
    report("%s: %s is at %p, which is no device memory", call, m.name, m.p);
    return false;
  }
  if ((const char *)m.p + bytes > a->p + a->bytes) {
    report("%s: %s takes %zu bytes, and %td are left in its allocation", call, m.name, bytes, a->p + a->bytes - (const char *)m.p);
    return false;
  }
  if ((uintptr_t)m.p % m.size) {
    report("%s: %s at %p is not aligned to %zu bytes", call, m.name, m.p, m.size);
    return false;
  }
  return true;
}

bool reads(const char *call, const matrix &m) {
  if (!is_right(call, m)) return false;
  cudaError_t before = sticky;
  std::string what = std::string(call) + ": " + m.name;
  for (long c = 0; c < m.cols && sticky == before; c++)
    shadow_must_be_initialised((const char *)m.p + (size_t)c * (size_t)m.ld * m.size, (size_t)m.rows * m.size, what.c_str());
  return sticky == before;
}

bool writes(const char *call, const matrix &m) {
  if (!is_right(call, m)) return false;
  for (long c = 0; c < m.cols; c++) shadow_written((char *)m.p + (size_t)c * (size_t)m.ld * m.size, (size_t)m.rows * m.size);
  return true;
}

bool library_stream(const char *call, cudaStream_t s) {
  int device = stream_device(s), current = 0;
  if (device < 0) return report("%s: no such stream (the default stream is refused)", call), false;
  cudaGetDevice(&current);
  if (device != current) return report("%s: into a stream of device %d while device %d is current", call, device, current), false;
  return true;
}
}  // namespace cusim

// CUSIM_LIBRARIES=cusolver,nccl: those alone are installed; not set: all
void *cusim_dlopen(const char *file, int flags) {
  static const char *const known[] = {"libcusolver.so.12", "libcublasLt.so.13",
#ifdef CUSIM_NCCL
                                      "libnccl.so.2",
#endif
  };
  const char *list = getenv("CUSIM_LIBRARIES");
  Dl_info self;
  for (const char *name : known) {
    if (strcmp(file, name)) continue;
    std::string word(name + 3, strchr(name, '.'));
    if (list && !strstr(list, word.c_str())) return dlopen("/nonexistent/lib-not-installed.so", flags);
    return dladdr((void *)cusim_dlopen, &self) ? dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
  }
  return dlopen(file, flags);
}
