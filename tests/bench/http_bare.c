// SPDX-License-Identifier: MIT
/*
 * The least that libmicrohttpd can do: one handler in C, in the external epoll mode that moonscope
 * uses, with the answer of /health. What tests/bench/http.sh measures the server against. Prints
 * its port.
 */
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>

static enum MHD_Result answer(void *user, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **state) {
  static const char text[] = "{\"status\":\"healthy\",\"model_loaded\":false}";
  (void)user, (void)path, (void)method, (void)version, (void)data, (void)size;
  if (!*state) {
    *state = connection;
    return MHD_YES;
  }
  struct MHD_Response *response =
      MHD_create_response_from_buffer(sizeof text - 1, (void *)text, MHD_RESPMEM_PERSISTENT);
  MHD_add_response_header(response, "Content-Type", "application/json");
  enum MHD_Result result = MHD_queue_response(connection, MHD_HTTP_OK, response);
  MHD_destroy_response(response);
  return result;
}

int main(void) {
  struct MHD_Daemon *daemon = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, answer, NULL,
                                               MHD_OPTION_CONNECTION_LIMIT, 4096U, MHD_OPTION_END);
  if (!daemon)
    return fputs("http_bare: cannot listen\n", stderr), 1;
  printf("%d\n", MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
  fflush(stdout);
  int fd = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd,
      outer = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  epoll_ctl(outer, EPOLL_CTL_ADD, fd, &event);
  for (;;) {
    MHD_UNSIGNED_LONG_LONG timeout_ms;
    epoll_wait(outer, &event, 1, 1000);
    do
      MHD_run(daemon);
    while (MHD_get_timeout(daemon, &timeout_ms) == MHD_YES && timeout_ms == 0);
  }
}
