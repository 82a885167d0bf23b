// SPDX-License-Identifier: MIT
/*
 * One HTTP exchange with libcurl, told in steps; loops, progress and cancel are the caller's.
 * Follows no redirect, decodes no content, sends no credentials but the headers it is given, reads
 * no netrc. libcurl is opened on first use, because loading it takes longer than all the rest of
 * the start.
 */
#ifndef MOON_IO_DOWNLOAD_H
#define MOON_IO_DOWNLOAD_H

#include "io/partial.h"

typedef struct moon_request {
  const char *url;
  const char *const *headers; /* [n_headers], each "Name: value" */
  size_t n_headers;
  bool head;             /* HEAD instead of GET */
  bool plain_http;       /* http is allowed too, not https only */
  const char *ca_file;   /* certificates to trust instead of the system's; or NULL */
  int idle_timeout_ms;   /* without a byte, and for the connection to come about */
  size_t body_max;       /* bytes of the answer that are kept in memory; more is MOON_EFORMAT */
  moon_partial *partial; /* or NULL: where the content goes, from moon_partial_done() on */
} moon_request;

typedef struct moon_transfer moon_transfer;

/* Owned by the caller; the request is needed no longer, its partial is retained. MOON_EUNSUPPORTED:
 * there is no libcurl. MOON_ENOMEM. */
moon_status moon_transfer_open(moon_transfer **out, const moon_request *request, moon_err *err);
/* Works until something has happened, for timeout_ms at most; *over once the answer is complete.
 * MOON_ENET: broken off, too slow or not connected; MOON_EACCES: the server is not trusted; with a
 * partial also what appending fails with.
 */
moon_status moon_transfer_step(moon_transfer *transfer, int timeout_ms, bool *over, moon_err *err);
void moon_transfer_close(moon_transfer *transfer); /* NULL is fine */

typedef struct moon_answer {
  int status;       /* 200 */
  const char *head; /* lines of the last header, each "Name: value\r\n" */
  const char *body; /* what did not go into the partial; an answer of 300 or more may be cut */
  size_t head_size, body_size;
  bool stored; /* the content went into the partial: whole from a 200, the rest from a 206 */
} moon_answer;

/* Borrowed from the transfer, dies with it. */
moon_answer moon_transfer_answer(const moon_transfer *transfer);

typedef struct moon_url {
  char *text, *scheme, *host, *port; /* port: also where the scheme implies it */
} moon_url;

/* url, or what it means where it stands in a document at base (may be NULL). The strings are the
 * caller's (moon_url_free). MOON_EFORMAT: no http or https URL, or one with a user. */
moon_status moon_url_parse(moon_url *out, const char *url, const char *base, moon_err *err);
void moon_url_free(moon_url *url);

#endif
