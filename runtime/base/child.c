// child.c: processes that run beside this one, as the workers of a sweep do: started with this process's environment, waited
// for, and gone when this process goes.
//
// A worker calls tl_child_of(parent) first: from then on the kernel kills it when its parent ends, however that ends (Linux,
// PR_SET_PDEATHSIG). What it was doing must then be of the kind that may end anywhere: a transaction, or a file replaced at
// once.
#include "base.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// this process's environment with `extra` (NULL-terminated) in front: the first entry of a name counts
static char **environment(const char *const *extra) {
  size_t n = 0, m = 0;
  while (environ[n])
    n++;
  while (extra && extra[m])
    m++;
  char **all = malloc((n + m + 1) * sizeof *all);
  if (!all)
    return NULL;
  for (size_t i = 0; i < m; i++)
    all[i] = (char *)extra[i];
  memcpy(all + m, environ, (n + 1) * sizeof *all);
  return all;
}

tl_status tl_child_start(const char *const *argv, const char *const *env, const char *log_path, int64_t *pid) {
  char **all = environment(env);
  if (!all)
    return tl_fail(TL_E_MEMORY, "cannot start %s: out of memory", argv[0]);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  if (log_path) {
    posix_spawn_file_actions_addopen(&files, 1, log_path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
  }
  pid_t child;
  int failed = posix_spawnp(&child, argv[0], &files, NULL, (char *const *)argv, all);
  posix_spawn_file_actions_destroy(&files);
  free(all);
  if (failed)
    return tl_fail(TL_E_IO, "cannot start %s%s%s: %s", argv[0], log_path ? " with its output in " : "",
                   log_path ? log_path : "", strerror(failed));
  *pid = child;
  return TL_OK;
}

bool tl_child_poll(int64_t pid, int *exit_code, int *sig) {
  int status = 0;
  pid_t got;
  do
    got = waitpid((pid_t)pid, &status, WNOHANG);
  while (got < 0 && errno == EINTR);
  if (got == 0)
    return false;
  *exit_code = got > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  *sig = got > 0 && WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  return true;
}

void tl_child_kill(int64_t pid) {
  kill((pid_t)pid, SIGKILL);
}

void tl_child_of(int64_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != (pid_t)parent)
    _exit(1); // it went before the kernel knew
}

void tl_sleep(double seconds) {
  if (seconds > 0)
    usleep((useconds_t)(seconds * 1e6));
}
