// SPDX-License-Identifier: MIT
/*
 * JSON text read once from front to back, without a tree: memory stays at the longest string,
 * whatever a hostile header holds. The caller says what it expects; the first failure stays, with
 * its byte, and every call after it does nothing.
 *
 *   moon_scan_enter(&s, '{');
 *   for (bool first = true; moon_scan_more(&s, '}', &first);) {
 *     const char *key = moon_scan_key(&s);
 *     ... moon_scan_text, moon_scan_whole, moon_scan_skip or another moon_scan_enter: the value
 *   }
 */
#ifndef MOON_IO_SCAN_H
#define MOON_IO_SCAN_H

#include "moon.h"

typedef struct moon_scan {
  const uint8_t *data;
  size_t size, at;
  char *text; /* of the last string; the scan's own */
  size_t text_size, text_room;
  moon_status status;
  moon_err *err;
} moon_scan;

/* Over borrowed bytes; moon_scan_close frees what it used. */
void moon_scan_open(moon_scan *scan, const uint8_t *data, size_t size, moon_err *err);
void moon_scan_close(moon_scan *scan);

/* MOON_EFORMAT: "byte 12: expected what, found 'x'". */
void moon_scan_fail(moon_scan *scan, const char *expected);

void moon_scan_enter(moon_scan *scan, char open); /* '{' or '[' */
/* Is there another member or element? Passes over the comma, or over `close` at the end. */
bool moon_scan_more(moon_scan *scan, char close, bool *first);
/* The first byte of the next value or mark; -1 at the end and after a failure. */
int moon_scan_peek(moon_scan *scan);
/* UTF-8 without zero bytes, scan->text_size of them, valid until the next string is read; "" after
 * a failure. */
const char *moon_scan_text(moon_scan *scan);
const char *moon_scan_key(moon_scan *scan); /* a string and the colon behind it */
int64_t moon_scan_whole(moon_scan *scan);   /* a whole number >= 0; 0 after a failure */
void moon_scan_skip(moon_scan *scan);       /* a value of any kind */
moon_status moon_scan_end(moon_scan *scan); /* nothing but blanks is left; the status of it all */

#endif
