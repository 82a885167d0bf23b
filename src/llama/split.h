// SPDX-License-Identifier: MIT
/*
 * Cuts text into the pieces that a tokenizer's split pattern names; merges never cross their
 * borders.
 *
 * The pattern is a Hugging Face tokenizer's (Oniguruma's language), rewritten for PCRE2. What means
 * the same in both is allowed, anything else is refused by name. \s and \S are spelled out:
 * Unicode's White_Space, as the tokenizers have it, lacks U+180E, which PCRE2's \s counts. Letters
 * and numbers
 * (\p{L}, \p{N}) are those of PCRE2's Unicode version, 14 in Debian 12.
 */
#ifndef MOON_LLAMA_SPLIT_H
#define MOON_LLAMA_SPLIT_H

#include "moon.h"

/* GPT-2's pattern, which a ByteLevel pre-tokenizer has built in. */
extern const char moon_split_gpt2[];

/* A compiled pattern: never changes, any number of threads may share it. */
typedef struct moon_splitter moon_splitter;

/* MOON_EUNSUPPORTED: it uses what is not allowed here, or matches nothing; MOON_EFORMAT: not a
 * pattern. */
moon_status moon_splitter_new(moon_splitter **out, const char *pattern, moon_err *err);
void moon_splitter_free(moon_splitter *splitter); /* NULL is fine */

/* The state of cutting texts, for one caller at a time. */
typedef struct moon_split moon_split;

moon_status moon_split_new(moon_split **out, const moon_splitter *splitter,
                           moon_err *err); /* MOON_ENOMEM */
void moon_split_free(moon_split *split);   /* NULL is fine */

/* *end of the piece that starts at `start` (below size) of text, which must be well-formed UTF-8.
 * MOON_EUNSUPPORTED: the pattern needs more steps than it is granted. */
moon_status moon_split_next(moon_split *split, const char *text, size_t size, size_t start,
                            size_t *end, moon_err *err);

#endif
