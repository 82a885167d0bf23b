// SPDX-License-Identifier: MIT
/* Lua's own coroutines, around which the host notes what runs: no hook of a thread is seen by those
 * that it resumes. */
#include <lualib.h>

#include "host/host.h"

/* Calls the function at the bottom of the stack with what is above it, in which `coroutine` runs.
 */
static int call_in(lua_State *L, lua_State *coroutine) {
  lua_State *outer = host_enter(coroutine);
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  host_leave(outer);
  return status;
}

/* coroutine.resume; upvalue: Lua's */
static int resume(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTHREAD);
  lua_State *coroutine = lua_tothread(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  return call_in(L, coroutine) == LUA_OK ? lua_gettop(L) : lua_error(L);
}

/* What coroutine.wrap gives; upvalues: what Lua's gives, its coroutine */
static int resume_wrapped(lua_State *L) {
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  if (call_in(L, lua_tothread(L, lua_upvalueindex(2))) == LUA_OK)
    return lua_gettop(L);
  if (lua_type(L, -1) == LUA_TSTRING &&
      !host_interrupted()) { /* Lua's own says where it was called, too */
    luaL_where(L, 1);
    lua_insert(L, -2);
    lua_concat(L, 2);
  }
  return lua_error(L);
}

/* coroutine.wrap; upvalue: Lua's */
static int wrap(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, 1, 1);
  lua_getupvalue(L, 1, 1);
  lua_pushcclosure(L, resume_wrapped, 2);
  return 1;
}

static void replace(lua_State *L, const char *name, lua_CFunction function) {
  lua_getfield(L, -1, name);
  lua_pushcclosure(L, function, 1);
  lua_setfield(L, -2, name);
}

void host_open_coroutines(lua_State *L) {
  lua_getglobal(L, LUA_COLIBNAME);
  replace(L, "resume", resume);
  replace(L, "wrap", wrap);
  lua_pop(L, 1);
}
