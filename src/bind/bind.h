// SPDX-License-Identifier: MIT
/*
 * What the files of this folder share: error pushing, jobs, and the types' pushers and checkers.
 *
 * A binding of slow work makes a job and returns it; Lua awaits it (lua/moonscope/job.lua). A job
 * kind's `run` is on the compute thread and knows no Lua; `push` is on the Lua thread once it is
 * done.
 */
#ifndef MOON_BIND_BIND_H
#define MOON_BIND_BIND_H

#include <lauxlib.h>
#include <lua.h>

#include "bind/queue.h"
#include "tensor/tensor.h"

#ifdef __clang_analyzer__ /* let it know what does not come back */
#define L_THROWS __attribute__((analyzer_noreturn))
int luaL_error(lua_State *L, const char *format, ...) L_THROWS;
#else
#define L_THROWS
#endif

/* Pushes nil, "text", "ECODE" and returns 3. */
int l_fail(lua_State *L, const moon_err *err);
/* Throws err's text (a position is not added: the text is the whole message). core.code_of tells
 * its code. */
int l_throw(lua_State *L, const moon_err *err) L_THROWS;

/* The path at this index. Throws where it is no text or has a zero byte, which would cut it. */
const char *l_path_check(lua_State *L, int index);

typedef struct l_job_kind {
  const char *name; /* "matmul", for tostring and messages */
  size_t size;      /* of the task struct, whose first member is a moon_task */
  moon_status (*run)(moon_task *task, moon_progress *progress, moon_err *err);
  int (*push)(lua_State *L,
              moon_task *task);  /* pushes the results, returns how many; called once at most */
  void (*drop)(moon_task *task); /* releases what the task holds; does not free the task itself */
  bool soft;                     /* a failure is returned as nil, message, code instead of thrown */
  bool quick;                    /* await waits in place instead of yielding */
  bool aside;                    /* waits for the outside: on a thread aside of the queue */
} l_job_kind;

/* Pushes a moonscope.Job that owns a zeroed task of this kind, not yet submitted: fill it now, any
 * Lua error on the way is safe (drop is called on what was filled). Then `return l_job_start(L,
 * task);` */
void *l_job_new(lua_State *L, const l_job_kind *kind);
int l_job_start(lua_State *L,
                void *task); /* the job must be on top of the stack; returns 1 (the job) */

/* moonscope.Tensor: pushing takes over the reference; checking borrows (throws when it is another
 * type). */
void l_tensor_push(lua_State *L, moon_tensor *t);
moon_tensor *l_tensor_check(lua_State *L, int index);

/* Without a result but success: pushes true. */
int l_push_true(lua_State *L, moon_task *task);

/* Registers a type whose metatable is `type`; its method table goes to core.types.<the name after
 * the dot>. The module table is on top of the stack and stays there. Where with_fields, an object's
 * first user value may be a table that is looked up after the methods (sae.layer);
 * core.fields(object) makes and returns it. */
void l_register(lua_State *L, const char *type, const luaL_Reg *methods,
                const luaL_Reg *metamethods, bool with_fields);

/* Each file's opener adds its type's metatable and its functions to the module table on top of the
 * stack. */
void l_open_job(lua_State *L);
void l_open_tensor(lua_State *L);
void l_open_checkpoint(lua_State *L);
void l_open_tokenizer(lua_State *L);
void l_open_llama(lua_State *L);
void l_open_sae(lua_State *L);
void l_open_files(lua_State *L);
void l_open_lock(lua_State *L);
void l_open_download(lua_State *L);

/* The C half of `require "moonscope"`; lua/moonscope/init.lua is the other. */
int luaopen_moonscope_core(lua_State *L);

#endif
