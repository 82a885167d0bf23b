// SPDX-License-Identifier: MIT
#include "io/head.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *moon_head_field(const char *head, const char *name) {
  size_t size = strlen(name);
  for (const char *line = head; line && *line;) {
    if (!strncasecmp(line, name, size) && line[size] == ':')
      return line + size + 1 + strspn(line + size + 1, " \t");
    line = strchr(line, '\n');
    line = line ? line + 1 : NULL;
  }
  return NULL;
}

/* A number and the character that must follow it; NULL: there is something else. */
static const char *read_number(int64_t *out, const char *text, char after) {
  char *end;
  errno = 0;
  *out = strtoll(text, &end, 10);
  return errno || end == text || *end != after ? NULL : end + 1;
}

bool moon_head_continues(const char *head, int64_t done_bytes, int64_t size_bytes) {
  const char *range = moon_head_field(head, "content-range");
  int64_t first, last, size;
  if (!range || strncmp(range, "bytes ", 6) != 0)
    return false;
  range = read_number(&first, range + 6, '-');
  range = range ? read_number(&last, range, '/') : NULL;
  range = range ? read_number(&size, range, '\r') : NULL;
  return range && first == done_bytes && size == size_bytes && last < size;
}
