// SPDX-License-Identifier: MIT
#include "llama/normal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { MAX_MARKS = 512 };

/* Characters below U+0300 compose with none before them, so a text may be cut in front of each. */
static bool stands_alone(char byte) {
  return (uint8_t)byte < 0x80 || ((uint8_t)byte >= 0xc0 && (uint8_t)byte < 0xcc);
}

/* The end of the part from `start` on that is normalized by itself. */
static size_t part_end(const char *text, size_t size, size_t start) {
  size_t end = start + 1;
  while (end < size && !stands_alone(text[end]))
    end++;
  return end;
}

/* utf8proc sorts marks as one sorts cards: in time that grows with the square of their number. */
static moon_status check_marks(const char *part, size_t size, moon_err *err) {
  utf8proc_int32_t code;
  int n_marks = 0;
  for (size_t i = 0; i < size;) {
    utf8proc_ssize_t n =
        utf8proc_iterate((const uint8_t *)part + i, (utf8proc_ssize_t)(size - i), &code);
    n_marks = utf8proc_get_property(code)->combining_class ? n_marks + 1 : 0;
    if (n_marks > MAX_MARKS)
      return moon_fail(err, MOON_EUNSUPPORTED,
                       "text: more than %d combining marks in a row cannot be normalized",
                       MAX_MARKS);
    i += n > 0 ? (size_t)n : 1;
  }
  return MOON_OK;
}

static bool add_change(moon_normal *out, moon_normal_change change) {
  if (out->n_changes == out->capacity) {
    size_t wanted = 2 * out->capacity + 16;
    moon_normal_change *grown = realloc(out->changes, wanted * sizeof *grown);
    if (!grown)
      return false;
    out->changes = grown;
    out->capacity = wanted;
  }
  out->changes[out->n_changes++] = change;
  return true;
}

/* Appends the normal form of text[start, end). The buffer has room: see room_for. */
static moon_status add_part(moon_normal *out, const char *text, size_t start, size_t end,
                            moon_err *err) {
  size_t size = end - start;
  uint8_t *normal = NULL;
  if (size > 1) {
    moon_status status = check_marks(text + start, size, err);
    if (status)
      return status;
    utf8proc_ssize_t n = utf8proc_map((const uint8_t *)text + start, (utf8proc_ssize_t)size,
                                      &normal, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0)
      return moon_fail(err, MOON_ENOMEM, "text: %s", utf8proc_errmsg(n));
    moon_normal_change change = {start, end, out->size, out->size + (size_t)n};
    bool same = (size_t)n == size && !memcmp(normal, text + start, size);
    memcpy(out->text + out->size, normal, (size_t)n);
    out->size += (size_t)n;
    free(normal);
    return same || add_change(out, change)
               ? MOON_OK
               : moon_fail(err, MOON_ENOMEM, "no memory to normalize a text of %zu bytes", end);
  }
  out->text[out->size++] = text[start];
  return MOON_OK;
}

/* Nothing below U+0300 changes unless a character from there on follows. */
static bool is_plain(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    if ((uint8_t)text[i] >= 0xcc)
      return false;
  return true;
}

moon_status moon_normal_make(moon_normal *out, const char *text, size_t size, moon_err *err) {
  *out = (moon_normal){0};
  if (is_plain(text, size))
    return MOON_OK;
  out->text = malloc(3 * size); /* form C has at most three times the bytes */
  if (!out->text)
    return moon_fail(err, MOON_ENOMEM, "no memory to normalize a text of %zu bytes", size);
  moon_status status = MOON_OK;
  for (size_t start = 0, end; start < size && !status; start = end) {
    end = part_end(text, size, start);
    status = add_part(out, text, start, end, err);
  }
  if (!status && out->n_changes == 0) {
    free(out->text);
    out->text = NULL;
  }
  return status;
}

void moon_normal_free(moon_normal *normal) {
  free(normal->text);
  free(normal->changes);
}

size_t moon_normal_origin(const moon_normal *normal, size_t at) {
  size_t low = 0, high = normal->n_changes; /* the first change that ends behind `at` */
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (normal->changes[middle].to_end > at)
      high = middle;
    else
      low = middle + 1;
  }
  if (low < normal->n_changes && at > normal->changes[low].to_start)
    return normal->changes[low].start;
  if (low == 0)
    return at;
  const moon_normal_change *before = &normal->changes[low - 1];
  return before->end + (at - before->to_end);
}
