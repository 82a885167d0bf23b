// SPDX-License-Identifier: MIT
#include "io/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/confine.h"
#include "io/mapping.h"

struct moon_bytes {
  atomic_int refs;
  size_t size;
  moon_mapping *mapping; /* NULL: of an empty file, or a copy */
  void *copy;            /* NULL: mapped, or nothing */
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

static moon_status new_bytes(moon_bytes **out, size_t size, moon_err *err) {
  *out = calloc(1, sizeof **out);
  if (!*out)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", sizeof **out);
  (*out)->refs = 1;
  (*out)->size = size;
  live++;
  return MOON_OK;
}

/* Gives up what could not be filled. */
static moon_status filled(moon_bytes **bytes, moon_status status) {
  if (status != MOON_OK) {
    moon_bytes_release(*bytes);
    *bytes = NULL;
  }
  return status;
}

static moon_status map(moon_bytes **out, int fd, size_t size, const char *path, moon_err *err) {
  moon_status status = new_bytes(out, size, err);
  if (status == MOON_OK && size)
    status = filled(out, moon_mapping_open(&(*out)->mapping, fd, size, path, err));
  return status;
}

static moon_status new_copy(moon_bytes **out, size_t size, moon_err *err) {
  moon_status status = new_bytes(out, size, err);
  if (status != MOON_OK || !size)
    return status;
  (*out)->copy = malloc(size);
  return (*out)->copy ? MOON_OK
                      : filled(out, moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", size));
}

static moon_status read_all(uint8_t *data, int fd, size_t size, const char *path, moon_err *err) {
  for (size_t done = 0; done < size;) {
    ssize_t n = read(fd, data + done, size - done);
    if (n == 0)
      return moon_fail(err, MOON_EIO, "%s: %zu bytes, expected %zu: it was cut off meanwhile", path,
                       done, size);
    if (n < 0 && errno != EINTR)
      return moon_fail_os(err, path);
    done += n > 0 ? (size_t)n : 0;
  }
  return MOON_OK;
}

static moon_status read_copy(moon_bytes **out, int fd, size_t size, const char *path,
                             moon_err *err) {
  moon_status status = new_copy(out, size, err);
  return status == MOON_OK ? filled(out, read_all((*out)->copy, fd, size, path, err)) : status;
}

/* Opens a regular file and fills *out by `fill`. */
static moon_status open_file(moon_bytes **out, const char *path,
                             moon_status (*fill)(moon_bytes **out, int fd, size_t size,
                                                 const char *path, moon_err *err),
                             moon_err *err) {
  *out = NULL;
  int fd;
  moon_status status = moon_confine_open(&fd, path, err);
  if (status != MOON_OK)
    return status;
  struct stat stat;
  status =
      fstat(fd, &stat) ? moon_fail_os(err, path) : fill(out, fd, (size_t)stat.st_size, path, err);
  close(fd);
  return status;
}

moon_status moon_bytes_open(moon_bytes **out, const char *path, moon_err *err) {
  return open_file(out, path, map, err);
}

moon_status moon_bytes_read(moon_bytes **out, const char *path, moon_err *err) {
  return open_file(out, path, read_copy, err);
}

moon_status moon_bytes_copy(moon_bytes **out, const void *data, size_t size, moon_err *err) {
  *out = NULL;
  moon_status status = new_copy(out, size, err);
  if (status == MOON_OK && size)
    memcpy((*out)->copy, data, size);
  return status;
}

moon_bytes *moon_bytes_retain(moon_bytes *bytes) {
  atomic_fetch_add(&bytes->refs, 1);
  return bytes;
}

void moon_bytes_release(moon_bytes *bytes) {
  if (!bytes || atomic_fetch_sub(&bytes->refs, 1) > 1)
    return;
  if (bytes->mapping)
    moon_mapping_close(bytes->mapping);
  free(bytes->copy);
  free(bytes);
  live--;
}

const uint8_t *moon_bytes_data(const moon_bytes *bytes) {
  return bytes->mapping ? moon_mapping_data(bytes->mapping) : bytes->copy;
}

size_t moon_bytes_size(const moon_bytes *bytes) {
  return bytes->size;
}

const char *moon_bytes_path(const moon_bytes *bytes) {
  return bytes->mapping ? moon_mapping_path(bytes->mapping) : "memory";
}

moon_status moon_bytes_check(const moon_bytes *bytes, moon_status status, moon_err *err) {
  return bytes->mapping ? moon_mapping_check(bytes->mapping, status, err) : status;
}

void moon_bytes_touch(const moon_bytes *bytes, size_t first, size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), before = first % page;
  if (bytes->mapping)
    madvise((char *)(uintptr_t)moon_bytes_data(bytes) + first - before, size + before,
            MADV_POPULATE_READ);
}

int64_t moon_bytes_live(void) {
  return live;
}
