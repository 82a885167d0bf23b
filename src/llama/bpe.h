// SPDX-License-Identifier: MIT
/*
 * Byte-pair merges: a piece of text starts as single bytes, or as characters with the bytes of
 * those that are no tokens; the neighbours whose merge has the lowest rank become one token, the
 * leftmost first, until no merge applies.
 */
#ifndef MOON_LLAMA_BPE_H
#define MOON_LLAMA_BPE_H

#include "llama/vocab.h"

/* Ids have 20 bits (MOON_VOCAB_MAX), so that a merge is one word: left, right and rank. */
#define MOON_BPE_RANK_BITS 24
#define MOON_BPE_NO_RANK   (((uint32_t)1 << MOON_BPE_RANK_BITS) - 1)

#define MOON_BPE_SPACE "\xe2\x96\x81" /* U+2581, as vocabularies of characters write a space */

/* Filled once, then only read. */
typedef struct moon_bpe {
  int32_t byte_ids[256];
  int32_t *merged; /* [n_merges], by rank: the id that left and right become */
  uint32_t n_merges;
  uint64_t
      *slots; /* [mask + 1], by the hash of the pair: left, right and rank; UINT64_MAX: empty */
  size_t mask;
  uint64_t seed;
} moon_bpe;

/* MOON_EUNSUPPORTED (more merges than ranks), MOON_ENOMEM. Free it even after a failure. The seed
 * is the vocabulary's. */
moon_status moon_bpe_init(moon_bpe *bpe, size_t max_merges, uint64_t seed, moon_err *err);
void moon_bpe_free(moon_bpe *bpe); /* zeroed or initialised */

/* Adds the merge of the next rank. false: the pair has one already. */
bool moon_bpe_add(moon_bpe *bpe, int32_t left, int32_t right, int32_t merged);

/* Ids and where in the text each one ends; an id starts where the one before it ends. */
typedef struct moon_encoding {
  int32_t *ids; /* [n] */
  size_t *ends; /* [n], bytes from the start of the text */
  size_t n, capacity;
} moon_encoding;

moon_status moon_encoding_add(moon_encoding *encoding, int32_t id, size_t end, moon_err *err);
void moon_encoding_free(moon_encoding *encoding); /* leaves it empty and usable again */

/* Working memory for one caller at a time, grown as needed. Start zeroed. */
typedef struct moon_bpe_scratch {
  struct moon_bpe_symbol *symbols;
  struct moon_bpe_node *nodes;
  struct moon_bpe_run *heap;
  size_t n_heap, symbol_capacity, node_capacity, heap_capacity;
  uint32_t n_nodes, free_node;
  uint32_t last[256]; /* by the low bits of a rank: the node that was queued last, maybe of another
                         rank */
} moon_bpe_scratch;

void moon_bpe_scratch_free(moon_bpe_scratch *scratch);

/* Appends the ids of piece (size 1 to 2^31 - 1), which starts at `offset` of the text. MOON_ENOMEM.
 */
moon_status moon_bpe_encode(const moon_bpe *bpe, moon_bpe_scratch *scratch, const char *piece,
                            size_t size, size_t offset, moon_encoding *out, moon_err *err);

/* The same from characters, each the token of its bytes in vocab, a space written " " or U+2581.
 * with_space: as if the piece had one more in front, which takes no bytes of the text. */
moon_status moon_bpe_encode_chars(const moon_bpe *bpe, const moon_vocab *vocab,
                                  moon_bpe_scratch *scratch, bool with_space, const char *piece,
                                  size_t size, size_t offset, moon_encoding *out, moon_err *err);

/* Bytes of the space, " " or U+2581, that text starts with; 0: none. */
size_t moon_bpe_space(const char *text, size_t size);

#endif
