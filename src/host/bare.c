// SPDX-License-Identifier: MIT
#include <microhttpd.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "host/host.h"

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

/* Until a signal comes, for which a wait here ends after a second at the latest. */
static void serve(struct MHD_Daemon *daemon, int outer) {
  struct epoll_event event = {.events = EPOLLIN};
  int inner = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
  epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event);
  while (!host_interrupted()) {
    MHD_UNSIGNED_LONG_LONG timeout_ms;
    epoll_wait(outer, &event, 1, 1000);
    do
      MHD_run(daemon);
    while (MHD_get_timeout(daemon, &timeout_ms) == MHD_YES && timeout_ms == 0);
  }
}

int host_serve_bare(lua_State *L) {
  enum { CONNECTIONS = 4096 };
  int outer = epoll_create1(0);
  struct MHD_Daemon *daemon =
      MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, answer, NULL, MHD_OPTION_CONNECTION_LIMIT,
                       (unsigned)CONNECTIONS, MHD_OPTION_END);
  if (!daemon || outer < 0)
    return luaL_error(L, "bare server: cannot listen");
  printf("%d\n", MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
  fflush(stdout);
  serve(daemon, outer);
  MHD_stop_daemon(daemon);
  close(outer);
  return 0;
}
