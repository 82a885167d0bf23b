// SPDX-License-Identifier: MIT
/*
 * moonscope.Job: one task on the compute thread, or beside it, seen from Lua. A job that is
 * collected or closed before it is done is canceled; its task lives on until the queue lets go of
 * it.
 */
#include <assert.h>
#include <stdlib.h>

#include "bind/bind.h"

#define TYPE "moonscope.Job"

typedef struct l_job {
  moon_task *task; /* NULL: its result was taken, or it was closed */
} l_job;

static const l_job_kind *kind_of(const moon_task *task) {
  return task->kind;
}

static void drop_task(moon_task *task) {
  kind_of(task)->drop(task);
  free(task);
}

void *l_job_new(lua_State *L, const l_job_kind *kind) {
  assert(kind->size >= sizeof(moon_task));
  l_job *job = lua_newuserdatauv(L, sizeof *job, 0);
  job->task = NULL;
  luaL_setmetatable(L, TYPE);
  job->task = calloc(1, kind->size);
  if (!job->task)
    luaL_error(L, "%s: not enough memory", kind->name);
  moon_task_init(job->task, kind->run, drop_task);
  job->task->kind = kind;
  return job->task;
}

int l_job_start(lua_State *L, void *task) {
  moon_err err;
  assert(((l_job *)luaL_checkudata(L, -1, TYPE))->task == task);
  moon_status status =
      kind_of(task)->aside ? moon_task_submit_aside(task, &err) : moon_task_submit(task, &err);
  return status == MOON_OK ? 1 : l_throw(L, &err);
}

int l_push_true(lua_State *L, moon_task *task) {
  (void)task;
  lua_pushboolean(L, 1);
  return 1;
}

static moon_task *check_open(lua_State *L) {
  l_job *job = luaL_checkudata(L, 1, TYPE);
  if (!job->task)
    luaL_error(L, "job: closed, or its result was already taken");
  return job->task;
}

static int job_done(lua_State *L) {
  lua_pushboolean(L, moon_task_done(check_open(L)));
  return 1;
}

static int job_quick(lua_State *L) {
  lua_pushboolean(L, kind_of(check_open(L))->quick);
  return 1;
}

static int job_progress(lua_State *L) {
  moon_progress *progress = &check_open(L)->progress;
  lua_pushinteger(L, atomic_load(&progress->done));
  lua_pushinteger(L, atomic_load(&progress->total));
  lua_pushstring(L, atomic_load(&progress->unit)); /* nil for NULL */
  return 3;
}

static int job_cancel(lua_State *L) {
  moon_task_cancel(check_open(L));
  return 0;
}

/* job:wait(timeout_ms) -> done. Also returns early when a signal arrives. */
static int job_wait(lua_State *L) {
  moon_task *task = check_open(L);
  lua_Integer timeout_ms = luaL_checkinteger(L, 2);
  luaL_argcheck(L, timeout_ms >= 0 && timeout_ms <= INT32_MAX, 2, "milliseconds expected");
  lua_pushboolean(L, moon_task_wait(task, (int)timeout_ms));
  return 1;
}

static void close_job(l_job *job) {
  moon_task *task = job->task;
  job->task = NULL;
  if (task && !moon_task_done(task))
    moon_task_cancel(task);
  moon_task_release(task);
}

/* The task's results, once; after that the job is closed. A failed task throws, or where its kind
 * is soft gives nil, message, code. */
static int job_result(lua_State *L) {
  moon_task *task = check_open(L);
  l_job *job = lua_touserdata(L, 1);
  if (!moon_task_done(task))
    luaL_error(L, "job: %s is not done yet", kind_of(task)->name);
  if (task->status == MOON_OK) {
    int n = kind_of(task)->push(L, task);
    close_job(job);
    return n;
  }
  moon_err err = task->err;
  bool soft = kind_of(task)->soft;
  close_job(job);
  return soft ? l_fail(L, &err) : l_throw(L, &err);
}

static int job_close(lua_State *L) {
  close_job(luaL_checkudata(L, 1, TYPE));
  return 0;
}

static int job_tostring(lua_State *L) {
  static const char *const states[] = {"new", "queued", "running", "done"};
  l_job *job = luaL_checkudata(L, 1, TYPE);
  if (job->task)
    lua_pushfstring(L, TYPE " (%s, %s)", kind_of(job->task)->name,
                    states[atomic_load(&job->task->state)]);
  else
    lua_pushliteral(L, TYPE " (closed)");
  return 1;
}

static int queue_fd(lua_State *L) {
  int fd = moon_queue_fd();
  if (fd < 0)
    luaL_error(L, "queue: cannot make an event descriptor");
  lua_pushinteger(L, fd);
  return 1;
}

static int queue_length(lua_State *L) {
  lua_pushinteger(L, moon_queue_length());
  return 1;
}

/* core.jobs_live(): jobs whose task is not freed yet */
static int jobs_live(lua_State *L) {
  lua_pushinteger(L, moon_task_live());
  return 1;
}

static int wait_idle(lua_State *L) {
  (void)L;
  moon_queue_wait_idle();
  return 0;
}

/* Finalizers run in reverse order of creation: this one, made before any job, comes after the jobs
 * have been canceled and waits for the running one, so that a closed state leaves nothing behind.
 */
static void wait_at_exit(lua_State *L) {
  lua_newuserdatauv(L, 0, 0);
  lua_newtable(L);
  lua_pushcfunction(L, wait_idle);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_setfield(L, LUA_REGISTRYINDEX, "moonscope.queue");
}

static const luaL_Reg methods[] = {
    {"done", job_done}, {"quick", job_quick},   {"progress", job_progress}, {"cancel", job_cancel},
    {"wait", job_wait}, {"result", job_result}, {"close", job_close},       {NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", job_close}, {"__close", job_close}, {"__tostring", job_tostring}, {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"queue_fd", queue_fd}, {"queue_length", queue_length}, {"jobs_live", jobs_live}, {NULL, NULL}};

void l_open_job(lua_State *L) {
  wait_at_exit(L);
  l_register(L, TYPE, methods, metamethods, false);
  luaL_setfuncs(L, functions, 0);
}
