// SPDX-License-Identifier: MIT
/* moonscope.Digest: a sha256 that is fed range by range, each in a job. */
#include <stdlib.h>

#include "bind/checkpoint.h"
#include "io/digest.h"

#define TYPE "moonscope.Digest"

typedef struct l_digest {
  moon_digest *digest; /* NULL: not made yet, or closed */
} l_digest;

moon_digest *l_digest_check(lua_State *L, int index) {
  l_digest *u = luaL_checkudata(L, index, TYPE);
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
  if (moon_digest_text(l_digest_check(L, 1), text, &err) != MOON_OK)
    return l_fail(L, &err);
  lua_pushstring(L, text);
  return 1;
}

/* ---- adding a tensor ---- */

typedef struct tensor_task {
  moon_task task;
  moon_digest *digest;
  l_range range;
} tensor_task;

static moon_status run_tensor(moon_task *task, moon_progress *progress, moon_err *err) {
  tensor_task *t = (tensor_task *)task;
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

static void drop_tensor(moon_task *task) {
  tensor_task *t = (tensor_task *)task;
  moon_digest_release(t->digest);
  l_range_drop(&t->range);
}

/* digest:_add_tensor(checkpoint, name, first, size) -> job; bytes of its elements in row-major
 * order */
static int digest_add_tensor(lua_State *L) {
  static const l_job_kind kind = {.name = "sha256",
                                  .size = sizeof(tensor_task),
                                  .run = run_tensor,
                                  .push = l_push_true,
                                  .drop = drop_tensor,
                                  .soft = true};
  moon_digest *digest = l_digest_check(L, 1);
  tensor_task *t = l_job_new(L, &kind);
  t->digest = moon_digest_retain(digest);
  l_range_take(L, 2, &t->range);
  return l_job_start(L, t);
}

/* ---- adding a file ---- */

void l_hashing_take(lua_State *L, moon_digest *digest, int checkpoint, int index,
                    l_hashing *hashing) {
  moon_bytes *bytes = moon_checkpoint_file(l_checkpoint_check(L, checkpoint));
  lua_Integer first = luaL_checkinteger(L, index), size = luaL_checkinteger(L, index + 1);
  luaL_argcheck(L, bytes, checkpoint, "a checkpoint of one file expected");
  lua_Integer total = (lua_Integer)moon_bytes_size(bytes);
  luaL_argcheck(L, first >= 0 && first <= total, index, "outside of the file");
  luaL_argcheck(L, size >= 0 && size <= total - first, index + 1, "outside of the file");
  *hashing = (l_hashing){moon_digest_retain(digest), moon_bytes_retain(bytes), (size_t)first,
                         (size_t)size};
}

void l_hashing_run(const l_hashing *hashing) {
  if (hashing->digest)
    moon_digest_add(hashing->digest, moon_bytes_data(hashing->bytes) + hashing->first,
                    hashing->size);
}

void l_hashing_drop(l_hashing *hashing) {
  moon_digest_release(hashing->digest);
  moon_bytes_release(hashing->bytes);
}

typedef struct file_task {
  moon_task task;
  l_hashing hashing;
} file_task;

static moon_status run_file(moon_task *task, moon_progress *progress, moon_err *err) {
  (void)progress;
  (void)err;
  l_hashing_run(&((file_task *)task)->hashing);
  return MOON_OK;
}

static void drop_file(moon_task *task) {
  l_hashing_drop(&((file_task *)task)->hashing);
}

/* digest:_add_file(checkpoint, first, size) -> job; bytes of its one file */
static int digest_add_file(lua_State *L) {
  static const l_job_kind kind = {.name = "sha256",
                                  .size = sizeof(file_task),
                                  .run = run_file,
                                  .push = l_push_true,
                                  .drop = drop_file,
                                  .soft = true};
  moon_digest *digest = l_digest_check(L, 1);
  file_task *t = l_job_new(L, &kind);
  l_hashing_take(L, digest, 2, 3, &t->hashing);
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
