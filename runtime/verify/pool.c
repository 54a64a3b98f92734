// pool.c: a verifier pool, N threads that each own a cell (cell.c) and take jobs from one queue.
//
// A job's outcome is one of "ok", "abstain", "error", "timeout" and "memory": a verifier that fails is never a silent 0.
// Verdicts come out in the order in which they are reached, with the job's id, so that nothing downstream may depend on order.
//
// Three things can stop a call, from mild to hard:
//   1. the cell's count hook raises an error in Lua code past the deadline;
//   2. the cell's allocator refuses;
//   3. one C function that does not come back: the watchdog, from GRACE_S after the deadline on, has stop.c take the thread out
//      of it; that works inside LuaJIT (string.find on a pattern that explodes), LPeg and PCRE2;
//   4. elsewhere (a sleep through the FFI): after STOP_TRIES the watchdog answers the job "timeout", abandons the thread and
//      starts another in its place.
// An abandoned thread runs on at the lowest priority, ends when its call returns, and is never waited for, neither by
// tl_pool_free nor at exit. At most MAX_STUCK of them may run at once; beyond that the slot stays empty until one has ended,
// and when no slot is left the waiting jobs are answered "timeout" with that reason.
//
// A worker gives way to the sampler: at option nice = 19 it runs when nothing else wants the processor (SCHED_IDLE), below that
// at a lower priority; what it starts inherits that. A call's time does not count what its thread waited for a processor
// (tl_cell_over).
//
// Memory: a job is one block with its two strings, freed when its verdict is replaced by the next. The pool is
// reference-counted: its owner and every thread hold one, the last one frees it, so that an abandoned thread always finds its
// mutex.
#include "verify.h"
#include "../base/profile.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LEAST = 19, MAX_WORKERS = 256, MAX_STUCK = 32, STOP_TRIES = 20 };
static const double GRACE_S = TL_LATE_S, RETRY_S = 0.005, LOAD_LIMIT_S = 30, IDLE_S = 0.25;

typedef struct job {
  struct job *next;
  int64_t id;
  tl_outcome outcome;
  double reward, seconds;
  tl_str message;
  const char *problem, *completion; // inside text
  char text[];
} job;

typedef struct queue {
  job *head, **tail;
} queue;

typedef struct worker {
  struct tl_pool *pool;
  tl_cell cell;
  int slot;
  pid_t tid;
  job *job; // the running call; NULL when idle. Taken away by the watchdog when it abandons the worker
  double started;
  double hard_limit; // tl_seconds() after which the watchdog steps in; 0: nothing runs
  int tries;         // how often it has asked the thread to leave its call
  double ran;        // the thread's time on a processor when it was asked last; -1: not yet
  bool first_load;   // tl_pool_create waits for this worker's verifier
  bool abandoned;
} worker;

struct tl_pool {
  pthread_mutex_t lock;
  pthread_cond_t work, done, watch; // for workers; for take, create and free; for the watchdog
  tl_cell_options options;
  int nice; // added to the priority of this process's threads
  int n_slots, n_live, n_stuck, references;
  int n_loading; // first loads that create waits for
  tl_str load_error;
  bool closing;
  worker *slots[MAX_WORKERS]; // NULL: empty
  queue waiting, finished;
  job *taken;
  int64_t next_id, n_pending;
};

// ---- queues and time

static void queue_init(queue *q) {
  *q = (queue){NULL, &q->head};
}

static void queue_push(queue *q, job *j) {
  j->next = NULL;
  *q->tail = j;
  q->tail = &j->next;
}

static job *queue_pop(queue *q) {
  job *j = q->head;
  if (!j)
    return NULL;
  q->head = j->next;
  if (!q->head)
    q->tail = &q->head;
  return j;
}

static void job_free(job *j) {
  if (!j)
    return;
  tl_str_free(&j->message);
  free(j);
}

// Waits on the condition until tl_seconds() == when; false when that time has come.
static bool wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, double when) {
  struct timespec t = {.tv_sec = (time_t)when, .tv_nsec = (long)((when - floor(when)) * 1e9)};
  return pthread_cond_timedwait(cond, lock, &t) != ETIMEDOUT;
}

// ---- threads; "locked" functions run under pool->lock

static void release_locked(tl_pool *p) {
  bool last = --p->references == 0;
  pthread_mutex_unlock(&p->lock);
  if (!last)
    return;
  job *j;
  while ((j = queue_pop(&p->waiting)) || (j = queue_pop(&p->finished)))
    job_free(j);
  job_free(p->taken);
  tl_str_free(&p->load_error);
  free(p->options.lua_path);
  free(p->options.module);
  free(p->options.config_json);
  free(p->options.chunk);
  pthread_cond_destroy(&p->work);
  pthread_cond_destroy(&p->done);
  pthread_cond_destroy(&p->watch);
  pthread_mutex_destroy(&p->lock);
  free(p);
}

static void finish_locked(tl_pool *p, job *j, tl_outcome outcome, double reward) {
  j->outcome = outcome;
  j->reward = reward;
  queue_push(&p->finished, j);
  pthread_cond_broadcast(&p->done);
}

static bool thread_start(tl_pool *p, void *(*fn)(void *), void *arg) {
  pthread_attr_t attr;
  pthread_t thread;
  sigset_t interrupt, old;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT); // Ctrl-C belongs to the main thread
  pthread_attr_init(&attr);
  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
  pthread_sigmask(SIG_BLOCK, &interrupt, &old);
  bool ok = pthread_create(&thread, &attr, fn, arg) == 0;
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&attr);
  p->references += ok;
  return ok;
}

// From here the watchdog may take the worker's job away after limit seconds and the grace.
static void begin_locked(worker *w, double limit) {
  tl_cell_begin(&w->cell, limit);
  w->started = w->cell.began;
  w->hard_limit = w->cell.deadline + GRACE_S;
  w->tries = 0;
  w->ran = -1;
  pthread_cond_signal(&w->pool->watch);
}

// Loads the verifier, unlocked while it does. False when the worker was abandoned meanwhile or the verifier does not load.
static bool load_locked(worker *w, tl_str *message) {
  tl_pool *p = w->pool;
  begin_locked(w, LOAD_LIMIT_S);
  pthread_mutex_unlock(&p->lock);
  bool ok = tl_cell_load(&w->cell, LOAD_LIMIT_S, message);
  pthread_mutex_lock(&p->lock);
  if (!w->abandoned)
    w->hard_limit = 0;
  return ok && !w->abandoned;
}

static void first_load_done_locked(worker *w, const char *error) {
  tl_pool *p = w->pool;
  if (!w->first_load)
    return;
  w->first_load = false;
  if (error && !p->load_error.n)
    tl_str_add(&p->load_error, error, strlen(error));
  p->n_loading--;
  pthread_cond_broadcast(&p->done);
}

static void run_job_locked(worker *w, job *j) {
  tl_pool *p = w->pool;
  tl_str message = {0};
  w->job = j;
  if (!w->cell.L && !load_locked(w, &message)) {
    if (!w->abandoned) {
      w->job = NULL;
      j->message = message;
      finish_locked(p, j, TL_V_ERROR, NAN);
      return;
    }
  } else {
    begin_locked(w, p->options.timeout_s);
    pthread_mutex_unlock(&p->lock);
    double reward;
    tl_outcome outcome = tl_cell_call(&w->cell, j->problem, j->completion, &reward, &message);
    pthread_mutex_lock(&p->lock);
    if (!w->abandoned) {
      w->hard_limit = 0;
      w->job = NULL;
      j->seconds = tl_seconds() - w->started;
      j->message = message;
      finish_locked(p, j, outcome, reward);
      return;
    }
  }
  tl_str_free(&message); // abandoned: the watchdog has answered, and left the job's strings to this thread
  job_free(j);
}

static void *worker_main(void *arg) {
  worker *w = arg;
  tl_pool *p = w->pool;
  tl_str error = {0};
  pthread_mutex_lock(&p->lock);
  w->tid = (pid_t)syscall(SYS_gettid);
  setpriority(PRIO_PROCESS, (id_t)w->tid, getpriority(PRIO_PROCESS, 0) + p->nice);
  if (p->nice == LEAST)
    sched_setscheduler(w->tid, SCHED_IDLE, &(struct sched_param){0});
  tl_cell_clock_open(&w->cell);
  if (w->first_load) {
    bool ok = load_locked(w, &error);
    first_load_done_locked(w, ok ? NULL : error.n ? error.p : "the verifier does not load");
    tl_str_free(&error);
  }
  while (!w->abandoned && !p->closing) {
    job *j = queue_pop(&p->waiting);
    if (j)
      run_job_locked(w, j);
    else
      pthread_cond_wait(&p->work, &p->lock);
  }
  pthread_mutex_unlock(&p->lock);
  tl_cell_close(&w->cell);
  pthread_mutex_lock(&p->lock);
  if (w->cell.clock_fd >= 0)
    close(w->cell.clock_fd);
  if (w->abandoned) {
    p->n_stuck--;
  } else {
    p->slots[w->slot] = NULL;
    p->n_live--;
  }
  pthread_cond_broadcast(&p->done);
  pthread_cond_broadcast(&p->watch);
  free(w);
  release_locked(p);
  return NULL;
}

static bool worker_start_locked(tl_pool *p, int slot, bool first_load) {
  worker *w = calloc(1, sizeof *w);
  if (!w)
    return false;
  w->pool = p;
  w->slot = slot;
  w->first_load = first_load;
  w->cell.options = &p->options;
  w->cell.clock_fd = -1;
  if (!thread_start(p, worker_main, w)) {
    free(w);
    return false;
  }
  p->slots[slot] = w;
  p->n_live++;
  return true;
}

// ---- watchdog

static void abandon_locked(tl_pool *p, worker *w) {
  w->abandoned = true;
  w->hard_limit = 0;
  p->slots[w->slot] = NULL;
  p->n_live--;
  p->n_stuck++;
  if (w->tid)
    setpriority(PRIO_PROCESS, (id_t)w->tid, 19);
  first_load_done_locked(w, "loading the verifier does not come back");
  if (!w->job)
    return;
  job *j = calloc(1, sizeof *j); // the abandoned thread may still read the strings of its job
  TL_ASSERT(j != NULL);
  j->id = w->job->id;
  w->job = NULL;
  j->seconds = tl_seconds() - w->started;
  tl_str_printf(&j->message, "over the time limit of %.4g s, inside one call that cannot be stopped; its thread was abandoned",
                w->cell.limit);
  finish_locked(p, j, TL_V_TIMEOUT, NAN);
}

// Fills empty slots; when there are none left to work, answers what waits.
static void refill_locked(tl_pool *p) {
  for (int i = 0; i < p->n_slots && p->n_stuck < MAX_STUCK; i++)
    if (!p->slots[i] && !worker_start_locked(p, i, false))
      break;
  if (p->n_live > 0)
    return;
  for (job *j; (j = queue_pop(&p->waiting));) {
    tl_str_printf(&j->message, "not run: %d earlier calls do not come back, and no more threads are started", p->n_stuck);
    finish_locked(p, j, TL_V_TIMEOUT, NAN);
  }
}

// Is a thread ready to run, and has it had no processor since it was asked last? Then it cannot have answered.
static bool starved(worker *w) {
  double ran, waited;
  tl_cell_clock(&w->cell, &ran, &waited);
  bool same = ran == w->ran;
  w->ran = ran;
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)w->tid);
  FILE *f = same ? fopen(path, "re") : NULL;
  size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
  if (f)
    fclose(f);
  text[n] = 0;
  const char *state = strrchr(text, ')'); // "pid (name) state ..."
  return state && state[1] == ' ' && state[2] == 'R';
}

// Past the hard limit: asks the thread to leave its call. Called STOP_TRIES times before it is abandoned.
static void ask_locked(worker *w, double now) {
  double due = tl_cell_due(&w->cell) + GRACE_S;
  if (due > now) { // it waited for a processor
    w->hard_limit = due;
    return;
  }
  if (!starved(w) && w->tries++ >= STOP_TRIES)
    return;
  tl_stop_send(w->tid);
  w->hard_limit = now + RETRY_S;
}

static void *watchdog_main(void *arg) {
  tl_pool *p = arg;
  pthread_mutex_lock(&p->lock);
  while (!p->closing) {
    double now = tl_seconds(), next = 0;
    for (int i = 0; i < p->n_slots; i++) {
      worker *w = p->slots[i];
      if (!w || w->hard_limit == 0)
        continue;
      if (w->hard_limit <= now && w->tid)
        ask_locked(w, now);
      if (w->hard_limit <= now)
        abandon_locked(p, w);
      else if (next == 0 || w->hard_limit < next)
        next = w->hard_limit;
    }
    if (p->n_live < p->n_slots) {
      refill_locked(p);
      if (next == 0 || next > now + IDLE_S)
        next = now + IDLE_S;
    }
    if (next == 0)
      pthread_cond_wait(&p->watch, &p->lock);
    else
      wait_until(&p->watch, &p->lock, next);
  }
  release_locked(p);
  return NULL;
}

// ---- public

static tl_status copy_options(tl_pool *p, const tl_pool_options *o) {
  tl_cell_options *c = &p->options;
  p->nice = o->nice;
  c->timeout_s = (o->timeout_ms ? o->timeout_ms : 1000) * 1e-3;
  c->instructions = o->instructions;
  c->memory_bytes = (size_t)(o->memory_bytes ? o->memory_bytes : (int64_t)256 << 20);
  bool ok = true;
  if (o->lua_path)
    ok = ok && (c->lua_path = strdup(o->lua_path));
  if (o->module)
    ok = ok && (c->module = strdup(o->module));
  if (o->config_json)
    ok = ok && (c->config_json = strdup(o->config_json));
  if (o->chunk && (ok = ok && (c->chunk = malloc(o->chunk_bytes + 1))))
    memcpy(c->chunk, o->chunk, o->chunk_bytes);
  c->chunk_bytes = o->chunk_bytes;
  return ok ? TL_OK : tl_fail(TL_E_MEMORY, "out of memory for a verifier pool");
}

static tl_status check_options(const tl_pool_options *o) {
  if (!o->module == !o->chunk)
    return tl_fail(TL_E_ARG, "a verifier pool wants a module or a chunk, and not both");
  if (o->n_workers < 0 || o->n_workers > MAX_WORKERS)
    return tl_fail(TL_E_ARG, "n_workers is %d; a verifier pool has 1 to %d (0: 2)", o->n_workers, MAX_WORKERS);
  if (o->timeout_ms < 0)
    return tl_fail(TL_E_ARG, "timeout_ms is %d; it may not be negative", o->timeout_ms);
  if (o->nice < 0 || o->nice > LEAST)
    return tl_fail(TL_E_ARG, "nice is %d; a verifier pool takes 0 to %d", o->nice, LEAST);
  if (o->instructions < 0)
    return tl_fail(TL_E_ARG, "instructions is %lld; it may not be negative", (long long)o->instructions);
  if (o->memory_bytes < 0 || (o->memory_bytes > 0 && o->memory_bytes < 1 << 20))
    return tl_fail(TL_E_ARG, "memory_bytes is %lld; a Lua state wants at least 1 MiB", (long long)o->memory_bytes);
  return TL_OK;
}

static void init_threads(tl_pool *p) {
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC); // the clock of tl_seconds
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->work, &monotonic);
  pthread_cond_init(&p->done, &monotonic);
  pthread_cond_init(&p->watch, &monotonic);
  pthread_condattr_destroy(&monotonic);
}

tl_status tl_pool_create(const tl_pool_options *o, tl_pool **out) {
  *out = NULL;
  TL_TRY(check_options(o));
  tl_pool *p = calloc(1, sizeof *p);
  if (!p)
    return tl_fail(TL_E_MEMORY, "out of memory for a verifier pool");
  tl_stop_prepare();
  init_threads(p);
  queue_init(&p->waiting);
  queue_init(&p->finished);
  p->references = 1;
  tl_status status = copy_options(p, o);
  pthread_mutex_lock(&p->lock);
  if (status == TL_OK) {
    p->n_slots = o->n_workers ? o->n_workers : 2;
    for (int i = 0; i < p->n_slots; i++)
      p->n_loading += worker_start_locked(p, i, true);
    bool watched = p->n_live == p->n_slots && thread_start(p, watchdog_main, p);
    while (p->n_loading > 0)
      pthread_cond_wait(&p->done, &p->lock);
    if (!watched)
      status = tl_fail(TL_E_MEMORY, "the verifier pool cannot start %d threads", p->n_slots + 1);
    if (p->load_error.n)
      status = tl_fail(TL_E_FORMAT, "verifier: %s", p->load_error.p);
  }
  pthread_mutex_unlock(&p->lock);
  if (status != TL_OK) {
    tl_pool_free(p);
    return status;
  }
  *out = p;
  return TL_OK;
}

void tl_pool_free(tl_pool *p) {
  if (!p)
    return;
  pthread_mutex_lock(&p->lock);
  p->closing = true;
  for (int i = 0; i < p->n_slots; i++)
    if (p->slots[i])
      atomic_store(&p->slots[i]->cell.cancelled, true);
  pthread_cond_broadcast(&p->work);
  pthread_cond_broadcast(&p->watch);
  for (int i = 0; i < STOP_TRIES && p->n_live > 0; i++) {
    double until = tl_seconds() + RETRY_S;
    while (p->n_live > 0 && wait_until(&p->done, &p->lock, until)) {
    }
    for (int k = 0; k < p->n_slots; k++)
      if (p->slots[k] && p->slots[k]->tid && p->slots[k]->hard_limit)
        tl_stop_send(p->slots[k]->tid); // it is cancelled, so its call is over
  }
  for (int i = 0; i < p->n_slots; i++)
    if (p->slots[i])
      abandon_locked(p, p->slots[i]);
  release_locked(p);
}

tl_status tl_pool_submit(tl_pool *p, const char *problem_json, const char *completion_json, int64_t *id) {
  size_t a = strlen(problem_json) + 1, b = strlen(completion_json) + 1;
  job *j = calloc(1, sizeof *j + a + b);
  if (!j)
    return tl_fail(TL_E_MEMORY, "out of memory for a verifier's job of %zu bytes", a + b);
  memcpy(j->text, problem_json, a);
  memcpy(j->text + a, completion_json, b);
  j->problem = j->text;
  j->completion = j->text + a;
  pthread_mutex_lock(&p->lock);
  *id = j->id = ++p->next_id;
  p->n_pending++;
  queue_push(&p->waiting, j);
  pthread_cond_signal(&p->work);
  pthread_mutex_unlock(&p->lock);
  return TL_OK;
}

tl_status tl_pool_take(tl_pool *p, int wait_ms, tl_verdict *out, bool *got) {
  TL_SECTION("verifier: waiting");
  double until = tl_seconds() + wait_ms * 1e-3;
  pthread_mutex_lock(&p->lock);
  job_free(p->taken);
  p->taken = NULL;
  while (!p->finished.head && p->n_pending > 0) {
    if (wait_ms < 0)
      pthread_cond_wait(&p->done, &p->lock);
    else if (wait_ms == 0 || !wait_until(&p->done, &p->lock, until))
      break;
  }
  job *j = p->taken = queue_pop(&p->finished);
  *got = j != NULL;
  if (j) {
    p->n_pending--;
    *out = (tl_verdict){.job = j->id,
                        .reward = j->reward,
                        .outcome = tl_outcome_name(j->outcome),
                        .message = j->message.p ? j->message.p : "",
                        .seconds = j->seconds};
  }
  pthread_mutex_unlock(&p->lock);
  return TL_OK;
}

int tl_pool_pending(const tl_pool *p) {
  pthread_mutex_t *lock = (pthread_mutex_t *)&p->lock;
  pthread_mutex_lock(lock);
  int n = (int)p->n_pending;
  pthread_mutex_unlock(lock);
  return n;
}
