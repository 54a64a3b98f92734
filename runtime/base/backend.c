// backend.c: which backend this process computes with, its threads, and what the build is made of.
#include "base.h"
#include <cjson/cJSON.h>
#include <pthread.h>
#include <unistd.h>

static const tlk_ops *ops;
static int n_threads;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int online_cores(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (int)n : 1;
}

static void choose(void) {
  const char *want = getenv("TL_BACKEND");
  ops = want && strcmp(want, "reference") == 0 ? tlk_reference() : tlk_cpu();
  n_threads = online_cores();
  ops->set_threads(n_threads);
}

const tlk_ops *tl_ops(void) {
  pthread_once(&once, choose);
  return ops;
}

void tl_set_threads(int n) {
  const tlk_ops *o = tl_ops();
  n_threads = n > 0 ? n : online_cores();
  o->set_threads(n_threads);
}

int tl_threads(void) {
  tl_ops();
  return n_threads;
}

const char *tl_backend_name(void) { return tl_ops()->name; }
const char *tl_backend_isa(void) { return tl_ops()->isa; }

const char *tl_build_info(void) {
  static char text[256];
  snprintf(text, sizeof text, "tlrun %s, cc %s, cJSON %s", TL_VERSION, __VERSION__, cJSON_Version());
  return text;
}
