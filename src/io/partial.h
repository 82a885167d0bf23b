// SPDX-License-Identifier: MIT
/*
 * A blob of the Hugging Face cache, named by its hash: 64 hex digits are the sha256 of its bytes,
 * 40 are git's sha1. While it is fetched it grows as BLOB.moonscope.incomplete, hashed as it is
 * written; it gets its name only when size and hash are right. What a killed process leaves is
 * resumed.
 */
#ifndef MOON_IO_PARTIAL_H
#define MOON_IO_PARTIAL_H

#include "moon.h"

typedef struct moon_partial moon_partial; /* refcounted; one thread works with it at a time */

/*
 * Opens what there is of the blob at `blob` (FOLDER/HASH) and locks it, without reading it yet.
 * Where another process writes it, begins a file of its own instead, which nobody resumes. Owned by
 * the caller: one reference. MOON_EINVAL (not the name of a blob, negative size), MOON_ENOENT (no
 * such folder), MOON_EIO.
 */
moon_status moon_partial_open(moon_partial **out, const char *blob, int64_t size_bytes,
                              moon_err *err);
moon_partial *moon_partial_retain(moon_partial *partial);
void moon_partial_release(moon_partial *partial); /* NULL is fine */

/* Hashes what is there, then sees to it that the disk has room for the rest. progress counts bytes.
 * MOON_EIO, MOON_ECANCELED. */
moon_status moon_partial_resume(moon_partial *partial, moon_progress *progress, moon_err *err);
moon_status moon_partial_restart(moon_partial *partial, moon_err *err); /* to 0 bytes */
/* MOON_EHASH: more than size_bytes. A failure leaves what was there before. */
moon_status moon_partial_append(moon_partial *partial, const void *data, size_t size,
                                moon_err *err);
int64_t moon_partial_done(const moon_partial *partial); /* bytes written and hashed */
int64_t moon_partial_size(const moon_partial *partial); /* of the whole blob */

/* Syncs and renames what is complete. MOON_EHASH: bytes are missing, or others than announced,
 * which are dropped. Nothing can be appended after it. */
moon_status moon_partial_publish(moon_partial *partial, moon_err *err);

/* Hashes the finished blob at `blob`. MOON_EHASH: its bytes are not those of its name. */
moon_status moon_blob_check(const char *blob, moon_progress *progress, moon_err *err);

#endif
