// SPDX-License-Identifier: MIT
/* moonscope.Lock: the lock of a file, held until it is closed. */
#include <unistd.h>

#include "bind/bind.h"
#include "io/lock.h"

#define TYPE "moonscope.Lock"

typedef struct l_lock {
  int fd; /* -1: not taken yet, or closed */
} l_lock;

static int lock_close(lua_State *L) {
  l_lock *u = luaL_checkudata(L, 1, TYPE);
  if (u->fd >= 0)
    close(u->fd);
  u->fd = -1;
  return 0;
}

/* core.lock(path) -> Lock, or false where another one has it; the file is made where it is not
 * there */
static int lock_try(lua_State *L) {
  const char *path = l_path_check(L, 1);
  l_lock *u = lua_newuserdatauv(L, sizeof *u, 0);
  u->fd = -1;
  luaL_setmetatable(L, TYPE);
  moon_err err;
  if (moon_lock_try(&u->fd, path, 0664, &err) != MOON_OK)
    return l_fail(L, &err);
  if (u->fd < 0)
    lua_pushboolean(L, false);
  return 1;
}

static const luaL_Reg methods[] = {{"close", lock_close}, {NULL, NULL}};

static const luaL_Reg metamethods[] = {{"__gc", lock_close}, {"__close", lock_close}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"lock", lock_try}, {NULL, NULL}};

void l_open_lock(lua_State *L) {
  l_register(L, TYPE, methods, metamethods, false);
  luaL_setfuncs(L, functions, 0);
}
