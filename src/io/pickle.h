// SPDX-License-Identifier: MIT
/*
 * A pickle as data: the opcodes of protocols 2 to 5 build a tree of values, and nothing is ever
 * imported or called. A global is a name; only those that the caller lists are let in, and
 * "calling" one (REDUCE) makes a value that holds the name and the arguments, for the caller to
 * interpret.
 */
#ifndef MOON_IO_PICKLE_H
#define MOON_IO_PICKLE_H

#include "moon.h"

typedef enum moon_pickle_use {
  MOON_PICKLE_USE_NAME, /* a name only: a call is refused */
  MOON_PICKLE_USE_CALL, /* may be called with a tuple: a MOON_PICKLE_CALLED value */
  MOON_PICKLE_USE_DICT, /* may be called with (): an empty dict */
} moon_pickle_use;

typedef struct moon_pickle_global {
  const char *module, *name;
  moon_pickle_use use;
  int meaning, detail; /* the caller's own */
} moon_pickle_global;

typedef enum moon_pickle_kind {
  MOON_PICKLE_NONE,
  MOON_PICKLE_BOOL,     /* integer */
  MOON_PICKLE_INT,      /* integer */
  MOON_PICKLE_UINT,     /* integer, taken as uint64_t: above INT64_MAX */
  MOON_PICKLE_FLOAT,    /* real */
  MOON_PICKLE_TEXT,     /* text; UTF-8 not checked */
  MOON_PICKLE_BYTES,    /* text */
  MOON_PICKLE_TUPLE,    /* items */
  MOON_PICKLE_LIST,     /* items */
  MOON_PICKLE_SET,      /* items */
  MOON_PICKLE_DICT,     /* items: key, value, key, value, ... */
  MOON_PICKLE_GLOBAL,   /* global: index into the caller's list */
  MOON_PICKLE_CALLED,   /* call */
  MOON_PICKLE_EXTERNAL, /* call.arguments: the tuple that names something outside of the pickle */
} moon_pickle_kind;

/* Values and cells are numbered from 1 in the order of their making; 0 is none. */
typedef uint32_t moon_pickle_ref;

typedef struct moon_pickle_value {
  moon_pickle_kind kind;
  uint32_t n_items;
  union {
    int64_t integer;
    double real;
    struct {
      uint32_t offset, size; /* in the pickle's bytes */
    } text;
    struct {
      moon_pickle_ref first, last; /* cells */
    } items;
    uint32_t global;
    struct {
      uint32_t global;
      moon_pickle_ref arguments;
    } call;
  };
} moon_pickle_value;

typedef struct moon_pickle_cell {
  moon_pickle_ref value, next;
} moon_pickle_cell;

typedef struct moon_pickle {
  const uint8_t *data;       /* borrowed */
  moon_pickle_value *values; /* numbered from 1 to n_values */
  size_t n_values;
  moon_pickle_cell *cells;
  moon_pickle_ref root;
} moon_pickle;

/* Reads size (below 4 GiB) bytes, all of them; where `used` is given, up to the pickle's end only,
 * and *used says how many that were. Owned by the caller (moon_pickle_free), also after a
 * failure; data is borrowed. Memory and time grow with size alone; a value may contain itself.
 * MOON_EFORMAT, MOON_EUNSUPPORTED (a global that is not listed, by name; a call of something else),
 * MOON_ENOMEM; with the byte. */
moon_status moon_pickle_parse(moon_pickle *out, const uint8_t *data, size_t size,
                              const moon_pickle_global *globals, size_t n_globals, size_t *used,
                              moon_err *err);
void moon_pickle_free(moon_pickle *pickle);

#endif
