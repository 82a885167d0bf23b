// SPDX-License-Identifier: MIT
/* The head of an HTTP answer as libcurl hands it on: lines "Name: value\r\n" in one string. It
 * comes from the network: any bytes, any length, lines that are cut. */
#ifndef MOON_IO_HEAD_H
#define MOON_IO_HEAD_H

#include "moon.h"

/* The value of the first field of that name (in any case), borrowed from head; it goes on to the
 * end of its line. NULL: there is none, or head is NULL. */
const char *moon_head_field(const char *head, const char *name);

/* Whether "Content-Range: bytes FIRST-LAST/SIZE" continues a file of size_bytes of which done_bytes
 * are there. */
bool moon_head_continues(const char *head, int64_t done_bytes, int64_t size_bytes);

#endif
