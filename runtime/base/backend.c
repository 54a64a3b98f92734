// backend.c: which backend this process computes with, its threads, and what the build is made of.
//
// One backend a process: the first model (or tl_device_select) decides. "cpu" is the CPU's, or what the environment variable
// TL_BACKEND names instead. "cuda", "cuda:1" and, in a build with tests, "cusim" are modules: tl_<name>.so beside the program
// (or in the folder TL_MODULES), opened when they are asked for, so that a program with them starts where no driver is. A module
// that says it cannot be used here leaves the CPU computing, and tl_device_warning says why.
#include "profile.h"
#include <cjson/cJSON.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

static const tlk_ops *ops;
static int n_threads;
static char chosen[64], warning[512];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int sharers = 1;  // processes on the same cores
static int no_index;     // for the module, of a device without a number (tlk_open_fn); 0: as TL_DEVICE_SLOT says

// of this process: those it may run on, as many as it is given time on
static int online_cores(void) {
  cpu_set_t set;
  long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
  if (n < 1) n = sysconf(_SC_NPROCESSORS_ONLN);
  double quota = tl_cpu_quota("/proc/self/cgroup", "/sys/fs/cgroup");
  if (quota > 0 && quota < (double)n) n = (long)ceil(quota);
  return n > sharers ? (int)n / sharers : 1;
}

void tl_share_cores(int n) {
  sharers = n;
  if (ops) tl_set_threads(0);
}

void tl_share_devices(int k) { no_index = -1 - k; }

// The workers of a sweep are started with their place among them, so that each has a device of its own where there are enough.
static int own_index(void) {
  const char *slot = getenv("TL_DEVICE_SLOT");
  if (no_index || !slot || strspn(slot, "0123456789") != strlen(slot) || strlen(slot) > 4) return no_index;
  return atoi(slot) ? -1 - atoi(slot) : 0;
}

// "cuda:1" -> "cuda", 1
static bool parse_device(const char *text, char *name, size_t size, int *index) {
  size_t n = strcspn(text, ":");
  *index = own_index();
  if (n == 0 || n >= size || strspn(text, "abcdefghijklmnopqrstuvwxyz") != n) return false;
  memcpy(name, text, n);
  name[n] = 0;
  if (!text[n]) return true;
  const char *digits = text + n + 1;
  if (!*digits || strspn(digits, "0123456789") != strlen(digits) || strlen(digits) > 4) return false;
  *index = atoi(digits);
  return true;
}

bool tl_module_path(char *out, size_t size, const char *name) {
  const char *dir = getenv("TL_MODULES");
  char exe[4096];
  if (!dir) {
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return false;
    exe[n] = 0;
    *strrchr(exe, '/') = 0;
    dir = exe;
  }
  struct stat st;
  return snprintf(out, size, "%s/tl_%s.so", dir, name) < (int)size && stat(out, &st) == 0;
}

static tl_status open_module(const char *device, const char *path, int index) {
  char why[256] = "";
  void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  tlk_open_fn *open = NULL;
  if (module) *(void **)&open = dlsym(module, TLK_OPEN);
  const tlk_ops *found = open ? open(index, why, sizeof why) : NULL;
  if (found) {
    ops = tl_count_held(found);
    return TL_OK;
  }
  if (!module) snprintf(why, sizeof why, "%.200s", dlerror());
  else if (!open) snprintf(why, sizeof why, "%.200s is no backend", path);
  snprintf(warning, sizeof warning, "device %s cannot be used here (%s); the CPU computes", device, why);
  ops = tlk_cpu();
  return TL_OK;
}

static tl_status choose(const char *device) {
  const char *want = getenv("TL_BACKEND");
  char name[16], path[4200];
  int index;
  if (!device && ops) return TL_OK;
  if (!device || strcmp(device, "cpu") == 0) device = want && *want ? want : "cpu";
  if (ops) return strcmp(device, chosen) == 0 ? TL_OK : tl_fail(TL_E_ARG, "device %.40s: this process computes on %s already", device, chosen);
  if (strcmp(device, "cpu") == 0) ops = tlk_cpu();
  else if (strcmp(device, "reference") == 0) ops = tlk_reference();
  else if (parse_device(device, name, sizeof name, &index) && tl_module_path(path, sizeof path, name)) TL_TRY(open_module(device, path, index));
  else return tl_fail(TL_E_UNSUPPORTED, "device %.40s is not in this build; known: cpu%s", device,
                      tl_module_path(path, sizeof path, "cuda") ? ", cuda, cuda:1 ..." : "");
  snprintf(chosen, sizeof chosen, "%s", device);
  n_threads = online_cores();
  ops->set_threads(n_threads);
  return TL_OK;
}

tl_status tl_device_select(const char *device) {
  pthread_mutex_lock(&lock);
  tl_status s = choose(device);
  pthread_mutex_unlock(&lock);
  return s;
}

const char *tl_device_warning(void) { return warning[0] ? warning : NULL; }

const tlk_ops *tl_ops(void) {
  if (!__atomic_load_n(&ops, __ATOMIC_ACQUIRE) && tl_device_select(NULL) != TL_OK) {
    snprintf(warning, sizeof warning, "TL_BACKEND: %s; the CPU computes", tl_last_error());
    unsetenv("TL_BACKEND");
    tl_device_select(NULL);
  }
  const tlk_ops *timed = tl_profile_ops();
  return timed ? timed : ops;
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
