// SPDX-License-Identifier: MIT
/*
 * Folders that nothing below them leads out of. A server confines the folders whose files a request
 * may name: whatever path below them is opened, the real path of what was opened is looked at, so
 * that a symbolic link leads nowhere else however quickly somebody exchanges it. Paths that do not
 * begin with a confined folder are free. Needs /proc.
 */
#ifndef MOON_IO_CONFINE_H
#define MOON_IO_CONFINE_H

#include "moon.h"

/* From now on exactly these are confined; n 0: none. Absolute real paths, copied. What is read
 * below a folder may also lie in another one of them, or in one of `beyond` (a cache that links
 * lead to). */
moon_status moon_confine(const char *const *folders, size_t n_folders, const char *const *beyond,
                         size_t n_beyond, moon_err *err);

/* Opens a regular file for reading, without blocking; the caller closes *fd. MOON_EACCES (leads out
 * of its folder), MOON_ENOENT, MOON_EINVAL (not a regular file), MOON_EIO. */
moon_status moon_confine_open(int *fd, const char *path, moon_err *err);

/* A path by which path can be made, renamed or removed, whatever becomes of its folder's links
 * meanwhile: path itself where it is free, else a name in the open folder *folder_fd (-1: none),
 * which the caller closes. What is written stays below the very folder that path names. Owned by
 * the caller. Errors as above. */
moon_status moon_confine_target(char **out, int *folder_fd, const char *path, moon_err *err);

#endif
