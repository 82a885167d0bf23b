// SPDX-License-Identifier: MIT
#include "moon.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "utf8.h"

static const char *const status_names[] = {"OK",
#define X(code, meaning) #code,
                                           MOON_STATUS_LIST(X)
#undef X
};

const char *moon_status_name(moon_status code) {
  return status_names[code];
}

/* Control bytes, and what is no UTF-8: a character that was cut at the end, too. */
static void make_plain(char *text) {
  size_t left = strlen(text), n;
  for (; left; text += n, left -= n) {
    n = moon_utf8_char(text, left);
    if (!n || (unsigned char)*text < 0x20 || *text == 0x7f)
      *text = '?', n = 1;
  }
}

/* The brackets keep clang's analyzer from taking moon.h's macro for it. */
moon_status(moon_fail)(moon_err *err, moon_status code, const char *format, ...) {
  if (err) {
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    make_plain(err->text);
    err->code = code;
  }
  return code;
}

moon_status moon_fail_in(moon_err *err, moon_status code, const char *what) {
  if (err) {
    char inner[MOON_ERR_TEXT];
    memcpy(inner, err->text, sizeof inner);
    moon_fail(err, code, "%s: %s", what, inner);
  }
  return code;
}

static const struct {
  const char *name, *file_name;
  size_t size;
} dtypes[] = {{"opaque", "", 0},
#define X(id, name, file_name, size) {name, file_name, size},
              MOON_DTYPE_LIST(X)
#undef X
};

size_t moon_dtype_size(moon_dtype dtype) {
  return dtypes[dtype].size;
}

const char *moon_dtype_name(moon_dtype dtype) {
  return dtypes[dtype].name;
}

const char *moon_dtype_file_name(moon_dtype dtype) {
  return dtypes[dtype].file_name;
}

bool moon_dtype_from_name(moon_dtype *out, const char *name) {
  for (int i = 1; i < MOON_DTYPE_COUNT; i++)
    if (!strcmp(dtypes[i].name, name))
      return *out = (moon_dtype)i, true;
  return false;
}

bool moon_dtype_from_file_name(moon_dtype *out, const char *name) {
  for (int i = 1; i < MOON_DTYPE_COUNT; i++)
    if (!strcmp(dtypes[i].file_name, name))
      return *out = (moon_dtype)i, true;
  return false;
}

bool moon_size_mul(size_t *out, size_t a, size_t b) {
  return !__builtin_mul_overflow(a, b, out);
}

bool moon_size_add(size_t *out, size_t a, size_t b) {
  return !__builtin_add_overflow(a, b, out);
}

bool moon_shape_count(int64_t *out, const int64_t *shape, int rank) {
  int64_t count = 1;
  bool empty = false;
  for (int i = 0; i < rank; i++) {
    if (shape[i] < 0)
      return false;
    empty = empty || shape[i] == 0;
    if (shape[i] > 0 && __builtin_mul_overflow(count, shape[i], &count))
      return false;
  }
  *out = empty ? 0 : count;
  return true;
}

char *moon_shape_text(char *text, size_t size, const int64_t *shape, int rank) {
  size_t used = (size_t)snprintf(text, size, "[");
  for (int i = 0; i < rank && used < size; i++)
    used += (size_t)snprintf(text + used, size - used, i ? ", %lld" : "%lld", (long long)shape[i]);
  if (used < size)
    snprintf(text + used, size - used, "]");
  return text;
}

moon_status moon_progress_add(moon_progress *progress, int64_t n, moon_err *err) {
  if (!progress)
    return MOON_OK;
  if (atomic_load(&progress->canceled))
    return moon_fail(err, MOON_ECANCELED, "canceled");
  atomic_fetch_add(&progress->done, n);
  return MOON_OK;
}

static moon_log_fn log_fn;
static void *log_user;
static atomic_int log_level = MOON_LOG_WARN;

void moon_log_set(moon_log_fn fn, void *user) {
  log_fn = fn;
  log_user = user;
}

void moon_log_set_level(moon_log_level level) {
  atomic_store(&log_level, level);
}

bool moon_log_wants(moon_log_level level) {
  return log_fn && (int)level <= atomic_load(&log_level);
}

void moon_log(moon_log_level level, const char *format, ...) {
  if (!moon_log_wants(level))
    return;
  char text[MOON_ERR_TEXT];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  make_plain(text);
  log_fn(log_user, level, text);
}
