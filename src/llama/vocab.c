// SPDX-License-Identifier: MIT
#include "llama/vocab.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static uint64_t random_seed(void) {
  uint64_t seed;
  return getrandom(&seed, sizeof seed, GRND_NONBLOCK) == sizeof seed ? seed : 0;
}

moon_status moon_vocab_init(moon_vocab *vocab, int32_t n_vocab, size_t n_bytes, moon_err *err) {
  size_t n_slots = 16;
  while (n_slots < 2 * (size_t)n_vocab)
    n_slots *= 2;
  *vocab = (moon_vocab){.n_vocab = n_vocab, .mask = n_slots - 1, .seed = random_seed()};
  vocab->tokens = calloc((size_t)n_vocab + 1, sizeof *vocab->tokens);
  vocab->slots = malloc(n_slots * sizeof *vocab->slots);
  vocab->arena = malloc(n_bytes + 1);
  if (!vocab->tokens || !vocab->slots || !vocab->arena)
    return moon_fail(err, MOON_ENOMEM, "no memory for a vocabulary of %d tokens", n_vocab);
  memset(vocab->slots, 0xff, n_slots * sizeof *vocab->slots);
  return MOON_OK;
}

void moon_vocab_free(moon_vocab *vocab) {
  free(vocab->tokens);
  free(vocab->slots);
  free(vocab->arena);
}

bool moon_vocab_add(moon_vocab *vocab, int32_t id, const char *bytes, size_t size) {
  moon_token *token = &vocab->tokens[id];
  if (token->bytes)
    return false;
  token->bytes = memcpy(vocab->arena + vocab->arena_used, bytes, size);
  token->size = size;
  vocab->arena_used += size;
  return true;
}

static uint64_t mix(uint64_t a, uint64_t b) {
  a = (a ^ b) * 0x9e3779b97f4a7c15u;
  return a ^ (a >> 32);
}

static uint64_t hash(const moon_vocab *vocab, const char *bytes, size_t size) {
  uint64_t h = mix(vocab->seed, size), word;
  for (; size >= 8; bytes += 8, size -= 8) {
    memcpy(&word, bytes, 8);
    h = mix(h, word);
  }
  word = 0;
  memcpy(&word, bytes, size);
  return mix(mix(h, word), vocab->seed);
}

/* The slot that holds the token with these bytes, or the empty one where it would go. */
static int32_t *slot_of(const moon_vocab *vocab, const char *bytes, size_t size) {
  for (size_t i = hash(vocab, bytes, size);; i++) {
    int32_t *slot = &vocab->slots[i & vocab->mask];
    if (*slot < 0)
      return slot;
    const moon_token *token = &vocab->tokens[*slot];
    if (token->size == size && memcmp(token->bytes, bytes, size) == 0)
      return slot;
  }
}

bool moon_vocab_index(moon_vocab *vocab, int32_t id) {
  int32_t *slot = slot_of(vocab, vocab->tokens[id].bytes, vocab->tokens[id].size);
  bool is_new = *slot < 0;
  if (is_new)
    *slot = id;
  return is_new;
}

int32_t moon_vocab_find(const moon_vocab *vocab, const char *bytes, size_t size) {
  return *slot_of(vocab, bytes, size);
}
