// SPDX-License-Identifier: MIT
#include "io/outfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/confine.h"

#define PIECE         ((size_t)4 << 20) /* written at once; then the disk may begin with it */
#define WRITEBACK_MIN ((size_t)1 << 20)

/* Bytes of path up to and with its last '/'; 0 in the working directory. */
static size_t folder_size(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? (size_t)(slash + 1 - path) : 0;
}

/* New at each call, so that what is there already is passed over. */
static char *temporary_name(const char *path) {
  static atomic_uint counter;
  size_t folder = folder_size(path), size = folder + 64;
  char *name = malloc(size);
  if (name)
    snprintf(name, size, "%.*s.moonscope-%ld-%u.tmp", (int)folder, path, (long)getpid(),
             atomic_fetch_add(&counter, 1));
  return name;
}

static moon_status check_target(const moon_outfile *out, moon_err *err) {
  struct stat found;
  if (stat(out->target, &found) == 0 && !S_ISREG(found.st_mode))
    return moon_fail(err, MOON_EINVAL, "%s: there already, and not a regular file", out->path);
  return MOON_OK;
}

/* ---- what killed processes left ---- */

/* As temporary_name makes them. */
static bool is_temporary(const char *name) {
  static const char start[] = ".moonscope-", digits[] = "0123456789";
  if (strncmp(name, start, sizeof start - 1))
    return false;
  name += sizeof start - 1;
  size_t pid = strspn(name, digits), number = name[pid] == '-' ? strspn(name + pid + 1, digits) : 0;
  return pid && number && !strcmp(name + pid + 1 + number, ".tmp");
}

/* Ours, and locked by nobody? Whoever is about to lock it sees that it is gone, and takes another
 * name. */
static void remove_if_left(int folder, const char *name) {
  struct stat file;
  int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0)
    return;
  if (!fstat(fd, &file) && S_ISREG(file.st_mode) && file.st_uid == geteuid() &&
      !flock(fd, LOCK_EX | LOCK_NB))
    unlinkat(folder, name, 0);
  close(fd);
}

/* A folder that cannot be read keeps what is in it. */
static void remove_leftovers(const char *path) {
  size_t size = folder_size(path);
  char *name = size ? strndup(path, size) : strdup(".");
  DIR *folder = name ? opendir(name) : NULL;
  free(name);
  if (!folder)
    return;
  for (const struct dirent *entry; (entry = readdir(folder));)
    if (is_temporary(entry->d_name))
      remove_if_left(dirfd(folder), entry->d_name);
  closedir(folder);
}

/* ---- writing ---- */

/* A file system without locks has nobody who could take the file away either. */
static bool lock_file(int fd) {
  struct stat file;
  flock(fd, LOCK_EX);
  return fstat(fd, &file) || file.st_nlink > 0;
}

/* The file under a name that is new; errno says why not. */
static moon_status create_temporary(moon_outfile *out, moon_err *err) {
  for (;;) {
    free(out->temporary);
    out->temporary = temporary_name(out->target);
    if (!out->temporary)
      return moon_fail(err, MOON_ENOMEM, "no memory for a path");
    out->fd = open(out->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (out->fd >= 0 && lock_file(out->fd))
      return MOON_OK;
    if (out->fd >= 0)
      close(out->fd);
    else if (errno != EEXIST)
      break;
    out->fd = -1;
  }
  moon_status status = moon_fail_os(err, out->path);
  free(out->temporary);
  out->temporary = NULL;
  return status;
}

moon_status moon_outfile_create(moon_outfile *out, const char *path, moon_err *err) {
  *out = (moon_outfile){.fd = -1, .lock_fd = -1, .folder_fd = -1};
  if (!path[folder_size(path)])
    return moon_fail(err, MOON_EINVAL, "%s: not the name of a file", path);
  out->path = strdup(path);
  if (!out->path)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  moon_status status = moon_confine_target(&out->target, &out->folder_fd, path, err);
  if (status == MOON_OK)
    status = check_target(out, err);
  if (status != MOON_OK)
    return status;
  remove_leftovers(out->target);
  return create_temporary(out, err);
}

static moon_status write_piece(const moon_outfile *out, const char *data, size_t size, size_t at,
                               moon_err *err) {
  for (size_t done = 0; done < size;) {
    ssize_t n = pwrite(out->fd, data + done, size - done, (off_t)(at + done));
    if (n < 0 && errno == EFAULT) /* data: pages of a mapping, which the kernel does not signal */
      return moon_fail(err, MOON_EIO, "%s: the file that it is copied from was cut off", out->path);
    if (n < 0 && errno != EINTR)
      return moon_fail_os(err, out->path);
    done += n > 0 ? (size_t)n : 0;
  }
  if (size >= WRITEBACK_MIN) /* so that the sync at the end is short; a hint: may fail */
    sync_file_range(out->fd, (off_t)at, (off_t)size, SYNC_FILE_RANGE_WRITE);
  return MOON_OK;
}

moon_status moon_outfile_write(const moon_outfile *out, const void *data, size_t size, size_t at,
                               moon_err *err) {
  moon_status status = MOON_OK;
  for (size_t done = 0; done < size && status == MOON_OK; done += PIECE)
    status = write_piece(out, (const char *)data + done, size - done < PIECE ? size - done : PIECE,
                         at + done, err);
  return status;
}

moon_status moon_outfile_append(moon_outfile *out, const void *data, size_t size, moon_err *err) {
  moon_status status = moon_outfile_write(out, data, size, out->size, err);
  if (status == MOON_OK)
    out->size += size;
  return status;
}

moon_status moon_outfile_seal(moon_outfile *out, moon_err *err) {
  int synced = fsync(out->fd);
  moon_status status = synced ? moon_fail_os(err, out->path) : MOON_OK;
  out->lock_fd = fcntl(out->fd, F_DUPFD_CLOEXEC, 0);
  if (close(out->fd) && status == MOON_OK)
    status = moon_fail_os(err, out->path);
  out->fd = -1;
  out->sealed = status == MOON_OK;
  return status;
}

static void release_lock(moon_outfile *out) {
  if (out->lock_fd >= 0)
    close(out->lock_fd);
  out->lock_fd = -1;
}

static moon_status sync_folder(const moon_outfile *out, moon_err *err) {
  size_t size = folder_size(out->target);
  char *folder = size ? strndup(out->target, size) : strdup(".");
  if (!folder)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  moon_status status = fd < 0 || fsync(fd) ? moon_fail_os(err, out->path) : MOON_OK;
  if (fd >= 0)
    close(fd);
  free(folder);
  return status;
}

/* move: rename, or link. */
static moon_status publish(moon_outfile *out, int (*move)(const char *, const char *),
                           moon_err *err) {
  if (!out->sealed || !out->temporary)
    return moon_fail(err, MOON_EINVAL, "%s: not sealed, or published already", out->path);
  if (move(out->temporary, out->target))
    return moon_fail_os(err, out->path);
  if (move == link)
    unlink(out->temporary);
  free(out->temporary);
  out->temporary = NULL;
  release_lock(out);
  return sync_folder(out, err);
}

moon_status moon_outfile_publish(moon_outfile *out, moon_err *err) {
  return publish(out, rename, err);
}

moon_status moon_outfile_publish_new(moon_outfile *out, moon_err *err) {
  return publish(out, link, err);
}

void moon_outfile_close(moon_outfile *out) {
  if (out->fd >= 0)
    close(out->fd);
  if (out->temporary)
    unlink(out->temporary);
  release_lock(out);
  if (out->folder_fd >= 0)
    close(out->folder_fd);
  free(out->temporary);
  free(out->target);
  free(out->path);
  *out = (moon_outfile){.fd = -1, .lock_fd = -1, .folder_fd = -1};
}
