// SPDX-License-Identifier: MIT
#include "io/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct moon_bytes {
  atomic_int refs;
  void *data;
  size_t size;
  bool mapped; /* else from malloc */
};

static _Atomic int64_t live;

moon_status moon_fail_os(moon_err *err, const char *path) {
  int number = errno;
  moon_status code = number == ENOENT   ? MOON_ENOENT
                     : number == EEXIST ? MOON_EEXIST
                     : number == ENOMEM ? MOON_ENOMEM
                                        : MOON_EIO;
  return moon_fail(err, code, "%s: %s", path, strerror(number));
}

static void drop(void *data, size_t size, bool mapped) {
  if (!mapped)
    free(data);
  else if (size)
    munmap(data, size);
}

/* Takes over data. */
static moon_status wrap(moon_bytes **out, void *data, size_t size, bool mapped, moon_err *err) {
  moon_bytes *bytes = malloc(sizeof *bytes);
  if (!bytes) {
    drop(data, size, mapped);
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", sizeof *bytes);
  }
  *bytes = (moon_bytes){1, data, size, mapped};
  live++;
  *out = bytes;
  return MOON_OK;
}

static moon_status map(moon_bytes **out, int fd, const char *path, moon_err *err) {
  struct stat stat;
  if (fstat(fd, &stat))
    return moon_fail_os(err, path);
  if (!S_ISREG(stat.st_mode))
    return moon_fail(err, MOON_EINVAL, "%s: not a regular file", path);
  size_t size = (size_t)stat.st_size;
  void *data = NULL;
  if (size) {
    data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
      return moon_fail_os(err, path);
  }
  return wrap(out, data, size, true, err);
}

moon_status moon_bytes_open(moon_bytes **out, const char *path, moon_err *err) {
  *out = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* a FIFO must not block */
  if (fd < 0)
    return moon_fail_os(err, path);
  moon_status status = map(out, fd, path, err);
  close(fd);
  return status;
}

moon_status moon_bytes_copy(moon_bytes **out, const void *data, size_t size, moon_err *err) {
  *out = NULL;
  void *copy = NULL;
  if (size) {
    copy = malloc(size);
    if (!copy)
      return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", size);
    memcpy(copy, data, size);
  }
  return wrap(out, copy, size, false, err);
}

moon_bytes *moon_bytes_retain(moon_bytes *bytes) {
  atomic_fetch_add(&bytes->refs, 1);
  return bytes;
}

void moon_bytes_release(moon_bytes *bytes) {
  if (!bytes || atomic_fetch_sub(&bytes->refs, 1) > 1)
    return;
  drop(bytes->data, bytes->size, bytes->mapped);
  free(bytes);
  live--;
}

const uint8_t *moon_bytes_data(const moon_bytes *bytes) {
  return bytes->data;
}

size_t moon_bytes_size(const moon_bytes *bytes) {
  return bytes->size;
}

int64_t moon_bytes_live(void) {
  return live;
}
