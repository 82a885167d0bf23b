// SPDX-License-Identifier: MIT
#include "io/json.h"

#include <pthread.h>
#include <stdlib.h>

/* jansson 2.14 leaves out a letter of a text that it has no memory for, and goes on: so note that
 * it had none. */
static _Thread_local bool failed;

static void *allocate(size_t size) {
  void *data = malloc(size);
  failed = failed || !data;
  return data;
}

static void set_allocator(void) {
  json_set_alloc_funcs(allocate, free);
}

moon_status moon_json_load(json_t **out, const char *data, size_t size, json_error_t *why) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, set_allocator);
  failed = false;
  *out = json_loadb(data, size, JSON_REJECT_DUPLICATES, why);
  if (!failed)
    return *out ? MOON_OK : MOON_EFORMAT;
  json_decref(*out);
  *out = NULL;
  return MOON_ENOMEM;
}
