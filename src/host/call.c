// SPDX-License-Identifier: MIT
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <time.h>

#include "host/host.h"

static lua_State *volatile running; /* what Ctrl-C raises an error in; NULL: it wakes wake_fd */
static volatile sig_atomic_t turns, seen_turn, seen_times, turn_limit; /* see on_tick */
static volatile sig_atomic_t wake_fd, interrupted;
static volatile time_t interrupted_at; /* seconds of the monotonic clock */

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

static time_t monotonic_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

/* The process ends at once, except within the first seconds after the first signal: one press may
 * come twice (to a process and to its group), and what was interrupted shall clean up. */
static void on_further_interrupt(int signal_number) {
  if (monotonic_seconds() - interrupted_at < 2)
    return;
  set_handler(SIG_DFL);
  raise(signal_number);
}

/* A signal handler may do no more than set a hook: the next Lua instruction raises the error. */
static void on_interrupt(int signal_number) {
  interrupted = signal_number;
  interrupted_at = monotonic_seconds();
  set_handler(on_further_interrupt);
  if (running)
    lua_sethook(running, raise_interrupt, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
                1);
  else
    eventfd_write(wake_fd, 1);
}

static void raise_overrun(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_pushliteral(L, "ran for too long without letting others run");
  lua_error(L); /* the hook stays: a pcall around it is raised in too */
}

/* Each second: a coroutine that has run since turn_limit looks ago is ended. */
static void on_tick(int signal_number) {
  (void)signal_number;
  lua_State *L = running;
  seen_times = L && turns == seen_turn ? seen_times + 1 : 0;
  seen_turn = turns;
  if (seen_times >= turn_limit && L)
    lua_sethook(L, raise_overrun, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

int host_limit_turns(lua_State *L) {
  turn_limit = (sig_atomic_t)luaL_checkinteger(L, 1);
  struct sigaction action = {.sa_handler = turn_limit ? on_tick : SIG_IGN, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGALRM, &action, NULL);
  const time_t second = turn_limit ? 1 : 0;
  const struct itimerval each_second = {{second, 0}, {second, 0}};
  setitimer(ITIMER_REAL, &each_second, NULL);
  return 0;
}

int host_interrupt_to(lua_State *L) {
  turns = (turns + 1) & 0xFFFF;
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
  if (!interrupted)
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
