// memory.cc: simulated device and pinned memory: one reserved region of addresses, device memory in its first half, pinned in
// its second. An allocation ends within 256 bytes of an unmapped page and starts with one before it; addresses are used again
// only after many others of the same size, so that a stale pointer finds nothing.
#include "cusim.h"
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <sys/mman.h>
#include <unistd.h>

namespace cusim {
static const size_t half_bytes = (size_t)8 << 30, page = 4096, quarantine = 16;
static char *region;
static size_t bump[2];
static size_t used;
static std::map<const char *, allocation> live;  // by first byte
struct pages {
  char *p;
  size_t n;
};
static std::map<std::pair<int, size_t>, std::deque<pages>> freed;
static bool opened;

static void on_fault(int sig, siginfo_t *info, void *) {
  const allocation *a = region && in_region(info->si_addr) ? nearest(info->si_addr) : nullptr;
  const char *at = (const char *)info->si_addr;
  if (in_kernel())
    report("%s touches %p, which is no memory of the device%s", place_text(thread_index()).c_str(), info->si_addr, a ? "" : " (a host pointer?)");
  else if (region && in_region(info->si_addr))
    report("host code touches device memory at %p", info->si_addr);
  else
    report("host code faults at %p", info->si_addr);
  if (a) report("  the nearest allocation is %zu bytes at %p, %td bytes before", a->bytes, (void *)a->p, at - a->p);
  signal(sig, SIG_DFL);
  if (!in_kernel()) raise(sig);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, sig);
  sigprocmask(SIG_UNBLOCK, &set, nullptr);
  struct sigaction again = {};
  again.sa_sigaction = on_fault;
  again.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(sig, &again, nullptr);
  abandon_block();
}

static void start() {
  if (region) return;
  region = (char *)mmap(nullptr, 2 * half_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) abort();
  shadow_init(region, 2 * half_bytes);
  stack_t alternate = {};
  alternate.ss_sp = malloc(1 << 16);
  alternate.ss_size = 1 << 16;
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
}

static size_t span(size_t bytes) { return (bytes + page - 1) / page * page; }

size_t capacity_bytes() {
  static const char *text = getenv("CUSIM_MEMORY");
  return text && *text ? (size_t)atoi(text) << 20 : 0x7fffffff;
}

void *allocate(size_t bytes, int kind) {
  start();
  if (kind == DEVICE && used + bytes > capacity_bytes()) return nullptr;
  size_t room = (bytes + 255) / 256 * 256, n = span(room ? room : 1);
  std::deque<pages> &old = freed[{kind, n}];
  char *first;
  if (old.size() > quarantine) {
    first = old.front().p;
    old.pop_front();
  } else {
    size_t &at = bump[kind == PINNED];
    if (at + n + 2 * page > half_bytes) return nullptr;
    first = region + (kind == PINNED ? half_bytes : 0) + at + page;
    at += n + page;
  }
  mprotect(first, n, PROT_READ | PROT_WRITE);
  memset(first, 0xff, n);
  char *p = first + n - room;
  static uint64_t serial;
  live[p] = {p, bytes, kind, ++serial};
  shadow_allocated(p, bytes, kind == PINNED);
  if (kind == DEVICE) used += bytes;
  if (kind == DEVICE && !opened) mprotect(first, n, PROT_NONE);
  return p;
}

bool release(void *p, int kind) {
  auto it = live.find((const char *)p);
  if (it == live.end() || it->second.kind != kind) return false;
  size_t bytes = it->second.bytes, room = (bytes + 255) / 256 * 256, n = span(room ? room : 1);
  char *first = (char *)p + room - n;
  shadow_released((char *)p, bytes);
  madvise(first, n, MADV_DONTNEED);
  mprotect(first, n, PROT_NONE);
  freed[{kind, n}].push_back({first, n});
  if (kind == DEVICE) used -= bytes;
  live.erase(it);
  return true;
}

const allocation *nearest(const void *p) {
  auto it = live.upper_bound((const char *)p);
  if (it == live.begin()) return nullptr;
  return &(--it)->second;
}

const allocation *find(const void *p) {
  const allocation *a = nearest(p);
  return a && (const char *)p < a->p + (a->bytes ? a->bytes : 1) ? a : nullptr;
}

bool in_region(const void *p) { return region && (const char *)p >= region && (const char *)p < region + 2 * half_bytes; }
size_t used_bytes() { return used; }

static void protect(int how) {
  for (auto &entry : live) {
    allocation &a = entry.second;
    if (a.kind != DEVICE) continue;
    size_t room = (a.bytes + 255) / 256 * 256, n = span(room ? room : 1);
    mprotect(a.p + room - n, n, how);
  }
}
void open_memory() {
  if (!opened) protect(PROT_READ | PROT_WRITE);
  opened = true;
}
void close_memory() {
  if (opened) protect(PROT_NONE);
  opened = false;
}

static bool inside(const void *p, size_t bytes, const char *what) {
  if (!in_region(p)) return true;  // the host's own
  const allocation *a = find(p);
  if (a && (const char *)p + bytes <= a->p + a->bytes) return true;
  report("%s of %zu bytes at %p leaves its allocation%s", what, bytes, p, a ? "" : " (there is none)");
  return false;
}

void copy(void *dst, const void *src, size_t bytes) {
  if (!inside(dst, bytes, "a copy to") || !inside(src, bytes, "a copy from")) return;
  if (in_region(src) && !in_region(dst)) shadow_must_be_initialised(src, bytes, "a copy to the host");
  memmove(dst, src, bytes);
  if (in_region(src) && in_region(dst)) shadow_copied(dst, src, bytes);
  else if (in_region(dst)) shadow_written(dst, bytes);
}

void set(void *p, int value, size_t bytes) {
  if (!inside(p, bytes, "a memset")) return;
  memset(p, value, bytes);
  shadow_written(p, bytes);
}
}  // namespace cusim
