// SPDX-License-Identifier: MIT
#include "bind/bind.h"

#include <string.h>

int l_fail(lua_State *L, const moon_err *err) {
  luaL_pushfail(L);
  lua_pushstring(L, err->text);
  lua_pushstring(L, moon_status_name(err->code));
  return 3;
}

/* In the registry: code -> the text that was thrown last with it. */
#define LAST_THROWN "moonscope.thrown"

/* Throws the text on top of the stack, whose code is below it. */
static int throw_text(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LAST_THROWN);
  lua_pushvalue(L, -3);
  lua_pushvalue(L, -3);
  lua_rawset(L, -3);
  lua_pop(L, 1);
  return lua_error(L);
}

int l_throw(lua_State *L, const moon_err *err) {
  lua_pushstring(L, moon_status_name(err->code));
  lua_pushstring(L, err->text);
  return throw_text(L);
}

/* core.throw(code, text): as core functions throw what they cannot do */
static int throw_failure(lua_State *L) {
  luaL_checkstring(L, 1);
  luaL_checkstring(L, 2);
  lua_settop(L, 2);
  return throw_text(L);
}

/* core.code_of(message): "ENOMEM" for a message that was thrown by the core and is the last one of
 * its code; nil for any other */
static int code_of(lua_State *L) {
  lua_settop(L, 1);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LAST_THROWN);
  lua_pushnil(L);
  while (lua_next(L, 2)) {
    bool same = lua_rawequal(L, 1, -1);
    lua_pop(L, 1);
    if (same)
      return 1;
  }
  lua_pushnil(L);
  return 1;
}

const char *l_path_check(lua_State *L, int index) {
  size_t size;
  const char *path = luaL_checklstring(L, index, &size);
  luaL_argcheck(L, strlen(path) == size, index, "a path without a zero byte expected");
  return path;
}

/* object, key -> the method of that name, else the object's own field */
static int index_fields(lua_State *L) {
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL)
    return 1;
  if (lua_getiuservalue(L, 1, 1) != LUA_TTABLE)
    return 0;
  lua_pushvalue(L, 2);
  lua_rawget(L, -2);
  return 1;
}

static int fields(lua_State *L) {
  luaL_checktype(L, 1, LUA_TUSERDATA);
  if (lua_getiuservalue(L, 1, 1) != LUA_TTABLE) {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setiuservalue(L, 1, 1);
  }
  return 1;
}

void l_register(lua_State *L, const char *type, const luaL_Reg *methods,
                const luaL_Reg *metamethods, bool with_fields) {
  luaL_newmetatable(L, type);
  luaL_setfuncs(L, metamethods, 0);
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  lua_getfield(L, -3, "types");
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, strchr(type, '.') + 1);
  lua_pop(L, 1);
  if (with_fields)
    lua_pushcclosure(L, index_fields, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

/* core.log(level, text): to the log hook, "warn" and above unless it was set otherwise */
static int log_text(lua_State *L) {
  static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
  int level = luaL_checkoption(L, 1, NULL, levels);
  moon_log((moon_log_level)level, "%s", luaL_checkstring(L, 2));
  return 0;
}

int luaopen_moonscope_core(lua_State *L) {
  lua_newtable(L);
  lua_pushliteral(L, MOON_VERSION);
  lua_setfield(L, -2, "version");
  lua_newtable(L);
  lua_setfield(L, -2, "types");
  lua_pushcfunction(L, fields);
  lua_setfield(L, -2, "fields");
  lua_pushcfunction(L, log_text);
  lua_setfield(L, -2, "log");
  lua_pushcfunction(L, throw_failure);
  lua_setfield(L, -2, "throw");
  lua_pushcfunction(L, code_of);
  lua_setfield(L, -2, "code_of");
  l_open_job(L);
  l_open_tensor(L);
  l_open_checkpoint(L);
  l_open_tokenizer(L);
  l_open_llama(L);
  l_open_sae(L);
  l_open_files(L);
  l_open_lock(L);
  l_open_download(L);
  return 1;
}
