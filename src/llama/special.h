// SPDX-License-Identifier: MIT
/* Finds the added tokens (such as <|eot_id|>) in text: a trie of their bytes. Filled once, then
 * only read. */
#ifndef MOON_LLAMA_SPECIAL_H
#define MOON_LLAMA_SPECIAL_H

#include "llama/vocab.h"

#define MOON_SPECIAL_MAX_BYTES 256 /* of one added token: bounds the work at each byte */

typedef struct moon_special_node {
  int32_t child, sibling; /* -1: none */
  int32_t id;             /* of the token that ends here, -1: none */
  uint8_t byte;
} moon_special_node;

typedef struct moon_special {
  moon_special_node *nodes;
  int32_t n_nodes, max_nodes;
  int32_t first[256]; /* the node of a token's first byte, -1: none */
} moon_special;

/* Room for tokens of n_bytes in all. Free it even after a failure. MOON_ENOMEM. */
moon_status moon_special_init(moon_special *special, size_t n_bytes, moon_err *err);
void moon_special_free(moon_special *special); /* zeroed or initialised */

/* Adds a token of 1 to MOON_SPECIAL_MAX_BYTES bytes. */
void moon_special_add(moon_special *special, int32_t id, const char *bytes, size_t size);

/* The id of the added token with exactly these bytes, or -1. */
int32_t moon_special_get(const moon_special *special, const char *bytes, size_t size);

/* The first added token in text at or after start; of several that begin there, the longest. Its
 * start goes to *at; the result is its id, or -1 and *at is size. Tokens that the vocabulary marks
 * special are passed over unless with_special. */
int32_t moon_special_find(const moon_special *special, const moon_vocab *vocab, bool with_special,
                          const char *text, size_t size, size_t start, size_t *at);

#endif
