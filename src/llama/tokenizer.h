// SPDX-License-Identifier: MIT
/*
 * A BPE tokenizer from a Hugging Face tokenizer.json: byte-level, as Llama 3 and Qwen have it, or
 * of characters with bytes as fallback, as SentencePiece made those of Llama 2 and Mistral.
 *
 * Text may be any bytes. A byte that is no part of well-formed UTF-8 is a piece of its own and
 * becomes the token of that byte, so the tokens of a text, put together, are the text again. But
 * one that normalizes (Qwen's) gives it in form C, and one of characters takes U+2581 for a space,
 * and puts a space in front that decoding takes away.
 */
#ifndef MOON_LLAMA_TOKENIZER_H
#define MOON_LLAMA_TOKENIZER_H

#include "llama/bpe.h"
#include "llama/vocab.h"

/* Shared by reference counting and never changed: any number of threads may use one. */
typedef struct moon_tokenizer moon_tokenizer;

/* Reads a tokenizer.json. Owned by the caller: one reference. What the file asks for and moonscope
 * does not do, and what would change the ids, is MOON_EUNSUPPORTED and named; MOON_EFORMAT: broken;
 * MOON_ENOENT, MOON_EIO, MOON_ENOMEM. */
moon_status moon_tokenizer_load(moon_tokenizer **out, const char *path, moon_err *err);
moon_status moon_tokenizer_parse(moon_tokenizer **out, const char *data, size_t size,
                                 moon_err *err);

moon_tokenizer *moon_tokenizer_retain(moon_tokenizer *tokenizer);
void moon_tokenizer_release(moon_tokenizer *tokenizer); /* NULL is fine */

#define MOON_ENCODE_BOS     1 /* put the token in front that begins a text, if the file names one */
#define MOON_ENCODE_LITERAL 2 /* special tokens in the text are text, not tokens */
#define MOON_ENCODE_ON      4 /* the text goes on from another, which may matter to a space */

/* Appends the ids of text to out, which the caller frees (also after a failure). MOON_ERANGE: text
 * of 2 GiB or more; MOON_ENOMEM; MOON_EUNSUPPORTED: the split pattern takes too many steps. */
moon_status moon_tokenizer_encode(const moon_tokenizer *tokenizer, const char *text, size_t size,
                                  int flags, moon_encoding *out, moon_err *err);

/* The token of an id; its bytes are borrowed and die with the tokenizer. Decoding puts them
 * together. MOON_ERANGE: no token has this id. */
moon_status moon_tokenizer_token(const moon_tokenizer *tokenizer, int64_t id, moon_token *out,
                                 moon_err *err);

/* The id of the token with exactly these bytes, special or not, or -1. */
int32_t moon_tokenizer_find(const moon_tokenizer *tokenizer, const char *bytes, size_t size);

/* Whether decoding a whole text takes one space from its front. */
bool moon_tokenizer_strips_space(const moon_tokenizer *tokenizer);

/* How many tokenizers are alive in the process. */
int64_t moon_tokenizer_live(void);

int32_t moon_tokenizer_n_vocab(const moon_tokenizer *tokenizer); /* the highest id + 1 */
int32_t moon_tokenizer_bos(const moon_tokenizer *tokenizer); /* -1: the file puts none in front */

#endif
