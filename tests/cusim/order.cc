// order.cc: in which order things run that CUDA leaves open, and reports of what went wrong.
#include "cusim.h"
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <execinfo.h>
#include <unistd.h>

namespace cusim {
std::recursive_mutex lock;
cudaError_t sticky = cudaSuccess;
static int current_order = -1;
static uint64_t state = 1;
static std::string reports;
static bool kept_quiet;

static void from_environment() {
  if (current_order >= 0) return;
  const char *o = getenv("CUSIM_ORDER"), *s = getenv("CUSIM_SEED");
  current_order = o && !strcmp(o, "reverse") ? CUSIM_REVERSE : o && !strcmp(o, "random") ? CUSIM_RANDOM : CUSIM_FORWARD;
  state = (s ? strtoull(s, nullptr, 10) : 1) * 0x9e3779b97f4a7c15u | 1;
}

int order() {
  from_environment();
  return current_order;
}

unsigned random_below(unsigned n) {  // xorshift64* (Vigna 2016)
  state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
  return (unsigned)((state * 0x2545f4914f6cdd1du >> 32) % n);
}

void fill_order(unsigned *list, unsigned n) {
  int o = order();
  for (unsigned i = 0; i < n; i++) list[i] = o == CUSIM_REVERSE ? n - 1 - i : i;
  for (unsigned i = n; o == CUSIM_RANDOM && i > 1; i--) std::swap(list[i - 1], list[random_below(i)]);
}

static std::string text_of(const char *format, va_list ap) {
  char line[1024];
  vsnprintf(line, sizeof line, format, ap);
  return line;
}

static void say(const std::string &text) {
  reports += text + "\n";
  if (!kept_quiet) fprintf(stderr, "cusim: %s\n", text.c_str());
  if (sticky == cudaSuccess) sticky = cudaErrorIllegalAddress;
}

void report(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  say(text_of(format, ap));
  va_end(ap);
}

void fault(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  say(text_of(format, ap));
  va_end(ap);
  if (in_kernel()) abandon_block();
  abort();
}

std::string place_text(unsigned thread) {
  char text[128];
  snprintf(text, sizeof text, "thread %u of block (%u, %u, %u)", thread, blockIdx.x, blockIdx.y, blockIdx.z);
  return text;
}

std::string source_text(const void *pc) {
  Dl_info info;
  if (!pc || !dladdr(pc, &info) || !info.dli_fname) return "?";
  char command[4608], line[1024] = "";
  snprintf(command, sizeof command, "addr2line -e '%s' %#zx 2>/dev/null", info.dli_fname,
           (size_t)((const char *)pc - (const char *)info.dli_fbase) - 1);
  FILE *f = popen(command, "r");
  if (f && !fgets(line, sizeof line, f)) line[0] = 0;
  if (f) pclose(f);
  line[strcspn(line, " (\n")] = 0;
  const char *base = strrchr(line, '/');
  return line[0] ? base ? base + 1 : line : "?";
}
}  // namespace cusim

using namespace cusim;
extern "C" void cusim_set_order(int order, unsigned seed) {
  guard g(lock);
  current_order = order;
  state = seed * 0x9e3779b97f4a7c15u | 1;
}
extern "C" const char *cusim_take_report() {
  guard g(lock);
  static std::string taken;
  kept_quiet = true;
  taken.swap(reports);
  reports.clear();
  return taken.c_str();
}
extern "C" void cusim_clear_error() {
  guard g(lock);
  sticky = cudaSuccess;
}
