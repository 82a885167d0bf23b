// SPDX-License-Identifier: MIT
/* A zip file, of PyTorch, of NumPy or of neither. The mutator mends the end record. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_parser(moon_pth_parse, data, size);
  return 0;
}

MUTATOR(data, size, max_size, seed) {
  return mutate_zip(data, size, max_size, seed);
}
