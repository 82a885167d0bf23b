// SPDX-License-Identifier: MIT
#include "utf8.h"

#include <stdint.h>

static size_t length_from_lead(uint8_t lead) {
  if (lead < 0x80)
    return 1;
  if (lead < 0xc2)  // a continuation byte, or the start of an overlong form
    return 0;
  if (lead < 0xe0)
    return 2;
  if (lead < 0xf0)
    return 3;
  return lead < 0xf5 ? 4 : 0;
}

static bool second_fits(uint8_t lead, uint8_t second) {
  uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  return second >= low && second <= high;
}

/* How many bytes at the start of text go together as one character of *length bytes. */
static size_t match(const char *text, size_t size, size_t *length) {
  const uint8_t *s = (const uint8_t *)text;
  *length = size ? length_from_lead(s[0]) : 0;
  if (*length == 0)
    return 0;
  size_t n = 1;
  while (n < *length && n < size && (n == 1 ? second_fits(s[0], s[1]) : (s[n] & 0xc0) == 0x80))
    n++;
  return n;
}

size_t moon_utf8_char(const char *text, size_t size) {
  size_t length;
  return match(text, size, &length) == length ? length : 0;
}

bool moon_utf8_valid(const char *text, size_t size) {
  for (size_t n; size; text += n, size -= n) {
    n = *text >= 0 ? 1 : moon_utf8_char(text, size); /* most are ASCII */
    if (!n)
      return false;
  }
  return true;
}

size_t moon_utf8_whole(const char *text, size_t size) {
  for (size_t tail = 1; tail <= 3 && tail <= size; tail++) {
    size_t length;
    if (match(text + size - tail, tail, &length) == tail && tail < length)
      return size - tail;
  }
  return size;
}
