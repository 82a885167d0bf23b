// SPDX-License-Identifier: MIT
#include "io/packed.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define SKIP_SIZE   ((size_t)64 << 10)
#define RATIO_LIMIT 1032 /* deflate makes no byte into more */

struct moon_packed {
  const uint8_t *data; /* [place.packed_bytes], borrowed */
  moon_packed_place place;
  z_stream stream;
  size_t taken, given; /* bytes in and out since the start */
  uint32_t crc;        /* of those given */
  uint8_t *whole;      /* [place.size_bytes] or NULL */
};

moon_status moon_packed_new(moon_packed **out, const moon_bytes *bytes,
                            const moon_packed_place *place, moon_err *err) {
  *out = NULL;
  if (place->size_bytes / RATIO_LIMIT > place->packed_bytes)
    return moon_fail(err, MOON_EFORMAT, "%zu deflated bytes cannot become %zu", place->packed_bytes,
                     place->size_bytes);
  moon_packed *packed = calloc(1, sizeof *packed);
  if (!packed || inflateInit2(&packed->stream, -MAX_WBITS) != Z_OK) { /* no header around it */
    free(packed);
    return moon_fail(err, MOON_ENOMEM, "no memory to inflate");
  }
  packed->data = moon_bytes_data(bytes) + place->offset;
  packed->place = *place;
  *out = packed;
  return MOON_OK;
}

void moon_packed_free(moon_packed *packed) {
  if (!packed)
    return;
  inflateEnd(&packed->stream);
  free(packed->whole);
  free(packed);
}

static uInt at_most(size_t n) {
  return n < UINT_MAX ? (uInt)n : UINT_MAX;
}

static moon_status broken(const moon_packed *packed, const char *what, moon_err *err) {
  return moon_fail(err, MOON_EFORMAT, "deflated data: %s after %zu of %zu bytes", what,
                   packed->given, packed->place.size_bytes);
}

/* One call of inflate for up to room bytes; *got says how many came, *ended whether all is done. */
static moon_status inflate_some(moon_packed *packed, uint8_t *out, size_t room, size_t *got,
                                bool *ended, moon_err *err) {
  z_stream *stream = &packed->stream;
  uInt in = at_most(packed->place.packed_bytes - packed->taken), wanted = at_most(room);
  stream->next_in = (Bytef *)(uintptr_t)(packed->data + packed->taken);
  stream->avail_in = in;
  stream->next_out = out;
  stream->avail_out = wanted;
  int result = inflate(stream, Z_NO_FLUSH);
  *got = wanted - stream->avail_out;
  *ended = result == Z_STREAM_END;
  packed->taken += in - stream->avail_in;
  if (result == Z_MEM_ERROR)
    return moon_fail(err, MOON_ENOMEM, "no memory to inflate");
  if (result == Z_OK || result == Z_STREAM_END)
    return MOON_OK;
  return broken(packed, result == Z_BUF_ERROR ? "they end" : "they are broken", err);
}

/* Behind the last byte: the data must end here too, and the sum be right. */
static moon_status check_end(moon_packed *packed, bool ended, moon_err *err) {
  moon_status status = MOON_OK;
  uint8_t more;
  size_t got = 0;
  while (!ended && !got && status == MOON_OK)
    status = inflate_some(packed, &more, 1, &got, &ended, err);
  if (status != MOON_OK)
    return status;
  if (got || packed->taken != packed->place.packed_bytes)
    return broken(packed, "more follows", err);
  if (packed->crc != packed->place.crc)
    return broken(packed, "a wrong checksum", err);
  return MOON_OK;
}

/* The next size bytes, which are within size_bytes. */
static moon_status read_next(moon_packed *packed, uint8_t *out, size_t size, moon_err *err) {
  moon_status status = MOON_OK;
  bool ended = false;
  while (size && status == MOON_OK) {
    size_t got;
    status = inflate_some(packed, out, size, &got, &ended, err);
    packed->crc = (uint32_t)crc32_z(packed->crc, out, got);
    packed->given += got;
    out += got;
    size -= got;
    if (status == MOON_OK && ended && packed->given < packed->place.size_bytes)
      status = broken(packed, "they end", err);
  }
  if (status == MOON_OK && packed->given == packed->place.size_bytes)
    status = check_end(packed, ended, err);
  return status;
}

static void rewind_to_start(moon_packed *packed) {
  inflateReset(&packed->stream);
  packed->taken = packed->given = packed->crc = 0;
}

static moon_status skip_to(moon_packed *packed, size_t first, moon_err *err) {
  if (first < packed->given)
    rewind_to_start(packed);
  if (first == packed->given)
    return MOON_OK;
  uint8_t *scratch = malloc(SKIP_SIZE);
  if (!scratch)
    return moon_fail(err, MOON_ENOMEM, "no memory to inflate");
  moon_status status = MOON_OK;
  while (packed->given < first && status == MOON_OK) {
    size_t left = first - packed->given;
    status = read_next(packed, scratch, left < SKIP_SIZE ? left : SKIP_SIZE, err);
  }
  free(scratch);
  return status;
}

moon_status moon_packed_read(moon_packed *packed, size_t first, size_t size, void *out,
                             moon_err *err) {
  if (!size)
    return MOON_OK;
  moon_status status = skip_to(packed, first, err);
  if (status == MOON_OK)
    status = read_next(packed, out, size, err);
  if (status != MOON_OK)
    rewind_to_start(packed); /* the next call fails again where this one did */
  return status;
}

moon_status moon_packed_whole(const uint8_t **out, moon_packed *packed, moon_err *err) {
  *out = packed->whole;
  if (packed->whole)
    return MOON_OK;
  uint8_t *whole = malloc(packed->place.size_bytes + 1);
  if (!whole)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", packed->place.size_bytes);
  moon_status status = moon_packed_read(packed, 0, packed->place.size_bytes, whole, err);
  if (status != MOON_OK) {
    free(whole);
    return status;
  }
  *out = packed->whole = whole;
  return MOON_OK;
}
