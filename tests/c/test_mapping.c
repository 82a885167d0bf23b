// SPDX-License-Identifier: MIT
/* Files that another program cuts off or replaces while they are mapped. P15 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/mapping.h"
#include "io_files.h"

enum { PAGE = 4096, N_PAGES = 64 };

static char path[] = "/tmp/moonscope-mapping-XXXXXX";

/* cmocka has its own handler in each test; here the program's own is the thing to test. */
static struct sigaction ours;

static int make_file(void **state) {
  (void)state;
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  char page[PAGE];
  for (int i = 0; i < N_PAGES; i++) {
    memset(page, i + 1, sizeof page);
    if (write(fd, page, sizeof page) != sizeof page)
      return -1;
  }
  return close(fd);
}

static int remove_file(void **state) {
  (void)state;
  return unlink(path);
}

static moon_bytes *open_file(void) {
  moon_bytes *bytes;
  sigaction(SIGBUS, &ours, NULL);
  assert_int_equal(moon_bytes_open(&bytes, path, NULL), MOON_OK);
  return bytes;
}

static int sum(const moon_bytes *bytes, size_t first, size_t size) {
  const volatile uint8_t *data = moon_bytes_data(bytes);
  int total = 0;
  for (size_t i = first; i < first + size; i++)
    total += data[i];
  return total;
}

static void expect_missing(moon_status status, const moon_err *err, size_t from) {
  char text[256];
  snprintf(text, sizeof text, "%s: its bytes from %zu on are gone", path, from);
  assert_int_equal(status, MOON_EIO);
  if (strncmp(err->text, text, strlen(text)))
    fail_msg("found '%s', expected '%s'", err->text, text);
}

static void fails_whoever_touches_what_is_gone(void **state) {
  (void)state;
  moon_err err;
  moon_bytes *bytes = open_file();
  assert_int_equal(moon_mapping_settle(MOON_OK, &err), MOON_OK);
  assert_int_equal(truncate(path, 10 * PAGE + 100), 0);
  assert_int_equal(moon_mapping_settle(MOON_OK, &err), MOON_OK); /* nobody touched it yet */
  for (int again = 0; again < 6; again++) {
    const size_t at = (size_t)(40 - 10 * (again / 2)) * PAGE; /* each twice, downwards */
    assert_int_equal(sum(bytes, 9 * PAGE, PAGE), 10 * PAGE);
    assert_int_equal(moon_mapping_settle(MOON_OK, &err), MOON_OK); /* what is left is as it was */
    assert_int_equal(sum(bytes, at, 20), 0);
    expect_missing(moon_mapping_settle(MOON_OK, &err), &err, at);
    assert_int_equal(moon_mapping_settle(MOON_OK, &err), MOON_OK);
  }
  expect_missing(moon_bytes_check(bytes, MOON_OK, &err), &err, 20 * PAGE);
  moon_bytes_release(bytes);
  make_file(NULL);
  bytes = open_file(); /* a new mapping knows nothing of it */
  assert_int_equal(sum(bytes, 63 * PAGE, 1), 64);
  assert_int_equal(moon_bytes_check(bytes, MOON_OK, &err), MOON_OK);
  assert_int_equal(moon_mapping_settle(MOON_OK, &err), MOON_OK);
  moon_bytes_release(bytes);
}

static void *sum_all(void *bytes) {
  return (void *)(intptr_t)sum(bytes, 0, N_PAGES * PAGE);
}

static void holds_in_every_thread(void **state) {
  (void)state;
  for (int round = 0; round < 20; round++) {
    pthread_t threads[4];
    moon_err err;
    make_file(NULL);
    moon_bytes *bytes = open_file();
    assert_int_equal(truncate(path, 0), 0);
    for (int i = 0; i < 4; i++)
      assert_int_equal(pthread_create(&threads[i], NULL, sum_all, bytes), 0);
    for (int i = 0; i < 4; i++) {
      void *total;
      pthread_join(threads[i], &total);
      assert_int_equal((intptr_t)total, 0);
    }
    expect_missing(moon_mapping_settle(MOON_OK, &err), &err, 0);
    moon_bytes_release(bytes);
  }
}

static void keeps_a_file_that_is_replaced(void **state) {
  (void)state;
  moon_err err;
  char other[sizeof path + 4];
  buffer b = {0};
  moon_bytes *bytes = open_file();
  snprintf(other, sizeof other, "%s.new", path);
  put_line(&b, "short");
  write_whole(other, &b);
  assert_int_equal(rename(other, path), 0);
  assert_int_equal(sum(bytes, 63 * PAGE, PAGE), 64 * PAGE);
  assert_int_equal(moon_mapping_settle(MOON_OK, &err), MOON_OK);
  moon_bytes_release(bytes);
  free(b.data);
}

/* Somebody cuts the file at some moment of an opening: a result or an error, whatever the moment.
 */
static void *cut_when_told(void *argument) {
  atomic_int *wait = argument; /* 0: nothing to do; n > 0: cut after n rounds; -1: end */
  for (;;) {
    int n = atomic_load(wait);
    if (n < 0)
      return NULL;
    for (int i = 0; i < n; i++)
      atomic_load(wait);
    if (n > 0 && truncate(path, 8) == 0)
      atomic_store(wait, 0);
    else
      sched_yield();
  }
}

static void opens_what_is_cut_meanwhile(void **state) {
  (void)state;
  char header[20000];
  int used = snprintf(header, sizeof header, "{\"__metadata__\":{\"k\":\"v\"}");
  for (int i = 0; i < 200; i++)
    used +=
        snprintf(header + used, sizeof header - (size_t)used,
                 ",\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i, i, i + 1);
  snprintf(header + used, sizeof header - (size_t)used, "}");
  buffer file = safetensors(header, 200);
  atomic_int wait = 0;
  pthread_t thread;
  sigaction(SIGBUS, &ours, NULL);
  size_t n_ok = 0, n_failed = 0;
  assert_int_equal(pthread_create(&thread, NULL, cut_when_told, &wait), 0);
  /* when the other thread gets its turn is not ours to say: until both have been seen */
  time_t deadline = time(NULL) + 60;
  for (int i = 0; i < 1000 || ((n_ok == 0 || n_failed == 0) && time(NULL) < deadline); i++) {
    moon_checkpoint *checkpoint;
    moon_err err = {0};
    write_whole(path, &file);
    atomic_store(&wait, 1 + i % 1000 * 21);
    moon_status status = moon_checkpoint_open(&checkpoint, path, &err);
    assert_int_equal(strncmp(status == MOON_OK ? path : err.text, path, strlen(path)), 0);
    n_ok += status == MOON_OK;
    n_failed += status != MOON_OK;
    moon_checkpoint_release(checkpoint);
    while (atomic_load(&wait))
      sched_yield();
  }
  atomic_store(&wait, -1);
  pthread_join(thread, NULL);
  moon_err err;
  moon_mapping_settle(MOON_OK, &err);
  print_message("opened while it was cut: %zu whole, %zu refused\n", n_ok, n_failed);
  assert_true(n_failed > 0 && n_ok > 0);
  free(file.data);
}

/* ---- addresses that are none of ours: in a child, which shall die or end with 42 ---- */

static void end_with_42(int number) {
  (void)number;
  _exit(42);
}

static int touch_foreign(bool handler) {
  pid_t child = fork();
  if (!child) {
    int fd = open(path, O_RDONLY);
    const volatile char *foreign = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    moon_mapping *mapping;
    signal(SIGBUS, handler ? end_with_42 : SIG_DFL); /* before the first mapping */
    if (moon_mapping_open(&mapping, fd, PAGE, path, NULL) || truncate(path, 0))
      _exit(1);
    _exit(*foreign); /* 0 if it were taken for ours */
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

static int status_handled, status_default; /* main's, from before any mapping */

static void passes_on_what_is_not_ours(void **state) {
  (void)state;
  assert_true(WIFEXITED(status_handled));
  assert_int_equal(WEXITSTATUS(status_handled), 42);
  assert_true(WIFSIGNALED(status_default));
  assert_int_equal(WTERMSIG(status_default), SIGBUS);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(passes_on_what_is_not_ours),
      cmocka_unit_test_setup_teardown(fails_whoever_touches_what_is_gone, make_file, remove_file),
      cmocka_unit_test_setup_teardown(holds_in_every_thread, make_file, remove_file),
      cmocka_unit_test_setup_teardown(keeps_a_file_that_is_replaced, make_file, remove_file),
      cmocka_unit_test_setup_teardown(opens_what_is_cut_meanwhile, make_file, remove_file),
  };
  int fd = mkstemp(path);
  if (fd < 0)
    return 1;
  close(fd);
  make_file(NULL);
  status_handled = touch_foreign(true);
  make_file(NULL);
  status_default = touch_foreign(false);
  make_file(NULL);
  moon_bytes *bytes;
  if (moon_bytes_open(&bytes, path, NULL) != MOON_OK)
    return 1;
  sigaction(SIGBUS, NULL, &ours);
  moon_bytes_release(bytes);
  unlink(path);
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
