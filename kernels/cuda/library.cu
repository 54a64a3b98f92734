// library.cu: opening NVIDIA's libraries; see library.cuh. TL_LIBRARIES=0: none.
#include "library.cuh"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>

static bool find_all(void *library, const char *const *names, void *functions, int n, const char **missing) {
  for (int i = 0; i < n; i++) {
    void *f = dlsym(library, names[i]);
    if (!f) return *missing = names[i], false;
    memcpy((char *)functions + sizeof f * (size_t)i, &f, sizeof f);
  }
  return true;
}

bool open_library(int *state, const char *file, const char *what, const char *const *names, void *functions, int n) {
  if (*state) return *state > 0;
  const char *missing = nullptr, *wanted = getenv("TL_LIBRARIES");
  if (wanted && strcmp(wanted, "0") == 0) return *state = -1, false;
  void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  *state = library && find_all(library, names, functions, n, &missing) ? 1 : -1;
  if (*state > 0) return true;
  if (missing) fprintf(stderr, "tlrun: cuda: %s has no %s: %s\n", file, missing, what);
  else fprintf(stderr, "tlrun: cuda: %s: %s\n", dlerror(), what);
  return false;
}

void library_failed(const char *call, const char *status) {
  fprintf(stderr, "tlrun: cuda: %s: %s: %s\n", current_op, call, status);
  abort();
}
