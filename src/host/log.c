// SPDX-License-Identifier: MIT
/* By hand, since printf took a tenth of a small request's time. */
#include "host/log.h"

#include <stdio.h>
#include <string.h>

enum { LINE = 256 }; /* bytes that hold a line but for its route */

void http_log_flush(http_log *log) {
  if (log->size)
    fwrite(log->bytes, 1, log->size, stderr);
  log->size = 0;
}

static void put_bytes(http_log *log, const char *bytes, size_t size) {
  if (size > sizeof log->bytes - log->size)
    http_log_flush(log);
  if (size > sizeof log->bytes) {
    fwrite(bytes, 1, size, stderr);
    return;
  }
  memcpy(log->bytes + log->size, bytes, size);
  log->size += size;
}

static void put(http_log *log, const char *text) {
  put_bytes(log, text, strlen(text));
}

/* With zeros in front where it has fewer digits. */
static void put_number(http_log *log, uint64_t n, int digits) {
  char text[20], *end = text + sizeof text, *p = end;
  do
    *--p = (char)('0' + n % 10);
  while (n /= 10);
  while (end - p < digits)
    *--p = '0';
  put_bytes(log, p, (size_t)(end - p));
}

void http_log_add(http_log *log, const http_log_entry *entry) {
  uint64_t took_us = entry->took_ns / 1000;
  if (LINE + strlen(entry->route) > sizeof log->bytes - log->size)
    http_log_flush(log); /* so that no line is written in two parts */
  put(log, entry->head);
  put(log, ",\"route\":\"");
  put(log, entry->route);
  put(log, "\",\"status\":");
  put_number(log, entry->status, 1);
  put(log, ",\"ms\":");
  put_number(log, took_us / 1000, 1);
  put(log, ".");
  put_number(log, took_us % 1000, 3);
  put(log, ",\"bytes\":");
  put_number(log, entry->n_bytes, 1);
  put(log, ",\"id\":\"");
  put(log, entry->id_prefix);
  put_number(log, entry->serial, 1);
  put(log, "\"}\n");
}
