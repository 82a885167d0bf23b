// SPDX-License-Identifier: MIT
#include "io/partial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "io/bytes.h"
#include "io/digest.h"
#include "io/lock.h"

#define PIECE      ((size_t)1 << 20)
#define SPARE_SIZE ((int64_t)64 << 20) /* what a download leaves free on the disk */

struct moon_partial {
  atomic_int refs;
  char *blob, *path; /* its name at the end, and until then */
  int fd;            /* -1: published */
  bool alone;        /* nobody will resume it */
  int64_t size, done;
  moon_digest *digest;
};

static const char *hash_of(const char *blob) {
  const char *slash = strrchr(blob, '/');
  return slash ? slash + 1 : blob;
}

static bool is_hash(const char *text) {
  size_t size = strspn(text, "0123456789abcdef");
  return !text[size] && (size == 40 || size == 64);
}

/* A digest of the kind that the name tells. */
static moon_status new_digest(moon_digest **out, const char *blob, int64_t size, moon_err *err) {
  *out = NULL;
  if (!is_hash(hash_of(blob)))
    return moon_fail(err, MOON_EINVAL, "%s: not the name of a blob, 40 or 64 hex digits", blob);
  return strlen(hash_of(blob)) == 40 ? moon_digest_new_git(out, size, err)
                                     : moon_digest_new(out, err);
}

static moon_status check_hash(const moon_digest *digest, const char *blob, moon_err *err) {
  char text[MOON_SHA256_TEXT];
  moon_status status = moon_digest_text(digest, text, err);
  if (status != MOON_OK || !strcmp(text, hash_of(blob)))
    return status;
  return moon_fail(err, MOON_EHASH, "%s: the hash of its bytes is %s", blob, text);
}

/* ---- opening ---- */

static char *path_of(const char *blob, const char *format, unsigned number) {
  char name[40], *path = NULL;
  snprintf(name, sizeof name, format, number);
  return asprintf(&path, "%s%s", blob, name) < 0 ? NULL : path;
}

/* A name of the kind that huggingface_hub uses, so that it knows a leftover as one. */
static moon_status open_alone(moon_partial *p, moon_err *err) {
  static atomic_uint counter;
  p->alone = true;
  do {
    free(p->path);
    unsigned number = (unsigned)getpid() << 10 ^ atomic_fetch_add(&counter, 1);
    p->path = path_of(p->blob, ".%08x.incomplete", number);
    if (!p->path)
      return moon_fail(err, MOON_ENOMEM, "no memory for a path");
    p->fd = (int)TEMP_FAILURE_RETRY(open(p->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  } while (p->fd < 0 && errno == EEXIST);
  return p->fd < 0 ? moon_fail_os(err, p->path) : MOON_OK;
}

static moon_status open_file(moon_partial *p, moon_err *err) {
  p->path = path_of(p->blob, ".moonscope.incomplete", 0);
  if (!p->path)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  moon_status status = moon_lock_try(&p->fd, p->path, 0666, err);
  return status == MOON_OK && p->fd < 0 ? open_alone(p, err) : status;
}

moon_status moon_partial_open(moon_partial **out, const char *blob, int64_t size_bytes,
                              moon_err *err) {
  *out = NULL;
  if (size_bytes < 0)
    return moon_fail(err, MOON_EINVAL, "%s: a size of %lld bytes", blob, (long long)size_bytes);
  moon_partial *p = calloc(1, sizeof *p);
  if (!p)
    return moon_fail(err, MOON_ENOMEM, "no memory for a download");
  *p = (moon_partial){.refs = 1, .fd = -1, .size = size_bytes, .blob = strdup(blob)};
  moon_status status = p->blob ? new_digest(&p->digest, blob, size_bytes, err)
                               : moon_fail(err, MOON_ENOMEM, "no memory for a path");
  if (status == MOON_OK)
    status = open_file(p, err);
  if (status == MOON_OK)
    *out = p;
  else
    moon_partial_release(p);
  return status;
}

moon_partial *moon_partial_retain(moon_partial *partial) {
  atomic_fetch_add(&partial->refs, 1);
  return partial;
}

void moon_partial_release(moon_partial *p) {
  if (!p || atomic_fetch_sub(&p->refs, 1) > 1)
    return;
  if (p->fd >= 0 && p->alone)
    unlink(p->path);
  if (p->fd >= 0)
    close(p->fd);
  moon_digest_release(p->digest);
  free(p->path);
  free(p->blob);
  free(p);
}

int64_t moon_partial_done(const moon_partial *partial) {
  return partial->done;
}

int64_t moon_partial_size(const moon_partial *partial) {
  return partial->size;
}

/* ---- reading ---- */

/* Adds the first `size` bytes of an open file to digest, less where it ends before; *done is how
 * many. */
static moon_status hash_file(moon_digest *digest, int fd, const char *path, int64_t size,
                             int64_t *done, moon_progress *progress, moon_err *err) {
  moon_status status = MOON_OK;
  char *buffer = malloc(PIECE);
  if (!buffer)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", PIECE);
  for (*done = 0; *done < size && status == MOON_OK;) {
    size_t wanted = size - *done < (int64_t)PIECE ? (size_t)(size - *done) : PIECE;
    ssize_t n = TEMP_FAILURE_RETRY(pread(fd, buffer, wanted, *done));
    if (n <= 0) {
      status = n < 0 ? moon_fail_os(err, path) : MOON_OK;
      break;
    }
    moon_digest_add(digest, buffer, (size_t)n);
    *done += n;
    status = moon_progress_add(progress, n, err);
  }
  free(buffer);
  return status;
}

/* Before anything is fetched: a full disk is better heard of now than after an hour. */
static moon_status check_space(const moon_partial *p, moon_err *err) {
  struct statvfs disk;
  if (p->done == p->size || TEMP_FAILURE_RETRY(fstatvfs(p->fd, &disk)))
    return MOON_OK; /* an unknown disk: writing will tell */
  uint64_t missing = (uint64_t)(p->size - p->done) + SPARE_SIZE,
           free_size = (uint64_t)disk.f_bavail * disk.f_frsize;
  if (free_size >= missing)
    return MOON_OK;
  return moon_fail(err, MOON_EIO,
                   "%s: the disk has %llu bytes free, expected %llu (64 MiB of them to spare)",
                   p->path, (unsigned long long)free_size, (unsigned long long)missing);
}

moon_status moon_partial_resume(moon_partial *p, moon_progress *progress, moon_err *err) {
  struct stat file;
  if (fstat(p->fd, &file))
    return moon_fail_os(err, p->path);
  moon_status status = file.st_size > p->size ? moon_partial_restart(p, err) : MOON_OK;
  if (status == MOON_OK)
    status = hash_file(p->digest, p->fd, p->path, p->size, &p->done, progress, err);
  return status == MOON_OK ? check_space(p, err) : status;
}

/* ---- writing ---- */

moon_status moon_partial_restart(moon_partial *p, moon_err *err) {
  moon_digest *digest;
  moon_status status = new_digest(&digest, p->blob, p->size, err);
  if (status != MOON_OK)
    return status;
  moon_digest_release(p->digest);
  p->digest = digest;
  p->done = 0;
  return TEMP_FAILURE_RETRY(ftruncate(p->fd, 0)) ? moon_fail_os(err, p->path) : MOON_OK;
}

static moon_status write_at(const moon_partial *p, const char *data, size_t size, moon_err *err) {
  for (size_t written = 0; written < size;) {
    ssize_t n = TEMP_FAILURE_RETRY(
        pwrite(p->fd, data + written, size - written, p->done + (int64_t)written));
    if (n < 0)
      return moon_fail_os(err, p->path);
    written += (size_t)n;
  }
  return MOON_OK;
}

moon_status moon_partial_append(moon_partial *p, const void *data, size_t size, moon_err *err) {
  if (size > (uint64_t)(p->size - p->done))
    return moon_fail(err, MOON_EHASH, "%s: more than the %lld bytes that were announced", p->blob,
                     (long long)p->size);
  moon_status status = write_at(p, data, size, err);
  if (status != MOON_OK)
    return status; /* what was written of it lies behind p->done and will be overwritten */
  moon_digest_add(p->digest, data, size);
  p->done += (int64_t)size;
  return MOON_OK;
}

static moon_status sync_folder(const char *blob, moon_err *err) {
  char *folder = strndup(blob, (size_t)(hash_of(blob) - blob));
  if (!folder)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  const char *name = *folder ? folder : ".";
  int fd = (int)TEMP_FAILURE_RETRY(open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  moon_status status = fd < 0 || TEMP_FAILURE_RETRY(fsync(fd)) ? moon_fail_os(err, name) : MOON_OK;
  if (fd >= 0)
    close(fd);
  free(folder);
  return status;
}

moon_status moon_partial_publish(moon_partial *p, moon_err *err) {
  if (p->done < p->size)
    return moon_fail(err, MOON_EHASH, "%s: %lld bytes, expected %lld", p->blob, (long long)p->done,
                     (long long)p->size);
  moon_status status = check_hash(p->digest, p->blob, err);
  if (status == MOON_EHASH)
    moon_partial_restart(p, NULL);
  if (status != MOON_OK)
    return status;
  if (TEMP_FAILURE_RETRY(fsync(p->fd)) || rename(p->path, p->blob))
    return moon_fail_os(err, p->path);
  close(p->fd); /* synced: nothing left that could fail */
  p->fd = -1;
  return sync_folder(p->blob, err);
}

/* ---- finished ones ---- */

moon_status moon_blob_check(const char *blob, moon_progress *progress, moon_err *err) {
  struct stat file;
  int64_t done;
  moon_digest *digest = NULL;
  int fd = (int)TEMP_FAILURE_RETRY(open(blob, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (fd < 0 || fstat(fd, &file)) {
    moon_status status = moon_fail_os(err, blob);
    if (fd >= 0)
      close(fd);
    return status;
  }
  moon_status status = S_ISREG(file.st_mode)
                           ? new_digest(&digest, blob, file.st_size, err)
                           : moon_fail(err, MOON_EINVAL, "%s: not a regular file", blob);
  if (status == MOON_OK)
    status = hash_file(digest, fd, blob, file.st_size, &done, progress, err);
  if (status == MOON_OK)
    status = check_hash(digest, blob, err);
  moon_digest_release(digest);
  close(fd);
  return status;
}
