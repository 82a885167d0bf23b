// SPDX-License-Identifier: MIT
/* Preloaded: no read or write at a place moves more than 1000 bytes, as on a slow network disk. */
#include <dlfcn.h>
#include <sys/types.h>

#define MOST 1000

typedef ssize_t pread_fn(int fd, void *data, size_t size, off_t offset);
typedef ssize_t pwrite_fn(int fd, const void *data, size_t size, off_t offset);

/* Also under the names that glibc has for 64-bit offsets. */
ssize_t pread(int fd, void *data, size_t size, off_t offset);
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset);

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
  pread_fn *next;
  *(void **)&next = dlsym(RTLD_NEXT, "pread");
  return next(fd, data, size < MOST ? size : MOST, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  pwrite_fn *next;
  *(void **)&next = dlsym(RTLD_NEXT, "pwrite");
  return next(fd, data, size < MOST ? size : MOST, offset);
}
