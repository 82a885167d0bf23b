// SPDX-License-Identifier: MIT
/* What the parts of the program share. */
#ifndef MOON_HOST_HOST_H
#define MOON_HOST_HOST_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>

/*
 * Calls the function below its n_args arguments in protected mode, and while it runs Ctrl-C raises
 * the error "interrupted". Returns Lua's status; the results or the message (a string, with a
 * traceback) are on the stack.
 */
int host_call(lua_State *L, int n_args, int n_results);

/* Catches Ctrl-C (again), for code that gave SIGINT another handler, as an event loop does. */
void host_catch_interrupt(void);

/* Whether Ctrl-C ended the last call. */
bool host_interrupted(void);

/* Prints "moonscope: " and the message on top of the stack on stderr, and pops it. */
void host_report(lua_State *L);

/* Reads statements from the terminal until its end. Returns the exit code. */
int host_repl(lua_State *L);

#endif
