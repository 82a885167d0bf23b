// SPDX-License-Identifier: MIT
/* NumPy's .npy: a header with dtype, order and shape, then the elements. For the formats only. */
#ifndef MOON_IO_NPY_H
#define MOON_IO_NPY_H

#include "io/checkpoint.h"

#define MOON_NPY_START      12      /* bytes that say how long the header is */
#define MOON_NPY_HEADER_MAX 0x10000 /* bytes before the elements */

bool moon_npy_matches(const uint8_t *data, size_t size);

/* Bytes before the elements, from the first min(size, MOON_NPY_START) ones of `size`. MOON_EFORMAT,
 * MOON_EUNSUPPORTED (another version). */
moon_status moon_npy_header_size(size_t *out, const uint8_t *data, size_t size, moon_err *err);

/* Fills dtype, shape, strides and sizes of entry; entry->offset: of the elements from the start of
 * the .npy, of which header has the first header_size bytes. The elements must end it, at size.
 * MOON_EFORMAT, MOON_EUNSUPPORTED (objects, big endian, a dtype that moonscope has not). */
moon_status moon_npy_parse(moon_entry *entry, const uint8_t *header, size_t header_size,
                           size_t size, moon_err *err);

#endif
