// SPDX-License-Identifier: MIT
/* Unicode's normal form C of a text, and where in the text each part of it comes from. */
#ifndef MOON_LLAMA_NORMAL_H
#define MOON_LLAMA_NORMAL_H

#include "moon.h"

/* Bytes [start, end) of the text that became [to_start, to_end). */
typedef struct moon_normal_change {
  size_t start, end, to_start, to_end;
} moon_normal_change;

typedef struct moon_normal {
  char *text; /* [size]; NULL: the text is in its normal form */
  size_t size;
  moon_normal_change *changes; /* [n_changes], from left to right */
  size_t n_changes, capacity;
} moon_normal;

/* text is well-formed UTF-8. Free it, also after a failure. MOON_ENOMEM; MOON_EUNSUPPORTED: more
 * combining marks in a row than any writing has, which would take too long to sort. */
moon_status moon_normal_make(moon_normal *out, const char *text, size_t size, moon_err *err);
void moon_normal_free(moon_normal *normal); /* zeroed or made */

/* The place in the text of byte `at` of its normal form: within a change, where that begins. */
size_t moon_normal_origin(const moon_normal *normal, size_t at);

#endif
