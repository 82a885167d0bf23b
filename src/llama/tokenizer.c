// SPDX-License-Identifier: MIT
#include "llama/tokenizer.h"

#include <stdlib.h>

#include "llama/tokenizer_parts.h"
#include "utf8.h"

static _Atomic int64_t live;

moon_status moon_tokenizer_new(moon_tokenizer **out, moon_err *err) {
  moon_tokenizer *t = *out = calloc(1, sizeof *t);
  if (!t)
    return moon_fail(err, MOON_ENOMEM, "no memory for the tokenizer");
  atomic_init(&t->refs, 1);
  t->bos = -1;
  atomic_fetch_add(&live, 1);
  return MOON_OK;
}

int64_t moon_tokenizer_live(void) {
  return atomic_load(&live);
}

moon_tokenizer *moon_tokenizer_retain(moon_tokenizer *tokenizer) {
  atomic_fetch_add(&tokenizer->refs, 1);
  return tokenizer;
}

void moon_tokenizer_release(moon_tokenizer *tokenizer) {
  if (!tokenizer || atomic_fetch_sub(&tokenizer->refs, 1) > 1)
    return;
  moon_vocab_free(&tokenizer->vocab);
  moon_bpe_free(&tokenizer->bpe);
  moon_special_free(&tokenizer->special);
  moon_splitter_free(tokenizer->splitter);
  free(tokenizer);
  atomic_fetch_sub(&live, 1);
}

/* A text on its way to ids. */
typedef struct encoder {
  const moon_tokenizer *tokenizer;
  const char *text;
  moon_split *split;
  moon_bpe_scratch scratch;
  moon_encoding *out;
} encoder;

/* Bytes [from, to) of text, which begins at `offset` of the whole. */
static moon_status encode_piece(encoder *e, const char *text, size_t offset, size_t from, size_t to,
                                moon_err *err) {
  const moon_tokenizer *t = e->tokenizer;
  size_t size = to - from;
  int32_t whole = t->ignore_merges ? moon_vocab_find(&t->vocab, text + from, size) : -1;
  if (whole >= 0)
    return moon_encoding_add(e->out, whole, offset + to, err);
  return moon_bpe_encode(&t->bpe, &e->scratch, text + from, size, offset + from, e->out, err);
}

static moon_status encode_pieces(encoder *e, const char *text, size_t size, size_t offset,
                                 moon_err *err) {
  moon_status status = MOON_OK;
  for (size_t from = 0, to; from < size && !status; from = to) {
    status = moon_split_next(e->split, text, size, from, &to, err);
    if (!status)
      status = encode_piece(e, text, offset, from, to, err);
  }
  return status;
}

/* start to end is well-formed UTF-8. */
static moon_status encode_utf8(encoder *e, size_t start, size_t end, moon_err *err) {
  const char *text = e->text + start;
  moon_normal normal = {0};
  moon_status status = MOON_OK;
  if (e->tokenizer->normalizes)
    status = moon_normal_make(&normal, text, end - start, err);
  size_t first = e->out->n;
  if (!status && normal.text)
    status = encode_pieces(e, normal.text, normal.size, 0, err);
  else if (!status)
    status = encode_pieces(e, text, end - start, start, err);
  for (size_t i = first; normal.text && i < e->out->n; i++)
    e->out->ends[i] = start + moon_normal_origin(&normal, e->out->ends[i]);
  moon_normal_free(&normal);
  return status;
}

/* Where the word from `from` on ends: before a space that follows something else. */
static size_t word_end(const char *text, size_t size, size_t from) {
  bool inside = false;
  for (size_t i = from, n; i < size; i += n ? n : 1) {
    n = moon_bpe_space(text + i, size - i);
    if (n > 0 && inside)
      return i;
    inside = n == 0;
  }
  return size;
}

static bool wants_space(const moon_tokenizer *t, const char *text, size_t size, bool first) {
  if (t->prefix == MOON_PREFIX_FIRST && !first)
    return false;
  return t->prefix == MOON_PREFIX_ANYHOW ||
         (t->prefix != MOON_PREFIX_NONE && moon_bpe_space(text, size) == 0);
}

/* The same of characters. first: nothing is in front of it. */
static moon_status encode_chars(encoder *e, size_t start, size_t end, bool first, moon_err *err) {
  const moon_tokenizer *t = e->tokenizer;
  const char *text = e->text + start;
  size_t size = end - start;
  bool with_space = wants_space(t, text, size, first);
  moon_status status = MOON_OK;
  for (size_t from = 0, to; from < size && !status; from = to) {
    to = t->words_apart ? word_end(text, size, from) : size;
    status = moon_bpe_encode_chars(&t->bpe, &t->vocab, &e->scratch, with_space && from == 0,
                                   text + from, to - from, start + from, e->out, err);
  }
  return status;
}

/* Any bytes that hold no added token. */
static moon_status encode_text(encoder *e, size_t start, size_t end, moon_err *err) {
  moon_status status = MOON_OK;
  while (start < end && !status) {
    size_t good = start, n;
    while (good < end && (n = moon_utf8_char(e->text + good, end - good)) > 0)
      good += n;
    status = encode_utf8(e, start, good, err);
    if (good < end && !status)
      status = moon_encoding_add(e->out, e->tokenizer->bpe.byte_ids[(uint8_t)e->text[good]],
                                 good + 1, err);
    start = good + 1;
  }
  return status;
}

static moon_status encode(encoder *e, size_t size, int flags, moon_err *err) {
  const moon_tokenizer *t = e->tokenizer;
  moon_status status = MOON_OK;
  if (flags & MOON_ENCODE_BOS && t->bos >= 0)
    status = moon_encoding_add(e->out, t->bos, 0, err);
  for (size_t start = 0, at; start < size && !status;) {
    int32_t id = moon_special_find(&t->special, &t->vocab, !(flags & MOON_ENCODE_LITERAL), e->text,
                                   size, start, &at);
    if (t->splitter)
      status = encode_text(e, start, at, err);
    else
      status = encode_chars(e, start, at, start == 0 && !(flags & MOON_ENCODE_ON), err);
    start = id < 0 ? size : at + t->vocab.tokens[id].size;
    if (id >= 0 && !status)
      status = moon_encoding_add(e->out, id, start, err);
  }
  return status;
}

moon_status moon_tokenizer_encode(const moon_tokenizer *tokenizer, const char *text, size_t size,
                                  int flags, moon_encoding *out, moon_err *err) {
  if (size > INT32_MAX)
    return moon_fail(err, MOON_ERANGE, "text of %zu bytes: the tokenizer takes at most %d", size,
                     INT32_MAX);
  encoder e = {.tokenizer = tokenizer, .text = text, .out = out};
  moon_status status = MOON_OK;
  if (tokenizer->splitter)
    status = moon_split_new(&e.split, tokenizer->splitter, err);
  if (!status)
    status = encode(&e, size, flags, err);
  moon_split_free(e.split);
  moon_bpe_scratch_free(&e.scratch);
  return status;
}

moon_status moon_tokenizer_token(const moon_tokenizer *tokenizer, int64_t id, moon_token *out,
                                 moon_err *err) {
  int32_t n_vocab = tokenizer->vocab.n_vocab;
  if (id < 0 || id >= n_vocab)
    return moon_fail(err, MOON_ERANGE, "token id %lld: expected 0 to %d", (long long)id,
                     n_vocab - 1);
  *out = tokenizer->vocab.tokens[id];
  if (!out->bytes)
    return moon_fail(err, MOON_ERANGE, "token id %lld: the vocabulary has no such token",
                     (long long)id);
  return MOON_OK;
}

int32_t moon_tokenizer_find(const moon_tokenizer *tokenizer, const char *bytes, size_t size) {
  int32_t id = moon_special_get(&tokenizer->special, bytes, size);
  if (id < 0)
    id = moon_vocab_find(&tokenizer->vocab, bytes, size);
  return id < 0 && size == 1 ? tokenizer->bpe.byte_ids[(uint8_t)*bytes] : id;
}

bool moon_tokenizer_strips_space(const moon_tokenizer *tokenizer) {
  return tokenizer->strips_space;
}

int32_t moon_tokenizer_n_vocab(const moon_tokenizer *tokenizer) {
  return tokenizer->vocab.n_vocab;
}

int32_t moon_tokenizer_bos(const moon_tokenizer *tokenizer) {
  return tokenizer->bos;
}
