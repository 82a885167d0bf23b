// SPDX-License-Identifier: MIT
/* Well-formed UTF-8 (no surrogates, nothing above U+10FFFF, no overlong forms) in bytes that may be
 * anything. */
#ifndef MOON_UTF8_H
#define MOON_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character at the start of text: 1 to 4, or 0 when no well-formed one stands there.
 */
size_t moon_utf8_char(const char *text, size_t size);

/* Is all of it well-formed? */
bool moon_utf8_valid(const char *text, size_t size);

/* Bytes of text without a character that is cut short at its end (then 1 to 3 less than size).
 * A malformed end is not cut short: nothing could complete it. */
size_t moon_utf8_whole(const char *text, size_t size);

#endif
