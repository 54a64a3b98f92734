// pool.c: the threads of the CPU backend. One job at a time: `items` calls of a function, shared among the caller and workers.
//
// Why not OpenMP: its regions end in a barrier of all threads, so on a machine that does anything else (a laptop, a shared
// server) every small op waits until the scheduler has run each thread once, milliseconds for microseconds of work. Here items
// are taken by whoever is running, in shrinking runs of neighbours, and the caller waits only for items that were taken: a
// worker that is not scheduled costs nothing. Results cannot depend on who took what: items write disjoint memory.
//
// state = generation << 32 | next item. Workers read the job's fields and then take items by compare-and-swap, which fails if
// the generation moved meanwhile; the caller closes the state, writes the fields, and opens the next generation. Idle workers
// spin for some microseconds, then sleep. Workers block all signals. A forked child starts its own.
//
// Workers go where the scheduler puts them, as a worker bound to a processor that another program has would wait for it. The environment
// variable TL_PIN=1 binds worker i to the i-th processor that the process may use, the first being 0; the caller stays free, since programs
// and threads that it starts would inherit its place.
#define _GNU_SOURCE
#include "cpu.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>

enum { MAX_WORKERS = 256, SPINS = 4000, SMALL = 12000, CLOSED = 0x7fffffff };

static int n_threads, n_workers;  // workers are threads 1 .. n_workers; the caller is thread 0
static atomic_ullong state = CLOSED;
static _Atomic(tlk_task *) job_fn;
static _Atomic(const void *) job_ctx;
static atomic_int job_items, job_threads, done, sleepers;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

static void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Takes runs of items of the open job until none is left.
static void work(int thread) {
  for (;;) {
    unsigned long long s = atomic_load_explicit(&state, memory_order_acquire);
    int next = (int)(s & 0xffffffffu), items = atomic_load(&job_items), threads = atomic_load(&job_threads);
    tlk_task *fn = atomic_load(&job_fn);
    const void *ctx = atomic_load(&job_ctx);
    if (next >= items || thread >= threads) return;
    int run = max_int(1, (items - next) / (4 * threads));
    if (!atomic_compare_exchange_weak(&state, &s, s + (unsigned)run)) continue;
    for (int i = next; i < next + run; i++) fn(ctx, i, thread);
    atomic_fetch_add_explicit(&done, run, memory_order_release);
  }
}

static void *worker(void *arg) {
  int thread = (int)(intptr_t)arg;
  unsigned long long seen = CLOSED;
  for (;;) {
    int spins = 0;
    while (atomic_load(&state) >> 32 == seen >> 32 && spins < SPINS) {
      pause_cpu();
      spins++;
    }
    if (spins == SPINS) {
      pthread_mutex_lock(&lock);
      atomic_fetch_add(&sleepers, 1);
      while (atomic_load(&state) >> 32 == seen >> 32) pthread_cond_wait(&wake, &lock);
      atomic_fetch_sub(&sleepers, 1);
      pthread_mutex_unlock(&lock);
    }
    seen = atomic_load(&state);
    work(thread);
  }
  return NULL;
}

static void after_fork(void) {
  n_workers = 0;
  atomic_store(&sleepers, 0);
  pthread_mutex_init(&lock, NULL);
  pthread_cond_init(&wake, NULL);
}

// binds worker i, if TL_PIN says so; where that is refused it stays free
static void bind_worker(pthread_t t, int i) {
  const char *pin = getenv("TL_PIN");
  cpu_set_t may, one;
  if (!pin || strcmp(pin, "1") || sched_getaffinity(0, sizeof may, &may)) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &may) && i-- == 0) {
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      pthread_setaffinity_np(t, sizeof one, &one);
      return;
    }
}

static void start_workers(int n) {
  static int registered;
  if (!registered) registered = pthread_atfork(NULL, NULL, after_fork) == 0;
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  while (n_workers < n && n_workers < MAX_WORKERS) {
    pthread_t t;
    if (pthread_create(&t, NULL, worker, (void *)(intptr_t)(n_workers + 1))) break;
    bind_worker(t, n_workers + 1);
    pthread_detach(t);
    n_workers++;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static int online(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return 1;
}

void tlk_cpu_set_threads(int n) { n_threads = min_int(n > 0 ? n : online(), MAX_WORKERS); }

int tlk_cpu_threads(void) {
  if (!n_threads) tlk_cpu_set_threads(0);
  return n_threads;
}

void tlk_run(int items, double cost, tlk_task *fn, const void *ctx) {
  int threads = items > 1 && cost >= SMALL ? tlk_cpu_threads() : 1;
  if (threads == 1) {
    for (int i = 0; i < items; i++) fn(ctx, i, 0);
    return;
  }
  if (n_workers < threads - 1) start_workers(threads - 1);
  unsigned long long generation = (atomic_load(&state) >> 32) + 1;
  atomic_store(&state, (generation - 1) << 32 | CLOSED);
  atomic_store(&job_items, items);
  atomic_store(&job_threads, threads);
  atomic_store(&job_fn, fn);
  atomic_store(&job_ctx, ctx);
  atomic_store(&done, 0);
  atomic_store(&state, generation << 32);
  if (atomic_load(&sleepers)) {
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
  }
  work(0);
  for (int spins = 0; atomic_load_explicit(&done, memory_order_acquire) < items; spins++) {
    if (spins < SPINS)
      pause_cpu();
    else
      sched_yield();
  }
}
