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

moon_status moon_fail_os(moon_err *err, const char *path) {
  int number = errno;
  moon_status code = number == ENOENT   ? MOON_ENOENT
                     : number == EEXIST ? MOON_EEXIST
                     : number == ENOMEM ? MOON_ENOMEM
                                        : MOON_EIO;
  return moon_fail(err, code, "%s: %s", path, strerror(number));
}

static moon_status new_bytes(moon_bytes **out, size_t size, moon_err *err) {
  moon_bytes *bytes = calloc(1, sizeof *bytes);
  if (!bytes)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", sizeof *bytes);
  bytes->refs = 1;
  bytes->size = size;
  *out = bytes;
  return MOON_OK;
}

static moon_status map(moon_bytes **out, int fd, const char *path, moon_err *err) {
  struct stat stat;
  if (fstat(fd, &stat))
    return moon_fail_os(err, path);
  if (!S_ISREG(stat.st_mode))
    return moon_fail(err, MOON_EINVAL, "%s: not a regular file", path);
  moon_bytes *bytes;
  moon_status status = new_bytes(&bytes, (size_t)stat.st_size, err);
  if (status != MOON_OK)
    return status;
  bytes->mapped = true;
  if (bytes->size) {
    bytes->data = mmap(NULL, bytes->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes->data == MAP_FAILED) {
      free(bytes);
      return moon_fail_os(err, path);
    }
  }
  *out = bytes;
  return MOON_OK;
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
  moon_bytes *bytes;
  moon_status status = new_bytes(&bytes, size, err);
  if (status != MOON_OK)
    return status;
  if (size) {
    bytes->data = malloc(size);
    if (!bytes->data) {
      free(bytes);
      return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", size);
    }
    memcpy(bytes->data, data, size);
  }
  *out = bytes;
  return MOON_OK;
}

moon_bytes *moon_bytes_retain(moon_bytes *bytes) {
  atomic_fetch_add(&bytes->refs, 1);
  return bytes;
}

void moon_bytes_release(moon_bytes *bytes) {
  if (!bytes || atomic_fetch_sub(&bytes->refs, 1) > 1)
    return;
  if (!bytes->mapped)
    free(bytes->data);
  else if (bytes->data)
    munmap(bytes->data, bytes->size);
  free(bytes);
}

const uint8_t *moon_bytes_data(const moon_bytes *bytes) {
  return bytes->data;
}

size_t moon_bytes_size(const moon_bytes *bytes) {
  return bytes->size;
}
