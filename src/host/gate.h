// SPDX-License-Identifier: MIT
/*
 * Who may come in: one walk over the raw headers of a request, before any work is done for it.
 * Knows no sockets, no Lua and no HTTP library.
 *
 * Framing: what two readers could understand in two ways is refused (a repeated Host,
 * Content-Length or Transfer-Encoding, both lengths at once, control bytes, names that are no
 * tokens). Host and Origin: a web page of another site can make a browser send requests here, and
 * by DNS it can give its own name to this machine. So the Host must be one of ours, and an Origin
 * must be that Host. Token: wherever one is set, it comes as "Authorization: Bearer" or in the
 * cookie moonscope_token.
 */
#ifndef MOON_HOST_GATE_H
#define MOON_HOST_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GATE_MAX_HEADERS = 100 };

typedef struct gate_text {
  const char *bytes;
  size_t size;
} gate_text;

typedef struct gate_header {
  gate_text name, value;
} gate_header;

/* All borrowed for the length of the call. */
typedef struct gate_request {
  const char *method, *path, *version;
  const gate_header *headers;
  size_t n_headers; /* GATE_MAX_HEADERS + 1 at most: there are more */
  bool token_in_query;
} gate_request;

typedef struct gate_rules {
  const char *const *hosts; /* lower case, without a port; NULL at the end */
  bool any_address;         /* an IP address as Host is one of ours: listening on all interfaces */
  const char *token;        /* NULL: none is needed */
  uint64_t max_body_bytes;
} gate_rules;

/* Why a request is refused; status 0: it is not. */
typedef struct gate_verdict {
  unsigned status;
  const char *code;   /* "EHOST" ...: stable, for programs */
  const char *detail; /* one line, static */
} gate_verdict;

gate_verdict gate_check(const gate_rules *rules, const gate_request *request);

/* In a time that does not tell how much of it is right. */
bool gate_same_secret(const char *secret, gate_text given);

#endif
