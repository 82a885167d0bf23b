// SPDX-License-Identifier: MIT
/* A safetensors file. The mutator changes the header as text and sets its size right, or makes a
 * new file that is right but for one change. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  fuzz_parser(moon_safetensors_parse, data, size);
  return 0;
}

static void set_header_size(uint8_t *data, size_t size) {
  for (size_t k = 0; k < 8; k++)
    data[k] = (uint8_t)((uint64_t)size >> 8 * k);
}

/* Tensors that fill the data, of any dtype and rank. */
static size_t generate(uint8_t *data, size_t max_size, dice *d) {
  static const struct {
    const char *name;
    uint32_t bits;
  } dtypes[] = {{"F32", 32}, {"BF16", 16}, {"F64", 64}, {"I8", 8},      {"BOOL", 8},
                {"U16", 16}, {"C64", 64},  {"F4", 4},   {"F6_E2M3", 6}, {"F8_E4M3", 8}};
  char header[2048];
  size_t used = (size_t)snprintf(header, sizeof header, "{"), end = 0;
  if (!roll(d, 3))
    used += (size_t)snprintf(header + used, sizeof header - used,
                             "\"__metadata__\":{\"k\":\"v\\u00e9\"},");
  for (uint32_t i = 0, n = roll(d, 4); i < n; i++) {
    uint32_t dtype = roll(d, 10), rank = roll(d, 4), count = 1;
    char shape[64] = "";
    for (uint32_t k = 0; k < rank; k++) {
      uint32_t dim = roll(d, 5);
      count *= dim;
      snprintf(shape + strlen(shape), sizeof shape - strlen(shape), k ? ",%u" : "%u", dim);
    }
    size_t bytes = count * dtypes[dtype].bits / 8;
    used +=
        (size_t)snprintf(header + used, sizeof header - used,
                         "\"t%u\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]},", i,
                         dtypes[dtype].name, shape, end, end + bytes);
    end += bytes;
  }
  header[used - (header[used - 1] == ',')] = 0;
  used = strlen(header);
  header[used++] = '}';
  if (8 + used + end > max_size)
    return 0;
  set_header_size(data, used);
  memcpy(data + 8, header, used);
  memset(data + 8 + used, 1, end);
  return 8 + used + end;
}

static const piece pieces[] = {
    PIECE("{"),         PIECE("}"),          PIECE("["),
    PIECE("]"),         PIECE(","),          PIECE(":"),
    PIECE("\""),        PIECE("\\u00e9"),    PIECE("\\ud83d\\ude00"),
    PIECE("\\ud83d"),   PIECE("\\n"),        PIECE("\"dtype\":\"F32\""),
    PIECE("\"shape\""), PIECE("[2,3]"),      PIECE("\"data_offsets\":[0,24]"),
    PIECE("-1"),        PIECE("1e9"),        PIECE("9223372036854775807"),
    PIECE("0"),         PIECE("4294967296"), PIECE("\"__metadata__\":{\"a\":\"b\"},"),
    PIECE("\xc3\xa9"),  PIECE("\xff"),       PIECE("true"),
};

MUTATOR(data, size, max_size, seed) {
  dice d = {seed};
  if (size < 10 || !roll(&d, 4)) {
    size_t made = generate(data, max_size, &d);
    if (!made || !roll(&d, 2))
      return made ? made : LLVMFuzzerMutate(data, size, max_size);
    size = made;
  }
  uint64_t said = 0;
  for (size_t k = 8; k > 0; k--)
    said = said << 8 | data[k - 1];
  size_t header = said < size - 8 ? (size_t)said : size - 8, rest = size - 8 - header;
  if (8 + rest >= max_size)
    return LLVMFuzzerMutate(data, size, max_size);
  uint8_t *tail = malloc(rest + 1);
  memcpy(tail, data + 8 + header, rest);
  size_t mutated = 8 + header;
  mutated =
      mutate_pieces(data, mutated, max_size - rest, 9, pieces, sizeof pieces / sizeof *pieces, &d);
  if (roll(&d, 16))
    set_header_size(data, mutated - 8);
  memcpy(data + mutated, tail, rest);
  free(tail);
  return mutated + rest;
}
