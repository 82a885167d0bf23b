// SPDX-License-Identifier: MIT
#include "llama/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

/* One token of a piece while it grows. Symbols are numbered by their first byte. */
typedef struct moon_bpe_symbol {
  int32_t id;
  uint32_t previous, next; /* NONE at the ends */
  uint32_t rank; /* of the merge with the next one; MOON_BPE_NO_RANK: none, or swallowed */
} symbol;

#define NONE UINT32_MAX

/*
 * The queue of merges, lowest rank and then leftmost first. Merges of one rank mostly arrive from
 * left to right, so they are chained to runs, and the heap holds runs, each under its first merge:
 * a long text of few different pairs takes linear time. A merge stays queued when a neighbour is
 * merged before it; its symbol has another rank by then.
 */
typedef struct moon_bpe_node {
  uint32_t rank, symbol; /* MOON_BPE_NO_RANK: the node is free */
  uint32_t next;         /* in the run, or of the free ones; NONE: the last */
} node;

typedef struct moon_bpe_run {
  uint64_t key; /* rank << 32 | symbol of the first node */
  uint32_t first;
} run;

#define EMPTY     UINT64_MAX
#define RANK_MASK ((uint64_t)MOON_BPE_NO_RANK)

moon_status moon_bpe_init(moon_bpe *bpe, size_t max_merges, uint64_t seed, moon_err *err) {
  size_t n_slots = 16;
  *bpe = (moon_bpe){0};
  if (max_merges >= MOON_BPE_NO_RANK)
    return moon_fail(err, MOON_EUNSUPPORTED, "%zu merges, expected less than %u", max_merges,
                     MOON_BPE_NO_RANK);
  while (2 * n_slots < 3 * max_merges)
    n_slots *= 2;
  *bpe = (moon_bpe){.mask = n_slots - 1, .seed = seed};
  bpe->merged = malloc((max_merges + 1) * sizeof *bpe->merged);
  bpe->slots = malloc(n_slots * sizeof *bpe->slots);
  if (!bpe->merged || !bpe->slots)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu merges", max_merges);
  memset(bpe->slots, 0xff, n_slots * sizeof *bpe->slots);
  return MOON_OK;
}

void moon_bpe_free(moon_bpe *bpe) {
  free(bpe->merged);
  free(bpe->slots);
}

static uint64_t pair_of(int32_t left, int32_t right) {
  return (uint64_t)left << 20 | (uint32_t)right;
}

/* The slot of this pair, or the empty one where it would go. */
static uint64_t *slot_of(const moon_bpe *bpe, uint64_t pair) {
  uint64_t h = (pair ^ bpe->seed) * 0x9e3779b97f4a7c15u;
  h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15u;
  for (size_t i = h ^ (h >> 32);; i++) {
    uint64_t *slot = &bpe->slots[i & bpe->mask];
    if (*slot == EMPTY || *slot >> MOON_BPE_RANK_BITS == pair)
      return slot;
  }
}

/* MOON_BPE_NO_RANK: they do not merge. */
static uint32_t rank_of(const moon_bpe *bpe, int32_t left, int32_t right) {
  return (uint32_t)(*slot_of(bpe, pair_of(left, right)) & RANK_MASK);
}

bool moon_bpe_add(moon_bpe *bpe, int32_t left, int32_t right, int32_t merged) {
  uint64_t pair = pair_of(left, right), *slot = slot_of(bpe, pair);
  if (*slot != EMPTY)
    return false;
  *slot = pair << MOON_BPE_RANK_BITS | bpe->n_merges;
  bpe->merged[bpe->n_merges++] = merged;
  return true;
}

/* array with room for n elements at least, twice the capacity that it had where it must grow;
 * NULL: no memory, and array is as it was. */
static void *reserve(void *array, size_t *capacity, size_t n, size_t element_size) {
  if (n <= *capacity)
    return array;
  size_t wanted = 2 * *capacity > n ? 2 * *capacity : n + 64, size_bytes;
  void *grown =
      moon_size_mul(&size_bytes, wanted, element_size) ? realloc(array, size_bytes) : NULL;
  if (grown)
    *capacity = wanted;
  return grown;
}

static bool grow_encoding(moon_encoding *encoding) {
  size_t n_ids = encoding->capacity, n_ends = encoding->capacity;
  int32_t *ids = reserve(encoding->ids, &n_ids, encoding->n + 1, sizeof *ids);
  if (!ids)
    return false;
  encoding->ids = ids;
  size_t *ends = reserve(encoding->ends, &n_ends, encoding->n + 1, sizeof *ends);
  if (!ends)
    return false;
  encoding->ends = ends;
  encoding->capacity = n_ends;
  return true;
}

moon_status moon_encoding_add(moon_encoding *encoding, int32_t id, size_t end, moon_err *err) {
  if (encoding->n == encoding->capacity && !grow_encoding(encoding))
    return moon_fail(err, MOON_ENOMEM, "no memory for more than %zu token ids", encoding->n);
  encoding->ids[encoding->n] = id;
  encoding->ends[encoding->n++] = end;
  return MOON_OK;
}

void moon_encoding_free(moon_encoding *encoding) {
  free(encoding->ids);
  free(encoding->ends);
  *encoding = (moon_encoding){0};
}

void moon_bpe_scratch_free(moon_bpe_scratch *scratch) {
  free(scratch->symbols);
  free(scratch->nodes);
  free(scratch->heap);
}

static run run_from(const moon_bpe_scratch *s, uint32_t first) {
  return (run){(uint64_t)s->nodes[first].rank << 32 | s->nodes[first].symbol, first};
}

static void sift_up(moon_bpe_scratch *s, size_t i, run new) {
  for (; i > 0 && s->heap[(i - 1) / 2].key > new.key; i = (i - 1) / 2)
    s->heap[i] = s->heap[(i - 1) / 2];
  s->heap[i] = new;
}

static void sift_down_from_top(moon_bpe_scratch *s, run new) {
  size_t i = 0;
  for (size_t child; (child = 2 * i + 1) < s->n_heap; i = child) {
    if (child + 1 < s->n_heap && s->heap[child + 1].key < s->heap[child].key)
      child++;
    if (s->heap[child].key >= new.key)
      break;
    s->heap[i] = s->heap[child];
  }
  s->heap[i] = new;
}

static uint32_t take_node(moon_bpe_scratch *s) {
  uint32_t taken = s->free_node;
  if (taken == NONE)
    return s->n_nodes++;
  s->free_node = s->nodes[taken].next;
  return taken;
}

static void queue_push(moon_bpe_scratch *s, uint32_t rank, uint32_t i) {
  uint32_t *last = &s->last[rank % (sizeof s->last / sizeof *s->last)];
  node *tail = *last < s->n_nodes ? &s->nodes[*last] : NULL;
  bool extends = tail && tail->rank == rank && tail->next == NONE && tail->symbol < i;
  uint32_t added = take_node(s);
  s->nodes[added] = (node){rank, i, NONE};
  if (extends)
    tail->next = added;
  else
    sift_up(s, s->n_heap++, run_from(s, added));
  *last = added;
}

static node queue_pop(moon_bpe_scratch *s) {
  uint32_t first = s->heap[0].first;
  node popped = s->nodes[first];
  s->nodes[first] = (node){MOON_BPE_NO_RANK, 0, s->free_node};
  s->free_node = first;
  if (popped.next != NONE)
    sift_down_from_top(s, run_from(s, popped.next));
  else if (--s->n_heap > 0)
    sift_down_from_top(s, s->heap[s->n_heap]);
  return popped;
}

/* Looks up the merge of symbol i with the next one and queues it. */
static void queue_merge(const moon_bpe *bpe, moon_bpe_scratch *s, uint32_t i) {
  symbol *left = &s->symbols[i];
  left->rank =
      left->next == NONE ? MOON_BPE_NO_RANK : rank_of(bpe, left->id, s->symbols[left->next].id);
  if (left->rank != MOON_BPE_NO_RANK)
    queue_push(s, left->rank, i);
}

static void merge_with_next(const moon_bpe *bpe, moon_bpe_scratch *s, uint32_t i) {
  symbol *left = &s->symbols[i], *right = &s->symbols[left->next];
  left->id = bpe->merged[left->rank];
  left->next = right->next;
  right->rank = MOON_BPE_NO_RANK;
  if (left->next != NONE)
    s->symbols[left->next].previous = i;
  if (left->previous != NONE)
    queue_merge(bpe, s, left->previous);
  queue_merge(bpe, s, i);
}

/* Queued are size - 1 merges at first; each merge takes one and adds two: never more than 2 * size.
 */
static bool reserve_scratch(moon_bpe_scratch *s, size_t size) {
  symbol *symbols = reserve(s->symbols, &s->symbol_capacity, size, sizeof *symbols);
  if (!symbols)
    return false;
  s->symbols = symbols;
  node *nodes = reserve(s->nodes, &s->node_capacity, 2 * size, sizeof *nodes);
  if (!nodes)
    return false;
  s->nodes = nodes;
  run *heap = reserve(s->heap, &s->heap_capacity, 2 * size, sizeof *heap);
  if (!heap)
    return false;
  s->heap = heap;
  return true;
}

/* A symbol in its first form behind the last one, and that one's merge with it queued. */
static uint32_t append(const moon_bpe *bpe, moon_bpe_scratch *s, uint32_t last, uint32_t i,
                       int32_t id) {
  s->symbols[i] = (symbol){id, last, NONE, MOON_BPE_NO_RANK};
  if (last != NONE) {
    s->symbols[last].next = i;
    queue_merge(bpe, s, last);
  }
  return i;
}

static void clear(moon_bpe_scratch *s) {
  s->n_heap = s->n_nodes = 0;
  s->free_node = NONE;
}

static void run_merges(const moon_bpe *bpe, moon_bpe_scratch *s) {
  while (s->n_heap) {
    node top = queue_pop(s);
    if (s->symbols[top.symbol].rank == top.rank)
      merge_with_next(bpe, s, top.symbol);
  }
}

/* The symbols from `first` on; the piece's bytes are numbered from `base`. */
static moon_status emit(const moon_bpe_scratch *s, uint32_t first, uint32_t base, size_t size,
                        size_t offset, moon_encoding *out, moon_err *err) {
  moon_status status = MOON_OK;
  for (uint32_t i = first; i != NONE && !status; i = s->symbols[i].next) {
    size_t end = s->symbols[i].next == NONE ? size : s->symbols[i].next - base;
    status = moon_encoding_add(out, s->symbols[i].id, offset + end, err);
  }
  return status;
}

static moon_status no_memory(size_t size, moon_err *err) {
  return moon_fail(err, MOON_ENOMEM, "no memory to tokenize a piece of %zu bytes", size);
}

moon_status moon_bpe_encode(const moon_bpe *bpe, moon_bpe_scratch *scratch, const char *piece,
                            size_t size, size_t offset, moon_encoding *out, moon_err *err) {
  if (!reserve_scratch(scratch, size))
    return no_memory(size, err);
  clear(scratch);
  for (uint32_t i = 0, last = NONE; i < size; i++)
    last = append(bpe, scratch, last, i, bpe->byte_ids[(uint8_t)piece[i]]);
  run_merges(bpe, scratch);
  return emit(scratch, 0, 0, size, offset, out, err);
}

size_t moon_bpe_space(const char *text, size_t size) {
  if (size >= 1 && text[0] == ' ')
    return 1;
  return size >= 3 && memcmp(text, MOON_BPE_SPACE, 3) == 0 ? 3 : 0;
}

/* The token of the character that text starts with, whose bytes go to *n; -1: none, one byte. */
static int32_t char_id(const moon_vocab *vocab, const char *text, size_t size, size_t *n) {
  if ((*n = moon_bpe_space(text, size)) > 0)
    return moon_vocab_find(vocab, " ", 1);
  *n = moon_utf8_char(text, size);
  int32_t id = *n > 0 ? moon_vocab_find(vocab, text, *n) : -1;
  if (*n == 0)
    *n = 1;
  return id;
}

moon_status moon_bpe_encode_chars(const moon_bpe *bpe, const moon_vocab *vocab,
                                  moon_bpe_scratch *scratch, bool with_space, const char *piece,
                                  size_t size, size_t offset, moon_encoding *out, moon_err *err) {
  enum { BASE = 1 }; /* symbol 0 is the space that is not in the text */
  if (!reserve_scratch(scratch, size + BASE))
    return no_memory(size, err);
  clear(scratch);
  uint32_t last = NONE;
  if (with_space)
    last = append(bpe, scratch, last, 0, moon_vocab_find(vocab, " ", 1));
  for (size_t i = 0, n; i < size; i += n) {
    int32_t id = char_id(vocab, piece + i, size - i, &n);
    if (id >= 0)
      last = append(bpe, scratch, last, (uint32_t)(BASE + i), id);
    for (size_t j = i; id < 0 && j < i + n; j++)
      last = append(bpe, scratch, last, (uint32_t)(BASE + j), bpe->byte_ids[(uint8_t)piece[j]]);
  }
  run_merges(bpe, scratch);
  return emit(scratch, with_space ? 0 : BASE, BASE, size, offset, out, err);
}
