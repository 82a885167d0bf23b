// SPDX-License-Identifier: MIT
/* Plain files, by paths that may be confined (io/confine.h). */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bind/bind.h"
#include "io/confine.h"
#include "io/outfile.h"

/* ---- folders ---- */

/* The texts of the list at index; they stay alive in it, the array as a value on the stack. */
static const char **check_list(lua_State *L, int index, size_t *n) {
  luaL_checktype(L, index, LUA_TTABLE);
  *n = (size_t)luaL_len(L, index);
  const char **paths = lua_newuserdatauv(L, (*n + 1) * sizeof *paths, 0);
  for (size_t i = 0; i < *n; i++) {
    lua_geti(L, index, (lua_Integer)i + 1);
    paths[i] = l_path_check(L, -1);
    lua_pop(L, 1);
  }
  return paths;
}

/* core.confine(folders, beyond) -> true; nothing below the folders leads out of them, but to those
 * of `beyond`. The last call counts. */
static int confine(lua_State *L) {
  size_t n_folders, n_beyond;
  const char **folders = check_list(L, 1, &n_folders), **beyond = check_list(L, 2, &n_beyond);
  moon_err err;
  if (moon_confine(folders, n_folders, beyond, n_beyond, &err))
    return l_fail(L, &err);
  lua_pushboolean(L, true);
  return 1;
}

/* Applies change to path's name in its folder. */
static int change_name(lua_State *L, int (*change)(const char *)) {
  const char *path = l_path_check(L, 1);
  char *target;
  int folder_fd;
  moon_err err;
  moon_status status = moon_confine_target(&target, &folder_fd, path, &err);
  if (status == MOON_OK && change(target))
    status = moon_fail_os(&err, path);
  free(target);
  if (folder_fd >= 0)
    close(folder_fd);
  if (status)
    return l_fail(L, &err);
  lua_pushboolean(L, true);
  return 1;
}

static int make_one(const char *path) {
  return mkdir(path, 0777);
}

/* core.make_folder(path) -> true */
static int make_folder(lua_State *L) {
  return change_name(L, make_one);
}

/* core.remove_file(path) -> true */
static int remove_file(lua_State *L) {
  return change_name(L, unlink);
}

/* ---- reading ---- */

/* core.open_file(path) -> descriptor of a regular file, which the caller closes */
static int open_file(lua_State *L) {
  int fd;
  moon_err err;
  if (moon_confine_open(&fd, l_path_check(L, 1), &err))
    return l_fail(L, &err);
  lua_pushinteger(L, fd);
  return 1;
}

/* core.read_file(path, limit) -> its bytes, of which there are `limit` at most */
static int read_file(lua_State *L) {
  const char *path = l_path_check(L, 1);
  size_t limit = (size_t)luaL_checkinteger(L, 2);
  moon_bytes *bytes;
  moon_err err;
  moon_status status = moon_bytes_open(&bytes, path, &err);
  if (status)
    return l_fail(L, &err);
  size_t size = moon_bytes_size(bytes);
  char *copy = size <= limit ? malloc(size + 1) : NULL;
  if (size > limit)
    status =
        moon_fail(&err, MOON_EFORMAT, "%s: %zu bytes, expected at most %zu", path, size, limit);
  else if (!copy)
    status = moon_fail(&err, MOON_ENOMEM, "%s: no memory for %zu bytes", path, size);
  else if (size)
    memcpy(copy, moon_bytes_data(bytes), size);
  status = moon_bytes_check(bytes, status, &err);
  moon_bytes_release(bytes);
  if (status) {
    free(copy);
    return l_fail(L, &err);
  }
  lua_pushlstring(L, copy, size);
  free(copy);
  return 1;
}

/* ---- writing ---- */

typedef struct write_task {
  moon_task task;
  char *path, *text;
  size_t size;
  bool replace;
} write_task;

static moon_status run_write(moon_task *task, moon_progress *progress, moon_err *err) {
  write_task *t = (write_task *)task;
  moon_outfile file;
  (void)progress;
  moon_status status = moon_outfile_create(&file, t->path, err);
  if (status == MOON_OK)
    status = moon_outfile_append(&file, t->text, t->size, err);
  if (status == MOON_OK)
    status = moon_outfile_seal(&file, err);
  if (status == MOON_OK)
    status = (t->replace ? moon_outfile_publish : moon_outfile_publish_new)(&file, err);
  moon_outfile_close(&file);
  return status;
}

static void drop_write(moon_task *task) {
  write_task *t = (write_task *)task;
  free(t->path);
  free(t->text);
}

/* core.write_file(path, text, replace) -> job -> true; the file appears when it is complete. EEXIST
 * where there is one and it is not to be replaced. */
static int write_file(lua_State *L) {
  static const l_job_kind kind = {"write_file", sizeof(write_task), run_write,
                                  l_push_true,  drop_write,         .soft = true};
  const char *path = l_path_check(L, 1);
  size_t size;
  const char *text = luaL_checklstring(L, 2, &size);
  bool replace = lua_toboolean(L, 3);
  write_task *t = l_job_new(L, &kind);
  t->path = strdup(path);
  t->text = malloc(size + 1);
  t->size = size;
  t->replace = replace;
  if (!t->path || !t->text)
    return luaL_error(L, "write_file: not enough memory");
  memcpy(t->text, text, size);
  return l_job_start(L, t);
}

static const luaL_Reg functions[] = {{"confine", confine},
                                     {"make_folder", make_folder},
                                     {"remove_file", remove_file},
                                     {"open_file", open_file},
                                     {"read_file", read_file},
                                     {"write_file", write_file},
                                     {NULL, NULL}};

void l_open_files(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
