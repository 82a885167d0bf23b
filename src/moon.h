// SPDX-License-Identifier: MIT
/*
 * The one header that every part of the core includes: status codes, errors, dtypes,
 * progress of long work, checked sizes and the log hook.
 *
 * The core never prints, exits or reads the environment. A function that can fail returns a
 * moon_status and writes one line (what, where, found, expected) into a moon_err, which may be
 * NULL.
 */
#ifndef MOON_H
#define MOON_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* code, meaning. The names reach Lua as the third value of a failure ("ENOENT"). */
#define MOON_STATUS_LIST(X)                                     \
  X(EINVAL, "invalid argument")                                 \
  X(ENOENT, "not found")                                        \
  X(EEXIST, "already there")                                    \
  X(EIO, "reading or writing failed")                           \
  X(EFORMAT, "not in the format expected")                      \
  X(EUNSUPPORTED, "well formed, but moonscope cannot use it")   \
  X(ESHAPE, "shapes do not fit")                                \
  X(EDTYPE, "dtype does not fit")                               \
  X(EDEVICE, "device missing, failed, or not the one expected") \
  X(ELOST, "a fault took the device from this process")         \
  X(ENOMEM, "not enough memory")                                \
  X(ERANGE, "index or value out of range")                      \
  X(ECONTEXT, "the context is full")                            \
  X(ENET, "the network or the server failed")                   \
  X(EHASH, "not the bytes that were announced")                 \
  X(EACCES, "access refused")                                   \
  X(ECANCELED, "canceled")                                      \
  X(ECLOSED, "closed")

typedef enum moon_status {
  MOON_OK = 0,
#define X(code, meaning) MOON_##code,
  MOON_STATUS_LIST(X)
#undef X
} moon_status;

#define MOON_ERR_TEXT 512

typedef struct moon_err {
  moon_status code;
  char text[MOON_ERR_TEXT]; /* one line, UTF-8; other bytes are replaced by '?' */
} moon_err;

/* Fills err (may be NULL) and returns code, so that `return moon_fail(...)` reads well. Control
 * bytes and broken UTF-8 in the formatted text become '?': names from files end up here. */
moon_status moon_fail(moon_err *err, moon_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __clang_analyzer__ /* it does not look into moon.c: a failure is never MOON_OK */
#define moon_fail(err, code, ...) ((void)moon_fail(err, code, __VA_ARGS__), (code))
#endif

/* Puts "what: " in front of err's text and returns its code unchanged. */
moon_status moon_fail_in(moon_err *err, moon_status code, const char *what);

const char *moon_status_name(moon_status code); /* "EFORMAT"; "OK" for MOON_OK */

/* name in moonscope, name in safetensors, bytes per element */
#define MOON_DTYPE_LIST(X)            \
  X(F64, "f64", "F64", 8)             \
  X(F32, "f32", "F32", 4)             \
  X(F16, "f16", "F16", 2)             \
  X(BF16, "bf16", "BF16", 2)          \
  X(F8_E4M3, "f8_e4m3", "F8_E4M3", 1) \
  X(F8_E5M2, "f8_e5m2", "F8_E5M2", 1) \
  X(I64, "i64", "I64", 8)             \
  X(I32, "i32", "I32", 4)             \
  X(I16, "i16", "I16", 2)             \
  X(I8, "i8", "I8", 1)                \
  X(U64, "u64", "U64", 8)             \
  X(U32, "u32", "U32", 4)             \
  X(U16, "u16", "U16", 2)             \
  X(U8, "u8", "U8", 1)                \
  X(BOOL, "bool", "BOOL", 1)

typedef enum moon_dtype {
  MOON_OPAQUE = 0, /* a legal safetensors dtype that is listed, hashed and copied only */
#define X(id, name, file_name, size) MOON_##id,
  MOON_DTYPE_LIST(X)
#undef X
      MOON_DTYPE_COUNT
} moon_dtype;

size_t moon_dtype_size(moon_dtype dtype);           /* bytes per element; 0 for MOON_OPAQUE */
const char *moon_dtype_name(moon_dtype dtype);      /* "bf16"; "opaque" for MOON_OPAQUE */
const char *moon_dtype_file_name(moon_dtype dtype); /* "BF16", as safetensors spells it */
bool moon_dtype_from_name(moon_dtype *out, const char *name);      /* false: unknown name */
bool moon_dtype_from_file_name(moon_dtype *out, const char *name); /* false: unknown name */

#define MOON_MAX_RANK 8

/* a * b and a + b for sizes; false when the result does not fit. */
bool moon_size_mul(size_t *out, size_t a, size_t b);
bool moon_size_add(size_t *out, size_t a, size_t b);

/* Product of shape[0..rank); 1 for rank 0. false for a negative dim or when it passes INT64_MAX. */
bool moon_shape_count(int64_t *out, const int64_t *shape, int rank);

/* "[2048, 128]" into text, cut at size; returns text. */
char *moon_shape_text(char *text, size_t size, const int64_t *shape, int rank);
#define MOON_SHAPE_TEXT 128

/* How far long work has come. Written by the thread that works, read and canceled by any other. */
typedef struct moon_progress {
  _Atomic(int64_t) done, total; /* total is 0 while unknown */
  _Atomic(const char *) unit;   /* "bytes", "tokens"; a string constant */
  atomic_bool canceled;
} moon_progress;

/* Adds n to done. MOON_ECANCELED (with text) once the work was canceled. progress may be NULL. */
moon_status moon_progress_add(moon_progress *progress, int64_t n, moon_err *err);

typedef enum moon_log_level {
  MOON_LOG_ERROR,
  MOON_LOG_WARN,
  MOON_LOG_INFO,
  MOON_LOG_DEBUG
} moon_log_level;
typedef void (*moon_log_fn)(void *user, moon_log_level level, const char *text);

/* The process's log hook; NULL (the start) drops everything. Set before other threads start. */
void moon_log_set(moon_log_fn fn, void *user);
void moon_log_set_level(
    moon_log_level level); /* what is less important is dropped; WARN at the start */
bool moon_log_wants(moon_log_level level); /* worth working out a message? */
void moon_log(moon_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
