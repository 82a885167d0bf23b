// SPDX-License-Identifier: MIT
#include "fallible.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const modes[] = {"once", "forever", "short", "again"};

static atomic_long calls;
static long fail_at; /* 0: never */
static moon_fail_mode mode;
static const char *only; /* NULL: any site */

/* True from the call on that was asked for; *first says whether it is that one. */
static bool reached(const char *site, bool *first) {
  if (only && strcmp(only, site))
    return false;
  long n = atomic_fetch_add(&calls, 1) + 1;
  *first = n == fail_at;
  return fail_at && n >= fail_at;
}

bool moon_fallible(const char *site) {
  bool first = false, now = reached(site, &first);
  return now && (mode == MOON_FAIL_FOREVER || (mode == MOON_FAIL_ONCE && first));
}

void moon_fallible_arm(long n, moon_fail_mode wanted, const char *site) {
  fail_at = n;
  mode = wanted;
  only = site;
  atomic_store(&calls, 0);
}

long moon_fallible_calls(void) {
  return atomic_load(&calls);
}

static bool fails(const char *site, int error) {
  bool failed = moon_fallible(site);
  if (failed)
    errno = error;
  return failed;
}

/* ---- the calls, as the linker's --wrap names them ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *data, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *text);
char *__real_strndup(const char *text, size_t size);
int __real_open(const char *path, int flags, ...);
int __real_fstat(int fd, struct stat *out);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
ssize_t __real_read(int fd, void *data, size_t size);
ssize_t __real_write(int fd, const void *data, size_t size);
ssize_t __real_pwrite(int fd, const void *data, size_t size, off_t at);
int __real_fsync(int fd);
int __real_close(int fd);
int __real_rename(const char *from, const char *to);

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *data, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t size);
int __wrap_open(const char *path, int flags, ...);
int __wrap_fstat(int fd, struct stat *out);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
ssize_t __wrap_read(int fd, void *data, size_t size);
ssize_t __wrap_write(int fd, const void *data, size_t size);
int __wrap_fsync(int fd);
int __wrap_close(int fd);
int __wrap_rename(const char *from, const char *to);

void *__wrap_malloc(size_t size) {
  return fails("malloc", ENOMEM) ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size) {
  return fails("malloc", ENOMEM) ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *data, size_t size) {
  return fails("malloc", ENOMEM) ? NULL : __real_realloc(data, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
  return fails("malloc", ENOMEM) ? NULL : __real_aligned_alloc(alignment, size);
}

char *__wrap_strdup(const char *text) {
  return fails("malloc", ENOMEM) ? NULL : __real_strdup(text);
}

char *__wrap_strndup(const char *text, size_t size) {
  return fails("malloc", ENOMEM) ? NULL : __real_strndup(text, size);
}

int __wrap_open(const char *path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  unsigned permissions = flags & O_CREAT ? va_arg(arguments, unsigned) : 0;
  va_end(arguments);
  return fails("open", EMFILE) ? -1 : __real_open(path, flags, permissions);
}

int __wrap_fstat(int fd, struct stat *out) {
  return fails("fstat", EIO) ? -1 : __real_fstat(fd, out);
}

void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  return fails("mmap", ENOMEM) ? MAP_FAILED : __real_mmap(at, size, protection, flags, fd, offset);
}

/* What a read or write shall do: fail, move one byte, or have every other one interrupted. */
static bool interrupted(const char *site, size_t *size) {
  static atomic_uint turn;
  bool first = false, now = reached(site, &first);
  errno = EINTR;
  if (!now || mode == MOON_FAIL_FOREVER || mode == MOON_FAIL_ONCE) {
    errno = ENOSPC;
    return now && (mode == MOON_FAIL_FOREVER || first);
  }
  if (mode == MOON_FAIL_SHORT && *size > 1)
    *size = 1 + *size / 3;
  return mode == MOON_FAIL_AGAIN && atomic_fetch_add(&turn, 1) % 2 == 0;
}

ssize_t __wrap_read(int fd, void *data, size_t size) {
  return interrupted("read", &size) ? -1 : __real_read(fd, data, size);
}

ssize_t __wrap_write(int fd, const void *data, size_t size) {
  return interrupted("write", &size) ? -1 : __real_write(fd, data, size);
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t size, off_t at) {
  return interrupted("write", &size) ? -1 : __real_pwrite(fd, data, size, at);
}

int __wrap_fsync(int fd) {
  return fails("fsync", EIO) ? -1 : __real_fsync(fd);
}

/* It is closed all the same, as Linux does. */
int __wrap_close(int fd) {
  bool failed = fails("close", EIO);
  int result = __real_close(fd);
  errno = failed ? EIO : errno;
  return failed ? -1 : result;
}

int __wrap_rename(const char *from, const char *to) {
  return fails("rename", EROFS) ? -1 : __real_rename(from, to);
}

/* ---- OpenSSL can be told what to allocate with ---- */

static void *crypto_malloc(size_t size, const char *file, int line) {
  (void)file;
  (void)line;
  return __wrap_malloc(size);
}

static void *crypto_realloc(void *data, size_t size, const char *file, int line) {
  (void)file;
  (void)line;
  return __wrap_realloc(data, size);
}

static void crypto_free(void *data, const char *file, int line) {
  (void)file;
  (void)line;
  free(data);
}

static void read_environment(void) {
  const char *text = getenv("MOONSCOPE_FAIL");
  char *rest = NULL;
  if (!text)
    return;
  long n = strtol(text, &rest, 10);
  moon_fail_mode wanted = MOON_FAIL_ONCE;
  const char *site = NULL;
  while (*rest == ',') {
    const char *word = ++rest;
    rest += strcspn(rest, ",");
    site = word;
    for (int i = 0; i < 4; i++)
      if (strlen(modes[i]) == (size_t)(rest - word) &&
          !strncmp(modes[i], word, (size_t)(rest - word))) {
        wanted = (moon_fail_mode)i;
        site = NULL;
      }
  }
  moon_fallible_arm(n, wanted, site);
}

__attribute__((constructor)) static void start(void) {
  CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free);
  read_environment();
}

__attribute__((destructor)) static void end(void) {
  const char *path = getenv("MOONSCOPE_FAIL_LOG");
  FILE *file = path ? fopen(path, "w") : NULL;
  if (!file)
    return;
  fprintf(file, "%ld\n", moon_fallible_calls());
  fclose(file);
}
