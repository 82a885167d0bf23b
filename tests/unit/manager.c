// SPDX-License-Identifier: MIT
/* What a service manager hears:  manager SOCKET  prints each datagram that comes there as a line,
 * until the one that says STOPPING=1. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static int hear(int fd) {
  char text[256];
  ssize_t size;
  while ((size = recv(fd, text, sizeof text - 1, 0)) >= 0) {
    text[size] = 0;
    puts(text);
    fflush(stdout);
    if (!strcmp(text, "STOPPING=1"))
      return 0;
  }
  return 1;
}

int main(int argc, char **argv) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (argc != 2 || fd < 0 || strlen(argv[1]) >= sizeof address.sun_path)
    return 2;
  strcpy(address.sun_path, argv[1]);
  if (bind(fd, (const struct sockaddr *)&address, sizeof address) || chmod(argv[1], 0777))
    return 2;
  puts("listening");
  fflush(stdout);
  return hear(fd);
}
