// SPDX-License-Identifier: MIT
/* The server's log of requests: one JSON object a line, gathered and written to stderr together at
 * the end of each turn of the loop. */
#ifndef MOON_HOST_LOG_H
#define MOON_HOST_LOG_H

#include <stddef.h>
#include <stdint.h>

enum { HTTP_LOG_SIZE = 1 << 14 }; /* what is more is written at once */

typedef struct http_log {
  char bytes[HTTP_LOG_SIZE];
  size_t size;
} http_log;

/* One answered request. */
typedef struct http_log_entry {
  const char *head;  /* the line up to its level: {"level":"info" */
  const char *route; /* without a character that JSON would escape */
  unsigned status;
  uint64_t took_ns, n_bytes;
  const char *id_prefix;
  uint64_t serial;
} http_log_entry;

void http_log_add(http_log *log, const http_log_entry *entry);
void http_log_flush(http_log *log);

#endif
