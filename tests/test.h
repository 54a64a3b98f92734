// test.h: a test program prints one line a case ("ok NAME", "not ok NAME: why", "skip NAME: why") and exits 1 when one failed.
// `./dev test` runs every program and counts those lines.
#ifndef TL_TEST_H
#define TL_TEST_H
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_failures;
static char test_why[1024];

// Fails the current case, keeping its first reason.
__attribute__((format(printf, 1, 2), unused)) static void test_fail(const char *format, ...) {
  if (test_why[0]) return;
  va_list ap;
  va_start(ap, format);
  vsnprintf(test_why, sizeof test_why, format, ap);
  va_end(ap);
}
#define CHECK(cond, ...)                                                                   \
  do {                                                                                     \
    if (!(cond)) {                                                                         \
      char msg_[512] = "";                                                                 \
      snprintf(msg_, sizeof msg_, "" __VA_ARGS__);                                         \
      test_fail("%s:%d: %s%s%s", __FILE__, __LINE__, #cond, msg_[0] ? ": " : "", msg_);    \
    }                                                                                      \
  } while (0)
#define CHECK_OK(call) CHECK((call) == TL_OK, "%s", tl_last_error())

static inline void test_run(const char *name, void (*fn)(void)) {
  test_why[0] = 0;
  fn();
  if (test_why[0]) {
    test_failures++;
    printf("not ok %s: %s\n", name, test_why);
  } else {
    printf("ok %s\n", name);
  }
  fflush(stdout);
}
#define RUN(fn) test_run(#fn, fn)
static inline void test_skip(const char *name, const char *why) { printf("skip %s: %s\n", name, why); }
static inline int test_done(void) { return test_failures != 0; }

// largest |a - b| over the largest |b| (relative to scale, as tolerances here are stated)
static inline double test_max_rel(const float *a, const float *b, size_t n) {
  double d = 0, s = 1e-30;
  for (size_t i = 0; i < n; i++) {
    double e = fabs((double)a[i] - b[i]);
    if (!(e <= d)) d = e;  // NaN propagates
    if (fabs(b[i]) > s) s = fabs(b[i]);
  }
  return d / s;
}
#endif
