// SPDX-License-Identifier: MIT
/* The read-only bytes of a file, mapped and shared by reference counting (thread safe). */
#ifndef MOON_IO_BYTES_H
#define MOON_IO_BYTES_H

#include "moon.h"

typedef struct moon_bytes moon_bytes;

/* Maps a regular file. Owned by the caller: one reference. A directory, a FIFO, a device or an
 * unreadable path fails without blocking; the mapping touches no page. What is
 * read of a file that another program cuts off while it is mapped is zeros, and the task that reads
 * it fails (io/mapping.h); one that is replaced by rename stays as it was. MOON_ENOENT, MOON_EIO,
 * MOON_EINVAL (not a regular file), MOON_EACCES (io/confine.h). */
moon_status moon_bytes_open(moon_bytes **out, const char *path, moon_err *err);

/* The same file read into memory at once: for a small one that is parsed beside other work. */
moon_status moon_bytes_read(moon_bytes **out, const char *path, moon_err *err);

/* The same over a copy of memory, for parsers without a disk. */
moon_status moon_bytes_copy(moon_bytes **out, const void *data, size_t size, moon_err *err);

moon_bytes *moon_bytes_retain(moon_bytes *bytes);
void moon_bytes_release(moon_bytes *bytes); /* NULL is fine; unmaps with the last reference */

const uint8_t *moon_bytes_data(const moon_bytes *bytes); /* borrowed; NULL when the size is 0 */
size_t moon_bytes_size(const moon_bytes *bytes);
const char *moon_bytes_path(const moon_bytes *bytes); /* for messages; "memory" of a copy */

/* After parsing: status, or MOON_EIO with the path if the file was cut off meanwhile, so that zeros
 * were read in the place of its end (io/mapping.h). */
moon_status moon_bytes_check(const moon_bytes *bytes, moon_status status, moon_err *err);

/* Makes mapped bytes present many pages at a time, which costs a fraction of touching each; any
 * thread. A hint: where it fails, whoever touches them finds out. */
void moon_bytes_touch(const moon_bytes *bytes, size_t first, size_t size);

int64_t moon_bytes_live(void); /* how many there are in the process, for leak checks */

/* Fails with errno's text: "path: No such file or directory". MOON_ENOENT, MOON_EEXIST, MOON_ENOMEM
 * where errno says so, else MOON_EIO. */
moon_status moon_fail_os(moon_err *err, const char *path);

#endif
