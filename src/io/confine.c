// SPDX-License-Identifier: MIT
#include "io/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/bytes.h"

typedef struct list {
  char **paths;
  size_t n;
} list;

static list confined, allowed; /* allowed: what is read may lie there; the confined ones, too */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;

#define FD_PATH 32 /* "/proc/self/fd/N" */

/* ---- the folders ---- */

static void free_list(list *l) {
  for (size_t i = 0; i < l->n; i++)
    free(l->paths[i]);
  free(l->paths);
  *l = (list){0};
}

/* false: no memory */
static bool add_all(list *l, const char *const *paths, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!(l->paths[l->n] = strdup(paths[i])))
      return false;
    else
      l->n++;
  return true;
}

static bool make_list(list *l, size_t room) {
  *l = (list){calloc(room + 1, sizeof *l->paths), 0};
  return l->paths;
}

moon_status moon_confine(const char *const *folders, size_t n_folders, const char *const *beyond,
                         size_t n_beyond, moon_err *err) {
  list new_confined = {0}, new_allowed = {0};
  bool made = make_list(&new_confined, n_folders) &&
              make_list(&new_allowed, n_folders + n_beyond) &&
              add_all(&new_confined, folders, n_folders) &&
              add_all(&new_allowed, folders, n_folders) && add_all(&new_allowed, beyond, n_beyond);
  if (made) {
    pthread_rwlock_wrlock(&lock);
    list old_confined = confined, old_allowed = allowed;
    confined = new_confined;
    allowed = new_allowed;
    pthread_rwlock_unlock(&lock);
    new_confined = old_confined;
    new_allowed = old_allowed;
  }
  free_list(&new_confined);
  free_list(&new_allowed);
  return made ? MOON_OK : moon_fail(err, MOON_ENOMEM, "no memory for %zu folders", n_folders);
}

static bool is_below(const char *folder, const char *path) {
  size_t size = strlen(folder);
  while (size && folder[size - 1] == '/')
    size--;
  return !strncmp(folder, path, size) && (path[size] == '/' || !path[size]);
}

static bool is_confined(const char *path) {
  pthread_rwlock_rdlock(&lock);
  bool found = false;
  for (size_t i = 0; i < confined.n && !found; i++)
    found = is_below(confined.paths[i], path);
  pthread_rwlock_unlock(&lock);
  return found;
}

static bool may_read(const char *real) {
  pthread_rwlock_rdlock(&lock);
  bool found = false;
  for (size_t i = 0; i < allowed.n && !found; i++)
    found = is_below(allowed.paths[i], real);
  pthread_rwlock_unlock(&lock);
  return found;
}

/* Does what is really at `real` lie below each folder that path says it does? */
static bool may_write(const char *path, const char *real) {
  pthread_rwlock_rdlock(&lock);
  bool below = true;
  for (size_t i = 0; i < confined.n && below; i++)
    below = !is_below(confined.paths[i], path) || is_below(confined.paths[i], real);
  pthread_rwlock_unlock(&lock);
  return below;
}

/* ---- descriptors ---- */

static void name_descriptor(char name[FD_PATH], int fd) {
  snprintf(name, FD_PATH, "/proc/self/fd/%d", fd);
}

/* Where the open file or folder is: however it was found, without a link. */
static moon_status real_path(char real[PATH_MAX], int fd, const char *path, moon_err *err) {
  char name[FD_PATH];
  name_descriptor(name, fd);
  ssize_t size = readlink(name, real, PATH_MAX - 1);
  if (size < 0)
    return moon_fail(err, MOON_EIO, "%s: cannot tell where it leads: %s: %s", path, name,
                     strerror(errno));
  real[size] = 0;
  return MOON_OK;
}

static moon_status refuse_way_out(const char *path, moon_err *err) {
  return moon_fail(err, MOON_EACCES, "%s: leads out of the folders that it must stay in", path);
}

static moon_status check_regular(int fd, const char *path, moon_err *err) {
  struct stat found;
  if (fstat(fd, &found))
    return moon_fail_os(err, path);
  return S_ISREG(found.st_mode) ? MOON_OK
                                : moon_fail(err, MOON_EINVAL, "%s: not a regular file", path);
}

/* ---- reading ---- */

/* O_PATH touches nothing: what is found is opened once it is known what and where it is. */
static moon_status open_confined(int *fd, const char *path, moon_err *err) {
  char real[PATH_MAX], name[FD_PATH];
  int found = open(path, O_PATH | O_CLOEXEC);
  if (found < 0)
    return moon_fail_os(err, path);
  moon_status status = real_path(real, found, path, err);
  if (status == MOON_OK && !may_read(real))
    status = refuse_way_out(path, err);
  if (status == MOON_OK)
    status = check_regular(found, path, err);
  if (status == MOON_OK) {
    name_descriptor(name, found);
    *fd = open(name, O_RDONLY | O_CLOEXEC);
    status = *fd < 0 ? moon_fail_os(err, path) : MOON_OK;
  }
  close(found);
  return status;
}

moon_status moon_confine_open(int *fd, const char *path, moon_err *err) {
  *fd = -1;
  if (is_confined(path))
    return open_confined(fd, path, err);
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* a FIFO must not block */
  if (*fd < 0)
    return moon_fail_os(err, path);
  moon_status status = check_regular(*fd, path, err);
  if (status != MOON_OK) {
    close(*fd);
    *fd = -1;
  }
  return status;
}

/* ---- writing ---- */

/* The folder of path, open: a name in it cannot be led elsewhere. */
static moon_status open_folder(int *fd, const char *path, size_t folder_size, moon_err *err) {
  char real[PATH_MAX], *folder = strndup(path, folder_size);
  if (!folder)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  *fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  free(folder);
  if (*fd < 0)
    return moon_fail_os(err, path);
  moon_status status = real_path(real, *fd, path, err);
  return status == MOON_OK && !may_write(path, real) ? refuse_way_out(path, err) : status;
}

static moon_status name_target(char **out, int folder_fd, const char *name, moon_err *err) {
  char folder[FD_PATH];
  size_t size = FD_PATH + strlen(name) + 2;
  name_descriptor(folder, folder_fd);
  *out = malloc(size);
  if (!*out)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  snprintf(*out, size, "%s/%s", folder, name);
  return MOON_OK;
}

moon_status moon_confine_target(char **out, int *folder_fd, const char *path, moon_err *err) {
  *out = NULL;
  *folder_fd = -1;
  if (!is_confined(path)) {
    *out = strdup(path);
    return *out ? MOON_OK : moon_fail(err, MOON_ENOMEM, "no memory for a path");
  }
  const char *name = strrchr(path, '/') + 1;
  moon_status status = open_folder(folder_fd, path, (size_t)(name - path), err);
  if (status == MOON_OK)
    status = name_target(out, *folder_fd, name, err);
  if (status != MOON_OK && *folder_fd >= 0) {
    close(*folder_fd);
    *folder_fd = -1;
  }
  return status;
}
