// SPDX-License-Identifier: MIT
/* moonscope.Digest: a sha256 that is fed range by range, each in a job. */
#include <stdlib.h>

#include "bind/checkpoint.h"
#include "io/digest.h"

#define TYPE "moonscope.Digest"

typedef struct l_digest {
  moon_digest *digest; /* NULL: not made yet, or closed */
} l_digest;

static moon_digest *check(lua_State *L) {
  l_digest *u = luaL_checkudata(L, 1, TYPE);
  if (!u->digest)
    luaL_error(L, "digest: closed");
  return u->digest;
}

/* core.digest() -> Digest */
static int digest_new(lua_State *L) {
  l_digest *u = lua_newuserdatauv(L, sizeof *u, 0);
  u->digest = NULL;
  luaL_setmetatable(L, TYPE);
  moon_err err;
  if (moon_digest_new(&u->digest, &err) != MOON_OK)
    return l_fail(L, &err);
  return 1;
}

static int digest_close(lua_State *L) {
  l_digest *u = luaL_checkudata(L, 1, TYPE);
  moon_digest_release(u->digest);
  u->digest = NULL;
  return 0;
}

/* digest:text() -> 64 hex digits of what was added so far */
static int digest_text(lua_State *L) {
  char text[MOON_SHA256_TEXT];
  moon_err err;
  if (moon_digest_text(check(L), text, &err) != MOON_OK)
    return l_fail(L, &err);
  lua_pushstring(L, text);
  return 1;
}

/* ---- adding ---- */

typedef struct add_task {
  moon_task task;
  moon_digest *digest;
  l_range range;     /* of a tensor, or of */
  moon_bytes *bytes; /* a whole file */
} add_task;

static moon_status run_add_tensor(moon_task *task, moon_progress *progress, moon_err *err) {
  add_task *t = (add_task *)task;
  const void *data;
  void *buffer;
  (void)progress;
  moon_status status =
      moon_entry_view(&data, &buffer, t->range.entry, t->range.first, t->range.size, err);
  if (status == MOON_OK)
    moon_digest_add(t->digest, data, t->range.size);
  free(buffer);
  return status;
}

static moon_status run_add_file(moon_task *task, moon_progress *progress, moon_err *err) {
  add_task *t = (add_task *)task;
  (void)progress;
  (void)err;
  moon_digest_add(t->digest, moon_bytes_data(t->bytes) + t->range.first, t->range.size);
  return MOON_OK;
}

static void drop_add(moon_task *task) {
  add_task *t = (add_task *)task;
  moon_digest_release(t->digest);
  l_range_drop(&t->range);
  moon_bytes_release(t->bytes);
}

/* digest:_add_tensor(checkpoint, name, first, size) -> job; bytes of its elements in row-major
 * order */
static int digest_add_tensor(lua_State *L) {
  static const l_job_kind kind = {.name = "sha256",
                                  .size = sizeof(add_task),
                                  .run = run_add_tensor,
                                  .push = l_push_true,
                                  .drop = drop_add,
                                  .soft = true};
  moon_digest *digest = check(L);
  add_task *t = l_job_new(L, &kind);
  t->digest = moon_digest_retain(digest);
  l_range_take(L, 2, &t->range);
  return l_job_start(L, t);
}

/* digest:_add_file(checkpoint, first, size) -> job; bytes of its one file */
static int digest_add_file(lua_State *L) {
  static const l_job_kind kind = {.name = "sha256",
                                  .size = sizeof(add_task),
                                  .run = run_add_file,
                                  .push = l_push_true,
                                  .drop = drop_add,
                                  .soft = true};
  moon_digest *digest = check(L);
  moon_bytes *bytes = moon_checkpoint_file(l_checkpoint_check(L, 2));
  lua_Integer first = luaL_checkinteger(L, 3), size = luaL_checkinteger(L, 4);
  luaL_argcheck(L, bytes, 2, "a checkpoint of one file expected");
  lua_Integer total = (lua_Integer)moon_bytes_size(bytes);
  luaL_argcheck(L, first >= 0 && first <= total, 3, "outside of the file");
  luaL_argcheck(L, size >= 0 && size <= total - first, 4, "outside of the file");
  add_task *t = l_job_new(L, &kind);
  t->digest = moon_digest_retain(digest);
  t->bytes = moon_bytes_retain(bytes);
  t->range.first = (size_t)first;
  t->range.size = (size_t)size;
  return l_job_start(L, t);
}

static const luaL_Reg methods[] = {{"text", digest_text},
                                   {"_add_tensor", digest_add_tensor},
                                   {"_add_file", digest_add_file},
                                   {"close", digest_close},
                                   {NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", digest_close}, {"__close", digest_close}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"digest", digest_new}, {NULL, NULL}};

void l_open_digest(lua_State *L) {
  l_register(L, TYPE, methods, metamethods, false);
  luaL_setfuncs(L, functions, 0);
}
