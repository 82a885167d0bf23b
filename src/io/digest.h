// SPDX-License-Identifier: MIT
/* A hash in progress, shared by reference counting (thread safe; one thread adds at a time). */
#ifndef MOON_IO_DIGEST_H
#define MOON_IO_DIGEST_H

#include "moon.h"

#define MOON_SHA256_TEXT 65 /* 64 hex digits and the closing 0 */

typedef struct moon_digest moon_digest;

/* A sha256. Owned by the caller: one reference. MOON_ENOMEM. */
moon_status moon_digest_new(moon_digest **out, moon_err *err);
/* git's sha1 of a file of so many bytes; its text has 40 digits. */
moon_status moon_digest_new_git(moon_digest **out, int64_t size_bytes, moon_err *err);
moon_digest *moon_digest_retain(moon_digest *digest);
void moon_digest_release(moon_digest *digest); /* NULL is fine */

void moon_digest_add(moon_digest *digest, const void *data, size_t size);
/* Of everything added so far; more may be added after it. MOON_ENOMEM. */
moon_status moon_digest_text(const moon_digest *digest, char text[MOON_SHA256_TEXT], moon_err *err);

#endif
