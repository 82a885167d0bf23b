// SPDX-License-Identifier: MIT
#include "llama/special.h"

#include <stdlib.h>
#include <string.h>

moon_status moon_special_init(moon_special *special, size_t n_bytes, moon_err *err) {
  *special = (moon_special){.max_nodes = (int32_t)n_bytes};
  memset(special->first, 0xff, sizeof special->first);
  special->nodes = malloc((n_bytes + 1) * sizeof *special->nodes);
  return special->nodes ? MOON_OK : moon_fail(err, MOON_ENOMEM, "no memory for the added tokens");
}

void moon_special_free(moon_special *special) {
  free(special->nodes);
}

/* The node of `byte` in the list that *link starts, made if it is not there. */
static moon_special_node *enter(moon_special *special, int32_t *link, uint8_t byte) {
  while (*link >= 0 && special->nodes[*link].byte != byte)
    link = &special->nodes[*link].sibling;
  if (*link < 0) {
    special->nodes[special->n_nodes] = (moon_special_node){-1, -1, -1, byte};
    *link = special->n_nodes++;
  }
  return &special->nodes[*link];
}

void moon_special_add(moon_special *special, int32_t id, const char *bytes, size_t size) {
  moon_special_node *node = enter(special, &special->first[(uint8_t)bytes[0]], (uint8_t)bytes[0]);
  for (size_t i = 1; i < size; i++)
    node = enter(special, &node->child, (uint8_t)bytes[i]);
  node->id = id;
}

/* The node of `byte` in the list that starts at node `at`, or -1. */
static int32_t follow(const moon_special *special, int32_t at, char byte) {
  while (at >= 0 && special->nodes[at].byte != (uint8_t)byte)
    at = special->nodes[at].sibling;
  return at;
}

int32_t moon_special_get(const moon_special *special, const char *bytes, size_t size) {
  int32_t at = size ? special->first[(uint8_t)bytes[0]] : -1;
  for (size_t i = 1; at >= 0 && i < size; i++)
    at = follow(special, special->nodes[at].child, bytes[i]);
  return at < 0 ? -1 : special->nodes[at].id;
}

/* The longest token that text starts with, or -1. */
static int32_t match(const moon_special *special, const moon_vocab *vocab, bool with_special,
                     const char *text, size_t size) {
  int32_t found = -1, at = special->first[(uint8_t)text[0]];
  for (size_t i = 1; at >= 0; i++) {
    const moon_special_node *node = &special->nodes[at];
    if (node->id >= 0 && (with_special || !vocab->tokens[node->id].special))
      found = node->id;
    at = i < size ? follow(special, node->child, text[i]) : -1;
  }
  return found;
}

int32_t moon_special_find(const moon_special *special, const moon_vocab *vocab, bool with_special,
                          const char *text, size_t size, size_t start, size_t *at) {
  for (*at = start; *at < size; ++*at) {
    int32_t id = match(special, vocab, with_special, text + *at, size - *at);
    if (id >= 0)
      return id;
  }
  return -1;
}
