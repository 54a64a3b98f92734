// process.c: runs a program to its end, with a wall limit and a limit on what it writes, and says how it ended.
//
// The child gets its own process group, the three standard files (pipes), no other file, and an environment of PATH, HOME, LANG
// alone; at a limit the group is killed. Its input is written and its output read in turn (poll), so that neither side waits
// for the other. posix_spawn starts it: a fork would copy the page tables of the model that is loaded here.
#include "base.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct sink {
  tl_str text;
  int fd;
  int64_t limit;
  bool flooded;
} sink;

static int spawn(pid_t *pid, const char *const *argv, int in, int out, int err) {
  static char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8", NULL};
  posix_spawn_file_actions_t files;
  posix_spawnattr_t how;
  sigset_t none, usual;
  sigemptyset(&none);
  sigemptyset(&usual);
  sigaddset(&usual, SIGPIPE);
  sigaddset(&usual, SIGINT);
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, in, 0);
  posix_spawn_file_actions_adddup2(&files, out, 1);
  posix_spawn_file_actions_adddup2(&files, err, 2);
  posix_spawn_file_actions_addclosefrom_np(&files, 3);
  posix_spawnattr_init(&how);
  posix_spawnattr_setflags(&how, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&how, 0);
  posix_spawnattr_setsigmask(&how, &none);
  posix_spawnattr_setsigdefault(&how, &usual);
  int failed = posix_spawnp(pid, argv[0], &files, &how, (char *const *)argv, environment);
  posix_spawnattr_destroy(&how);
  posix_spawn_file_actions_destroy(&files);
  return failed;
}

// Reads what is there; false at the end of the file or over the limit.
static bool drain(sink *s) {
  char part[16384];
  ssize_t n = read(s->fd, part, sizeof part);
  if (n < 0)
    return errno == EAGAIN || errno == EINTR;
  if (n == 0)
    return false;
  int64_t room = s->limit - (int64_t)s->text.n;
  tl_str_add(&s->text, part, (size_t)(n < room ? n : room));
  s->flooded = n > room;
  return !s->flooded;
}

// Feeds and drains until both outputs are closed, a limit is met, or the time is over.
static void converse(int in, const char *input, size_t n, sink *sinks, double until, bool *timed_out) {
  size_t sent = 0;
  while (sinks[0].fd >= 0 || sinks[1].fd >= 0) {
    double left = until - tl_seconds();
    if (left <= 0) {
      *timed_out = true;
      break;
    }
    if (in >= 0 && sent == n) {
      close(in);
      in = -1;
    }
    struct pollfd p[3] = {{sinks[0].fd, POLLIN, 0}, {sinks[1].fd, POLLIN, 0}, {in, POLLOUT, 0}};
    if (poll(p, 3, (int)(left * 1000) + 1) < 0 && errno != EINTR)
      break;
    if (in >= 0 && p[2].revents) {
      ssize_t w = write(in, input + sent, n - sent);
      if (w > 0)
        sent += (size_t)w;
      if (w < 0 && errno != EAGAIN && errno != EINTR)
        sent = n; // it does not want its input
    }
    for (int i = 0; i < 2; i++)
      if (sinks[i].fd >= 0 && p[i].revents && !drain(&sinks[i])) {
        close(sinks[i].fd);
        sinks[i].fd = -1;
        if (sinks[i].flooded)
          goto done;
      }
  }
done:
  if (in >= 0)
    close(in);
  for (int i = 0; i < 2; i++)
    if (sinks[i].fd >= 0)
      close(sinks[i].fd);
}

static void close_all(int fds[3][2]) {
  for (int i = 0; i < 3; i++)
    for (int k = 0; k < 2; k++)
      if (fds[i][k] >= 0)
        close(fds[i][k]);
}

// Waits for the child; past the time its group is killed. False: the system does not tell how it ended, which is not an exit code of 0.
static bool reap(pid_t pid, double until, tl_process_result *r) {
  int status = 0;
  pid_t got;
  struct rusage used = {0};
  while ((got = wait4(pid, &status, WNOHANG, &used)) == 0) {
    if (tl_seconds() >= until) {
      r->timed_out = r->timed_out || !r->flooded;
      kill(-pid, SIGKILL);
      got = wait4(pid, &status, 0, &used);
      break;
    }
    usleep(500);
  }
  int e = errno;
  kill(-pid, SIGKILL); // what it left behind in its group
  errno = e;
  r->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  r->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  r->cpu_seconds = (double)used.ru_utime.tv_sec + (double)used.ru_stime.tv_sec +
                   1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  r->peak_bytes = (int64_t)used.ru_maxrss * 1024;
  return got == pid;
}

static char *take_text(tl_str *s) {
  tl_str_add(s, "", 0);
  return s->p ? s->p : calloc(1, 1);
}

tl_status tl_process_run(const char *const *argv, const char *input, size_t n_input, int wall_ms, int64_t max_output,
                         tl_process_result *out) {
  *out = (tl_process_result){0};
  int fds[3][2] = {{-1, -1}, {-1, -1}, {-1, -1}};
  for (int i = 0; i < 3; i++)
    if (pipe2(fds[i], O_CLOEXEC) != 0) {
      close_all(fds);
      return tl_fail(TL_E_IO, "cannot make a pipe: %s", strerror(errno));
    }
  double began = tl_seconds(), until = began + wall_ms * 1e-3;
  pid_t pid;
  int failed = spawn(&pid, argv, fds[0][0], fds[1][1], fds[2][1]);
  if (failed) {
    close_all(fds);
    return tl_fail(TL_E_IO, "cannot start %s: %s", argv[0], strerror(failed));
  }
  close(fds[0][0]), close(fds[1][1]), close(fds[2][1]);
  fcntl(fds[0][1], F_SETFL, O_NONBLOCK);
  sigset_t pipe_signal, before; // a child that does not read must not end us
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &before);
  sink sinks[2] = {{.fd = fds[1][0], .limit = max_output}, {.fd = fds[2][0], .limit = max_output}};
  converse(fds[0][1], input, n_input, sinks, until, &out->timed_out);
  out->flooded = sinks[0].flooded || sinks[1].flooded;
  bool told = reap(pid, out->flooded || out->timed_out ? 0 : until, out);
  int e = errno;
  struct timespec now = {0};
  while (sigtimedwait(&pipe_signal, NULL, &now) > 0) {
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!told) {
    tl_str_free(&sinks[0].text), tl_str_free(&sinks[1].text);
    return tl_fail(TL_E_IO, "%s: how it ended is not known: %s%s", argv[0], strerror(e), e == ECHILD ? " (SIGCHLD is ignored)" : "");
  }
  out->seconds = tl_seconds() - began;
  out->n_out = sinks[0].text.n, out->n_err = sinks[1].text.n;
  out->out = take_text(&sinks[0].text), out->err = take_text(&sinks[1].text);
  return TL_OK;
}
