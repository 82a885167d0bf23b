// SPDX-License-Identifier: MIT
/* The socket that a server listens on, and how many files a process may open. */
#ifndef MOON_HOST_LISTEN_H
#define MOON_HOST_LISTEN_H

#include "moon.h"

typedef struct http_listener {
  int fd; /* the caller closes it */
  int port;
  bool loopback;    /* nobody beyond this machine can connect */
  bool all;         /* 0.0.0.0 or [::] */
  char address[64]; /* as in a URL: "127.0.0.1", "[::1]" */
} http_listener;

/* Listens on a name or address; port 0 takes any that is free. MOON_ENOENT: no such host,
 * MOON_EEXIST: the port is taken, MOON_EIO: anything else. */
moon_status http_listen(http_listener *out, const char *host, int port, moon_err *err);

/* Raises the limit of open files as far as it goes. Returns how many connections of `wanted` fit,
 * with files left for everything else. */
int http_make_room(int wanted);

#endif
