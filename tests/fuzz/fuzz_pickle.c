// SPDX-License-Identifier: MIT
/* The pickle of a .pth file with one storage of 24 bytes. The mutator inserts whole opcodes. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  zip_places places;
  buffer pickle = {(uint8_t *)(uintptr_t)data, size, size}, file = pth(&pickle, 24, &places);
  fuzz_parser(moon_pth_parse, file.data, file.size);
  free(file.data);
  return 0;
}

MUTATOR(data, size, max_size, seed) {
  dice d = {seed};
  if (size < 3 || max_size < 4)
    return LLVMFuzzerMutate(data, size, max_size);
  size = mutate_pieces(data, size, max_size - 1, 2, pickle_pieces, N_PICKLE_PIECES, &d);
  data[0] = 0x80;
  data[1] = (uint8_t)(2 + roll(&d, 4));
  if (data[size - 1] != '.')
    data[size++] = '.';
  return size;
}
