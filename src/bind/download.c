// SPDX-License-Identifier: MIT
/*
 * moonscope.Partial, HTTP exchanges and URLs. The jobs wait for the network or the disk and touch
 * no tensor, so they run on threads aside of the compute thread.
 */
#include <stdlib.h>
#include <string.h>

#include "bind/bind.h"
#include "io/download.h"

#define TYPE     "moonscope.Partial"
#define SLICE_MS 50 /* between two looks at a transfer's cancel */

typedef struct l_partial {
  moon_partial *partial; /* NULL: not open yet, or closed */
} l_partial;

static moon_partial *check(lua_State *L, int index) {
  l_partial *u = luaL_checkudata(L, index, TYPE);
  if (!u->partial)
    luaL_error(L, "partial: closed");
  return u->partial;
}

/* core.partial(blob, size) -> Partial; blob: FOLDER/HASH */
static int partial_open(lua_State *L) {
  const char *blob = l_path_check(L, 1);
  lua_Integer size = luaL_checkinteger(L, 2);
  l_partial *u = lua_newuserdatauv(L, sizeof *u, 0);
  u->partial = NULL;
  luaL_setmetatable(L, TYPE);
  moon_err err;
  if (moon_partial_open(&u->partial, blob, size, &err) != MOON_OK)
    return l_fail(L, &err);
  return 1;
}

static int partial_close(lua_State *L) {
  l_partial *u = luaL_checkudata(L, 1, TYPE);
  moon_partial_release(u->partial);
  u->partial = NULL;
  return 0;
}

/* partial:done() -> bytes that are there */
static int partial_done(lua_State *L) {
  lua_pushinteger(L, moon_partial_done(check(L, 1)));
  return 1;
}

/* ---- resume, restart, publish ---- */

typedef struct partial_task {
  moon_task task;
  moon_partial *partial;
} partial_task;

static moon_status run_resume(moon_task *task, moon_progress *progress, moon_err *err) {
  moon_partial *partial = ((partial_task *)task)->partial;
  atomic_store(&progress->total, moon_partial_size(partial));
  atomic_store(&progress->unit, "bytes");
  return moon_partial_resume(partial, progress, err);
}

static moon_status run_restart(moon_task *task, moon_progress *progress, moon_err *err) {
  (void)progress;
  return moon_partial_restart(((partial_task *)task)->partial, err);
}

static moon_status run_publish(moon_task *task, moon_progress *progress, moon_err *err) {
  (void)progress;
  return moon_partial_publish(((partial_task *)task)->partial, err);
}

static void drop_partial(moon_task *task) {
  moon_partial_release(((partial_task *)task)->partial);
}

static int start(lua_State *L, const l_job_kind *kind) {
  moon_partial *partial = check(L, 1);
  partial_task *t = l_job_new(L, kind);
  t->partial = moon_partial_retain(partial);
  return l_job_start(L, t);
}

#define KIND(title, runner)                                                              \
  {                                                                                      \
    .name = (title), .size = sizeof(partial_task), .run = (runner), .push = l_push_true, \
    .drop = drop_partial, .soft = true, .aside = true                                    \
  }

/* partial:_resume() -> job; reads what is there */
static int partial_resume(lua_State *L) {
  static const l_job_kind kind = KIND("resume", run_resume);
  return start(L, &kind);
}

/* partial:_restart() -> job; drops what is there */
static int partial_restart(lua_State *L) {
  static const l_job_kind kind = KIND("restart", run_restart);
  return start(L, &kind);
}

/* partial:_publish() -> job; the blob appears */
static int partial_publish(lua_State *L) {
  static const l_job_kind kind = KIND("publish", run_publish);
  return start(L, &kind);
}

#undef KIND

/* ---- an exchange ---- */

typedef struct http_task {
  moon_task task;
  moon_request request;
  char **headers; /* [request.n_headers] */
  moon_transfer *transfer;
} http_task;

static moon_status run_transfer(moon_transfer *transfer, const moon_partial *partial,
                                moon_progress *progress, moon_err *err) {
  bool over = false;
  moon_status status = MOON_OK;
  while (!over && status == MOON_OK) {
    status = moon_transfer_step(transfer, SLICE_MS, &over, err);
    if (partial)
      atomic_store(&progress->done, moon_partial_done(partial));
    if (status == MOON_OK && !over)
      status = moon_progress_add(progress, 0, err);
  }
  return status;
}

static moon_status run_http(moon_task *task, moon_progress *progress, moon_err *err) {
  http_task *t = (http_task *)task;
  moon_partial *partial = t->request.partial;
  atomic_store(&progress->total, partial ? moon_partial_size(partial) : 0);
  atomic_store(&progress->unit, "bytes");
  moon_status status = moon_transfer_open(&t->transfer, &t->request, err);
  return status == MOON_OK ? run_transfer(t->transfer, partial, progress, err) : status;
}

static void set_text(lua_State *L, const char *key, const char *text, size_t size) {
  lua_pushlstring(L, text, size);
  lua_setfield(L, -2, key);
}

/* -> {status =, head =, body =, stored =} */
static int push_http(lua_State *L, moon_task *task) {
  moon_answer answer = moon_transfer_answer(((http_task *)task)->transfer);
  lua_createtable(L, 0, 4);
  lua_pushinteger(L, answer.status);
  lua_setfield(L, -2, "status");
  set_text(L, "head", answer.head, answer.head_size);
  set_text(L, "body", answer.body, answer.body_size);
  lua_pushboolean(L, answer.stored);
  lua_setfield(L, -2, "stored");
  return 1;
}

static void drop_http(moon_task *task) {
  http_task *t = (http_task *)task;
  moon_transfer_close(t->transfer);
  for (size_t i = 0; t->headers && i < t->request.n_headers; i++)
    free(t->headers[i]);
  free(t->headers);
  free((char *)t->request.url);
  free((char *)t->request.ca_file);
  moon_partial_release(t->request.partial);
}

/* The text in field `key` of the table at index, a copy; NULL where it has none. */
static char *copy_field(lua_State *L, int index, const char *key) {
  char *copy = NULL;
  if (lua_getfield(L, index, key) != LUA_TNIL) {
    copy = strdup(luaL_checkstring(L, -1));
    if (!copy)
      luaL_error(L, "http: not enough memory");
  }
  lua_pop(L, 1);
  return copy;
}

static bool flag_field(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  bool set = lua_toboolean(L, -1);
  lua_pop(L, 1);
  return set;
}

static lua_Integer integer_field(lua_State *L, int index, const char *key) {
  lua_getfield(L, index, key);
  lua_Integer value = luaL_checkinteger(L, -1);
  lua_pop(L, 1);
  return value;
}

static void take_headers(lua_State *L, int index, http_task *t) {
  lua_getfield(L, index, "headers");
  luaL_checktype(L, -1, LUA_TTABLE);
  size_t n = lua_rawlen(L, -1);
  t->headers = calloc(n + 1, sizeof *t->headers);
  t->request.headers = (const char *const *)t->headers;
  for (size_t i = 0; i < n && t->headers; i++) {
    lua_rawgeti(L, -1, (lua_Integer)i + 1);
    t->headers[i] = strdup(luaL_checkstring(L, -1));
    t->request.n_headers = i + 1;
    lua_pop(L, 1);
    if (!t->headers[i])
      luaL_error(L, "http: not enough memory");
  }
  lua_pop(L, 1);
}

/* core.http{url =, headers = {"Name: value", ...}, head =, plain_http =, ca_file =, idle_ms =,
 * body_max =, partial =} -> job */
static int http(lua_State *L) {
  static const l_job_kind kind = {.name = "http",
                                  .size = sizeof(http_task),
                                  .run = run_http,
                                  .push = push_http,
                                  .drop = drop_http,
                                  .soft = true,
                                  .aside = true};
  luaL_checktype(L, 1, LUA_TTABLE);
  http_task *t = l_job_new(L, &kind);
  moon_request *request = &t->request;
  take_headers(L, 1, t);
  request->url = copy_field(L, 1, "url");
  if (!request->url)
    luaL_error(L, "http: url: expected a text");
  request->ca_file = copy_field(L, 1, "ca_file");
  request->head = flag_field(L, 1, "head");
  request->plain_http = flag_field(L, 1, "plain_http");
  request->idle_timeout_ms = (int)integer_field(L, 1, "idle_ms");
  request->body_max = (size_t)integer_field(L, 1, "body_max");
  if (lua_getfield(L, 1, "partial") != LUA_TNIL)
    request->partial = moon_partial_retain(check(L, -1));
  lua_pop(L, 1);
  return l_job_start(L, t);
}

/* ---- a finished blob ---- */

typedef struct check_task {
  moon_task task;
  char *blob;
} check_task;

static moon_status run_check(moon_task *task, moon_progress *progress, moon_err *err) {
  atomic_store(&progress->unit, "bytes");
  return moon_blob_check(((check_task *)task)->blob, progress, err);
}

static void drop_check(moon_task *task) {
  free(((check_task *)task)->blob);
}

/* core.check_blob(blob) -> job */
static int check_blob(lua_State *L) {
  static const l_job_kind kind = {.name = "check",
                                  .size = sizeof(check_task),
                                  .run = run_check,
                                  .push = l_push_true,
                                  .drop = drop_check,
                                  .soft = true,
                                  .aside = true};
  const char *blob = l_path_check(L, 1);
  check_task *t = l_job_new(L, &kind);
  t->blob = strdup(blob);
  if (!t->blob)
    luaL_error(L, "check_blob: not enough memory");
  return l_job_start(L, t);
}

/* ---- URLs ---- */

#define URL_TYPE "moonscope.Url"

static int url_free(lua_State *L) {
  moon_url_free(luaL_checkudata(L, 1, URL_TYPE));
  return 0;
}

/* core.url(text, base or nil) -> {text =, scheme =, host =, port =} */
static int url(lua_State *L) {
  const char *text = luaL_checkstring(L, 1), *base = luaL_optstring(L, 2, NULL);
  moon_url *parts = lua_newuserdatauv(L, sizeof *parts, 0); /* any push below may throw */
  *parts = (moon_url){0};
  luaL_setmetatable(L, URL_TYPE);
  moon_err err;
  if (moon_url_parse(parts, text, base, &err) != MOON_OK)
    return l_fail(L, &err);
  lua_createtable(L, 0, 4);
  set_text(L, "text", parts->text, strlen(parts->text));
  set_text(L, "scheme", parts->scheme, strlen(parts->scheme));
  set_text(L, "host", parts->host, strlen(parts->host));
  set_text(L, "port", parts->port, strlen(parts->port));
  return 1;
}

static const luaL_Reg methods[] = {{"done", partial_done},        {"_resume", partial_resume},
                                   {"_restart", partial_restart}, {"_publish", partial_publish},
                                   {"close", partial_close},      {NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", partial_close}, {"__close", partial_close}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"partial", partial_open},
                                     {"http", http},
                                     {"check_blob", check_blob},
                                     {"url", url},
                                     {NULL, NULL}};

void l_open_download(lua_State *L) {
  static const luaL_Reg url_metamethods[] = {{"__gc", url_free}, {NULL, NULL}};
  luaL_newmetatable(L, URL_TYPE);
  luaL_setfuncs(L, url_metamethods, 0);
  lua_pop(L, 1);
  l_register(L, TYPE, methods, metamethods, false);
  luaL_setfuncs(L, functions, 0);
}
