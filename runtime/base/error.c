// error.c: the message of each thread's last failure, assertions, the interrupt flag, version and clocks.
#include "base.h"
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static _Thread_local char message[2048];

const char *tl_last_error(void) { return message[0] ? message : "no error"; }

// A message is one line whatever a file's names hold: control characters become "?".
static void keep(const char *text) {
  size_t i = 0;
  for (; text[i]; i++) message[i] = (unsigned char)text[i] < ' ' || text[i] == 0x7f ? '?' : text[i];
  message[i] = 0;
}

tl_status (tl_fail)(tl_status s, const char *format, ...) {
  char text[sizeof message];  // the arguments may point into the message itself
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  keep(text);
  return s;
}

tl_status tl_fail_in(tl_status s, const char *format, ...) {
  char text[sizeof message];
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  if (n >= 0 && n < (int)sizeof text - 3) snprintf(text + n, sizeof text - (size_t)n, ": %.*s", (int)sizeof text - n - 3, message);
  keep(text);
  return s;
}

_Noreturn void tl_assert_failed(const char *cond, const char *file, int line) {
  fprintf(stderr, "tlrun: broken invariant %s at %s:%d; this is a bug, please report it\n", cond, file, line);
  abort();
}

static volatile sig_atomic_t interrupt_flag;
void tl_interrupt(void) { interrupt_flag = 1; }
bool tl_interrupted(void) { return interrupt_flag != 0; }
static void on_term(int sig) {
  (void)sig;
  tl_interrupt();
}
void tl_interrupt_on_term(void) { sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_term, .sa_flags = (int)SA_RESETHAND}, NULL); }
void tl_interrupt_clear(void) { interrupt_flag = 0; }

const char *tl_version(void) { return TL_VERSION; }

double tl_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t tl_peak_rss_bytes(void) {
  struct rusage u;
  return getrusage(RUSAGE_SELF, &u) == 0 ? (int64_t)u.ru_maxrss * 1024 : 0;
}

int64_t tl_rss_bytes(void) {
  long total = 0, resident = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (!f) return 0;
  if (fscanf(f, "%ld %ld", &total, &resident) != 2) resident = 0;
  fclose(f);
  return (int64_t)resident * sysconf(_SC_PAGESIZE);
}
