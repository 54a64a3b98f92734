// scripts.c: what Lua reads: chat templates, JSON, the hub's answers. See targets.h.
//
// The Lua state is made once. scripts.lua has a function for each target; it returns whether it read the input, and what was
// wrong with how it did: an error that is not one of the parser's own (an attempt to index nil, say) is a finding too.
#include "targets.h"
#include <lauxlib.h>
#include <lualib.h>
#include <luajit.h>
#include <stdlib.h>
#include <string.h>

static const char cdef[] =
#include "tl_cdef.h"
    ;
// what lua/tl/ffi.lua reads through the FFI; in the program, main.c has them
const char *tlrun_cdef(void) {
  return cdef;
}
const char *tlrun_lua_dir(void) {
  return TL_SOURCE_DIR "/lua";
}
const char *tlrun_root(void) {
  return TL_SOURCE_DIR;
}
const char *tlrun_exe(void) {
  return "tlrun";
}

#ifdef TL_FUZZ
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t lines[1 << 14];

// One counter a pair of lines, the one before and this one, as libFuzzer counts edges.
static void count_line(lua_State *L, lua_Debug *ar) {
  static uint32_t before;
  lua_getinfo(L, "S", ar);
  uint32_t here = ((uint32_t)(uintptr_t)ar->source ^ (uint32_t)ar->currentline * 2654435761u) >> 7;
  uint8_t *c = &lines[(here ^ before >> 1) % sizeof lines];
  if (*c < 255)
    ++*c;
  before = here;
}

static void count_lines(lua_State *L) {
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  lua_sethook(L, count_line, LUA_MASKLINE, 0);
}
#else
static void count_lines(lua_State *L) {
  (void)L;
}
#endif

static lua_State *state(void) {
  static lua_State *L;
  if (L)
    return L;
  L = luaL_newstate();
  if (!L)
    abort();
  luaL_openlibs(L);
  if (luaL_dostring(L, "package.path = '" TL_SOURCE_DIR "/lua/?.lua;" TL_SOURCE_DIR "/lua/?/init.lua'") ||
      luaL_dofile(L, TL_SOURCE_DIR "/tests/fuzz/scripts.lua")) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
  count_lines(L);
  return L; // the table of functions stays at index 1
}

static bool call(const char *name, const uint8_t *data, size_t n) {
  lua_State *L = state();
  lua_getfield(L, 1, name);
  lua_pushlstring(L, (const char *)data, n);
  int failed = lua_pcall(L, 1, 2, 0);
  if (failed || !lua_isnil(L, -1)) {
    const char *why = lua_tostring(L, -1);
    fprintf(stderr, "%s: %s\n", name, why ? why : "an error without a message");
    abort();
  }
  bool was_read = lua_toboolean(L, -2);
  lua_settop(L, 1);
  return was_read;
}

static bool run_jinja(const uint8_t *data, size_t n) {
  return call("jinja", data, n);
}
static bool run_json(const uint8_t *data, size_t n) {
  return call("json", data, n);
}
static bool run_hub(const uint8_t *data, size_t n) {
  return call("hub", data, n);
}

static void put_text(fuzz_put put, void *ctx, const char *name, const char *text) {
  put(ctx, name, text, strlen(text));
}

static void seed_jinja(fuzz_put put, void *ctx) {
  put_text(put, ctx, "loop",
           "{%- for m in messages -%}{{ '<|' ~ m['role'] + '|>\\n' }}{% if loop.first and not m.content is none %}{{ "
           "m.content|trim|upper }}"
           "{% elif loop.index0 % 2 == 0 %}{{ m.content.split('x')[-1].lstrip('\\n')[::-1] }}{% else %}{% continue %}{% endif "
           "%}{% endfor %}"
           "{% if add_generation_prompt %}{{ raise_exception('no') if y is undefined }}{% endif %}");
  put_text(put, ctx, "macro",
           "{% macro m(a, b=2) %}{{ a }}{{ caller() if caller }}{{ kwargs }}{% endmacro %}{% call(x) m(1, k=2) %}b{{ x "
           "}}{% endcall %}"
           "{% set ns = namespace(i=0) %}{% set ns.i = ns.i + 1 %}{% set t %}x{% endset %}{% filter title %}q{% endfilter %}{# "
           "c #}{% raw %}{{{% endraw %}");
  put_text(
      put, ctx, "filters",
      "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list|tojson(indent=2) }}{{ "
      "d|dictsort|first }}"
      "{{ [1, 2.5, -3]|sum|round(1) }}{{ '%s-%05.2f' % ('a', 3) }}{{ '{:>5}{!r}'.format('x', y) }}{{ "
      "messages|sort(reverse=true, attribute='role')|join(', ', attribute='content') }}"
      "{{ messages|groupby('role') }}{{ 'a,b'|replace(',', ';')|indent(2) }}{{ 7 // 2 ** 2 < 3 <= 4 }}{{ (1, 2) + (3,) }}{{ "
      "strftime_now('%Y') }}");
  put_text(put, ctx, "space",
           "  {%+ if x -%}\n a\n{%- endif +%}\n {{- 'b' -}} \n{% generation %}y{% endgeneration %}{% with a = 1 %}{{ a }}{% "
           "endwith %}");
}

static void seed_json(fuzz_put put, void *ctx) {
  put_text(
      put, ctx, "all",
      "{\"a\": [1, -2.50, 1e3, 12345678901234567890, true, null, \"x\\u00e9\\ud83d\\ude00\\n\\\"\"], \"b\": {}, \"b\": []}");
}

static void seed_hub(fuzz_put put, void *ctx) {
  put_text(put, ctx, "model",
           "{\"sha\": \"a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1\", \"siblings\": [{\"rfilename\": \"config.json\", \"size\": "
           "3, \"blobId\": "
           "\"0123456789012345678901234567890123456789\"}, {\"rfilename\": \"model-00001-of-00002.safetensors\", \"lfs\": "
           "{\"sha256\": "
           "\"0123456789012345678901234567890123456789012345678901234567890123\", \"size\": 5}}]}");
}

const fuzz_target fuzz_jinja = {"jinja", run_jinja, seed_jinja, 2048}, fuzz_json = {"json", run_json, seed_json, 2048},
                  fuzz_hub = {"hub", run_hub, seed_hub, 2048};
