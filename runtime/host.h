// host.h: what the program tlrun gives its Lua state beside the library (module "tl.host"): line editing and Ctrl-C.
#ifndef TL_HOST_H
#define TL_HOST_H
#include "tl.h"
#include <lauxlib.h>
#include <lua.h>
#include <lua5.1/lua-lpeg.h>

int host_readline(lua_State *L);        // line.c
int host_history_open(lua_State *L);    // line.c
int host_interrupt_clear(lua_State *L); // main.c
#endif
