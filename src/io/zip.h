// SPDX-License-Identifier: MIT
/* Where the entries of a zip file lie in its bytes: stored ones, to be used in place, and deflated
 * ones (io/packed.h). */
#ifndef MOON_IO_ZIP_H
#define MOON_IO_ZIP_H

#include "io/bytes.h"

typedef struct moon_zip_entry {
  char *name;
  size_t header_offset; /* of its local header */
  size_t offset;        /* of its data, */
  size_t packed_bytes;  /* which lie in the file, apart from all others */
  size_t size_bytes;    /* once inflated, as declared; packed_bytes of a stored one */
  uint32_t crc;         /* of these; not checked here */
  bool deflated;
} moon_zip_entry;

typedef struct moon_zip {
  moon_zip_entry *entries; /* sorted by name, no name twice */
  size_t n_entries;
} moon_zip;

/* Owned by the caller (moon_zip_free), also after a failure. One file has one meaning: the
 * directory must end the file, local headers must agree with it, the first entry starts the file
 * and none overlap. MOON_EFORMAT, MOON_EUNSUPPORTED (another compression, encrypted), MOON_ENOMEM.
 */
moon_status moon_zip_read(moon_zip *out, const moon_bytes *bytes, moon_err *err);
void moon_zip_free(moon_zip *zip);

const moon_zip_entry *moon_zip_find(const moon_zip *zip, const char *name); /* NULL: none */

#endif
