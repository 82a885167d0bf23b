// SPDX-License-Identifier: MIT
/* The prompt: one statement or expression at a time, over libedit. */
#include <editline/readline.h>
#include <locale.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/host.h"

/* Ctrl-C at the prompt leaves readline by a jump: libedit goes on reading after a signal. No Lua
 * call is on the stack then, and libedit keeps no memory of its own for a line. */
static sigjmp_buf at_prompt;

static void leave_prompt(int signal_number) {
  (void)signal_number;
  siglongjmp(at_prompt, 1);
}

typedef enum read_result { READ_LINE, READ_END, READ_CANCELED } read_result;

/* With READ_LINE one line of input is on the stack, without its newline. */
static read_result push_line(lua_State *L, const char *prompt) {
  if (sigsetjmp(at_prompt, 1)) {
    putchar('\n');
    return READ_CANCELED;
  }
  signal(SIGINT, leave_prompt);
  char *line = readline(prompt);
  signal(SIGINT, SIG_DFL);
  if (!line)
    return READ_END;
  lua_pushstring(L, line);
  free(line);
  return READ_LINE;
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

/* The text on top of the stack, continued over further lines until it is complete. READ_LINE: its
 * function or why it does not compile is pushed, and *status is Lua's. */
static read_result load_statement(lua_State *L, int *status) {
  for (;;) {
    *status = load_expression(L) ? LUA_OK : load(L, lua_tostring(L, -1));
    if (!is_incomplete(L, *status))
      return READ_LINE;
    lua_pop(L, 1);
    lua_pushliteral(L, "\n");
    read_result read = push_line(L, ">> ");
    if (read != READ_LINE)
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
static read_result turn(lua_State *L) {
  int status;
  read_result read = push_line(L, "> ");
  if (read == READ_LINE)
    read = load_statement(L, &status);
  if (read != READ_LINE)
    return read;
  add_history(lua_tostring(L, -2));
  run(L, status);
  return READ_LINE;
}

int host_repl(lua_State *L) {
  setlocale(LC_CTYPE, ""); /* for editing; numbers keep their point */
  using_history();
  printf("moonscope " MOON_VERSION ", " LUA_VERSION "; ms is require \"moonscope\"; Ctrl-D ends\n");
  while (turn(L) != READ_END)
    lua_settop(L, 0);
  putchar('\n');
  return EXIT_SUCCESS;
}
