// SPDX-License-Identifier: MIT
/* The lock of a file: flock(2), which ends with the process. On network file systems it may lie. */
#ifndef MOON_IO_LOCK_H
#define MOON_IO_LOCK_H

#include "moon.h"

/*
 * Opens the regular file at path for reading and writing, made with `mode` (less the umask) where
 * it is not there, and takes its lock without waiting. *fd is the caller's: closing it lets go of
 * the lock; -1 where another process or descriptor has it. MOON_ENOENT (no such folder),
 * MOON_EINVAL (no regular file), MOON_EIO.
 */
moon_status moon_lock_try(int *fd, const char *path, unsigned mode, moon_err *err);

#endif
