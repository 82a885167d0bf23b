// SPDX-License-Identifier: MIT
/* NumPy's arrays: a .npz, or a .npy that is put into one, stored and deflated. */
#include <zlib.h>

#include "fuzz.h"

/* The entry's data in a zip file of one. */
static buffer wrap(const uint8_t *data, size_t size, size_t unpacked, uint32_t crc, bool deflated) {
  zip_places places;
  zip_item item = {"a.npy", data, size};
  buffer file = zip(&item, 1, &places);
  for (int i = 0; i < 2; i++) {
    uint8_t *common = file.data + (i ? places.central[0] + 8 : places.local[0] + 6);
    common[2] = deflated ? 8 : 0;
    for (int k = 0; k < 4; k++) {
      common[8 + k] = (uint8_t)(crc >> 8 * k);
      common[16 + k] = (uint8_t)(unpacked >> 8 * k);
    }
  }
  return file;
}

static void parse_array(const uint8_t *data, size_t size) {
  uint32_t crc = (uint32_t)crc32(0, data, (uInt)size);
  buffer file = wrap(data, size, size, crc, false);
  fuzz_parser(moon_checkpoint_parse, file.data, file.size);
  free(file.data);
  uLongf packed = compressBound((uLong)size);
  uint8_t *bytes = malloc(packed);
  compress2(bytes, &packed, data, (uLong)size, 1);
  /* without zlib's header of 2 bytes and sum of 4 */
  file = wrap(bytes + 2, packed - 6, size, crc, true);
  fuzz_parser(moon_checkpoint_parse, file.data, file.size);
  free(file.data);
  free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_parser(moon_checkpoint_parse, data, size);
  if (size > 6 && !memcmp(data, "\x93NUMPY", 6))
    parse_array(data, size);
  return 0;
}

static const piece pieces[] = {
    PIECE("'descr': '<f4', "),
    PIECE("'fortran_order': False, "),
    PIECE("'fortran_order': True, "),
    PIECE("'shape': (2, 3), "),
    PIECE("'shape': (), "),
    PIECE("(6,)"),
    PIECE("'"),
    PIECE("{"),
    PIECE("}"),
    PIECE("("),
    PIECE(")"),
    PIECE(","),
    PIECE("'<f2'"),
    PIECE("'|b1'"),
    PIECE("'|O'"),
    PIECE("'>f4'"),
    PIECE("\n"),
    PIECE("9223372036854775807"),
};

MUTATOR(data, size, max_size, seed) {
  dice d = {seed};
  if (size < 12 || memcmp(data, "\x93NUMPY", 6))
    return mutate_zip(data, size, max_size, seed);
  size_t before = size;
  size = mutate_pieces(data, size, max_size, 10, pieces, sizeof pieces / sizeof *pieces, &d);
  size_t header = data[8] | (size_t)data[9] << 8, longer = header + size - before;
  if (roll(&d, 8)) { /* the header grew or shrank, not the elements */
    data[8] = (uint8_t)longer;
    data[9] = (uint8_t)(longer >> 8);
  }
  return size;
}
