// SPDX-License-Identifier: MIT
/* What a tokenizer is made of: for tokenizer.c, which uses it, and tokenizer_file.c, which fills
 * it. */
#ifndef MOON_LLAMA_TOKENIZER_PARTS_H
#define MOON_LLAMA_TOKENIZER_PARTS_H

#include "llama/special.h"
#include "llama/split.h"
#include "llama/tokenizer.h"

struct moon_tokenizer {
  atomic_int refs;
  moon_vocab vocab;
  moon_bpe bpe;
  moon_special special;
  moon_splitter *splitter;
  bool ignore_merges; /* a piece that is a token as a whole is that token, merges or not */
  int32_t bos;        /* -1: none */
};

/* An empty one, to be filled; owned by the caller. MOON_ENOMEM. */
moon_status moon_tokenizer_new(moon_tokenizer **out, moon_err *err);

#endif
