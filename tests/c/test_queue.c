// SPDX-License-Identifier: MIT
/* The compute thread: order, cancel, waits, the event descriptor. Runs under TSan too. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "bind/queue.h"

typedef struct step_task {
  moon_task task;
  int *log; /* gets `number` when the task runs; may be NULL */
  int number;
  int n_steps;       /* -1: until it is canceled */
  atomic_bool *gate; /* waits until it is true; may be NULL */
} step_task;

static atomic_int live, log_length;

static moon_status run_steps(moon_task *task, moon_progress *progress, moon_err *err) {
  step_task *t = (step_task *)task;
  while (t->gate && !atomic_load(t->gate))
    usleep(100);
  if (t->log)
    t->log[atomic_fetch_add(&log_length, 1)] = t->number;
  for (int i = 0; i != t->n_steps; i++) {
    if (moon_progress_add(progress, 1, err) != MOON_OK)
      return err->code;
    if (t->n_steps < 0)
      usleep(100);
  }
  return t->number == 13 ? moon_fail(err, MOON_EINVAL, "13: unlucky") : MOON_OK;
}

static void drop(moon_task *task) {
  atomic_fetch_sub(&live, 1);
  free(task);
}

static step_task *new_task(int number, int n_steps) {
  step_task *t = calloc(1, sizeof *t);
  assert_non_null(t);
  moon_task_init(&t->task, run_steps, drop);
  t->number = number;
  t->n_steps = n_steps;
  atomic_fetch_add(&live, 1);
  return t;
}

static void submit(step_task *t) {
  moon_err err;
  assert_int_equal(moon_task_submit(&t->task, &err), MOON_OK);
}

static void assert_status(step_task *t, moon_status status, const char *text) {
  assert_true(moon_task_done(&t->task));
  assert_int_equal(t->task.status, status);
  assert_string_equal(t->task.err.text, text);
}

static int reset(void **state) {
  (void)state;
  atomic_store(&log_length, 0);
  return 0;
}

static int nothing_is_left(void **state) {
  (void)state;
  moon_queue_wait_idle();
  return moon_queue_length() != 0 || atomic_load(&live) != 0;
}

static void runs_in_order(void **state) {
  (void)state;
  enum { N = 2000 };
  static int log[N];
  static step_task *tasks[N];
  for (int i = 0; i < N; i++) {
    tasks[i] = new_task(i, 3);
    tasks[i]->log = log;
    submit(tasks[i]);
  }
  assert_true(moon_task_wait(&tasks[N - 1]->task, -1));
  for (int i = 0; i < N; i++) {
    assert_int_equal(log[i], i);
    assert_int_equal(atomic_load(&tasks[i]->task.progress.done), 3);
    assert_status(tasks[i], i == 13 ? MOON_EINVAL : MOON_OK, i == 13 ? "13: unlucky" : "");
    moon_task_release(&tasks[i]->task);
  }
}

/* Once a task is seen done, only those who saw it hold it: its operands go when they let go. */
static void queue_lets_go_first(void **state) {
  (void)state;
  for (int i = 0; i < 2000; i++) {
    step_task *t = new_task(0, 1);
    submit(t);
    while (!moon_task_done(&t->task))
      continue;
    moon_task_release(&t->task);
    assert_int_equal(atomic_load(&live), 0);
  }
}

static void cancels_a_running_task(void **state) {
  (void)state;
  step_task *t = new_task(0, -1);
  submit(t);
  while (atomic_load(&t->task.progress.done) < 3)
    usleep(100);
  assert_int_equal(atomic_load(&t->task.state), MOON_TASK_RUNNING);
  moon_task_cancel(&t->task);
  assert_true(moon_task_wait(&t->task, 10000));
  assert_status(t, MOON_ECANCELED, "canceled");
  moon_task_release(&t->task);
}

/* At once, also while the line does not move; and it can be canceled as any other. */
static void runs_aside(void **state) {
  (void)state;
  atomic_bool gate = false;
  moon_err err;
  step_task *queued = new_task(0, 1), *aside[8];
  queued->gate = &gate;
  submit(queued);
  for (int i = 0; i < 8; i++) {
    aside[i] = new_task(i == 7 ? 13 : i, i ? 3 : -1);
    assert_int_equal(moon_task_submit_aside(&aside[i]->task, &err), MOON_OK);
  }
  for (int i = 1; i < 8; i++) {
    assert_true(moon_task_wait(&aside[i]->task, 10000));
    assert_status(aside[i], i == 7 ? MOON_EINVAL : MOON_OK, i == 7 ? "13: unlucky" : "");
    moon_task_release(&aside[i]->task);
  }
  assert_int_equal(moon_queue_length(), 2);
  moon_task_cancel(&aside[0]->task);
  assert_true(moon_task_wait(&aside[0]->task, 10000));
  assert_status(aside[0], MOON_ECANCELED, "canceled");
  moon_task_release(&aside[0]->task);
  assert_false(moon_task_done(&queued->task));
  atomic_store(&gate, true);
  assert_true(moon_task_wait(&queued->task, 10000));
  moon_task_release(&queued->task);
}

/* first, middle and last of the line; they end at once although the line does not move */
static void cancels_queued_tasks(void **state) {
  (void)state;
  atomic_bool gate = false;
  static int log[8];
  step_task *tasks[7];
  for (int i = 0; i < 7; i++) {
    tasks[i] = new_task(i, 1);
    tasks[i]->log = log;
    tasks[i]->gate = &gate;
    submit(tasks[i]);
  }
  while (atomic_load(&tasks[0]->task.state) != MOON_TASK_RUNNING)
    usleep(100);
  static const int canceled[] = {1, 3, 6};
  for (int i = 0; i < 3; i++) {
    moon_task_cancel(&tasks[canceled[i]]->task);
    assert_status(tasks[canceled[i]], MOON_ECANCELED, "canceled");
  }
  assert_int_equal(moon_queue_length(), 4);
  atomic_store(&gate, true);
  assert_true(moon_task_wait(&tasks[5]->task, 10000));
  static const int ran[] = {0, 2, 4, 5};
  assert_int_equal(atomic_load(&log_length), 4);
  assert_memory_equal(log, ran, sizeof ran);
  for (int i = 0; i < 7; i++)
    moon_task_release(&tasks[i]->task);
}

static void canceled_before_submit_never_runs(void **state) {
  (void)state;
  int log[1];
  step_task *t = new_task(0, 1);
  t->log = log;
  moon_task_cancel(&t->task);
  submit(t);
  assert_true(moon_task_wait(&t->task, 10000));
  assert_status(t, MOON_ECANCELED, "canceled");
  assert_int_equal(atomic_load(&log_length), 0);
  moon_task_release(&t->task);
}

static void released_task_still_runs(void **state) {
  (void)state;
  static int log[1];
  step_task *t = new_task(7, 1);
  t->log = log;
  submit(t);
  moon_task_release(&t->task);
  moon_queue_wait_idle();
  assert_int_equal(log[0], 7);
  assert_int_equal(atomic_load(&live), 0);
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void wait_ends_in_time(void **state) {
  (void)state;
  step_task *t = new_task(0, -1);
  submit(t);
  double start = now_ms();
  assert_false(moon_task_wait(&t->task, 0));
  assert_false(moon_task_wait(&t->task, 30));
  assert_true(now_ms() - start >= 30);
  moon_task_cancel(&t->task);
  assert_true(moon_task_wait(&t->task, -1));
  assert_true(moon_task_wait(&t->task, -1)); /* again */
  moon_task_release(&t->task);
}

static void on_alarm(int signal_number) {
  (void)signal_number;
}

static void wait_ends_at_a_signal(void **state) {
  (void)state;
  struct sigaction action = {.sa_handler = on_alarm};
  sigaction(SIGALRM, &action, NULL);
  step_task *t = new_task(0, -1);
  submit(t);
  alarm(1);
  double start = now_ms();
  assert_false(moon_task_wait(&t->task, 20000));
  assert_true(now_ms() - start < 10000);
  moon_task_cancel(&t->task);
  moon_task_release(&t->task);
}

static void ends_make_the_descriptor_readable(void **state) {
  (void)state;
  int fd = moon_queue_fd();
  assert_true(fd >= 0);
  assert_int_equal(moon_queue_fd(), fd);
  eventfd_t count;
  while (eventfd_read(fd, &count) == 0)
    continue;
  step_task *t = new_task(0, 1);
  submit(t);
  moon_task_wait(&t->task, -1);
  for (int i = 0; i < 10000 && eventfd_read(fd, &count) != 0; i++)
    usleep(100);
  assert_int_equal(count, 1);
  moon_task_release(&t->task);
}

/* Several threads submit, cancel, wait and let go of tasks at random. */
static void *storm(void *seed) {
  unsigned random = (unsigned)(uintptr_t)seed;
  for (int i = 0; i < 500; i++) {
    step_task *t = new_task(0, (int)(rand_r(&random) % 50));
    moon_err err;
    if (moon_task_submit(&t->task, &err) != MOON_OK)
      abort();
    if (rand_r(&random) % 3 == 0)
      moon_task_cancel(&t->task);
    if (rand_r(&random) % 2 == 0)
      moon_task_wait(&t->task, (int)(rand_r(&random) % 3) - 1);
    moon_task_release(&t->task);
  }
  return NULL;
}

static void survives_a_storm(void **state) {
  (void)state;
  pthread_t threads[4];
  for (uintptr_t i = 0; i < 4; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, storm, (void *)(i + 1)), 0);
  for (int i = 0; i < 4; i++)
    pthread_join(threads[i], NULL);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, reset, nothing_is_left)
      T(runs_in_order),
      T(queue_lets_go_first),
      T(cancels_a_running_task),
      T(runs_aside),
      T(cancels_queued_tasks),
      T(canceled_before_submit_never_runs),
      T(released_task_still_runs),
      T(wait_ends_in_time),
      T(wait_ends_at_a_signal),
      T(ends_make_the_descriptor_readable),
      T(survives_a_storm),
#undef T
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
