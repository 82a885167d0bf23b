// SPDX-License-Identifier: MIT
/*
 * A file that appears at its name only when it is complete: written under a temporary name in the
 * same folder, then write -> fsync(file) -> rename -> fsync(folder). Who writes holds a lock on the
 * temporary file; what lies there without one was left by a killed process, and goes when the next
 * file of the folder is begun.
 */
#ifndef MOON_IO_OUTFILE_H
#define MOON_IO_OUTFILE_H

#include "io/bytes.h"

typedef struct moon_outfile {
  char *path;      /* for messages */
  char *target;    /* the same by its open folder, where it is confined (io/confine.h) */
  char *temporary; /* beside target; NULL once it has been renamed */
  int folder_fd;   /* -1: not confined */
  int fd;          /* -1: closed */
  size_t size;     /* what was appended */
  int lock_fd;     /* holds the lock from seal to publish; -1: none */
  bool sealed;
} moon_outfile;

/* Owned by the caller (moon_outfile_close), also after a failure. A path that is there and is no
 * regular file is refused: renaming would replace the device or folder. MOON_EINVAL, MOON_ENOENT
 * (no such folder), MOON_EACCES (io/confine.h), MOON_EIO. */
moon_status moon_outfile_create(moon_outfile *out, const char *path, moon_err *err);
/* Anywhere in the file; several threads may, in places of their own. */
moon_status moon_outfile_write(const moon_outfile *out, const void *data, size_t size, size_t at,
                               moon_err *err);
moon_status moon_outfile_append(moon_outfile *out, const void *data, size_t size, moon_err *err);
/* Syncs and closes: after it only the name can fail. */
moon_status moon_outfile_seal(moon_outfile *out, moon_err *err);
moon_status moon_outfile_publish(moon_outfile *out, moon_err *err); /* after seal */
/* The same, but MOON_EEXIST where there is a file already. */
moon_status moon_outfile_publish_new(moon_outfile *out, moon_err *err);
void moon_outfile_close(moon_outfile *out); /* removes what was not published */

#endif
