// SPDX-License-Identifier: MIT
/* Bytes that lie deflated in a file: inflated from front to back as they are read, never beyond
 * the size that was declared for them. One thread at a time. */
#ifndef MOON_IO_PACKED_H
#define MOON_IO_PACKED_H

#include "io/bytes.h"

typedef struct moon_packed moon_packed;

typedef struct moon_packed_place {
  size_t offset, packed_bytes; /* in the file; checked to lie in it */
  size_t size_bytes;           /* inflated */
  uint32_t crc;                /* of all of these */
} moon_packed_place;

/* Owned by the caller (moon_packed_free); bytes is borrowed. MOON_EFORMAT: the sizes cannot be true
 * of any deflated data. MOON_ENOMEM. */
moon_status moon_packed_new(moon_packed **out, const moon_bytes *bytes,
                            const moon_packed_place *place, moon_err *err);
void moon_packed_free(moon_packed *packed); /* NULL is fine */

/* Bytes [first, first + size) of the inflated ones, within size_bytes. Goes on from the last call,
 * or begins again where that was behind `first`. Whoever reads the last byte learns by MOON_EFORMAT
 * whether the sum and the end were wrong. MOON_EFORMAT, MOON_ENOMEM. */
moon_status moon_packed_read(moon_packed *packed, size_t first, size_t size, void *out,
                             moon_err *err);

/* All of them at once, for reading in another order than front to back; borrowed from packed, which
 * keeps them. MOON_EFORMAT, MOON_ENOMEM. */
moon_status moon_packed_whole(const uint8_t **out, moon_packed *packed, moon_err *err);

#endif
