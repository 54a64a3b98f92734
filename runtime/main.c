// main.c: the program tlrun. It makes the Lua state, says where the Lua side lives, and hands the arguments to
// lua/tl/cli/init.lua; everything a user sees is decided there.
//
// Where the Lua side is looked for, in this order: the folder named by TL_LUA; ../lua beside the executable (a build folder
// inside the sources); ../share/tlrun/lua (an installation); the sources this program was built from. The folder above it is
// the root: recipes, verifiers and the embedded models are found below it.
//
// Ctrl-C. The first one asks running C calls to stop (tl_interrupt) and Lua to raise an error at its next call, return or
// thousandth instruction; code that LuaJIT has compiled does not look, so outside the REPL a second Ctrl-C within a second
// ends the process. Only the main thread touches the Lua state: a signal that another thread gets is sent on to it.
#include "host.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <lualib.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char cdef[] =
#include "tl_cdef.h"
    ;
static char lua_dir[PATH_MAX], root_dir[PATH_MAX], exe_path[PATH_MAX];
static lua_State *state;
static pthread_t main_thread;
static volatile sig_atomic_t interactive;

// What lua/tl/ffi.lua reads through the FFI, in this state and in those of worker threads. Not part of tl.h: a program that
// embeds the library has no Lua side.
const char *tlrun_cdef(void) { return cdef; }
const char *tlrun_lua_dir(void) { return lua_dir; }
const char *tlrun_root(void) { return root_dir; }
const char *tlrun_exe(void) { return exe_path; }

// ---- Ctrl-C

static void on_hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted");
}

static void on_sigint(int sig) {
  static volatile double last = -10;
  if (!pthread_equal(pthread_self(), main_thread)) {
    pthread_kill(main_thread, sig);
    return;
  }
  int keep = errno;
  double now = tl_seconds();
  if (!interactive && now - last < 1.0) {
    signal(sig, SIG_DFL);
    raise(sig);
  }
  last = now;
  tl_interrupt();
  lua_sethook(state, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1000);
  errno = keep;
}

// host.interrupt_clear(): forgets a Ctrl-C that has been dealt with
int host_interrupt_clear(lua_State *L) {
  lua_sethook(L, NULL, 0, 0);
  tl_interrupt_clear();
  return 0;
}

// host.interactive(flag): in the REPL a second Ctrl-C does not end the process
static int host_interactive(lua_State *L) {
  interactive = lua_toboolean(L, 1);
  return 0;
}

// host.isatty(fd)
static int host_isatty(lua_State *L) {
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

static int open_host(lua_State *L) {
  static const luaL_Reg functions[] = {{"interrupt_clear", host_interrupt_clear}, {"interactive", host_interactive},
                                       {"isatty", host_isatty}, {"readline", host_readline},
                                       {"history_open", host_history_open}, {NULL, NULL}};
  lua_newtable(L);
  luaL_register(L, NULL, functions);
  return 1;
}

// ---- where things are

static void parent_of(char *path) {
  char *slash = strrchr(path, '/');
  if (slash && slash != path) *slash = 0;
}

// Takes the folder when it holds the Lua side.
static bool try_lua_dir(const char *format, const char *base) {
  char path[PATH_MAX], probe[PATH_MAX + 16];
  if (snprintf(path, sizeof path, format, base) >= (int)sizeof path || !realpath(path, lua_dir)) return false;
  snprintf(probe, sizeof probe, "%s/tl/init.lua", lua_dir);
  return access(probe, R_OK) == 0;
}

static bool find_lua_dir(void) {
  char here[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", exe_path, sizeof exe_path - 1);
  exe_path[n < 0 ? 0 : n] = 0;
  strcpy(here, exe_path);
  parent_of(here);
  const char *env = getenv("TL_LUA");
  bool found = env && *env ? try_lua_dir("%s", env)
                           : try_lua_dir("%s/../lua", here) || try_lua_dir("%s/../share/tlrun/lua", here) ||
                                 try_lua_dir("%s/lua", TL_SOURCE_DIR);
  if (!found) return false;
  strcpy(root_dir, lua_dir);
  parent_of(root_dir);
  return true;
}

static void set_package_path(lua_State *L) {
  lua_getglobal(L, "package");
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s/?.lua;./?.lua", lua_dir, lua_dir, root_dir);
  lua_setfield(L, -2, "path");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, open_host);
  lua_setfield(L, -2, "tl.host");
  lua_pushcfunction(L, luaopen_lpeg);
  lua_setfield(L, -2, "lpeg");
  lua_pop(L, 2);
}

// main(args) of lua/tl/cli/init.lua returns the exit code.
static int run(lua_State *L, int argc, char **argv) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "tl.cli");
  if (lua_pcall(L, 1, 1, 0) != 0) return -1;
  lua_getfield(L, -1, "main");
  lua_createtable(L, argc, 1);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  if (lua_pcall(L, 1, 1, 0) != 0) return -1;
  return (int)lua_tointeger(L, -1);
}

// 0, 1 and 2 are taken: a file that is opened where stderr was closed would get its lines
static void take_standard_files(void) {
  int fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd < 3) fd = open("/dev/null", O_RDWR);
  if (fd >= 0) close(fd);
}

int main(int argc, char **argv) {
  take_standard_files();
  if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
  if (!find_lua_dir()) {
    fprintf(stderr, "tlrun: the Lua side (lua/tl/init.lua) is not where it is looked for; set TL_LUA to its folder\n");
    return 1;
  }
  lua_State *L = state = luaL_newstate();
  if (!L) {
    fprintf(stderr, "tlrun: out of memory\n");
    return 1;
  }
  main_thread = pthread_self();
  luaL_openlibs(L);
  set_package_path(L);
  struct sigaction on_int = {.sa_handler = on_sigint};
  sigaction(SIGINT, &on_int, NULL);
  signal(SIGPIPE, SIG_DFL);
  signal(SIGCHLD, SIG_DFL);  // who started this program may ignore it, and the system then tells nobody how a child ended
  int code = run(L, argc, argv);
  if (code < 0) {
    const char *message = lua_tostring(L, -1);
    fprintf(stderr, "tlrun: %s\n", message ? message : "error without a message");
    code = 1;
  }
  if ((fflush(stdout) || ferror(stdout)) && !code) {
    fprintf(stderr, "tlrun: standard output could not be written: %s\n", strerror(errno));
    code = 1;
  }
  signal(SIGINT, SIG_DFL);
  lua_close(L);
  return code;
}
