// SPDX-License-Identifier: MIT
/* A file of PyTorch's older form. The mutator leaves the magic number alone and inserts opcodes. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_parser(moon_checkpoint_parse, data, size);
  return 0;
}

#define START                                               \
  "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." \
  "\x80\2M\xe9\3."                                          \
  "\x80\2}U\15little_endian\x88s."

MUTATOR(data, size, max_size, seed) {
  dice d = {seed};
  const size_t start = sizeof START - 1;
  if (max_size < start + 8)
    return LLVMFuzzerMutate(data, size, max_size);
  if (size < start || !roll(&d, 8)) {
    memcpy(data, START, start);
    size = size < start ? start : size;
  }
  if (!roll(&d, 32))
    return LLVMFuzzerMutate(data, size, max_size);
  return mutate_pieces(data, size, max_size, 15, pickle_pieces, N_PICKLE_PIECES, &d);
}
