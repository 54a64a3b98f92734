// test_device_sum.c: sums over ranks from device to device (comm/device.c, kernels/cuda/nccl.cu), as tests/test_ranks.sh runs it under
// mpirun:  test_device_sum DEVICE own|same|any joined|host   own: rank k has device k; same: all have device 0; any: no number is named.
// Would catch: another order of sums than that of ranks, shares that do not meet, a rest that is left out, ranks on one card that try.
#include "../../runtime/comm/comm.h"
#include "../../runtime/base/base.h"
#include "../test.h"

static int expect_joined;

static float value(int rank, size_t i) { return (float)(tl_uniform(5, (uint64_t)rank, i) - 0.5) * (i % 7 ? 1 : 1e4f); }

static void sum_of(size_t n) {
  int size = tl_comm_size(TL_COMM_ALL);
  tl_comm_info me;
  tl_comm_get_info(&me);
  float *host = malloc(sizeof *host * n), *x = tl_ops()->alloc(sizeof *x * n, TLK_MEM_OPS);
  for (size_t i = 0; i < n; i++) host[i] = value(me.rank, i);
  tl_ops()->copy(x, host, sizeof *x * n);
  bool done = tl_comm_parts_sum(x, (int64_t)n);
  CHECK(done == expect_joined, "%zu numbers: the devices are %sconnected", n, done ? "" : "not ");
  tl_ops()->copy(host, x, sizeof *x * n);
  size_t wrong = 0;
  for (size_t i = 0; done && i < n; i++) {
    float want = value(0, i);
    for (int r = 1; r < size; r++) want += value(r, i);
    wrong += memcmp(&want, &host[i], sizeof want) != 0;
  }
  CHECK(wrong == 0, "%zu of %zu sums are not those in the order of ranks", wrong, n);
  tl_ops()->release(x);
  free(host);
}
static void one_number(void) { sum_of(1); }
static void few_numbers(void) { sum_of(1003); }
static void many_numbers(void) { sum_of(100003); }
static void few_again(void) { sum_of(16384); }

static char device[64];
static void device_is_used(void) {
  CHECK_OK(tl_device_select(device));
  CHECK(!tl_device_warning(), "%s", tl_device_warning());
}

int main(int argc, char **argv) {
  tl_comm_info me;
  if (argc < 4) {
    test_skip("device_sum", "tests/test_ranks.sh runs it, on several ranks");
    return 0;
  }
  CHECK_OK(tl_comm_start());
  tl_comm_get_info(&me);
  expect_joined = !strcmp(argv[3], "joined");
  if (strcmp(argv[2], "any")) snprintf(device, sizeof device, "%s:%d", argv[1], strcmp(argv[2], "own") ? 0 : me.rank);
  else snprintf(device, sizeof device, "%s", argv[1]);
  RUN(device_is_used);
  RUN(one_number);
  RUN(few_numbers);
  RUN(many_numbers);
  RUN(few_again);
  int failed = test_done();
  tl_comm_leave();
  return failed;
}
