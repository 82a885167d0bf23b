// SPDX-License-Identifier: MIT
/*
 * "\x93NUMPY", version (2 bytes), size of the header (2 bytes in version 1, else 4), the header:
 *   {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
 * padded with spaces to a newline, then the elements. The header is a Python literal; here these
 * three keys once each, in any order, and nothing else.
 */
#include "io/npy.h"

#include <stdio.h>
#include <string.h>

#define MAX_TEXT 32

static const char mark[] = "\x93NUMPY";

bool moon_npy_matches(const uint8_t *data, size_t size) {
  return size >= sizeof mark - 1 && !memcmp(data, mark, sizeof mark - 1);
}

moon_status moon_npy_header_size(size_t *out, const uint8_t *data, size_t size, moon_err *err) {
  if (size < MOON_NPY_START || !moon_npy_matches(data, size))
    return moon_fail(err, MOON_EFORMAT, "not a .npy: its %zu bytes do not begin with its mark",
                     size);
  if (data[6] < 1 || data[6] > 3 || data[7])
    return moon_fail(err, MOON_EUNSUPPORTED, ".npy version %d.%d, expected 1.0 to 3.0", data[6],
                     data[7]);
  size_t n = data[8] | (size_t)data[9] << 8;
  *out = 10 + n;
  if (data[6] > 1)
    *out = MOON_NPY_START + (n | (size_t)data[10] << 16 | (size_t)data[11] << 24);
  if (*out > size || *out > MOON_NPY_HEADER_MAX)
    return moon_fail(err, MOON_EFORMAT, ".npy header up to byte %zu of %zu, at most %d", *out, size,
                     MOON_NPY_HEADER_MAX);
  return MOON_OK;
}

/* ---- the literal ---- */

/* The first failure stays, with its byte, and every call after it does nothing. */
typedef struct literal {
  const uint8_t *data;
  size_t size, at;
  moon_status status;
  moon_err *err;
} literal;

static void fail(literal *l, const char *expected) {
  if (!l->status)
    l->status =
        moon_fail(l->err, MOON_EFORMAT, ".npy header, byte %zu: expected %s", l->at, expected);
}

/* The next byte that is no blank; 0 at the end and after a failure. */
static int peek(literal *l) {
  while (!l->status && l->at < l->size && (l->data[l->at] == ' ' || l->data[l->at] == '\n'))
    l->at++;
  return l->status || l->at == l->size ? 0 : l->data[l->at];
}

static bool take(literal *l, char token) {
  bool there = peek(l) == token;
  l->at += there;
  return there;
}

static void expect(literal *l, char token) {
  char text[] = {'\'', token, '\'', 0};
  if (!take(l, token))
    fail(l, text);
}

/* Text without escapes, in either quotes. */
static void take_text(literal *l, char out[MAX_TEXT]) {
  size_t n = 0;
  int quote = peek(l);
  out[0] = 0;
  if (quote != '\'' && quote != '"') {
    fail(l, "a text");
    return;
  }
  for (l->at++; l->at < l->size && l->data[l->at] != quote && n < MAX_TEXT - 1; l->at++)
    out[n++] = (char)l->data[l->at];
  out[n] = 0;
  if (l->at == l->size || l->data[l->at] != quote || strpbrk(out, "\\\n") || strlen(out) != n)
    fail(l, "the end of a short text");
  else
    l->at++;
}

static bool take_bool(literal *l) {
  static const char *const words[] = {"False", "True"};
  peek(l);
  for (int i = 0; i < 2 && !l->status; i++) {
    size_t n = strlen(words[i]);
    if (l->size - l->at >= n && !memcmp(l->data + l->at, words[i], n))
      return l->at += n, i;
  }
  fail(l, "True or False");
  return false;
}

static int64_t take_whole(literal *l) {
  int64_t value = 0;
  peek(l);
  size_t start = l->at;
  bool fits = true;
  for (; !l->status && l->at < l->size && l->data[l->at] >= '0' && l->data[l->at] <= '9'; l->at++)
    fits = fits && !__builtin_mul_overflow(value, 10, &value) &&
           !__builtin_add_overflow(value, l->data[l->at] - '0', &value);
  if (!fits || l->at == start)
    fail(l, "a whole number from 0 to 2^63 - 1");
  return l->status ? 0 : value;
}

/* (), (3,) or (3, 4): one dim needs its comma. */
static void take_shape(literal *l, moon_entry *entry) {
  bool comma = true;
  expect(l, '(');
  while (!l->status && !take(l, ')')) {
    if (!comma)
      expect(l, ',');
    int64_t dim = take_whole(l);
    if (entry->rank < MOON_MAX_RANK)
      entry->shape[entry->rank] = dim;
    entry->rank++;
    comma = take(l, ',');
  }
  if (entry->rank == 1 && !comma)
    fail(l, "a comma behind the only dim");
}

/* ---- the array ---- */

/* As NumPy spells them, little endian or of one byte. */
static const struct {
  char name[4];
  moon_dtype dtype;
} dtypes[] = {{"<f8", MOON_F64}, {"<f4", MOON_F32}, {"<f2", MOON_F16}, {"<i8", MOON_I64},
              {"<i4", MOON_I32}, {"<i2", MOON_I16}, {"|i1", MOON_I8},  {"<u8", MOON_U64},
              {"<u4", MOON_U32}, {"<u2", MOON_U16}, {"|u1", MOON_U8},  {"|b1", MOON_BOOL}};

static moon_status set_dtype(moon_entry *entry, const char *name, moon_err *err) {
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
    if (!strcmp(dtypes[i].name, name)) {
      entry->dtype = dtypes[i].dtype;
      strcpy(entry->dtype_name, moon_dtype_name(entry->dtype));
      return MOON_OK;
    }
  if (strchr(name, 'O'))
    return moon_fail(err, MOON_EUNSUPPORTED, "an array of Python objects; only data are read");
  if (name[0] == '>')
    return moon_fail(err, MOON_EUNSUPPORTED, "dtype '%s' is big endian", name);
  return moon_fail(err, MOON_EUNSUPPORTED,
                   "dtype '%s' is not one that moonscope reads (NumPy has no bfloat16 of its own)",
                   name);
}

static void set_strides(moon_entry *entry, bool fortran) {
  int64_t stride = 1;
  for (int i = 0; i < entry->rank; i++) {
    int dim = fortran ? i : entry->rank - 1 - i;
    entry->strides[dim] = stride;
    stride *= entry->shape[dim] > 0 ? entry->shape[dim] : 1;
  }
}

static moon_status fill(moon_entry *entry, bool fortran, size_t header_size, size_t size,
                        moon_err *err) {
  int64_t count;
  char shape[MOON_SHAPE_TEXT];
  if (entry->rank > MOON_MAX_RANK)
    return moon_fail(err, MOON_EUNSUPPORTED, "rank %d, at most %d", entry->rank, MOON_MAX_RANK);
  moon_shape_text(shape, sizeof shape, entry->shape, entry->rank);
  if (!moon_shape_count(&count, entry->shape, entry->rank) ||
      !moon_size_mul(&entry->size_bytes, (size_t)count, moon_dtype_size(entry->dtype)))
    return moon_fail(err, MOON_EFORMAT, "shape %s is too large", shape);
  if (entry->size_bytes != size - header_size)
    return moon_fail(err, MOON_EFORMAT, "shape %s in %s takes %zu bytes, but %zu follow the header",
                     shape, entry->dtype_name, entry->size_bytes, size - header_size);
  entry->offset = header_size;
  set_strides(entry, fortran);
  return MOON_OK;
}

moon_status moon_npy_parse(moon_entry *entry, const uint8_t *header, size_t header_size,
                           size_t size, moon_err *err) {
  literal l = {.data = header, .size = header_size, .at = header[6] > 1 ? 12 : 10, .err = err};
  char key[MAX_TEXT], dtype[MAX_TEXT] = "";
  bool fortran = false, seen[3] = {false};
  entry->rank = 0;
  expect(&l, '{');
  while (!l.status && !take(&l, '}')) {
    take_text(&l, key);
    int which = !strcmp(key, "descr")           ? 0
                : !strcmp(key, "fortran_order") ? 1
                : !strcmp(key, "shape")         ? 2
                                                : -1;
    if (which < 0 || seen[which]) {
      fail(&l, "the keys descr, fortran_order and shape once each");
      break;
    }
    seen[which] = true;
    expect(&l, ':');
    if (which == 0)
      take_text(&l, dtype);
    else if (which == 1)
      fortran = take_bool(&l);
    else
      take_shape(&l, entry);
    if (!take(&l, ',') && peek(&l) != '}')
      fail(&l, "',' or '}'");
  }
  if (peek(&l) || l.at < l.size || !seen[0] || !seen[1] || !seen[2])
    fail(&l, "descr, fortran_order and shape, and blanks behind them");
  if (l.status)
    return l.status;
  moon_status status = set_dtype(entry, dtype, err);
  return status == MOON_OK ? fill(entry, fortran, header_size, size, err) : status;
}
