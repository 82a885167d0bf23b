// SPDX-License-Identifier: MIT
/* JSON text into jansson's tree. */
#ifndef MOON_IO_JSON_H
#define MOON_IO_JSON_H

#include <jansson.h>

#include "moon.h"

/* A key that is there twice is an error. Owned by the caller (json_decref); NULL after a failure:
 * MOON_EFORMAT (see why) or MOON_ENOMEM, without a text. */
moon_status moon_json_load(json_t **out, const char *data, size_t size, json_error_t *why);

#endif
