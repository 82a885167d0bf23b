// SPDX-License-Identifier: MIT
/* Lua's allocations, at the site "lua". */
#include <lauxlib.h>
#include <stdlib.h>

#include "fallible.h"

lua_State *__wrap_luaL_newstate(void);

static void *allocate(void *user, void *data, size_t old_size, size_t new_size) {
  (void)user;
  if (!new_size)
    return free(data), NULL;
  bool grows = !data || new_size > old_size; /* to shrink must not fail */
  return grows && moon_fallible("lua") ? NULL : realloc(data, new_size);
}

lua_State *__wrap_luaL_newstate(void) {
  return lua_newstate(allocate, NULL);
}
