// SPDX-License-Identifier: MIT
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "host/host.h"

static lua_State *volatile running; /* what Ctrl-C raises an error in; NULL: it wakes wake_fd */
static volatile sig_atomic_t wake_fd, interrupted;

static void raise_interrupt(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  lua_pushliteral(L, "interrupted");
  lua_error(L);
}

static void set_handler(void (*handler)(int)) {
  struct sigaction action = {.sa_handler = handler}; /* no SA_RESTART: a wait for a job shall end */
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

/* A signal handler may do no more than set a hook: the next Lua instruction raises the error. A
 * second Ctrl-C before the call has ended ends the process. */
static void on_interrupt(int signal_number) {
  set_handler(SIG_DFL);
  interrupted = signal_number;
  if (running)
    lua_sethook(running, raise_interrupt, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
                1);
  else
    eventfd_write(wake_fd, 1);
}

int host_interrupt_to(lua_State *L) {
  if (lua_isthread(L, 1)) {
    running = lua_tothread(L, 1);
  } else {
    wake_fd = (int)luaL_checkinteger(L, 1);
    running = NULL;
  }
  lua_pushboolean(L, interrupted);
  return 1;
}

static int add_traceback(lua_State *L) {
  luaL_traceback(L, L, luaL_tolstring(L, 1, NULL), 1);
  return 1;
}

int host_call(lua_State *L, int n_args, int n_results) {
  int function = lua_gettop(L) - n_args;
  lua_pushcfunction(L, add_traceback);
  lua_insert(L, function);
  running = L;
  interrupted = 0;
  set_handler(on_interrupt);
  int status = lua_pcall(L, n_args, n_results, function);
  set_handler(SIG_DFL);
  lua_sethook(L, NULL, 0, 0); /* of a signal that came after the last instruction */
  lua_remove(L, function);
  return status;
}

int host_interrupted(void) {
  return interrupted;
}

void host_report(lua_State *L) {
  fflush(stdout);
  fprintf(stderr, "moonscope: %s\n", lua_tostring(L, -1));
  lua_pop(L, 1);
}
