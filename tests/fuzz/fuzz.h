// SPDX-License-Identifier: MIT
/*
 * What the fuzz targets share. A target parses size bytes and reads everything that comes out; what
 * fails must say why. A mutator keeps the frame of its format whole, so that most inputs get past
 * the first checks.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include "../c/io_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size); /* libFuzzer's own */

#define MUTATOR(data, size, max_size, seed)                                                   \
  size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed); \
  size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)

/* A failure without a message is a bug, too. */
static inline void check_message(moon_status status, const moon_err *err) {
  if (status != MOON_OK && (!err->text[0] || err->code != status))
    __builtin_trap();
}

static inline void fuzz_parser(parser parse, const void *data, size_t size) {
  moon_err err;
  check_message(parse_and_read(parse, data, size, &err), &err);
}

/* ---- numbers that follow from libFuzzer's seed ---- */

typedef struct dice {
  uint64_t state;
} dice;

static inline uint32_t roll(dice *d, uint32_t n) {
  d->state = d->state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(d->state >> 33) % n;
}

/* ---- pieces ---- */

typedef struct piece {
  const char *data;
  size_t size;
} piece;

#define PIECE(text) \
  { text, sizeof(text) - 1 }

/* Puts one of the pieces into the size bytes at data, anywhere from `first` on; the new size. */
static inline size_t insert_piece(uint8_t *data, size_t size, size_t max_size, size_t first,
                                  const piece *pieces, size_t n, dice *d) {
  const piece *p = &pieces[roll(d, (uint32_t)n)];
  if (size + p->size > max_size || size < first)
    return size;
  size_t at = first + roll(d, (uint32_t)(size - first) + 1);
  memmove(data + at + p->size, data + at, size - at);
  memcpy(data + at, p->data, p->size);
  return size + p->size;
}

/* Takes up to 16 bytes out, anywhere from `first` on. */
static inline size_t drop_bytes(uint8_t *data, size_t size, size_t first, dice *d) {
  if (size <= first)
    return size;
  size_t at = first + roll(d, (uint32_t)(size - first)), n = 1 + roll(d, 16);
  if (n > size - at)
    n = size - at;
  memmove(data + at, data + at + n, size - at - n);
  return size - n;
}

static inline size_t mutate_pieces(uint8_t *data, size_t size, size_t max_size, size_t first,
                                   const piece *pieces, size_t n, dice *d) {
  switch (roll(d, 4)) {
    case 0:
      return drop_bytes(data, size, first, d);
    case 1:
      if (size > first)
        return first + LLVMFuzzerMutate(data + first, size - first, max_size - first);
      return size;
    default:
      return insert_piece(data, size, max_size, first, pieces, n, d);
  }
}

/* ---- zip ---- */

/* After a mutation: the end record says again where the directory begins, if there is one. */
static inline void mend_zip(uint8_t *data, size_t size) {
  if (size < 22)
    return;
  uint8_t *end = data + size - 22;
  memcpy(end, "PK\5\6\0\0\0\0", 8);
  memcpy(end + 20, "\0\0", 2);
  size_t start = 0, n = 0;
  for (size_t i = 0; i + 46 <= size - 22; i++)
    if (!memcmp(data + i, "PK\1\2", 4)) {
      start = n ? start : i;
      n++;
    }
  for (size_t k = 0; k < 4; k++) {
    end[12 + k] = (uint8_t)((size - 22 - start) >> 8 * k);
    end[16 + k] = (uint8_t)(start >> 8 * k);
  }
  for (size_t k = 0; k < 2; k++)
    end[8 + k] = end[10 + k] = (uint8_t)(n >> 8 * k);
}

static inline size_t mutate_zip(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  dice d = {seed};
  size = LLVMFuzzerMutate(data, size, max_size);
  if (roll(&d, 8))
    mend_zip(data, size);
  return size;
}

/* ---- pickles ---- */

/* Opcodes, and what tensors are made of. */
static const piece pickle_pieces[] = {
    PIECE("N"),
    PIECE("."),
    PIECE("("),
    PIECE("0"),
    PIECE("1"),
    PIECE("2"),
    PIECE("t"),
    PIECE("l"),
    PIECE("d"),
    PIECE("]"),
    PIECE("}"),
    PIECE(")"),
    PIECE("a"),
    PIECE("s"),
    PIECE("e"),
    PIECE("u"),
    PIECE("b"),
    PIECE("R"),
    PIECE("Q"),
    PIECE("o"),
    PIECE("K\1"),
    PIECE("M\0\1"),
    PIECE("J\xff\xff\xff\xff"),
    PIECE("\x88"),
    PIECE("\x89"),
    PIECE("\x85"),
    PIECE("\x86"),
    PIECE("\x87"),
    PIECE("\x8f"),
    PIECE("\x90"),
    PIECE("\x91"),
    PIECE("\x93"),
    PIECE("\x94"),
    PIECE("\x81"),
    PIECE("\x92"),
    PIECE("\x8a\1\x80"),
    PIECE("\x8a\x08\0\0\0\0\0\0\0\x80"),
    PIECE("\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0"),
    PIECE("\x8b\1\0\0\0\7"),
    PIECE("I-1\n"),
    PIECE("I01\n"),
    PIECE("L7L\n"),
    PIECE("F1.5\n"),
    PIECE("G\x3f\xf8\0\0\0\0\0\0"),
    PIECE("S'a'\n"),
    PIECE("Va\n"),
    PIECE("U\1a"),
    PIECE("T\1\0\0\0a"),
    PIECE("\x8c\1a"),
    PIECE("\x8d\1\0\0\0\0\0\0\0a"),
    PIECE("C\1a"),
    PIECE("B\1\0\0\0a"),
    PIECE("\x8e\1\0\0\0\0\0\0\0a"),
    PIECE("\x95\1\0\0\0\0\0\0\0"),
    PIECE("q\0"),
    PIECE("h\0"),
    PIECE("q\7"),
    PIECE("h\7"),
    PIECE("r\1\0\0\0"),
    PIECE("j\1\0\0\0"),
    PIECE("p3\n"),
    PIECE("g3\n"),
    PIECE("ccollections\nOrderedDict\n"),
    PIECE("ccollections\nOrderedDict\n)R"),
    PIECE("ctorch\nSize\n"),
    PIECE("ctorch\nFloatStorage\n"),
    PIECE("ctorch\nBFloat16Storage\n"),
    PIECE("ctorch\nLongStorage\n"),
    PIECE("ctorch\nfloat8_e4m3fn\n"),
    PIECE("ctorch.storage\nUntypedStorage\n"),
    PIECE("ctorch._utils\n_rebuild_tensor\n"),
    PIECE("ctorch._utils\n_rebuild_tensor_v2\n"),
    PIECE("ctorch._utils\n_rebuild_tensor_v3\n"),
    PIECE("ctorch._utils\n_rebuild_parameter\n"),
    PIECE("\x8c\5torch\x8c\4Size\x93"),
    PIECE("cposix\nsystem\n"),
    PIECE("iposix\nsystem\n"),
    PIECE("(U\7storagectorch\nFloatStorage\nU\1"
          "0U\3cpuK\6tQ"),
    PIECE("ctorch._utils\n_rebuild_tensor_v2\n((U\7storagectorch\nFloatStorage\nU\1"
          "0U\3cpuK\6tQK\0K\2K\3\x86K\3K\1\x86\x89"
          "ccollections\nOrderedDict\n)RtR"),
    PIECE("(K\2K\3t"),
};
#define N_PICKLE_PIECES (sizeof pickle_pieces / sizeof *pickle_pieces)

#endif
