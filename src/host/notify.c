// SPDX-License-Identifier: MIT
/* Telling a service manager how things stand: its datagram protocol, see sd_notify(3). */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "host/host.h"

/* false: no path of a socket. '@' stands for the zero byte that an abstract one begins with. */
static bool fill_address(struct sockaddr_un *address, socklen_t *size, const char *path) {
  size_t length = strlen(path);
  if ((path[0] != '/' && path[0] != '@') || length >= sizeof address->sun_path)
    return false;
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  memcpy(address->sun_path, path, length);
  if (path[0] == '@')
    address->sun_path[0] = '\0';
  *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
  return true;
}

static bool send_text(const char *path, const char *text, size_t size) {
  struct sockaddr_un address;
  socklen_t address_size;
  errno = EINVAL;
  if (!fill_address(&address, &address_size, path))
    return false;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return false;
  ssize_t sent =
      sendto(fd, text, size, MSG_NOSIGNAL, (const struct sockaddr *)&address, address_size);
  int reason = errno;
  close(fd);
  errno = reason;
  return sent == (ssize_t)size;
}

int host_notify(lua_State *L) {
  size_t size;
  const char *text = luaL_checklstring(L, 1, &size), *path = getenv("NOTIFY_SOCKET");
  if (path && *path && !send_text(path, text, size)) {
    luaL_pushfail(L);
    lua_pushfstring(L, "NOTIFY_SOCKET: %s: %s", path, strerror(errno));
    return 2;
  }
  lua_pushboolean(L, true);
  return 1;
}
