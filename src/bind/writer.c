// SPDX-License-Identifier: MIT
/* moonscope.Writer: a safetensors file in the making, fed by jobs. It appears with _publish alone.
 */
#include <stdlib.h>
#include <string.h>

#include "bind/checkpoint.h"
#include "io/outfile.h"
#include "io/writer.h"
#include "tensor/dtype.h"

#define TYPE  "moonscope.Writer"
#define BLOCK ((size_t)32 << 20) /* bytes that a tensor is read by */

typedef struct l_writer {
  moon_writer *writer; /* NULL: not made yet, or closed */
  lua_Integer n_plans;
} l_writer;

static l_writer *check(lua_State *L) {
  l_writer *u = luaL_checkudata(L, 1, TYPE);
  if (!u->writer)
    luaL_error(L, "writer: closed");
  return u;
}

/* ---- plans ---- */

/* The text at index, which stays alive while it is on the stack or in its table. */
static const char *plain_text(lua_State *L, int index, const char *what) {
  if (lua_type(L, index) != LUA_TSTRING)
    luaL_error(L, "save: %s is a %s, expected text", what, luaL_typename(L, index));
  const char *text = lua_tostring(L, index);
  if (strlen(text) != lua_rawlen(L, index))
    luaL_error(L, "save: %s '%s' has a zero byte", what, text);
  return text;
}

/* The field `name` of the table on top; the text stays alive in that table. */
static const char *text_field(lua_State *L, const char *name) {
  lua_getfield(L, -1, name);
  const char *text = plain_text(L, -1, name);
  lua_pop(L, 1);
  return text;
}

static void read_shape(lua_State *L, moon_plan *plan) {
  if (lua_getfield(L, -1, "shape") != LUA_TTABLE || luaL_len(L, -1) > MOON_MAX_RANK)
    luaL_error(L, "writer: a plan without a shape");
  plan->rank = (int)luaL_len(L, -1);
  for (int i = 0; i < plan->rank; i++) {
    lua_geti(L, -1, i + 1);
    plan->shape[i] = luaL_checkinteger(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* An opaque dtype goes back to the file's spelling, which is in upper case; kept alive by the
 * plan's table. */
static const char *opaque_name(lua_State *L, const char *name) {
  char upper[32];
  size_t i = 0;
  for (; name[i] && i + 1 < sizeof upper; i++)
    upper[i] = name[i] >= 'a' && name[i] <= 'z' ? (char)(name[i] - 'a' + 'A') : name[i];
  upper[i] = 0;
  const char *text = lua_pushstring(L, upper);
  lua_setfield(L, -2, "file_dtype");
  return text;
}

/* {name =, dtype =, shape =, nbytes =} on top of the stack; nbytes is read for an opaque dtype
 * only. */
static void read_plan(lua_State *L, moon_plan *plan) {
  luaL_checktype(L, -1, LUA_TTABLE);
  const char *dtype_name = text_field(L, "dtype");
  moon_dtype dtype;
  int64_t count;
  plan->name = text_field(L, "name");
  read_shape(L, plan);
  if (moon_dtype_from_name(&dtype, dtype_name)) {
    plan->dtype_name = moon_dtype_file_name(dtype);
    plan->dtype_size = moon_dtype_size(dtype);
    if (!moon_shape_count(&count, plan->shape, plan->rank) ||
        !moon_size_mul(&plan->size_bytes, (size_t)count, plan->dtype_size))
      luaL_error(L, "writer: tensor '%s' has no possible shape", plan->name);
    return;
  }
  plan->dtype_name = opaque_name(L, dtype_name);
  lua_getfield(L, -1, "nbytes");
  plan->size_bytes = (size_t)luaL_checkinteger(L, -1);
  lua_pop(L, 1);
}

/* The table at index {key = text} into pairs; the texts stay alive in it. */
static void read_metadata(lua_State *L, int index, moon_pair *pairs) {
  size_t n = 0;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    pairs[n].key = (char *)plain_text(L, -2, "a metadata key");
    pairs[n++].value = (char *)plain_text(L, -1, "a metadata value");
  }
}

static size_t count_pairs(lua_State *L, int index) {
  size_t n = 0;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1))
    n++;
  return n;
}

/* core.writer(path, plans, metadata) -> Writer; plans as read_plan says */
static int writer_new(lua_State *L) {
  const char *path = l_path_check(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  size_t n = (size_t)luaL_len(L, 2), n_metadata = count_pairs(L, 3);
  l_writer *u = lua_newuserdatauv(L, sizeof *u, 0);
  *u = (l_writer){NULL, (lua_Integer)n};
  luaL_setmetatable(L, TYPE);
  moon_plan *plans = lua_newuserdatauv(L, (n + 1) * sizeof *plans, 0);
  moon_pair *pairs = lua_newuserdatauv(L, (n_metadata + 1) * sizeof *pairs, 0);
  memset(plans, 0, (n + 1) * sizeof *plans);
  for (size_t i = 0; i < n; i++) {
    lua_geti(L, 2, (lua_Integer)i + 1);
    read_plan(L, &plans[i]);
    lua_pop(L, 1);
  }
  read_metadata(L, 3, pairs);
  moon_err err;
  if (moon_writer_create(&u->writer, path, plans, n, pairs, n_metadata, &err) != MOON_OK)
    return l_fail(L, &err);
  lua_pushvalue(L, -3);
  return 1;
}

static int writer_close(lua_State *L) {
  l_writer *u = luaL_checkudata(L, 1, TYPE);
  moon_writer_release(u->writer);
  u->writer = NULL;
  return 0;
}

/* writer:order() -> list: the numbers of the plans in the order of the file, in which data are to
 * come */
static int writer_order(lua_State *L) {
  const l_writer *u = check(L);
  const size_t *order = moon_writer_order(u->writer);
  lua_createtable(L, (int)u->n_plans, 0);
  for (lua_Integer i = 0; i < u->n_plans; i++) {
    lua_pushinteger(L, (lua_Integer)order[i] + 1);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* writer:size() -> bytes of the file */
static int writer_size(lua_State *L) {
  lua_pushinteger(L, (lua_Integer)moon_writer_size(check(L)->writer));
  return 1;
}

/* ---- copying a checkpoint's bytes ---- */

typedef struct copy_task {
  moon_task task;
  moon_writer *writer;
  l_range range;
  moon_dtype dtype;  /* to convert to; MOON_OPAQUE: as it is */
  l_hashing hashing; /* of the source file, at the same time */
} copy_task;

static moon_status refuse_overflow(const char *element, moon_dtype from, moon_dtype to,
                                   moon_err *err) {
  double value;
  moon_dtype_convert(&value, MOON_F64, element, from, 1);
  return moon_fail(err, MOON_ERANGE, "%g is beyond %s", value, moon_dtype_name(to));
}

/*
 * Most of a conversion's time goes to two sha256, of the output and of the source, each of which
 * one thread can compute; the writing is shared out so that both are done at the same time, one
 * writing while the other one hashes. Without a source to hash, one hashes and one writes.
 */
static moon_status append_by_two(moon_writer *writer, const l_hashing *hashing, const void *data,
                                 size_t size, moon_err *err) {
  const char *bytes = data;
  size_t at, half = hashing->digest ? size / 2 : 0;
  moon_err second_err;
  moon_status first = moon_writer_take(writer, size, &at, err), second = MOON_OK;
  if (first)
    return first;
#pragma omp parallel sections num_threads(2)
  {
#pragma omp section
    {
      moon_writer_hash(writer, bytes, size);
      first = moon_writer_write(writer, bytes, half, at, err);
    }
#pragma omp section
    {
      second = moon_writer_write(writer, bytes + half, size - half, at + half, &second_err);
      l_hashing_run(hashing);
    }
  }
  if (second && !first && err)
    *err = second_err;
  return first ? first : second;
}

/* data_size bytes of floats; MOON_ERANGE where a finite one would not stay so. */
static moon_status append_converted(moon_writer *writer, const l_hashing *hashing, moon_dtype to,
                                    const void *data, moon_dtype from, size_t data_size,
                                    moon_err *err) {
  size_t n = data_size / moon_dtype_size(from), size = n * moon_dtype_size(to);
  void *converted = malloc(size ? size : 1);
  if (!converted)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", size);
  moon_dtype_convert(converted, to, data, from, n);
  int64_t bad = moon_dtype_overflow(converted, to, data, from, n);
  moon_status status =
      bad < 0 ? append_by_two(writer, hashing, converted, size, err)
              : refuse_overflow((const char *)data + (size_t)bad * moon_dtype_size(from), from, to,
                                err);
  free(converted);
  return status;
}

static moon_status run_copy(moon_task *task, moon_progress *progress, moon_err *err) {
  const copy_task *t = (copy_task *)task;
  const l_range *range = &t->range;
  const void *data;
  void *buffer;
  (void)progress;
  moon_status status =
      moon_entry_view(&data, &buffer, range->entry, range->first, range->size, err);
  if (status == MOON_OK && (t->dtype == MOON_OPAQUE || t->dtype == range->entry->dtype))
    status = append_by_two(t->writer, &t->hashing, data, range->size, err);
  else if (status == MOON_OK)
    status = append_converted(t->writer, &t->hashing, t->dtype, data, range->entry->dtype,
                              range->size, err);
  free(buffer);
  return status;
}

static void drop_copy(moon_task *task) {
  copy_task *t = (copy_task *)task;
  moon_writer_release(t->writer);
  l_range_drop(&t->range);
  l_hashing_drop(&t->hashing);
}

/* writer:_copy(checkpoint, name, first, size, dtype, digest, from, n) -> job; appends those bytes
 * of the tensor's elements in row-major order, converted where a dtype is given; where a digest is,
 * n bytes of the checkpoint's file from byte `from` on are added to it meanwhile */
static int writer_copy(lua_State *L) {
  static const l_job_kind kind = {.name = "copy",
                                  .size = sizeof(copy_task),
                                  .run = run_copy,
                                  .push = l_push_true,
                                  .drop = drop_copy,
                                  .soft = true};
  moon_writer *writer = check(L)->writer;
  const char *dtype = luaL_optstring(L, 6, NULL);
  moon_digest *digest = lua_isnoneornil(L, 7) ? NULL : l_digest_check(L, 7);
  copy_task *t = l_job_new(L, &kind);
  t->writer = moon_writer_retain(writer);
  l_range_take(L, 2, &t->range);
  if (digest)
    l_hashing_take(L, digest, 2, 8, &t->hashing);
  if (dtype && (t->range.entry->dtype == MOON_OPAQUE || !moon_dtype_from_name(&t->dtype, dtype)))
    luaL_error(L, "writer: '%s' in %s cannot become %s", t->range.entry->name,
               t->range.entry->dtype_name, dtype);
  return l_job_start(L, t);
}

/* ---- writing a tensor ---- */

typedef struct write_task {
  moon_task task;
  moon_writer *writer;
  moon_tensor tensor;
  moon_dtype dtype; /* to convert to; the tensor's own: as it is */
} write_task;

static moon_status append_all(const write_task *t, const moon_tensor *rows, void *buffer,
                              moon_err *err) {
  static const l_hashing none = {0};
  moon_status status = moon_tensor_read(rows, buffer, err);
  size_t size = moon_tensor_size_bytes(rows);
  if (status)
    return status;
  return t->dtype == rows->dtype
             ? append_by_two(t->writer, &none, buffer, size, err)
             : append_converted(t->writer, &none, t->dtype, buffer, rows->dtype, size, err);
}

static moon_status append_rows(const write_task *t, int64_t first, int64_t n, void *buffer,
                               moon_err *err) {
  moon_tensor rows = {0};
  moon_status status = moon_tensor_narrow(&rows, &t->tensor, 0, first, n, err);
  if (status == MOON_OK)
    status = append_all(t, &rows, buffer, err);
  moon_tensor_release(&rows);
  return status;
}

/* In blocks of rows, so that the buffer stays small. */
static moon_status run_write(moon_task *task, moon_progress *progress, moon_err *err) {
  write_task *t = (write_task *)task;
  const moon_tensor *tensor = &t->tensor;
  size_t size = moon_tensor_size_bytes(tensor);
  int64_t n_rows = tensor->rank && size ? tensor->shape[0] : 1;
  size_t row_size = size / (size_t)n_rows;
  int64_t n = row_size && row_size < BLOCK ? (int64_t)(BLOCK / row_size) : 1;
  if (!size)
    return MOON_OK;
  if (n > n_rows)
    n = n_rows;
  void *buffer = malloc(row_size * (size_t)n + 1);
  if (!buffer)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", row_size * (size_t)n);
  moon_status status = MOON_OK;
  atomic_store(&progress->total, (int64_t)size);
  atomic_store(&progress->unit, "bytes");
  if (tensor->rank == 0)
    status = append_all(t, tensor, buffer, err);
  for (int64_t row = 0; tensor->rank && row < n_rows && status == MOON_OK; row += n) {
    status = append_rows(t, row, n < n_rows - row ? n : n_rows - row, buffer, err);
    if (status == MOON_OK)
      status = moon_progress_add(progress, n * (int64_t)row_size, err);
  }
  free(buffer);
  return status;
}

static void drop_write(moon_task *task) {
  write_task *t = (write_task *)task;
  moon_writer_release(t->writer);
  moon_tensor_release(&t->tensor);
}

/* writer:_write(tensor, dtype) -> job; appends its elements in row-major order, converted where a
 * dtype is given */
static int writer_write(lua_State *L) {
  static const l_job_kind kind = {.name = "write",
                                  .size = sizeof(write_task),
                                  .run = run_write,
                                  .push = l_push_true,
                                  .drop = drop_write,
                                  .soft = true};
  moon_writer *writer = check(L)->writer;
  const moon_tensor *tensor = l_tensor_check(L, 2);
  const char *dtype = luaL_optstring(L, 3, moon_dtype_name(tensor->dtype));
  write_task *t = l_job_new(L, &kind);
  t->writer = moon_writer_retain(writer);
  t->tensor = moon_tensor_retain(tensor);
  if (!moon_dtype_from_name(&t->dtype, dtype))
    luaL_error(L, "writer: unknown dtype %s", dtype);
  return l_job_start(L, t);
}

/* ---- the end ---- */

typedef struct end_task {
  moon_task task;
  moon_writer *writer;
  char sha256[MOON_SHA256_TEXT];
  char *path, *text; /* of a file to appear with it; or NULL */
} end_task;

static moon_status run_seal(moon_task *task, moon_progress *progress, moon_err *err) {
  end_task *t = (end_task *)task;
  (void)progress;
  return moon_writer_seal(t->writer, t->sha256, err);
}

static int push_seal(lua_State *L, moon_task *task) {
  lua_pushstring(L, ((end_task *)task)->sha256);
  return 1;
}

/* Both files are complete before the first of them gets its name. */
static moon_status run_publish(moon_task *task, moon_progress *progress, moon_err *err) {
  end_task *t = (end_task *)task;
  (void)progress;
  if (!t->path)
    return moon_writer_publish(t->writer, err);
  moon_outfile file;
  moon_status status = moon_outfile_create(&file, t->path, err);
  if (status == MOON_OK)
    status = moon_outfile_append(&file, t->text, strlen(t->text), err);
  if (status == MOON_OK)
    status = moon_outfile_seal(&file, err);
  if (status == MOON_OK)
    status = moon_writer_publish(t->writer, err);
  if (status == MOON_OK)
    status = moon_outfile_publish(&file, err);
  moon_outfile_close(&file);
  return status;
}

static void drop_end(moon_task *task) {
  end_task *t = (end_task *)task;
  moon_writer_release(t->writer);
  free(t->path);
  free(t->text);
}

/* writer:_seal() -> job -> sha256 of the file in 64 hex digits; no more data after it */
static int writer_seal(lua_State *L) {
  static const l_job_kind kind = {.name = "seal",
                                  .size = sizeof(end_task),
                                  .run = run_seal,
                                  .push = push_seal,
                                  .drop = drop_end,
                                  .soft = true};
  moon_writer *writer = check(L)->writer;
  end_task *t = l_job_new(L, &kind);
  t->writer = moon_writer_retain(writer);
  return l_job_start(L, t);
}

/* writer:_publish(path, text) -> job; after _seal. With path and text a second file appears beside
 * it. */
static int writer_publish(lua_State *L) {
  static const l_job_kind kind = {.name = "publish",
                                  .size = sizeof(end_task),
                                  .run = run_publish,
                                  .push = l_push_true,
                                  .drop = drop_end,
                                  .soft = true};
  moon_writer *writer = check(L)->writer;
  const char *path = lua_isnoneornil(L, 2) ? NULL : l_path_check(L, 2),
             *text = path ? luaL_checkstring(L, 3) : NULL;
  end_task *t = l_job_new(L, &kind);
  t->writer = moon_writer_retain(writer);
  if (path) {
    t->path = strdup(path);
    t->text = strdup(text);
    if (!t->path || !t->text)
      luaL_error(L, "writer: not enough memory");
  }
  return l_job_start(L, t);
}

static const luaL_Reg methods[] = {{"order", writer_order}, {"size", writer_size},
                                   {"_copy", writer_copy},  {"_write", writer_write},
                                   {"_seal", writer_seal},  {"_publish", writer_publish},
                                   {"close", writer_close}, {NULL, NULL}};

static const luaL_Reg metamethods[] = {
    {"__gc", writer_close}, {"__close", writer_close}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"writer", writer_new}, {NULL, NULL}};

void l_open_writer(lua_State *L) {
  l_register(L, TYPE, methods, metamethods, false);
  luaL_setfuncs(L, functions, 0);
}
