// SPDX-License-Identifier: MIT
#include "io/scan.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

#define MAX_DEPTH 64 /* of a value that is skipped */

void moon_scan_open(moon_scan *scan, const uint8_t *data, size_t size, moon_err *err) {
  *scan = (moon_scan){.data = data, .size = size, .err = err};
}

void moon_scan_close(moon_scan *scan) {
  free(scan->text);
  scan->text = NULL;
}

/* The next byte; -1 at the end and after a failure. */
static int peek(const moon_scan *scan) {
  return scan->at < scan->size && !scan->status ? scan->data[scan->at] : -1;
}

static int peek_token(moon_scan *scan) {
  int c = peek(scan);
  while (c == ' ' || c == '\n' || c == '\t' || c == '\r') {
    scan->at++;
    c = peek(scan);
  }
  return c;
}

int moon_scan_peek(moon_scan *scan) {
  return peek_token(scan);
}

void moon_scan_fail(moon_scan *scan, const char *expected) {
  if (scan->status)
    return;
  int found = peek(scan);
  if (found < 0)
    moon_fail(scan->err, MOON_EFORMAT, "byte %zu: expected %s, found the end", scan->at, expected);
  else if (found > 0x20 && found < 0x7f)
    moon_fail(scan->err, MOON_EFORMAT, "byte %zu: expected %s, found '%c'", scan->at, expected,
              found);
  else
    moon_fail(scan->err, MOON_EFORMAT, "byte %zu: expected %s, found 0x%02x", scan->at, expected,
              (unsigned)found);
  scan->status = MOON_EFORMAT;
}

static void expect(moon_scan *scan, char token) {
  char text[] = {'\'', token, '\'', 0};
  if (peek_token(scan) == token)
    scan->at++;
  else
    moon_scan_fail(scan, text);
}

void moon_scan_enter(moon_scan *scan, char open) {
  expect(scan, open);
}

bool moon_scan_more(moon_scan *scan, char close, bool *first) {
  if (peek_token(scan) == close) {
    scan->at++;
    return false;
  }
  if (!*first)
    expect(scan, ',');
  *first = false;
  return !scan->status;
}

/* ---- strings ---- */

/* Room for n more bytes behind `used`. */
static bool reserve(moon_scan *scan, size_t used, size_t n) {
  if (used + n <= scan->text_room)
    return true;
  size_t room = 2 * (used + n);
  char *larger = realloc(scan->text, room);
  if (!larger) {
    scan->status = moon_fail(scan->err, MOON_ENOMEM, "no memory for %zu bytes", room);
    return false;
  }
  scan->text = larger;
  scan->text_room = room;
  return true;
}

/* The four digits behind \u. */
static uint32_t read_hex(moon_scan *scan) {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) {
    int c = peek(scan), letter = c | 0x20;
    if (c >= '0' && c <= '9')
      value = value << 4 | (uint32_t)(c - '0');
    else if (letter >= 'a' && letter <= 'f')
      value = value << 4 | (uint32_t)(letter - 'a' + 10);
    else
      moon_scan_fail(scan, "four hex digits");
    scan->at += !scan->status;
  }
  return value;
}

/* A code point behind \u, of one or (above U+FFFF) two such escapes. */
static uint32_t read_escape(moon_scan *scan) {
  uint32_t code = read_hex(scan);
  if (code >= 0xd800 && code < 0xdc00) {
    bool again = scan->size - scan->at >= 2 && scan->data[scan->at] == '\\' &&
                 scan->data[scan->at + 1] == 'u';
    scan->at += again ? 2 : 0;
    uint32_t low = again ? read_hex(scan) : 0;
    if (low < 0xdc00 || low > 0xdfff)
      moon_scan_fail(scan, "the second half of a surrogate pair");
    return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  if (code == 0 || (code >= 0xdc00 && code <= 0xdfff))
    moon_scan_fail(scan, "a character, not \\u0000 or half a surrogate pair");
  return code;
}

static size_t put_utf8(char *out, uint32_t code) {
  if (code < 0x80)
    return out[0] = (char)code, 1;
  size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = n - 1; i > 0; i--, code >>= 6)
    out[i] = (char)(0x80 | (code & 0x3f));
  out[0] = (char)(0xf00 >> n | code);
  return n;
}

/* What stands behind a backslash, into out, which has room for 4 bytes. */
static size_t put_escape(moon_scan *scan, char *out) {
  static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  int c = peek(scan);
  const char *name = c > 0 ? strchr(names, c) : NULL;
  if (c != 'u' && !name) {
    moon_scan_fail(scan, "an escape");
    return 0;
  }
  scan->at++;
  return put_utf8(out, name ? (uint32_t)values[name - names] : read_escape(scan));
}

/* How many bytes of a string come before its end, an escape or a control byte. */
static size_t plain_size(const uint8_t *text, size_t size) {
  size_t n = 0;
  while (n < size && text[n] != '"' && text[n] != '\\' && text[n] >= 0x20)
    n++;
  return n;
}

/* What stands at the end of a plain run, into out, which has room for 4 bytes. */
static size_t put_special(moon_scan *scan, char *out) {
  int c = peek(scan);
  if (c == '\\') {
    scan->at++;
    return put_escape(scan, out);
  }
  moon_scan_fail(scan, c < 0 ? "the end of a string" : "no control byte in a string");
  return 0;
}

/* Up to the closing quote. */
static void read_text(moon_scan *scan) {
  size_t used = 0;
  for (;;) {
    const uint8_t *from = scan->data + scan->at;
    size_t n = plain_size(from, scan->size - scan->at);
    if (!reserve(scan, used, n + 5))
      return;
    memcpy(scan->text + used, from, n);
    used += n;
    scan->at += n;
    if (peek(scan) == '"')
      break;
    used += put_special(scan, scan->text + used);
    if (scan->status)
      return;
  }
  scan->at++;
  scan->text[used] = 0;
  scan->text_size = used;
}

const char *moon_scan_text(moon_scan *scan) {
  scan->text_size = 0;
  if (peek_token(scan) != '"') {
    moon_scan_fail(scan, "a string");
    return "";
  }
  size_t start = ++scan->at;
  read_text(scan);
  if (!scan->status && !moon_utf8_valid(scan->text, scan->text_size)) {
    scan->at = start;
    moon_scan_fail(scan, "a string in UTF-8");
  }
  return scan->status ? "" : scan->text;
}

const char *moon_scan_key(moon_scan *scan) {
  moon_scan_text(scan);
  expect(scan, ':');
  return scan->status ? "" : scan->text;
}

/* ---- other values ---- */

int64_t moon_scan_whole(moon_scan *scan) {
  int64_t value = 0;
  peek_token(scan);
  size_t start = scan->at;
  bool fits = true;
  for (int c = peek(scan); c >= '0' && c <= '9'; c = peek(scan)) {
    fits = fits && !__builtin_mul_overflow(value, 10, &value) &&
           !__builtin_add_overflow(value, c - '0', &value);
    scan->at++;
  }
  int next = peek(scan);
  bool zeros = scan->at - start > 1 && scan->data[start] == '0';
  if (!fits || zeros || scan->at == start || next == '.' || next == 'e' || next == 'E') {
    scan->at = fits && !zeros ? scan->at : start;
    moon_scan_fail(scan, "a whole number from 0 to 2^63 - 1");
  }
  return scan->status ? 0 : value;
}

/* A number, true, false or null: told apart by nothing but its letters, as nobody looks at it. */
static void skip_word(moon_scan *scan) {
  size_t start = scan->at;
  for (int c = peek(scan); c == '-' || c == '+' || c == '.' || (c >= '0' && c <= '9') ||
                           (c >= 'a' && c <= 'z') || c == 'E';
       c = peek(scan))
    scan->at++;
  if (scan->at == start)
    moon_scan_fail(scan, "a value");
}

static void skip(moon_scan *scan, int depth) {
  int c = peek_token(scan);
  if (depth > MAX_DEPTH)
    moon_scan_fail(scan, "no deeper nesting");
  if (c == '"') {
    moon_scan_text(scan);
  } else if (c == '{' || c == '[') {
    scan->at++;
    for (bool first = true; moon_scan_more(scan, c == '{' ? '}' : ']', &first);) {
      if (c == '{')
        moon_scan_key(scan);
      skip(scan, depth + 1);
    }
  } else {
    skip_word(scan);
  }
}

void moon_scan_skip(moon_scan *scan) {
  skip(scan, 0);
}

moon_status moon_scan_end(moon_scan *scan) {
  if (peek_token(scan) >= 0)
    moon_scan_fail(scan, "nothing more");
  return scan->status;
}
