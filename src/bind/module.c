// SPDX-License-Identifier: MIT
#include "bind/bind.h"

int l_fail(lua_State *L, const moon_err *err) {
  luaL_pushfail(L);
  lua_pushstring(L, err->text);
  lua_pushstring(L, moon_status_name(err->code));
  return 3;
}

int l_throw(lua_State *L, const moon_err *err) {
  lua_pushstring(L, err->text);
  return lua_error(L);
}

int luaopen_moonscope_core(lua_State *L) {
  lua_newtable(L);
  lua_pushliteral(L, MOON_VERSION);
  lua_setfield(L, -2, "version");
  lua_newtable(L);
  lua_setfield(L, -2, "types");
  l_open_job(L);
  l_open_tensor(L);
  l_open_checkpoint(L);
  l_open_tokenizer(L);
  l_open_llama(L);
  l_open_sae(L);
  return 1;
}
