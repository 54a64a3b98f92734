// line.c: one line of input at the REPL, edited with libedit: arrows, history, Ctrl-R, Tab.
//
//   host.readline(prompt, complete)   -> the line without its newline; nil at the end of input; false after Ctrl-C
//   host.history_open(path)           keeps the lines in this file (the last 2000)
//
// complete(line up to the cursor) returns a list of candidates and the number of bytes before the cursor that they replace.
// It is called from inside libedit through the Lua C API, in the state and the thread that called readline; what it raises is
// dropped. Ctrl-C comes as a signal that makes the read fail with EINTR; the line typed so far is then given up.
#include "host.h"
#include <errno.h>
#include <histedit.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>
#include <wchar.h>

static EditLine *editor;
static History *history_list;
static char history_path[4096];
static const char *prompt_text;
static lua_State *completing;  // the state whose argument 2 is the completer, while readline runs
static bool was_interrupted;

static char *give_prompt(EditLine *el) {
  (void)el;
  return (char *)prompt_text;
}

// One byte from stdin: 1, 0 at the end, -1 after Ctrl-C. The signal is let in only while waiting, so that one which comes between
// the look at the flag and the wait is not slept through.
static int get_byte(char *c) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGINT);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  int ready;
  do {
    fd_set in;
    FD_ZERO(&in);
    FD_SET(STDIN_FILENO, &in);
    ready = tl_interrupted() ? -1 : pselect(STDIN_FILENO + 1, &in, NULL, NULL, NULL, &before);
  } while (ready < 0 && errno == EINTR && !tl_interrupted());
  was_interrupted = tl_interrupted();
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (was_interrupted || ready < 0) return -1;
  ssize_t got = read(STDIN_FILENO, c, 1);
  if (got > 0 && *c == 0) *c = 4;  // how the terminal hands over a Ctrl-D that was pressed before the prompt came
  return got > 0 ? 1 : (int)got;
}

// One character of UTF-8 from stdin: 1, or 0 at the end, or -1 after Ctrl-C.
static int get_character(EditLine *el, wchar_t *out) {
  (void)el;
  mbstate_t shift = {0};
  for (;;) {
    char c;
    int got = get_byte(&c);
    if (got <= 0) return got;
    size_t used = mbrtowc(out, &c, 1, &shift);
    if (used == 0 || used == 1) return 1;
    if (used == (size_t)-1) shift = (mbstate_t){0};  // not UTF-8: leave it out
  }
}

// The longest beginning that all candidates (a Lua list at index) share.
static size_t common_prefix(lua_State *L, int index, int count, const char **first) {
  size_t common = 0;
  for (int i = 1; i <= count; i++) {
    lua_rawgeti(L, index, i);
    size_t n = 0;
    const char *s = lua_tolstring(L, -1, &n);
    if (!s) n = 0;
    if (i == 1) *first = s, common = n;
    else {
      size_t same = 0;
      while (same < n && same < common && s[same] == (*first)[same]) same++;
      common = same;
    }
    lua_pop(L, 1);  // the list keeps the strings alive
  }
  return common;
}

static void print_candidates(lua_State *L, int index, int count) {
  fputc('\n', stdout);
  for (int i = 1; i <= count && i <= 60; i++) {
    lua_rawgeti(L, index, i);
    const char *s = lua_tostring(L, -1);
    printf("%s%s", s ? s : "", i % 4 == 0 || i == count ? "\n" : "   ");
    lua_pop(L, 1);
  }
  if (count > 60) printf("... %d more\n", count - 60);
  fflush(stdout);
}

// Tab
static unsigned char complete(EditLine *el, int ch) {
  (void)ch;
  lua_State *L = completing;
  if (!L || !lua_isfunction(L, 2)) return CC_ERROR;
  const LineInfo *line = el_line(el);
  int top = lua_gettop(L);
  lua_pushvalue(L, 2);
  lua_pushlstring(L, line->buffer, (size_t)(line->cursor - line->buffer));
  if (lua_pcall(L, 1, 2, 0) != 0 || !lua_istable(L, top + 1)) {
    lua_settop(L, top);
    return CC_ERROR;
  }
  size_t replaced = (size_t)lua_tointeger(L, top + 2);
  int count = (int)lua_objlen(L, top + 1);
  const char *first = NULL;
  size_t common = common_prefix(L, top + 1, count, &first);
  unsigned char result = count ? CC_REFRESH : CC_ERROR;
  if (common > replaced) {
    char *text = strndup(first + replaced, common - replaced);
    if (!text || el_insertstr(el, text) != 0) result = CC_ERROR;
    free(text);
  } else if (count > 1) {
    print_candidates(L, top + 1, count);
    result = CC_REDISPLAY;
  }
  lua_settop(L, top);
  return result;
}

static bool make_editor(void) {
  if (editor) return true;
  editor = el_init("tlrun", stdin, stdout, stderr);
  if (!editor) return false;
  history_list = history_init();
  HistEvent ev;
  if (history_list) {
    history(history_list, &ev, H_SETSIZE, 2000);
    history(history_list, &ev, H_SETUNIQUE, 1);
    el_set(editor, EL_HIST, history, history_list);
  }
  el_set(editor, EL_PROMPT, give_prompt);
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_GETCFN, get_character);
  el_set(editor, EL_ADDFN, "tl-complete", "completes a name", complete);
  el_set(editor, EL_BIND, "^I", "tl-complete", NULL);
  el_set(editor, EL_BIND, "^R", "em-inc-search-prev", NULL);
  el_set(editor, EL_BIND, "\033[1~", "ed-move-to-beg", NULL);
  el_set(editor, EL_BIND, "\033[4~", "ed-move-to-end", NULL);
  el_set(editor, EL_BIND, "\033[3~", "ed-delete-next-char", NULL);
  return true;
}

int host_history_open(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  HistEvent ev;
  if (!make_editor() || !history_list || strlen(path) >= sizeof history_path) return 0;
  strcpy(history_path, path);
  history(history_list, &ev, H_LOAD, history_path);
  return 0;
}

static void remember(const char *line) {
  HistEvent ev;
  if (!history_list || !line[strspn(line, " \t\r\n")]) return;
  history(history_list, &ev, H_ENTER, line);
  if (history_path[0]) history(history_list, &ev, H_SAVE, history_path);
}

int host_readline(lua_State *L) {
  prompt_text = luaL_checkstring(L, 1);
  lua_settop(L, 2);
  if (!make_editor()) return luaL_error(L, "the terminal cannot be edited on");
  completing = L;
  was_interrupted = false;
  int n = 0;
  el_set(editor, EL_PREP_TERM, 1);  // before the prompt shows, so that a key pressed on seeing it is not lost to line mode
  const char *line = el_gets(editor, &n);
  completing = NULL;
  if (was_interrupted) {
    host_interrupt_clear(L);
    fputs("^C\n", stdout);
    fflush(stdout);
    lua_pushboolean(L, 0);
  } else if (!line || n <= 0) {
    lua_pushnil(L);
  } else {
    remember(line);
    lua_pushlstring(L, line, line[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n);
  }
  return 1;
}
