// SPDX-License-Identifier: MIT
/*
 * The compute thread and its first-in first-out queue. Knows no Lua. One queue per process: its
 * thread starts with the first task, and it alone opens OpenMP regions.
 */
#ifndef MOON_BIND_QUEUE_H
#define MOON_BIND_QUEUE_H

#include <semaphore.h>

#include "moon.h"

typedef enum moon_task_state {
  MOON_TASK_NEW,
  MOON_TASK_QUEUED,
  MOON_TASK_RUNNING,
  MOON_TASK_DONE
} moon_task_state;

/* Embedded first in a larger struct. Refcounted: the creator has one reference, the queue takes
 * one. */
typedef struct moon_task {
  moon_status (*run)(struct moon_task *task, moon_progress *progress,
                     moon_err *err); /* compute thread, or its own */
  void (*drop)(struct moon_task
                   *task); /* with the last reference, any thread: release operands, free task */
  moon_progress progress;
  const void *kind;   /* whoever embeds the task may note here what it is */
  moon_status status; /* valid once done */
  moon_err err;
  /* the queue's own */
  atomic_int state;
  int refs;
  sem_t ended; /* posted once; who waits passes it on */
  struct moon_task *next;
} moon_task;

void moon_task_init(moon_task *task, moon_status (*run)(moon_task *, moon_progress *, moon_err *),
                    void (*drop)(moon_task *));
void moon_task_release(moon_task *task);                      /* NULL is fine */
moon_status moon_task_submit(moon_task *task, moon_err *err); /* MOON_ENOMEM: no thread */
/* The same at once, on a thread aside of the queue: for what waits for the network or a disk,
 * touches no tensor and no mapped file, opens no OpenMP region and shall not hold up what is
 * queued. */
moon_status moon_task_submit_aside(moon_task *task, moon_err *err);
void moon_task_cancel(moon_task *task); /* a queued one ends without running, a running one at its
                                           next progress call */
bool moon_task_done(const moon_task *task);
/* Waits until done, for timeout_ms at most (-1: no limit), or until a signal arrives at this
 * thread. Returns done. */
bool moon_task_wait(moon_task *task, int timeout_ms);

/* An eventfd that becomes readable whenever a task ends: for an event loop. Lives as long as the
 * process. -1 on failure. */
int moon_queue_fd(void);
/* Tasks that are queued or running, those aside among them. */
int moon_queue_length(void);
/* Tasks that were made and are not freed yet, whoever holds them. */
int64_t moon_task_live(void);
/* Waits until nothing is queued or running. */
void moon_queue_wait_idle(void);

#endif
