// SPDX-License-Identifier: MIT
/* moonscope.Checkpoint: opening reads headers only, so it runs on the Lua thread. */
#include "bind/checkpoint.h"

#define TYPE "moonscope.Checkpoint"

typedef struct l_checkpoint {
  moon_checkpoint *checkpoint; /* NULL: not open yet, or closed */
} l_checkpoint;

moon_checkpoint *l_checkpoint_check(lua_State *L, int index) {
  l_checkpoint *u = luaL_checkudata(L, index, TYPE);
  if (!u->checkpoint)
    luaL_error(L, "checkpoint: closed");
  return u->checkpoint;
}

/* core.open(path) -> Checkpoint */
static int checkpoint_open(lua_State *L) {
  const char *path = l_path_check(L, 1);
  l_checkpoint *u = lua_newuserdatauv(L, sizeof *u, 0);
  u->checkpoint = NULL;
  luaL_setmetatable(L, TYPE);
  moon_err err;
  if (moon_checkpoint_open(&u->checkpoint, path, &err) != MOON_OK)
    return l_fail(L, &err);
  return 1;
}

static int checkpoint_close(lua_State *L) {
  l_checkpoint *u = luaL_checkudata(L, 1, TYPE);
  moon_checkpoint_release(u->checkpoint);
  u->checkpoint = NULL;
  return 0;
}

/* checkpoint:path() */
static int checkpoint_path(lua_State *L) {
  lua_pushstring(L, moon_checkpoint_path(l_checkpoint_check(L, 1)));
  return 1;
}

/* checkpoint:format() -> "safetensors", "pth", "npz", "npy" */
static int checkpoint_format(lua_State *L) {
  lua_pushstring(L, moon_checkpoint_format(l_checkpoint_check(L, 1)));
  return 1;
}

/* checkpoint:size() -> bytes of its one file, or nil where it has several */
static int checkpoint_size(lua_State *L) {
  moon_bytes *bytes = moon_checkpoint_file(l_checkpoint_check(L, 1));
  if (bytes)
    lua_pushinteger(L, (lua_Integer)moon_bytes_size(bytes));
  else
    luaL_pushfail(L);
  return 1;
}

/* checkpoint:names() -> sorted list */
static int checkpoint_names(lua_State *L) {
  moon_checkpoint *checkpoint = l_checkpoint_check(L, 1);
  size_t n = moon_checkpoint_count(checkpoint);
  lua_createtable(L, (int)n, 0);
  for (size_t i = 0; i < n; i++) {
    lua_pushstring(L, moon_checkpoint_entry(checkpoint, i)->name);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

/* checkpoint:info(name) -> {dtype =, shape =, nbytes =}, or nil where there is no such tensor */
static int checkpoint_info(lua_State *L) {
  const moon_entry *entry = moon_checkpoint_find(l_checkpoint_check(L, 1), luaL_checkstring(L, 2));
  if (!entry)
    return luaL_pushfail(L), 1;
  lua_createtable(L, 0, 3);
  lua_pushstring(L, entry->dtype_name);
  lua_setfield(L, -2, "dtype");
  lua_createtable(L, entry->rank, 0);
  for (int i = 0; i < entry->rank; i++) {
    lua_pushinteger(L, entry->shape[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "shape");
  lua_pushinteger(L, (lua_Integer)entry->size_bytes);
  lua_setfield(L, -2, "nbytes");
  return 1;
}

/* checkpoint:metadata() -> {key = text} */
static int checkpoint_metadata(lua_State *L) {
  size_t n;
  const moon_pair *pairs = moon_checkpoint_metadata(l_checkpoint_check(L, 1), &n);
  lua_createtable(L, 0, (int)n);
  for (size_t i = 0; i < n; i++) {
    lua_pushstring(L, pairs[i].value);
    lua_setfield(L, -2, pairs[i].key);
  }
  return 1;
}

static int checkpoint_tostring(lua_State *L) {
  l_checkpoint *u = luaL_checkudata(L, 1, TYPE);
  if (u->checkpoint)
    lua_pushfstring(L, TYPE " (%s, %s, %I tensors)", moon_checkpoint_path(u->checkpoint),
                    moon_checkpoint_format(u->checkpoint),
                    (LUAI_UACINT)moon_checkpoint_count(u->checkpoint));
  else
    lua_pushliteral(L, TYPE " (closed)");
  return 1;
}

static const moon_entry *check_entry(lua_State *L, moon_checkpoint *checkpoint, int index) {
  const char *name = luaL_checkstring(L, index);
  const moon_entry *entry = moon_checkpoint_find(checkpoint, name);
  if (!entry) {
    moon_err err;
    moon_fail(&err, MOON_ENOENT, "%s: no tensor '%s'", moon_checkpoint_path(checkpoint), name);
    l_throw(L, &err);
  }
  return entry;
}

/* ---- tensor ---- */

typedef struct tensor_task {
  moon_task task;
  moon_checkpoint *checkpoint;
  const moon_entry *entry;
  moon_tensor tensor;
} tensor_task;

static moon_status run_tensor(moon_task *task, moon_progress *progress, moon_err *err) {
  tensor_task *t = (tensor_task *)task;
  (void)progress;
  return moon_tensor_from_entry(&t->tensor, t->entry, err);
}

static int push_tensor(lua_State *L, moon_task *task) {
  l_tensor_push(L, &((tensor_task *)task)->tensor);
  return 1;
}

static void drop_tensor(moon_task *task) {
  tensor_task *t = (tensor_task *)task;
  moon_tensor_release(&t->tensor);
  moon_checkpoint_release(t->checkpoint);
}

/* checkpoint:_tensor(name) -> job -> Tensor over the mapped bytes; a misaligned one is copied */
static int checkpoint_tensor(lua_State *L) {
  static const l_job_kind kind = {.name = "tensor",
                                  .size = sizeof(tensor_task),
                                  .run = run_tensor,
                                  .push = push_tensor,
                                  .drop = drop_tensor};
  moon_checkpoint *checkpoint = l_checkpoint_check(L, 1);
  const moon_entry *entry = check_entry(L, checkpoint, 2);
  tensor_task *t = l_job_new(L, &kind);
  t->checkpoint = moon_checkpoint_retain(checkpoint);
  t->entry = entry;
  return l_job_start(L, t);
}

/* ---- shared ---- */

void l_range_take(lua_State *L, int index, l_range *range) {
  moon_checkpoint *checkpoint = l_checkpoint_check(L, index);
  const moon_entry *entry = check_entry(L, checkpoint, index + 1);
  lua_Integer first = luaL_checkinteger(L, index + 2), size = luaL_checkinteger(L, index + 3);
  lua_Integer element = (lua_Integer)moon_dtype_size(entry->dtype),
              total = (lua_Integer)entry->size_bytes;
  if (element == 0)
    element = 1; /* opaque ones are copied as bytes */
  luaL_argcheck(L, first >= 0 && first <= total && first % element == 0, index + 2,
                "outside of the tensor");
  luaL_argcheck(L, size >= 0 && size <= total - first && size % element == 0, index + 3,
                "outside of the tensor");
  *range = (l_range){moon_checkpoint_retain(checkpoint), entry, (size_t)first, (size_t)size};
}

void l_range_drop(l_range *range) {
  moon_checkpoint_release(range->checkpoint);
}

static int bytes_live(lua_State *L) {
  lua_pushinteger(L, moon_bytes_live());
  return 1;
}

static const luaL_Reg methods[] = {{"path", checkpoint_path},
                                   {"format", checkpoint_format},
                                   {"size", checkpoint_size},
                                   {"names", checkpoint_names},
                                   {"info", checkpoint_info},
                                   {"metadata", checkpoint_metadata},
                                   {"_tensor", checkpoint_tensor},
                                   {"close", checkpoint_close},
                                   {NULL, NULL}};

static const luaL_Reg metamethods[] = {{"__gc", checkpoint_close},
                                       {"__close", checkpoint_close},
                                       {"__tostring", checkpoint_tostring},
                                       {NULL, NULL}};

static const luaL_Reg functions[] = {
    {"open", checkpoint_open}, {"bytes_live", bytes_live}, {NULL, NULL}};

void l_open_checkpoint(lua_State *L) {
  l_register(L, TYPE, methods, metamethods, false);
  luaL_setfuncs(L, functions, 0);
  l_open_writer(L);
  l_open_digest(L);
}
