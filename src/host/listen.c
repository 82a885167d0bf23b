// SPDX-License-Identifier: MIT
#include "host/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 1024, OTHER_FILES = 192 };

static moon_status open_socket(int *fd, const struct addrinfo *a) {
  const int on = 1;
  *fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (*fd < 0)
    return MOON_EIO;
  setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(*fd, a->ai_addr, a->ai_addrlen) == 0 && listen(*fd, BACKLOG) == 0)
    return MOON_OK;
  int why = errno;
  close(*fd);
  errno = why;
  return why == EADDRINUSE ? MOON_EEXIST : MOON_EIO;
}

static void describe(http_listener *out) {
  struct sockaddr_storage storage;
  socklen_t size = sizeof storage;
  memset(&storage, 0, sizeof storage);
  getsockname(out->fd, (struct sockaddr *)&storage, &size);
  char text[INET6_ADDRSTRLEN] = "";
  if (storage.ss_family == AF_INET6) {
    const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)&storage;
    inet_ntop(AF_INET6, &a->sin6_addr, text, sizeof text);
    out->port = ntohs(a->sin6_port);
    out->loopback = IN6_IS_ADDR_LOOPBACK(&a->sin6_addr);
    out->all = IN6_IS_ADDR_UNSPECIFIED(&a->sin6_addr);
    snprintf(out->address, sizeof out->address, "[%s]", text);
  } else {
    const struct sockaddr_in *a = (const struct sockaddr_in *)&storage;
    inet_ntop(AF_INET, &a->sin_addr, text, sizeof text);
    out->port = ntohs(a->sin_port);
    out->loopback = ntohl(a->sin_addr.s_addr) >> 24 == 127;
    out->all = a->sin_addr.s_addr == htonl(INADDR_ANY);
    snprintf(out->address, sizeof out->address, "%s", text);
  }
}

moon_status http_listen(http_listener *out, const char *host, int port, moon_err *err) {
  const struct addrinfo hints = {
      .ai_socktype = SOCK_STREAM, .ai_family = AF_UNSPEC, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
  struct addrinfo *found;
  char service[16];
  snprintf(service, sizeof service, "%d", port);
  int why = getaddrinfo(host, service, &hints, &found);
  if (why)
    return moon_fail(err, MOON_ENOENT, "%s: %s", host, gai_strerror(why));
  moon_status status = open_socket(&out->fd, found);
  if (status == MOON_OK)
    describe(out);
  else
    moon_fail(err, status, "cannot listen on %s port %d: %s", host, port, strerror(errno));
  freeaddrinfo(found);
  return status;
}

int http_make_room(int wanted) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit))
    return wanted;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= (rlim_t)wanted + OTHER_FILES)
    return wanted;
  return limit.rlim_cur > OTHER_FILES ? (int)limit.rlim_cur - OTHER_FILES : 1;
}
