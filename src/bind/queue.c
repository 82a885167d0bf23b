// SPDX-License-Identifier: MIT
#include "bind/queue.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "io/mapping.h"

/* Guards all below, and every task's refs and next. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER; /* queued something, or ended the last */
static moon_task *first, *last;
static int length;
static bool thread_started;
/* Tasks that a thread aside will take at once, and threads that wait for one. */
static pthread_cond_t aside_changed = PTHREAD_COND_INITIALIZER;
static moon_task *aside;
static int n_idle;
static int event_fd = -1;
static atomic_int_fast64_t live;

void moon_task_init(moon_task *task, moon_status (*run)(moon_task *, moon_progress *, moon_err *),
                    void (*drop)(moon_task *)) {
  memset(task, 0, sizeof *task);
  task->run = run;
  task->drop = drop;
  task->refs = 1;
  sem_init(&task->ended, 0, 0);
  atomic_fetch_add(&live, 1);
}

int64_t moon_task_live(void) {
  return atomic_load(&live);
}

/* With the lock held; true: that was the last reference, so drop it once the lock is free. */
static bool unref(moon_task *task) {
  assert(task->refs > 0);
  return --task->refs == 0;
}

static void drop(moon_task *task) {
  sem_destroy(&task->ended);
  task->drop(task);
  atomic_fetch_sub(&live, 1);
}

void moon_task_release(moon_task *task) {
  if (!task)
    return;
  pthread_mutex_lock(&lock);
  bool dead = unref(task);
  pthread_mutex_unlock(&lock);
  if (dead)
    drop(task);
}

/*
 * Makes the end of a task known and gives back the queue's reference, both under the lock: whoever
 * then sees it done holds the last references, so that its operands go when he lets go of it.
 */
static void end(moon_task *task, moon_status status) {
  pthread_mutex_lock(&lock);
  task->status = status;
  if (unref(task)) { /* nobody waits for it */
    pthread_mutex_unlock(&lock);
    drop(task);
    pthread_mutex_lock(&lock);
  } else {
    atomic_store(&task->state, MOON_TASK_DONE);
    sem_post(&task->ended);
  }
  if (--length == 0)
    pthread_cond_broadcast(&changed);
  int fd = event_fd;
  pthread_mutex_unlock(&lock);
  if (fd >= 0)
    eventfd_write(fd, 1); /* full only after 2^64 ends that nobody read: readable all the same */
}

static moon_task *next_task(void) {
  pthread_mutex_lock(&lock);
  while (!first)
    pthread_cond_wait(&changed, &lock);
  moon_task *task = first;
  first = task->next;
  if (!first)
    last = NULL;
  atomic_store(&task->state, MOON_TASK_RUNNING);
  pthread_mutex_unlock(&lock);
  return task;
}

static moon_status run(moon_task *task) {
  if (atomic_load(&task->progress.canceled))
    return moon_fail(&task->err, MOON_ECANCELED, "canceled");
  return task->run(task, &task->progress, &task->err);
}

static void *work(void *unused) {
  (void)unused;
  for (;;) {
    moon_task *task = next_task();
    end(task, moon_mapping_settle(run(task), &task->err));
  }
  return NULL;
}

/* As many threads as there were tasks aside at one time; they live as long as the process, because
 * what libraries keep for each thread is theirs until they end. */
static void *work_aside(void *unused) {
  (void)unused;
  for (;;) {
    pthread_mutex_lock(&lock);
    while (!aside)
      pthread_cond_wait(&aside_changed, &lock);
    moon_task *task = aside;
    aside = task->next;
    pthread_mutex_unlock(&lock);
    moon_status status = run(task);
    pthread_mutex_lock(&lock);
    n_idle++; /* before the end is known: who then submits the next one starts no thread for it */
    pthread_mutex_unlock(&lock);
    end(task, status);
  }
  return NULL;
}

/* A thread for the life of the process. Neither it nor those that OpenMP starts from it take
 * signals: they belong to the thread that runs Lua. But for those that mean a fault of the thread
 * itself. */
static bool start_thread(const char *name, void *(*body)(void *)) {
  static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};
  sigset_t all, before;
  sigfillset(&all);
  for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
    sigdelset(&all, faults[i]);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  bool started = pthread_create(&thread, NULL, body, NULL) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (started) {
    pthread_setname_np(thread, name);
    pthread_detach(thread);
  }
  return started;
}

moon_status moon_task_submit(moon_task *task, moon_err *err) {
  assert(atomic_load(&task->state) == MOON_TASK_NEW);
  pthread_mutex_lock(&lock);
  if (!thread_started)
    thread_started = start_thread("moon-compute", work);
  bool ready = thread_started;
  if (ready) {
    task->refs++;
    atomic_store(&task->state, MOON_TASK_QUEUED);
    *(first ? &last->next : &first) = task;
    last = task;
    length++;
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&lock);
  return ready ? MOON_OK : moon_fail(err, MOON_ENOMEM, "compute thread: cannot be started");
}

moon_status moon_task_submit_aside(moon_task *task, moon_err *err) {
  assert(atomic_load(&task->state) == MOON_TASK_NEW);
  pthread_mutex_lock(&lock);
  bool idle = n_idle > 0, ready = idle || start_thread("moon-aside", work_aside);
  if (ready) {
    n_idle -= idle;
    task->refs++;
    atomic_store(&task->state, MOON_TASK_RUNNING);
    task->next = aside;
    aside = task;
    length++;
    pthread_cond_signal(&aside_changed);
  }
  pthread_mutex_unlock(&lock);
  return ready ? MOON_OK : moon_fail(err, MOON_ENOMEM, "a thread cannot be started");
}

/* With the lock held: takes a queued task out of the line. */
static void unlink_task(moon_task *task) {
  moon_task *before = NULL;
  for (moon_task *t = first; t != task; t = t->next)
    before = t;
  *(before ? &before->next : &first) = task->next;
  if (last == task)
    last = before;
}

void moon_task_cancel(moon_task *task) {
  atomic_store(&task->progress.canceled, true);
  pthread_mutex_lock(&lock);
  bool queued = atomic_load(&task->state) == MOON_TASK_QUEUED;
  if (queued) {
    unlink_task(task);
    atomic_store(&task->state, MOON_TASK_RUNNING); /* ours to end now, nobody else's */
  }
  pthread_mutex_unlock(&lock);
  if (queued)
    end(task, run(task)); /* run sees that it is canceled */
}

bool moon_task_done(const moon_task *task) {
  return atomic_load(&task->state) == MOON_TASK_DONE;
}

static struct timespec deadline_in(int timeout_ms) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  t.tv_sec += timeout_ms / 1000;
  t.tv_nsec += timeout_ms % 1000 * 1000000L;
  if (t.tv_nsec >= 1000000000L) {
    t.tv_sec++;
    t.tv_nsec -= 1000000000L;
  }
  return t;
}

/* A semaphore, not a condition: only a semaphore's wait ends when a signal arrives. */
bool moon_task_wait(moon_task *task, int timeout_ms) {
  if (moon_task_done(task))
    return true;
  int failed;
  if (timeout_ms < 0) {
    failed = sem_wait(&task->ended);
  } else {
    struct timespec deadline = deadline_in(timeout_ms);
    failed = sem_clockwait(&task->ended, CLOCK_MONOTONIC, &deadline);
  }
  if (!failed)
    sem_post(&task->ended); /* for the next one who waits */
  return moon_task_done(task);
}

int moon_queue_fd(void) {
  pthread_mutex_lock(&lock);
  if (event_fd < 0)
    event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  int fd = event_fd;
  pthread_mutex_unlock(&lock);
  return fd;
}

int moon_queue_length(void) {
  pthread_mutex_lock(&lock);
  int n = length;
  pthread_mutex_unlock(&lock);
  return n;
}

void moon_queue_wait_idle(void) {
  pthread_mutex_lock(&lock);
  while (length)
    pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
}
