// SPDX-License-Identifier: MIT
/* The prompt: one statement or expression at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"

/* With HOST_LINE_READ one line of input is on the stack. */
static host_line_result push_line(lua_State *L, const char *prompt) {
  const char *line;
  size_t size;
  host_line_result read = host_line_read(prompt, &line, &size);
  if (read == HOST_LINE_READ)
    lua_pushlstring(L, line, size);
  return read;
}

static int load(lua_State *L, const char *code) {
  return luaL_loadbufferx(L, code, strlen(code), "=stdin", "t");
}

/* Whether the chunk that failed to load only ends too early; its message is on top of the stack. */
static bool is_incomplete(lua_State *L, int status) {
  static const char mark[] = "near <eof>";
  if (status != LUA_ERRSYNTAX)
    return false;
  size_t size;
  const char *message = lua_tolstring(L, -1, &size);
  return size >= strlen(mark) && !strcmp(message + size - strlen(mark), mark);
}

/* The text on top of the stack as an expression: true, and its function is pushed. */
static bool load_expression(lua_State *L) {
  lua_pushfstring(L, "return %s", lua_tostring(L, -1));
  bool ok = load(L, lua_tostring(L, -1)) == LUA_OK;
  lua_remove(L, -2);
  if (!ok)
    lua_pop(L, 1);
  return ok;
}

/* The text on top of the stack, continued over further lines until it is complete. HOST_LINE_READ:
 * its function or why it does not compile is pushed, and *status is Lua's. */
static host_line_result load_statement(lua_State *L, int *status) {
  for (;;) {
    *status = load_expression(L) ? LUA_OK : load(L, lua_tostring(L, -1));
    if (!is_incomplete(L, *status))
      return HOST_LINE_READ;
    lua_pop(L, 1);
    lua_pushliteral(L, "\n");
    host_line_result read = push_line(L, ">> ");
    if (read != HOST_LINE_READ)
      return read;
    lua_concat(L, 3);
  }
}

static void print_results(lua_State *L, int first) {
  int n = lua_gettop(L) - first + 1;
  if (n == 0)
    return;
  luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
  lua_getglobal(L, "print");
  lua_insert(L, first);
  if (host_call(L, n, 0) != LUA_OK)
    host_report(L);
}

static void run(lua_State *L, int status) {
  int function = lua_gettop(L);
  if (status == LUA_OK)
    status = host_call(L, 0, LUA_MULTRET);
  if (status == LUA_OK)
    print_results(L, function);
  else
    host_report(L);
}

/* One statement, read and run. */
static host_line_result turn(lua_State *L) {
  int status;
  host_line_result read = push_line(L, "> ");
  if (read == HOST_LINE_READ)
    read = load_statement(L, &status);
  if (read != HOST_LINE_READ)
    return read;
  host_line_remember(lua_tostring(L, -2));
  run(L, status);
  return HOST_LINE_READ;
}

int host_repl(lua_State *L) {
  if (!host_line_open())
    return fputs("moonscope: not enough memory\n", stderr), EXIT_FAILURE;
  printf("moonscope " MOON_VERSION ", " LUA_VERSION "; ms is require \"moonscope\"; Ctrl-D ends\n");
  while (turn(L) != HOST_LINE_END)
    lua_settop(L, 0);
  putchar('\n');
  host_line_close();
  return EXIT_SUCCESS;
}
