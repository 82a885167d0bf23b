// SPDX-License-Identifier: MIT
/* What a tokenizer is made of: for tokenizer.c, which uses it, and tokenizer_file.c, which fills
 * it. */
#ifndef MOON_LLAMA_TOKENIZER_PARTS_H
#define MOON_LLAMA_TOKENIZER_PARTS_H

#include "llama/normal.h"
#include "llama/special.h"
#include "llama/split.h"
#include "llama/tokenizer.h"

/* Whether a space goes in front of a text, or of one between added tokens. */
typedef enum moon_prefix {
  MOON_PREFIX_NONE,
  MOON_PREFIX_FIRST,  /* where it begins the whole text, unless it begins with a space */
  MOON_PREFIX_ALWAYS, /* unless it begins with a space */
  MOON_PREFIX_ANYHOW
} moon_prefix;

struct moon_tokenizer {
  atomic_int refs;
  moon_vocab vocab;
  moon_bpe bpe;
  moon_special special;
  moon_splitter *splitter; /* of a byte-level one; NULL: characters, with bytes as fallback */
  bool normalizes;         /* text is taken in Unicode's form C; of a byte-level one */
  moon_prefix prefix;      /* the rest is of characters: */
  bool strips_space;       /* decoding takes one from the front */
  bool words_apart;        /* no token has a space after anything else: merges stay within words */
  bool ignore_merges;      /* a piece that is a token as a whole is that token, merges or not */
  int32_t bos;             /* -1: none */
};

/* An empty one, to be filled; owned by the caller. MOON_ENOMEM. */
moon_status moon_tokenizer_new(moon_tokenizer **out, moon_err *err);

#endif
