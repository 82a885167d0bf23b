// SPDX-License-Identifier: MIT
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <time.h>

#include "host/host.h"

enum {
  ALWAYS = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
  GRACE = 1000000, /* instructions in which what was interrupted may clean up */
  SAME_PRESS_MS = 200,
  LAST_RESORT_MS = 2000
};

static lua_State *volatile running; /* what Ctrl-C raises an error in; NULL: it wakes wake_fd */
static volatile sig_atomic_t turns, seen_turn, seen_times, turn_limit; /* see on_tick */
static volatile sig_atomic_t wake_fd, interrupted, insists, is_caught;
static volatile int64_t interrupted_ms; /* on the monotonic clock */

static void raise_now(lua_State *L) {
  lua_pushliteral(L, "interrupted");
  lua_error(L);
}

/* Within a pcall too, and wherever that returns to. */
static void raise_always(lua_State *L, lua_Debug *ar) {
  (void)ar;
  if (interrupted)
    raise_now(L);
  lua_sethook(L, NULL, 0, 0); /* it slept through the interrupt, and is resumed after it */
}

/* What catches the error and goes on is not asked again. */
static void raise_again(lua_State *L, lua_Debug *ar) {
  is_caught = 1;
  lua_sethook(L, raise_always, ALWAYS, 1);
  raise_always(L, ar);
}

static void raise_interrupt(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, raise_again, LUA_MASKCOUNT, GRACE);
  raise_now(L);
}

static void set_handler(void (*handler)(int)) {
  struct sigaction action = {.sa_handler = handler}; /* no SA_RESTART: a wait for a job shall end */
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

static int64_t monotonic_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A signal handler may do no more than set a hook: the next Lua instruction raises the error. */
static void raise_in_running(lua_Hook hook) {
  if (running)
    lua_sethook(running, hook, ALWAYS, 1);
  else
    eventfd_write(wake_fd, 1);
}

/* One press may come twice, to a process and to its group. The next one does not wait until what
 * was interrupted has cleaned up. Then only C can be what does not end: the process does. */
static void on_further_interrupt(int signal_number) {
  int64_t since_ms = monotonic_ms() - interrupted_ms;
  if (!insists && since_ms >= SAME_PRESS_MS) {
    insists = is_caught = 1;
    interrupted_ms += since_ms;
    raise_in_running(raise_always);
  } else if (insists && since_ms >= LAST_RESORT_MS) {
    set_handler(SIG_DFL);
    raise(signal_number);
  }
}

static void on_interrupt(int signal_number) {
  interrupted = signal_number;
  interrupted_ms = monotonic_ms();
  set_handler(on_further_interrupt);
  raise_in_running(raise_interrupt);
}

lua_State *host_enter(lua_State *coroutine) {
  lua_State *outer = running;
  if (outer)
    running = coroutine;
  return outer;
}

void host_leave(lua_State *outer) {
  running = outer;
  if (!interrupted || !outer)
    return;
  if (is_caught)
    lua_sethook(outer, raise_always, ALWAYS, 1);
  else
    lua_sethook(outer, raise_again, LUA_MASKCOUNT, GRACE);
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
    lua_sethook(L, raise_overrun, ALWAYS, 1);
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

/* An error may be any value. */
static const char *push_message(lua_State *L) {
  if (lua_type(L, 1) != LUA_TTABLE || luaL_getmetafield(L, 1, "__tostring") != LUA_TNIL)
    return luaL_tolstring(L, 1, NULL);
  return lua_pushliteral(L, "(the error is a table)");
}

static int add_traceback(lua_State *L) {
  luaL_traceback(L, L, push_message(L), 1);
  return 1;
}

int host_call(lua_State *L, int n_args, int n_results) {
  int function = lua_gettop(L) - n_args;
  lua_pushcfunction(L, add_traceback);
  lua_insert(L, function);
  running = L;
  interrupted = insists = is_caught = 0;
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
