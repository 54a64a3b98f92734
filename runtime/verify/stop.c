// stop.c: takes a thread out of a C function of LuaJIT, LPeg or PCRE2 that does not come back (string.find on a pattern that
// explodes, string.rep of gigabytes, a grammar without end), so that its worker goes on with the next job.
//
// The watchdog sends the thread a signal; the handler jumps back to where the cell called Lua (siglongjmp), and the cell frees
// every block of its state (cell.c keeps them in a list) without running any more of it. That is sound only where the
// interrupted code holds no lock and is not halfway through a structure that outlives the state. Hence the handler jumps only
//   - past the deadline of the cell that this thread is running now (a late signal is ignored);
//   - when the instruction pointer lies in the text of one of those three libraries. Their functions take no locks and own
//   nothing
//     but the state's memory; the allocator, cJSON and libc lie elsewhere, and a thread caught there is asked again.
// When the libraries are linked into the program itself, or on a processor whose registers are not known here, nothing is ever
// jumped out of, and pool.c abandons the thread instead.
#include "verify.h"
#include <link.h>
#include <lua5.1/lua-lpeg.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

static struct { uintptr_t from, to; } texts[4];
static int n_texts;
static _Thread_local tl_cell *volatile running;

// Remembers the executable segment that holds the address, unless it is the program's own.
static int find_text(struct dl_phdr_info *info, size_t size, void *arg) {
  (void)size;
  uintptr_t at = (uintptr_t)arg;
  if (!info->dlpi_name[0])
    return 0; // the program
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *h = &info->dlpi_phdr[i];
    uintptr_t from = info->dlpi_addr + h->p_vaddr, to = from + h->p_memsz;
    if (h->p_type != PT_LOAD || !(h->p_flags & PF_X) || at < from || at >= to)
      continue;
    texts[n_texts].from = from;
    texts[n_texts++].to = to;
    return 1;
  }
  return 0;
}

static uintptr_t instruction_pointer(void *context) {
#if defined(__x86_64__)
  return (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
  return (uintptr_t)((ucontext_t *)context)->uc_mcontext.pc;
#else
  (void)context;
  return 0;
#endif
}

static void on_stop(int sig, siginfo_t *info, void *context) {
  (void)sig, (void)info;
  tl_cell *c = running;
  if (!c || !tl_cell_over(c, 0))
    return;
  uintptr_t at = instruction_pointer(context);
  for (int i = 0; i < n_texts; i++)
    if (at >= texts[i].from && at < texts[i].to) {
      running = NULL;
      siglongjmp(c->back, 1);
    }
}

static void prepare(void) {
  void *const inside[] = {(void *)(uintptr_t)lua_pcall, (void *)(uintptr_t)luaopen_lpeg, (void *)(uintptr_t)pcre2_match_8};
  for (int i = 0; i < 3; i++) { // dladdr-like: through the procedure linkage table the address is the function's own
    dl_iterate_phdr(find_text, inside[i]);
  }
  struct sigaction act = {.sa_sigaction = on_stop, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigemptyset(&act.sa_mask);
  sigaction(TL_SIGSTOP_CALL, &act, NULL);
}

void tl_stop_prepare(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, prepare);
}

void tl_stop_arm(tl_cell *c) {
  running = c;
}

void tl_stop_send(pid_t tid) {
  syscall(SYS_tgkill, getpid(), tid, TL_SIGSTOP_CALL);
}
