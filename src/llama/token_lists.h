// SPDX-License-Identifier: MIT
/*
 * model.vocab and model.merges of a tokenizer.json, which are nearly all of it, read from front to
 * back without a tree; the rest is left for one. What an entry should not be is noted, not refused:
 * the caller looks at the rest first.
 */
#ifndef MOON_LLAMA_TOKEN_LISTS_H
#define MOON_LLAMA_TOKEN_LISTS_H

#include "moon.h"

typedef struct moon_listed_token {
  uint32_t at, size; /* bytes in the arena, with a zero behind them */
  int32_t id;        /* -1: not a number below MOON_VOCAB_MAX */
} moon_listed_token;

#define MOON_NO_MERGE UINT32_MAX

typedef struct moon_listed_merge {
  uint32_t at, n_left, n_right; /* left, a space, right; n_left MOON_NO_MERGE: something else */
} moon_listed_merge;

typedef struct moon_token_lists {
  char *arena;               /* the texts as the file writes them */
  moon_listed_token *tokens; /* [n_tokens] */
  moon_listed_merge *merges; /* [n_merges], by rank */
  size_t arena_used, n_tokens, token_room, n_merges, merge_room;
  bool has_vocab, has_merges; /* an object, an array */
  char *rest;                 /* the file with null in the place of both */
  size_t rest_size, rest_room;
} moon_token_lists;

/* Of a file below 4 GiB. MOON_EFORMAT (not JSON), MOON_ENOMEM. Free it even after a failure. */
moon_status moon_token_lists_read(moon_token_lists *out, const char *data, size_t size,
                                  moon_err *err);
void moon_token_lists_free(moon_token_lists *lists); /* zeroed or read */

#endif
