// SPDX-License-Identifier: MIT
#include "llama/token_lists.h"

#include <stdlib.h>
#include <string.h>

#include "io/scan.h"
#include "llama/vocab.h"

typedef struct reader {
  moon_token_lists *lists;
  moon_scan scan;
  size_t copied; /* bytes of the file that are in lists->rest */
} reader;

static void fail_memory(reader *r) {
  if (!r->scan.status)
    r->scan.status = moon_fail(r->scan.err, MOON_ENOMEM, "no memory for the tokenizer");
}

/* array with room for one element more; as it was where there is no memory. */
static void *grow(reader *r, void *array, size_t n, size_t *room, size_t element_size) {
  if (n < *room)
    return array;
  size_t wanted = 2 * n + 1024;
  void *grown = realloc(array, wanted * element_size);
  if (grown)
    *room = wanted;
  else
    fail_memory(r);
  return grown ? grown : array;
}

/* Where in the arena the bytes are, with a zero behind them. It has room for every string of the
 * file: none is longer than its spelling with the quotes. */
static uint32_t keep(reader *r, const char *text, size_t size) {
  moon_token_lists *lists = r->lists;
  size_t at = lists->arena_used;
  memcpy(lists->arena + at, text, size);
  lists->arena[at + size] = 0;
  lists->arena_used += size + 1;
  return (uint32_t)at;
}

/* ---- vocab ---- */

static int32_t id_of(const uint8_t *text, size_t size) {
  int32_t id = 0;
  if (size == 0 || size > 7 || (size > 1 && text[0] == '0'))
    return -1;
  for (size_t i = 0; i < size; i++) {
    if (text[i] < '0' || text[i] > '9')
      return -1;
    id = 10 * id + (text[i] - '0');
  }
  return id < MOON_VOCAB_MAX ? id : -1;
}

static void read_token(reader *r) {
  moon_token_lists *lists = r->lists;
  const char *text = moon_scan_key(&r->scan);
  moon_listed_token token = {.size = (uint32_t)r->scan.text_size, .id = -1};
  lists->tokens =
      grow(r, lists->tokens, lists->n_tokens, &lists->token_room, sizeof *lists->tokens);
  if (r->scan.status)
    return;
  token.at = keep(r, text, token.size);
  moon_scan_peek(&r->scan);
  size_t start = r->scan.at;
  moon_scan_skip(&r->scan);
  token.id = id_of(r->scan.data + start, r->scan.at - start);
  if (!r->scan.status)
    lists->tokens[lists->n_tokens++] = token;
}

static void read_vocab(reader *r) {
  r->lists->n_tokens = 0;
  r->lists->has_vocab = moon_scan_peek(&r->scan) == '{';
  if (!r->lists->has_vocab) {
    moon_scan_skip(&r->scan);
    return;
  }
  moon_scan_enter(&r->scan, '{');
  for (bool first = true; moon_scan_more(&r->scan, '}', &first);)
    read_token(r);
}

/* ---- merges: "a b" or ["a", "b"] ---- */

static void read_joined(reader *r, moon_listed_merge *merge) {
  const char *text = moon_scan_text(&r->scan), *space = strchr(text, ' ');
  if (!space)
    return;
  merge->n_left = (uint32_t)(space - text);
  merge->n_right = (uint32_t)(r->scan.text_size - merge->n_left - 1);
  merge->at = keep(r, text, r->scan.text_size);
}

static void read_pair(reader *r, moon_listed_merge *merge) {
  uint32_t sizes[2];
  int n = 0;
  bool texts = true;
  moon_scan_enter(&r->scan, '[');
  for (bool first = true; moon_scan_more(&r->scan, ']', &first); n++) {
    texts = texts && n < 2 && moon_scan_peek(&r->scan) == '"';
    if (!texts) {
      moon_scan_skip(&r->scan);
      continue;
    }
    const char *text = moon_scan_text(&r->scan);
    sizes[n] = (uint32_t)r->scan.text_size;
    uint32_t at = keep(r, text, sizes[n]);
    if (n == 0)
      merge->at = at;
    else
      r->lists->arena[at - 1] = ' '; /* behind the left one */
  }
  if (texts && n == 2) {
    merge->n_left = sizes[0];
    merge->n_right = sizes[1];
  }
}

static void read_merge(reader *r) {
  moon_token_lists *lists = r->lists;
  moon_listed_merge merge = {.n_left = MOON_NO_MERGE};
  int c = moon_scan_peek(&r->scan);
  lists->merges =
      grow(r, lists->merges, lists->n_merges, &lists->merge_room, sizeof *lists->merges);
  if (c == '"')
    read_joined(r, &merge);
  else if (c == '[')
    read_pair(r, &merge);
  else
    moon_scan_skip(&r->scan);
  if (!r->scan.status)
    lists->merges[lists->n_merges++] = merge;
}

static void read_merges(reader *r) {
  r->lists->n_merges = 0;
  r->lists->has_merges = moon_scan_peek(&r->scan) == '[';
  if (!r->lists->has_merges) {
    moon_scan_skip(&r->scan);
    return;
  }
  moon_scan_enter(&r->scan, '[');
  for (bool first = true; moon_scan_more(&r->scan, ']', &first);)
    read_merge(r);
}

/* ---- the rest ---- */

/* Copies the file up to `end` to the rest, which has room for it. */
static void copy_rest(reader *r, size_t end) {
  moon_token_lists *lists = r->lists;
  size_t n = end - r->copied, room = lists->rest_size + n + sizeof "null";
  if (room > lists->rest_room) {
    char *grown = realloc(lists->rest, 2 * room);
    if (!grown) {
      fail_memory(r);
      return;
    }
    lists->rest = grown;
    lists->rest_room = 2 * room;
  }
  memcpy(lists->rest + lists->rest_size, r->scan.data + r->copied, n);
  lists->rest_size += n;
  r->copied = end;
}

/* Reads a list and leaves null in its place. One that is there twice is so in the rest, too, where
 * it is refused. */
static void cut_out(reader *r, void (*read)(reader *r)) {
  copy_rest(r, r->scan.at);
  read(r);
  if (r->scan.status)
    return;
  memcpy(r->lists->rest + r->lists->rest_size, "null", 4);
  r->lists->rest_size += 4;
  r->copied = r->scan.at;
}

static void read_model(reader *r) {
  if (moon_scan_peek(&r->scan) != '{') {
    moon_scan_skip(&r->scan);
    return;
  }
  moon_scan_enter(&r->scan, '{');
  for (bool first = true; moon_scan_more(&r->scan, '}', &first);) {
    const char *key = moon_scan_key(&r->scan);
    if (!strcmp(key, "vocab"))
      cut_out(r, read_vocab);
    else if (!strcmp(key, "merges"))
      cut_out(r, read_merges);
    else
      moon_scan_skip(&r->scan);
  }
}

moon_status moon_token_lists_read(moon_token_lists *out, const char *data, size_t size,
                                  moon_err *err) {
  *out = (moon_token_lists){.arena = malloc(size + 1)};
  reader r = {.lists = out};
  if (!out->arena)
    return moon_fail(err, MOON_ENOMEM, "no memory for the tokenizer");
  moon_scan_open(&r.scan, (const uint8_t *)data, size, err);
  moon_scan_enter(&r.scan, '{');
  for (bool first = true; moon_scan_more(&r.scan, '}', &first);)
    if (!strcmp(moon_scan_key(&r.scan), "model"))
      read_model(&r);
    else
      moon_scan_skip(&r.scan);
  moon_scan_end(&r.scan);
  if (!r.scan.status)
    copy_rest(&r, size);
  moon_scan_close(&r.scan);
  return r.scan.status;
}

void moon_token_lists_free(moon_token_lists *lists) {
  free(lists->arena);
  free(lists->tokens);
  free(lists->merges);
  free(lists->rest);
}
