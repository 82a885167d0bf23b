// SPDX-License-Identifier: MIT
/* Tokens by id and by their bytes. Filled once, then only read: any number of threads may share it.
 */
#ifndef MOON_LLAMA_VOCAB_H
#define MOON_LLAMA_VOCAB_H

#include "moon.h"

#define MOON_VOCAB_MAX \
  (1 << 20) /* ids lie below this; the largest published vocabularies have 2^18 */

typedef struct moon_token {
  const char *bytes; /* NULL: no token has this id */
  size_t size;
  bool special;
} moon_token;

typedef struct moon_vocab {
  moon_token *tokens; /* [n_vocab], by id */
  int32_t n_vocab;    /* the highest id + 1 */
  int32_t *slots;     /* [mask + 1], ids by the hash of their bytes, -1 where empty */
  size_t mask;
  uint64_t seed; /* random, so that a file cannot be made whose tokens all collide */
  char *arena;   /* where the tokens' bytes are */
  size_t arena_used;
} moon_vocab;

/* Room for ids 0 to n_vocab - 1 and n_bytes of text in all. Free it even after a failure.
 * MOON_ENOMEM. */
moon_status moon_vocab_init(moon_vocab *vocab, int32_t n_vocab, size_t n_bytes, moon_err *err);
void moon_vocab_free(moon_vocab *vocab); /* zeroed or initialised */

/* Copies the token in under its id, which must be in range. false: the id has a token already. */
bool moon_vocab_add(moon_vocab *vocab, int32_t id, const char *bytes, size_t size);

/* Makes moon_vocab_find know the token of this id. false: it knows another one with these bytes. */
bool moon_vocab_index(moon_vocab *vocab, int32_t id);

/* The id of the indexed token with these bytes, or -1. */
int32_t moon_vocab_find(const moon_vocab *vocab, const char *bytes, size_t size);

#endif
