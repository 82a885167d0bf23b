// SPDX-License-Identifier: MIT
/*
 * Faults on purpose. A program that is linked with moon_fallible_link (tests/fail/CMakeLists.txt)
 * passes each allocation and each I/O call of its own code, of jansson (which core code hands its
 * malloc), OpenSSL and Lua through moon_fallible; the core knows nothing of it.
 *
 *   MOONSCOPE_FAIL=N[,once|forever|short|again][,SITE]
 *
 * fails the N-th call (of SITE, or of any): that one, or all from it on; or makes each read and
 * write from it on move one byte only, or has EINTR before each. Sites are the names of the calls:
 * malloc (and calloc, realloc, strdup, aligned_alloc), open, fstat, mmap, read, write, fsync,
 * close, rename, lua. What is wrapped but not called by name: nothing in PCRE2, zlib and libc.
 * MOONSCOPE_FAIL_LOG=FILE gets the number of calls when the program ends.
 */
#ifndef TESTS_FALLIBLE_H
#define TESTS_FALLIBLE_H

#include <stdbool.h>

typedef enum moon_fail_mode {
  MOON_FAIL_ONCE,
  MOON_FAIL_FOREVER,
  MOON_FAIL_SHORT,
  MOON_FAIL_AGAIN
} moon_fail_mode;

/* Counts a call at this site; true: it shall fail. Thread safe. */
bool moon_fallible(const char *site);

/* From now on the n-th call (from 1) fails; 0: none. site: NULL for any; borrowed. */
void moon_fallible_arm(long n, moon_fail_mode mode, const char *site);
long moon_fallible_calls(void); /* since then */

#endif
