// SPDX-License-Identifier: MIT
/*
 * The prompt: one statement or expression at a time, from the terminal or from a text. Its Lua half
 * is lua/moonscope/repl/.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"

#define MODULE "moonscope.repl" /* also its key in the registry */

/* Where lines come from: the rest of a text, or where that is NULL the terminal. */
typedef struct source {
  const char *text, *end;
} source;

static host_line_result push_text_line(lua_State *L, source *from) {
  if (from->text == from->end)
    return HOST_LINE_END;
  const char *newline = memchr(from->text, '\n', (size_t)(from->end - from->text));
  const char *end = newline ? newline : from->end;
  lua_pushlstring(L, from->text, (size_t)(end - from->text));
  from->text = newline ? newline + 1 : end;
  return HOST_LINE_READ;
}

/* With HOST_LINE_READ one line of input is on the stack. */
static host_line_result push_line(lua_State *L, source *from, const char *prompt) {
  if (from->text)
    return push_text_line(L, from);
  const char *line;
  size_t size;
  host_line_result read = host_line_read(prompt, &line, &size);
  if (read == HOST_LINE_READ)
    lua_pushlstring(L, line, size);
  return read;
}

/* The function of prefix and the text on top of the stack, or why it does not compile, is pushed.
 * A line ends with a line break: then a string that is open is an error, not continued. */
static int load(lua_State *L, const char *prefix) {
  lua_pushstring(L, prefix);
  lua_pushvalue(L, -2);
  lua_pushliteral(L, "\n");
  lua_concat(L, 3);
  size_t size;
  const char *code = lua_tolstring(L, -1, &size);
  int status = luaL_loadbufferx(L, code, size, "=stdin", "t");
  lua_remove(L, -2);
  return status;
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

/* The text on top of the stack as an expression, else as a statement. *more: it is the beginning of
 * either, so that a message was pushed but another line may help. */
static int load_either(lua_State *L, bool *more) {
  int status = load(L, "return ");
  *more = is_incomplete(L, status);
  if (status == LUA_OK)
    return status;
  lua_pop(L, 1);
  status = load(L, "");
  *more = status != LUA_OK && (*more || is_incomplete(L, status));
  return status;
}

/* The line on top of the stack, continued over further lines until it is complete. HOST_LINE_READ:
 * its function or why it does not compile is pushed, and *status is Lua's. */
static host_line_result load_statement(lua_State *L, source *from, int *status) {
  for (;;) {
    bool more;
    *status = load_either(L, &more);
    if (!more)
      return HOST_LINE_READ;
    lua_pop(L, 1);
    lua_pushliteral(L, "\n");
    host_line_result read = push_line(L, from, ">> ");
    if (read != HOST_LINE_READ)
      return read;
    lua_concat(L, 3);
  }
}

/* A function of the module. */
static void push_function(lua_State *L, const char *name) {
  lua_getfield(L, LUA_REGISTRYINDEX, MODULE);
  lua_getfield(L, -1, name);
  lua_remove(L, -2);
}

/* false: it was reported why not */
static bool load_module(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, MODULE);
  if (host_call(L, 1, 1) != LUA_OK)
    return host_report(L), false;
  lua_setfield(L, LUA_REGISTRYINDEX, MODULE);
  return true;
}

/* Calls the function below its arguments; false: it was reported why that failed. */
static bool call(lua_State *L, int n_args, int n_results) {
  if (host_call(L, n_args, n_results) == LUA_OK)
    return true;
  host_report(L);
  return false;
}

/* Runs the function on top of the stack (or reports why it did not load), prints its results. */
static bool run(lua_State *L, int status) {
  int function = lua_gettop(L);
  if (status != LUA_OK)
    return host_report(L), false;
  if (!call(L, 0, LUA_MULTRET))
    return false;
  luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
  push_function(L, "print");
  lua_insert(L, function);
  return call(L, lua_gettop(L) - function, 0);
}

/* Keeps the text at this index for later sessions too. */
static void remember(lua_State *L, int text) {
  host_line_remember(lua_tostring(L, text));
  push_function(L, "remember");
  lua_pushvalue(L, text);
  call(L, 1, 0);
}

static void recall(lua_State *L) {
  push_function(L, "entries");
  if (!call(L, 0, 1))
    return;
  for (lua_Integer i = 1; lua_rawgeti(L, -1, i) == LUA_TSTRING; i++) {
    host_line_remember(lua_tostring(L, -1));
    lua_pop(L, 1);
  }
}

/* One statement from the terminal, read and run. */
static host_line_result turn(lua_State *L) {
  source terminal = {NULL, NULL};
  int status;
  host_line_result read = push_line(L, &terminal, "> ");
  if (read == HOST_LINE_READ)
    read = load_statement(L, &terminal, &status);
  if (read != HOST_LINE_READ)
    return read;
  int text = lua_gettop(L) - 1;
  if (strspn(lua_tostring(L, text), " \t\n") < lua_rawlen(L, text)) {
    lua_pushvalue(L, text);
    remember(L, lua_gettop(L));
    lua_pop(L, 1);
  }
  run(L, status);
  return HOST_LINE_READ;
}

/* At Tab. What goes wrong in Lua means that nothing is offered. */
static void complete(void *user, const char *before, size_t size, int columns) {
  lua_State *L = user;
  int top = lua_gettop(L);
  push_function(L, "complete");
  lua_pushlstring(L, before, size);
  lua_pushinteger(L, columns);
  if (lua_pcall(L, 2, 2, 0) == LUA_OK) {
    if (lua_isstring(L, -2))
      host_line_insert(lua_tostring(L, -2));
    if (lua_isstring(L, -1))
      host_line_show(lua_tostring(L, -1));
  }
  lua_settop(L, top);
}

int host_repl(lua_State *L) {
  if (!load_module(L))
    return EXIT_FAILURE;
  if (!host_line_open(complete, L))
    return fputs("moonscope: not enough memory\n", stderr), EXIT_FAILURE;
  recall(L);
  printf("moonscope " MOON_VERSION ", " LUA_VERSION
         "; ms is require \"moonscope\", help() tells more; Ctrl-D ends\n");
  do
    lua_settop(L, 0);
  while (turn(L) != HOST_LINE_END);
  putchar('\n');
  host_line_close();
  return EXIT_SUCCESS;
}

/* The next statement of a text: true, and the text and its function are pushed. */
static bool next_statement(lua_State *L, source *from) {
  int status;
  return push_line(L, from, "") == HOST_LINE_READ &&
         load_statement(L, from, &status) == HOST_LINE_READ && status == LUA_OK;
}

bool host_is_typed(lua_State *L, const char *text, size_t size) {
  source from = {text, text + size};
  int top = lua_gettop(L);
  bool all = true;
  while (all && from.text < from.end) {
    all = next_statement(L, &from);
    lua_settop(L, top);
  }
  return all;
}

int host_answer(lua_State *L, const char *text, size_t size) {
  source from = {text, text + size};
  int top = lua_gettop(L);
  if (!load_module(L))
    return EXIT_FAILURE;
  while (from.text < from.end) {
    if (!next_statement(L, &from) || !run(L, LUA_OK))
      return EXIT_FAILURE;
    lua_settop(L, top);
  }
  return EXIT_SUCCESS;
}
