// cell.c: one Lua state with one verifier in it, called under limits.
//
// Time. The JIT is off in a cell, so LuaJIT's count hook fires every HOOK_COUNT instructions; past the deadline it raises an
// error, and from then on it fires at every instruction, so that a pcall in a loop cannot swallow it for good. The hook does
// not run inside a C function (string.find on a pattern that explodes): stop.c takes the thread out of those.
// The same hook counts instructions, a limit that strikes at the same place on every machine.
//
// Memory. The state has its own allocator that counts and refuses past the limit; Lua then raises "not enough memory". It keeps
// the blocks in a list, so that a state that was left in the middle of something can be freed without running any of it. A
// state that met its limit is thrown away, and so is one that was stopped by the clock: what it holds may be half done. (Memory
// of C libraries that a verifier calls through the FFI is not counted.) LuaJIT without GC64, as Ubuntu 22.04 has it, takes no other
// allocator than its own, in the lowest 2 GiB: there ours only counts and refuses around that one, and a state that was left in the
// middle of something is leaked.
//
// Data. Problems and completions come as JSON and become Lua tables here. null becomes nil. A NUL byte inside a string (the
// escape of code point 0) becomes U+FFFD, since cJSON's strings end at it.
//
// What the value of a verifier module may be:
//   function                         the verifier, or, when a config is given, a function(config) that returns the verifier
//   table with `make`                make(config) returns the verifier; called when a config is given or `verify` is absent
//   table with `verify`              the verifier
#include "verify.h"
#include <cjson/cJSON.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua5.1/lua-lpeg.h>
#include <luajit.h>
#include <lualib.h>
#include <math.h>
#include <pthread.h>
#include <unistd.h>

enum { HOOK_COUNT = 1000, MAX_DEPTH = 64 };

static const char verifier_key = 0; // its address is the verifier's key in the registry

const char *tl_outcome_name(tl_outcome o) {
  static const char *const names[] = {"ok", "abstain", "error", "timeout", "memory"};
  return names[o];
}

typedef struct tl_block {
  struct tl_block *next, **link; // link: what points here
} tl_block;

static void block_link(tl_cell *c, tl_block *b) {
  b->next = c->blocks;
  b->link = &c->blocks;
  if (b->next)
    b->next->link = &b->next;
  c->blocks = b;
}

static void block_unlink(tl_block *b) {
  *b->link = b->next;
  if (b->next)
    b->next->link = b->link;
}

static void *allocate(void *ud, void *p, size_t old_size, size_t new_size) {
  tl_cell *c = ud;
  tl_block *b = p ? (tl_block *)p - 1 : NULL;
  if (new_size == 0) {
    if (b)
      block_unlink(b);
    free(b);
    c->used -= old_size;
    return NULL;
  }
  if (new_size > old_size && new_size - old_size > c->options->memory_bytes - c->used) {
    c->memory_hit = true;
    return NULL;
  }
  if (b)
    block_unlink(b);
  tl_block *q = realloc(b, sizeof *q + new_size);
  if (q) {
    c->used = c->used - old_size + new_size;
    block_link(c, q);
    return q + 1;
  }
  c->memory_hit = true;
  if (b)
    block_link(c, b);
  return NULL;
}

// the same around LuaJIT's own allocator
static void *allocate_below(void *ud, void *p, size_t old_size, size_t new_size) {
  tl_cell *c = ud;
  void *q = NULL;
  if (new_size <= old_size || c->used - old_size + new_size <= c->options->memory_bytes)
    q = c->below(c->below_ud, p, old_size, new_size);
  if (q || !new_size)
    c->used = c->used - old_size + new_size;
  else
    c->memory_hit = true;
  return q;
}

static bool takes_no_allocator;
static void ask_luajit(void) {
  lua_State *L = luaL_newstate();
  if (L) {
    luaL_openlibs(L);
    takes_no_allocator = luaL_dostring(L, "assert(require('ffi').abi('gc64'))") != 0;
    lua_close(L);
  }
}

static lua_State *new_state(tl_cell *c) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, ask_luajit);
  if (!takes_no_allocator)
    return lua_newstate(allocate, c);
  lua_State *L = luaL_newstate();
  if (!L)
    return NULL;
  c->below = lua_getallocf(L, &c->below_ud);
  c->used = (size_t)lua_gc(L, LUA_GCCOUNT, 0) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB, 0);
  lua_setallocf(L, allocate_below, c);
  return L;
}

// Frees a state that was left in the middle of a call.
static void drop_state(tl_cell *c) {
  while (c->blocks) {
    tl_block *b = c->blocks;
    block_unlink(b);
    free(b);
  }
  c->L = NULL;
  c->used = 0;
}

static tl_cell *cell_of(lua_State *L) {
  void *ud;
  lua_getallocf(L, &ud);
  return ud;
}

// ---- time

void tl_cell_clock_open(tl_cell *c) {
  c->clock_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
}

// schedstat is "time on a processor, time ready to run, turns", the times in ns (kernel: Documentation/scheduler/
// sched-stats.rst). Where it is not told both are 0, and a call's time is wall time.
void tl_cell_clock(const tl_cell *c, double *ran, double *waited) {
  char text[96];
  ssize_t n = c->clock_fd < 0 ? -1 : pread(c->clock_fd, text, sizeof text - 1, 0);
  const char *p = text;
  text[n > 0 ? n : 0] = 0;
  double *const into[] = {ran, waited};
  for (int i = 0; i < 2; i++) {
    double ns = 0;
    for (; *p >= '0' && *p <= '9'; p++)
      ns = ns * 10 + (*p - '0');
    *into[i] = ns * 1e-9;
    p += *p == ' ';
  }
}

double tl_cell_due(const tl_cell *c) {
  double ran, waited;
  tl_cell_clock(c, &ran, &waited);
  return c->began + c->limit + waited - c->waited;
}

void tl_cell_begin(tl_cell *c, double seconds_limit) {
  c->began = tl_seconds();
  c->limit = seconds_limit;
  double ran;
  tl_cell_clock(c, &ran, &c->waited);
  c->deadline = c->began + seconds_limit;
}

bool tl_cell_over(tl_cell *c, double late) {
  if (atomic_load_explicit(&c->cancelled, memory_order_relaxed))
    return true;
  if (tl_seconds() < c->deadline + late)
    return false;
  c->deadline = tl_cell_due(c);
  return tl_seconds() >= c->deadline + late;
}

static void on_count(lua_State *L, lua_Debug *ar) {
  tl_cell *c = cell_of(L);
  c->instructions += HOOK_COUNT;
  bool over = c->options->instructions && c->instructions > c->options->instructions;
  if (!over && !c->timed_out && !tl_cell_over(c, 0))
    return;
  if (!c->timed_out)
    c->over_instructions = over;
  c->timed_out = true;
  lua_sethook(L, on_count, LUA_MASKCOUNT, 1);
  luaL_error(L, over ? "the limit on instructions is reached" : "the time limit is over");
}

// ---- JSON to Lua and back

static void push_json(lua_State *L, const cJSON *v) {
  luaL_checkstack(L, 4, "JSON is nested too deeply");
  if (cJSON_IsString(v)) {
    lua_pushstring(L, v->valuestring);
  } else if (cJSON_IsNumber(v)) {
    lua_pushnumber(L, v->valuedouble);
  } else if (cJSON_IsBool(v)) {
    lua_pushboolean(L, cJSON_IsTrue(v));
  } else if (cJSON_IsArray(v) || cJSON_IsObject(v)) {
    const cJSON *e;
    int i = 0;
    lua_newtable(L);
    cJSON_ArrayForEach(e, v) {
      push_json(L, e);
      if (v->type & cJSON_Array)
        lua_rawseti(L, -2, ++i);
      else
        lua_setfield(L, -2, e->string);
    }
  } else {
    lua_pushnil(L);
  }
}

// Replaces the escape \u0000, which cJSON would turn into the end of the string, by \ufffd. In place; same length.
static void mask_nul_escapes(char *json) {
  for (char *p = json; (p = strchr(p, '\\')) != NULL && p[1]; p += 2)
    if (strncmp(p, "\\u0000", 6) == 0)
      memcpy(p, "\\ufffd", 6);
}

static cJSON *parse(const char *json) {
  char *copy = strstr(json, "\\u0000") ? strdup(json) : NULL;
  if (copy)
    mask_nul_escapes(copy);
  cJSON *v = cJSON_Parse(copy ? copy : json);
  free(copy);
  return v;
}

// Is the table at the top of the stack a sequence 1..n and nothing else?
static bool is_sequence(lua_State *L) {
  size_t n = lua_objlen(L, -1), found = 0;
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TNUMBER) {
      lua_pop(L, 1);
      return false;
    }
    found++;
  }
  return found == n && n > 0;
}

// A cJSON value without children of the Lua value at the top; tables become empty arrays or objects to be filled.
static cJSON *json_shell(lua_State *L) {
  switch (lua_type(L, -1)) {
  case LUA_TNUMBER:
    return cJSON_CreateNumber(lua_tonumber(L, -1)); // NaN and infinities print as null
  case LUA_TBOOLEAN:
    return cJSON_CreateBool(lua_toboolean(L, -1));
  case LUA_TSTRING:
    return cJSON_CreateString(lua_tostring(L, -1));
  case LUA_TTABLE:
    return is_sequence(L) ? cJSON_CreateArray() : cJSON_CreateObject();
  default:
    return cJSON_CreateNull();
  }
}

// Fills the shell `to` from the table at the top. A child is attached before it is filled, so that an error on the way (memory)
// leaves one tree to free. Below MAX_DEPTH tables stay empty, which also ends cycles.
static void fill_json(lua_State *L, cJSON *to, int depth) {
  if (!lua_istable(L, -1) || depth >= MAX_DEPTH)
    return;
  luaL_checkstack(L, 6, "info is nested too deeply");
  bool array = cJSON_IsArray(to);
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    cJSON *child = json_shell(L);
    if (array) {
      cJSON_AddItemToArray(to, child);
    } else {
      lua_pushvalue(L, -2); // a copy: lua_tostring changes a number in place, which would confuse lua_next
      const char *key = lua_type(L, -1) == LUA_TBOOLEAN ? (lua_toboolean(L, -1) ? "true" : "false") : lua_tostring(L, -1);
      cJSON_AddItemToObject(to, key ? key : luaL_typename(L, -1), child);
      lua_pop(L, 1);
    }
    fill_json(L, child, depth + 1);
    lua_pop(L, 1);
  }
}

static void drop_json(tl_cell *c) {
  for (int i = 0; i < 3; i++)
    cJSON_Delete(c->json[i]), c->json[i] = NULL;
}

// ---- errors with a place

// Does the text hold "...:LINE:" in its first line?
static bool has_place(const char *s) {
  for (; *s && *s != '\n'; s++) {
    if (*s != ':' || s[1] < '0' || s[1] > '9')
      continue;
    const char *d = s + 1;
    while (*d >= '0' && *d <= '9')
      d++;
    if (*d == ':')
      return true;
  }
  return false;
}

// Message handler: any error value becomes a string that begins with file:line.
static int with_place(lua_State *L) {
  if (!lua_isstring(L, 1)) {
    if (luaL_callmeta(L, 1, "__tostring") && lua_isstring(L, -1))
      lua_replace(L, 1);
    else
      lua_pushfstring(L, "an error that is a %s, not a string", luaL_typename(L, 1)), lua_replace(L, 1);
  }
  lua_settop(L, 1);
  if (has_place(lua_tostring(L, 1)))
    return 1;
  lua_Debug ar;
  for (int level = 1; lua_getstack(L, level, &ar); level++) {
    lua_getinfo(L, "Sl", &ar);
    if (ar.currentline <= 0)
      continue;
    lua_pushfstring(L, "%s:%d: %s", ar.short_src, ar.currentline, lua_tostring(L, 1));
    break;
  }
  return 1;
}

static int no_exit(lua_State *L) {
  return luaL_error(L, "os.exit is not for verifiers; return a reward, nil, or raise an error");
}

// ---- loading

static void open_state(lua_State *L, const tl_cell_options *o) {
  luaL_openlibs(L);
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  lua_getglobal(L, "jit"); // a verifier that turns the JIT on would escape the hook
  lua_pushnil(L);
  lua_setfield(L, -2, "on");
  lua_getglobal(L, "os");
  lua_pushcfunction(L, no_exit);
  lua_setfield(L, -2, "exit");
  lua_getglobal(L, "package");
  if (o->lua_path) {
    lua_pushstring(L, o->lua_path);
    lua_setfield(L, -2, "path");
  }
  lua_getfield(L, -1, "preload"); // the program is linked with LPeg: require "lpeg" needs no path
  lua_pushcfunction(L, luaopen_lpeg);
  lua_setfield(L, -2, "lpeg");
  lua_pop(L, 4);
}

// Turns the value of the module at the top of the stack into the verifier.
static void choose_verifier(lua_State *L, tl_cell *c) {
  const char *config = c->options->config_json, *name = c->options->module ? c->options->module : "the verifier function";
  int value = lua_gettop(L);
  bool factory = config != NULL;
  if (lua_istable(L, value)) {
    lua_getfield(L, value, "make");
    lua_getfield(L, value, "verify");
    factory = lua_isfunction(L, -2) && (config || lua_isnil(L, -1));
    if (config && !factory)
      luaL_error(L, "%s takes no config: it has no function `make`", name);
    lua_pushvalue(L, factory ? -2 : -1);
    lua_replace(L, value);
    lua_settop(L, value);
  }
  if (!lua_isfunction(L, value))
    luaL_error(L, "%s is a %s; a verifier module returns a function, or a table with `verify` or `make`", name,
               luaL_typename(L, value));
  if (!factory)
    return;
  if (config) {
    if (!(c->json[0] = parse(config)))
      luaL_error(L, "the config of %s is not JSON: %s", name, config);
    push_json(L, c->json[0]);
  } else {
    lua_newtable(L);
  }
  lua_call(L, 1, 1);
  if (!lua_isfunction(L, value))
    luaL_error(L, "%s, called with its config, gave a %s, not a function(problem, completion)", name, luaL_typename(L, value));
}

static int load_protected(lua_State *L) {
  tl_cell *c = lua_touserdata(L, 1);
  const tl_cell_options *o = c->options;
  if (o->module) {
    lua_getglobal(L, "require");
    lua_pushstring(L, o->module);
    lua_call(L, 1, 1);
  } else if (luaL_loadbuffer(L, o->chunk, o->chunk_bytes, "=verifier")) {
    lua_error(L);
  }
  choose_verifier(L, c);
  lua_pushlightuserdata(L, (void *)&verifier_key);
  lua_insert(L, -2);
  lua_rawset(L, LUA_REGISTRYINDEX);
  return 0;
}

static int open_protected(lua_State *L) {
  tl_cell *c = lua_touserdata(L, 1);
  open_state(L, c->options);
  return 0;
}

// ---- calls that cannot get out: every allocation of the state happens inside lua_cpcall

typedef struct guarded_call {
  tl_cell *cell;
  lua_CFunction fn;
  tl_outcome (*finish)(lua_State *L, struct guarded_call *g); // results at -2 and -1; NULL: none are wanted
  int status;
  tl_outcome outcome;
  double reward;
  tl_str *message;
} guarded_call;

static int guard(lua_State *L) {
  guarded_call *g = lua_touserdata(L, 1);
  lua_pushcfunction(L, with_place);
  lua_pushcfunction(L, g->fn);
  lua_pushlightuserdata(L, g->cell);
  lua_sethook(L, on_count, LUA_MASKCOUNT, HOOK_COUNT);
  g->status = lua_pcall(L, 1, 2, 2);
  lua_sethook(L, NULL, 0, 0);
  if (g->status) {
    const char *s = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "an error without a message";
    tl_str_add(g->message, s, strlen(s));
    g->outcome = TL_V_ERROR;
  } else if (g->finish) {
    g->outcome = g->finish(L, g);
    lua_settop(L, 1);
    if (g->cell->used > g->cell->options->memory_bytes / 2)
      lua_gc(L, LUA_GCCOLLECT, 0);
  }
  return 0;
}

// Runs g->fn under the limits; a limit that was met becomes the outcome, with its message.
static void run_guarded(guarded_call *g) {
  tl_cell *c = g->cell;
  c->timed_out = c->memory_hit = c->over_instructions = false;
  c->instructions = 0;
  g->outcome = TL_V_OK;
  if (sigsetjmp(c->back, 1)) { // stop.c sent the thread here
    drop_state(c);
    drop_json(c);
    g->outcome = TL_V_TIMEOUT;
    return;
  }
  tl_stop_arm(c);
  int outer = lua_cpcall(c->L, guard, g); // fails on memory, or on a finalizer's error in the collection at the end
  tl_stop_arm(NULL);
  if (outer) {
    g->outcome = TL_V_ERROR;
    g->status = outer;
    if (!g->message->n)
      tl_str_printf(g->message, "an error in a finalizer");
  }
  drop_json(c);
  if (c->memory_hit || g->status == LUA_ERRMEM)
    g->outcome = TL_V_MEMORY;
  else if (c->timed_out)
    g->outcome = TL_V_TIMEOUT;
}

static void say_limit(const tl_cell *c, tl_outcome outcome, double seconds, tl_str *message) {
  message->n = 0;
  if (outcome == TL_V_MEMORY)
    tl_str_printf(message, "over the memory limit of %.4g MiB", (double)c->options->memory_bytes / (1 << 20));
  else if (c->over_instructions)
    tl_str_printf(message, "over the limit of %lld instructions", (long long)c->options->instructions);
  else
    tl_str_printf(message, "over the time limit of %.4g s%s", seconds, c->L ? "" : ", inside one call of a library");
}

bool tl_cell_load(tl_cell *c, double seconds_limit, tl_str *message) {
  c->used = 0;
  c->blocks = NULL;
  c->L = new_state(c);
  guarded_call g = {.cell = c, .fn = open_protected, .message = message, .outcome = TL_V_MEMORY};
  if (c->L)
    run_guarded(&g);
  if (g.outcome == TL_V_OK) {
    g.fn = load_protected;
    run_guarded(&g);
  }
  if (g.outcome == TL_V_OK)
    return true;
  if (g.outcome != TL_V_ERROR) {
    tl_str limit = {0};
    say_limit(c, g.outcome, seconds_limit, &limit);
    message->n = 0;
    tl_str_printf(message, "%s: loading it went %s", c->options->module ? c->options->module : "the verifier", limit.p);
    tl_str_free(&limit);
  }
  tl_cell_close(c);
  return false;
}

// ---- calling

static int call_protected(lua_State *L) {
  tl_cell *c = lua_touserdata(L, 1);
  lua_pushlightuserdata(L, (void *)&verifier_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  push_json(L, c->json[0]);
  push_json(L, c->json[1]);
  lua_call(L, 2, 2);
  if (!lua_isnil(L, -1)) {
    c->json[2] = json_shell(L);
    fill_json(L, c->json[2], 0);
  }
  return 2;
}

// What the verifier returned, as an outcome; its info becomes the message.
static tl_outcome judge(lua_State *L, guarded_call *g) {
  tl_outcome outcome = TL_V_OK;
  int type = lua_type(L, -2);
  if (type == LUA_TNIL) {
    outcome = TL_V_ABSTAIN;
  } else if (type == LUA_TBOOLEAN) {
    g->reward = lua_toboolean(L, -2);
  } else if (type != LUA_TNUMBER) {
    tl_str_printf(g->message, "the verifier returned a %s; it may return a number, a boolean or nil", lua_typename(L, type));
    return TL_V_ERROR;
  } else if (!isfinite(lua_tonumber(L, -2))) {
    tl_str_printf(g->message, "the verifier returned %g; it may return nil to abstain", lua_tonumber(L, -2));
    return TL_V_ERROR;
  } else {
    g->reward = lua_tonumber(L, -2);
  }
  char *text = g->cell->json[2] ? cJSON_PrintUnformatted(g->cell->json[2]) : NULL;
  if (text)
    tl_str_add(g->message, text, strlen(text));
  cJSON_free(text);
  return outcome;
}

tl_outcome tl_cell_call(tl_cell *c, const char *problem_json, const char *completion_json, double *reward, tl_str *message) {
  *reward = NAN;
  if (!(c->json[0] = parse(problem_json)) || !(c->json[1] = parse(completion_json))) {
    tl_str_printf(message, "the %s is not JSON", c->json[0] ? "completion" : "problem");
    drop_json(c);
    return TL_V_ERROR;
  }
  guarded_call g = {.cell = c, .fn = call_protected, .finish = judge, .message = message, .reward = NAN};
  run_guarded(&g);
  if (g.outcome <= TL_V_ABSTAIN && tl_cell_over(c, TL_LATE_S))
    g.outcome = TL_V_TIMEOUT;
  if (g.outcome == TL_V_OK)
    *reward = g.reward;
  if (g.outcome == TL_V_MEMORY || g.outcome == TL_V_TIMEOUT) {
    say_limit(c, g.outcome, c->options->timeout_s, message);
    tl_cell_close(c);
  }
  return g.outcome;
}

void tl_cell_close(tl_cell *c) {
  if (c->L && c->below) // which then gives back all that it has at once
    lua_setallocf(c->L, c->below, c->below_ud);
  if (c->L)
    lua_close(c->L);
  c->L = NULL;
}
