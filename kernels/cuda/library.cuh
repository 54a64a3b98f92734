// library.cuh: NVIDIA's libraries (cuSOLVER, cuBLASLt, NCCL): opened when the first op needs one, never linked, so that a machine
// without one loses what it does and nothing else. Which of them a build knows is decided by the headers it found (__has_include).
//
//   TLK_LIBRARY(solver, "libcusolver.so.12", "svd", SOLVER_FUNCTIONS)     with #define SOLVER_FUNCTIONS(X) X(cusolverDnCreate) ...
//   if (!solver_is_here()) ...                                            says once, on stderr, what is lost and why
//   solver.cusolverDnCreate(&handle);                                     typed by the library's own header
//
// A call that fails ends the program as a launch does, with the names of the op, the call and the status.
#ifndef TL_CUDA_LIBRARY_CUH
#define TL_CUDA_LIBRARY_CUH
#include "cuda.cuh"

// state: 0 not tried, 1 open, -1 not here. functions (n): filled with what is found under names. what: what is lost without it
bool open_library(int *state, const char *file, const char *what, const char *const *names, void *functions, int n);
[[noreturn]] void library_failed(const char *call, const char *status);  // names the op too

#define TLK_MEMBER(f) decltype(&::f) f;
#define TLK_SYMBOL(f) #f,
#define TLK_LIBRARY(variable, file, what, FUNCTIONS)                                                   \
  static struct {                                                                                      \
    FUNCTIONS(TLK_MEMBER)                                                                              \
  } variable;                                                                                          \
  static bool variable##_is_here() {                                                                   \
    static const char *const names[] = {FUNCTIONS(TLK_SYMBOL)};                                        \
    static int state;                                                                                  \
    return open_library(&state, file, what, names, &variable, (int)(sizeof names / sizeof *names));    \
  }
#define TLK_TEXT2(x) #x
#define TLK_TEXT(x) TLK_TEXT2(x)
#endif
