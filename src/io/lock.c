// SPDX-License-Identifier: MIT
#include "io/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/bytes.h"

/* Whoever had the lock before may have renamed or removed the file that was opened meanwhile. */
static bool still_there(const char *path, const struct stat *opened) {
  struct stat named;
  return stat(path, &named) == 0 && named.st_dev == opened->st_dev &&
         named.st_ino == opened->st_ino;
}

/* EBUSY: another one has it. ESTALE: the name is another file's by now. Else 0 or what failed. */
static int lock_opened(int fd, const char *path) {
  struct stat opened;
  if (TEMP_FAILURE_RETRY(flock(fd, LOCK_EX | LOCK_NB)))
    return errno == EWOULDBLOCK ? EBUSY : errno;
  if (fstat(fd, &opened))
    return errno;
  return still_there(path, &opened) ? 0 : ESTALE;
}

static moon_status check_regular(int fd, const char *path, moon_err *err) {
  struct stat opened;
  if (fstat(fd, &opened))
    return moon_fail_os(err, path);
  return S_ISREG(opened.st_mode) ? MOON_OK
                                 : moon_fail(err, MOON_EINVAL, "%s: not a regular file", path);
}

moon_status moon_lock_try(int *fd, const char *path, unsigned mode, moon_err *err) {
  int failed;
  do {
    *fd = (int)TEMP_FAILURE_RETRY(
        open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, (mode_t)mode));
    if (*fd < 0)
      return moon_fail_os(err, path);
    moon_status status = check_regular(*fd, path, err);
    failed = status == MOON_OK ? lock_opened(*fd, path) : EINVAL;
    if (failed) {
      close(*fd);
      *fd = -1;
    }
    if (status != MOON_OK)
      return status;
  } while (failed == ESTALE);
  errno = failed;
  return failed && failed != EBUSY ? moon_fail_os(err, path) : MOON_OK;
}
