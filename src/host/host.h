// SPDX-License-Identifier: MIT
/* What the parts of the program share. */
#ifndef MOON_HOST_HOST_H
#define MOON_HOST_HOST_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>

/*
 * Calls the function below its n_args arguments in protected mode, and while it runs Ctrl-C
 * (SIGTERM too) raises the error "interrupted": once, so that what ends may clean up, and wherever
 * it is caught and work goes on. Returns Lua's status; the results or the message (a string, with a
 * traceback) are on the stack.
 */
int host_call(lua_State *L, int n_args, int n_results);

/* Ctrl-C raises in this coroutine from now on; returns what it raised in before. */
lua_State *host_enter(lua_State *coroutine);

/* The coroutine yielded or is over; after Ctrl-C what resumed it does not go on for long either. */
void host_leave(lua_State *outer);

/* coroutine.resume and coroutine.wrap are such that Ctrl-C reaches what they run. */
void host_open_coroutines(lua_State *L);

/*
 * A Lua function for an event loop. interrupt_to(thread): Ctrl-C raises in that coroutine from now
 * on; interrupt_to(fd): none runs, so it makes the eventfd readable. Returns whether it has come.
 */
int host_interrupt_to(lua_State *L);

/*
 * A Lua function: limit_turns(seconds) ends, by an error that it cannot catch for long, a coroutine
 * that has run for that long since interrupt_to named it; 0: none. C functions that do not return
 * are not seen.
 */
int host_limit_turns(lua_State *L);

/*
 * A Lua function: notify("READY=1") tells the service manager that started the program, where there
 * is one (NOTIFY_SOCKET). Returns true; nil and a message where it could not be told.
 */
int host_notify(lua_State *L);

/*
 * A Lua function: serve_bare() answers each request with the text of /health, in C, and prints its
 * port; it does not return. The least that libmicrohttpd can do in the mode that the server uses,
 * which `moonscope bench http` states the server's figures beside.
 */
int host_serve_bare(lua_State *L);

/* The signal that ended the last call; 0: none did. */
int host_interrupted(void);

/* Prints "moonscope: " and the message on top of the stack on stderr, and pops it. */
void host_report(lua_State *L);

/*
 * Lines from the terminal, edited, with a history in memory. At Tab `complete` is called with the
 * text before the cursor and the terminal's width; it may call host_line_insert or host_line_show.
 * false: no memory.
 */
typedef void (*host_line_completer)(void *user, const char *before, size_t size, int columns);
bool host_line_open(host_line_completer complete, void *user);
void host_line_close(void);
void host_line_remember(const char *text);
void host_line_insert(const char *text); /* at the cursor */
void host_line_show(const char *text);   /* below the line, which is then written again */

typedef enum host_line_result {
  HOST_LINE_READ,     /* *line is borrowed until the next call, *size without its newline */
  HOST_LINE_END,      /* of input: Ctrl-D */
  HOST_LINE_CANCELED, /* Ctrl-C */
} host_line_result;
host_line_result host_line_read(const char *prompt, const char **line, size_t *size);

/* Reads statements from the terminal until its end. Returns the exit code. */
int host_repl(lua_State *L);

/* Whether each line of a text (or several, where one is incomplete) is a statement or an expression
 * by itself, as at the prompt. */
bool host_is_typed(lua_State *L, const char *text, size_t size);

/* Runs such a text as if it was typed, and prints the values of its expressions. The first failure
 * is reported and ends it. Returns the exit code. */
int host_answer(lua_State *L, const char *text, size_t size);

#endif
