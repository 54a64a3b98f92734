// test_faults.c: a kernel that faults ends the program with the name of an op: the one at fault with TL_SYNC=1, else one that notices, with
// advice. On the simulator of CUDA, or on the device that TL_TEST_DEVICE names. Would catch: an op without its name, a fault that is lost.
#include "../conformance/conformance.h"
#include <signal.h>
#include <sys/wait.h>

// A child of its own, since a device is a process's own: gather from a row far outside, then a good op, then the wait that notices.
static void child(void) {
  char why[256];
  const char *real = getenv("TL_TEST_DEVICE");
  void *module = dlopen(module_path(real ? real : "cusim"), RTLD_NOW | RTLD_LOCAL);
  tlk_open_fn *open_ = NULL;
  if (module) *(void **)&open_ = dlsym(module, TLK_OPEN);
  const tlk_ops *o = open_ ? open_(0, why, sizeof why) : NULL;
  if (!o) exit(3);
  enum { T = 4, C = 16 };
  int32_t rows[T] = {0, 1 << 24, 1, 2}, *list = o->alloc(sizeof rows, TLK_MEM_OPS);
  float *x = o->alloc(sizeof *x * T * C, TLK_MEM_OPS), *y = o->alloc(sizeof *y * T * C, TLK_MEM_OPS);
  o->zero(x, sizeof *x * T * C);
  o->copy(list, rows, sizeof rows);
  o->gather((tlk_mat){y, TLK_F32, C}, (tlk_mat){x, TLK_F32, C}, list, T, C);
  o->scale(x, 2, T * C);
  o->sync();
  exit(0);
}

// what the child says on stderr; its status
static int said(const char *sync, char *text, size_t n) {
  int ends[2], status = 0;
  size_t got = 0;
  if (pipe(ends)) abort();
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(ends[1], 2);
    close(ends[0]), close(ends[1]);
    setenv("TL_SYNC", sync, 1);
    child();
  }
  close(ends[1]);
  for (ssize_t k; got < n - 1 && (k = read(ends[0], text + got, n - 1 - got)) > 0;) got += (size_t)k;
  text[got] = 0;
  close(ends[0]);
  waitpid(pid, &status, 0);
  return status;
}

static char text[4096];
static void with_sync_the_op_at_fault_is_named(void) {
  int status = said("1", text, sizeof text);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "status %x: %s", status, text);
  CHECK(strstr(text, "tlrun: cuda:0: gather: ") && !strstr(text, "TL_SYNC"), "%s", text);
}
static void without_it_how_to_find_the_op_is_said(void) {
  int status = said("0", text, sizeof text);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, "status %x: %s", status, text);
  CHECK(strstr(text, "tlrun: cuda:0: ") && strstr(text, "TL_SYNC=1 names the op that is at fault"), "%s", text);
}

int main(void) {
  compute = TLK_F32;
  int status = said("1", text, sizeof text);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 3) {
    test_skip("the CUDA backend", "its simulator was not built (./dev test builds it)");
    return 0;
  }
  RUN(with_sync_the_op_at_fault_is_named);
  RUN(without_it_how_to_find_the_op_is_said);
  return test_done();
}
