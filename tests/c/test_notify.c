// SPDX-License-Identifier: MIT
/* What the server tells a service manager (P22): a socket as systemd's, and the program. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

extern char **environ;

enum { PATIENCE_MS = 60000 };

static int listen_at(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t size = strlen(path);
  memcpy(address.sun_path, path, size);
  if (path[0] == '@')
    address.sun_path[0] = '\0';
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(fd, (const struct sockaddr *)&address,
                        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size)),
                   0);
  return fd;
}

static pid_t serve(const char *notify_socket) {
  pid_t child;
  char *arguments[] = {"moonscope", "serve", "--port", "0", "--data", "examples", NULL};
  const char *program = getenv("MOONSCOPE");
  posix_spawn_file_actions_t quiet;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  setenv("NOTIFY_SOCKET", notify_socket, 1);
  assert_int_equal(posix_spawn(&child, program ? program : "build/release/bin/moonscope", &quiet,
                               NULL, arguments, environ),
                   0);
  posix_spawn_file_actions_destroy(&quiet);
  return child;
}

static void expect(int fd, const char *want) {
  char text[64];
  struct pollfd waiting = {.fd = fd, .events = POLLIN};
  assert_int_equal(poll(&waiting, 1, PATIENCE_MS), 1);
  ssize_t size = recv(fd, text, sizeof text - 1, 0);
  assert_true(size >= 0);
  text[size] = '\0';
  assert_string_equal(text, want);
}

static void expect_exit(pid_t child, int code) {
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), code);
}

static void start_and_stop(const char *path) {
  int fd = listen_at(path);
  pid_t child = serve(path);
  expect(fd, "READY=1");
  kill(child, SIGTERM);
  expect(fd, "STOPPING=1");
  expect_exit(child, 0);
  close(fd);
}

static void test_socket_with_a_path(void **state) {
  (void)state;
  char path[] = "/tmp/moonscope-notify-XXXXXX";
  int place = mkstemp(path);
  assert_true(place >= 0);
  close(place);
  unlink(path);
  start_and_stop(path);
  unlink(path);
}

static void test_abstract_socket(void **state) {
  (void)state;
  char path[64];
  snprintf(path, sizeof path, "@moonscope-notify-%d", (int)getpid());
  start_and_stop(path);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_socket_with_a_path),
      cmocka_unit_test(test_abstract_socket),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
