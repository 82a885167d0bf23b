// SPDX-License-Identifier: MIT
#include "io/mapping.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/bytes.h"

/*
 * The handler walks the list without a lock, so nodes stay in it for ever and serve again after
 * they were closed: as many as there were mappings at the same time. size is 0 while a node is not
 * in use, and is set last and cleared first.
 */
struct moon_mapping {
  _Atomic(uintptr_t) start;
  _Atomic(size_t) size;
  _Atomic(size_t) missing_from; /* bytes from here on read as zeros; SIZE_MAX: none */
  char *path;
  moon_mapping *next;
};

static _Atomic(moon_mapping *) all;
static _Atomic(moon_mapping *) last_torn;                /* since the last settle; NULL: none */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for opening, closing, settling */

static struct sigaction before;
static size_t page_size;
static void *missing_page; /* of an empty file: every touch raises SIGBUS */

/* ---- the signal ---- */

static moon_mapping *find(uintptr_t address) {
  moon_mapping *m = atomic_load(&all);
  for (; m; m = m->next) {
    size_t size = atomic_load(&m->size);
    uintptr_t start = atomic_load(&m->start);
    if (address >= start && address - start < size && size == atomic_load(&m->size))
      return m;
  }
  return NULL;
}

/* Zeros from the page of this address to the end: a file is cut at its end, so that what lies
 * behind is gone too. */
static bool fill_with_zeros(moon_mapping *m, uintptr_t address) {
  uintptr_t start = atomic_load(&m->start), page = address - address % page_size;
  size_t size = start + atomic_load(&m->size) - page, from = page - start;
  if (mmap((void *)page, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
           -1, 0) == MAP_FAILED)
    return false;
  size_t known = atomic_load(&m->missing_from);
  while (from < known && !atomic_compare_exchange_weak(&m->missing_from, &known, from))
    ;
  atomic_store(&last_torn, m);
  return true;
}

/* Not ours: as if we were not here. */
static void pass_on(int number, siginfo_t *info, void *context) {
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  } else {
    signal(number, SIG_DFL); /* and the fault comes again */
    if (info->si_code <= 0)  /* unless somebody sent the signal */
      raise(number);
  }
}

static void on_bus(int number, siginfo_t *info, void *context) {
  int error = errno;
  moon_mapping *m = info->si_code > 0 ? find((uintptr_t)info->si_addr) : NULL;
  if (!m || !fill_with_zeros(m, (uintptr_t)info->si_addr))
    pass_on(number, info, context);
  errno = error;
}

static moon_status install(moon_err *err) {
  if (missing_page)
    return MOON_OK;
  page_size = (size_t)sysconf(_SC_PAGESIZE);
  int fd = memfd_create("moonscope", MFD_CLOEXEC);
  void *page = fd < 0 ? MAP_FAILED : mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
  moon_status status = page == MAP_FAILED ? moon_fail_os(err, "an empty mapping") : MOON_OK;
  if (fd >= 0)
    close(fd);
  if (status != MOON_OK)
    return status;
  struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &before);
  missing_page = page;
  return MOON_OK;
}

/* ---- mappings ---- */

/* A node that is not in use. NULL: no memory. */
static moon_mapping *take_node(void) {
  moon_mapping *m = atomic_load(&all);
  while (m && m->path)
    m = m->next;
  if (m)
    return m;
  m = calloc(1, sizeof *m);
  if (m) {
    m->next = atomic_load(&all);
    atomic_store(&all, m);
  }
  return m;
}

static moon_status add(moon_mapping **out, void *data, size_t size, const char *path,
                       moon_err *err) {
  char *copy = strdup(path);
  moon_mapping *m = copy ? take_node() : NULL;
  if (!m) {
    free(copy);
    return moon_fail(err, MOON_ENOMEM, "%s: no memory for a mapping", path);
  }
  m->path = copy;
  atomic_store(&m->missing_from, SIZE_MAX);
  atomic_store(&m->start, (uintptr_t)data);
  atomic_store(&m->size, size);
  *out = m;
  return MOON_OK;
}

/* Read from the disk through the mapping, a file then comes into memory in huge pages where its
 * file system has such, so that its weights take fewer entries of the table of pages. A wish:
 * whether it is heard changes nothing else. */
static void wish_huge_pages(void *data, size_t size) {
  madvise(data, size, MADV_HUGEPAGE);
}

moon_status moon_mapping_open(moon_mapping **out, int fd, size_t size, const char *path,
                              moon_err *err) {
  *out = NULL;
  pthread_mutex_lock(&lock);
  moon_status status = install(err);
  void *data = MAP_FAILED;
  if (status == MOON_OK) {
    data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data != MAP_FAILED)
      wish_huge_pages(data, size);
    status = data == MAP_FAILED ? moon_fail_os(err, path) : add(out, data, size, path, err);
  }
  if (status != MOON_OK && data != MAP_FAILED)
    munmap(data, size);
  pthread_mutex_unlock(&lock);
  return status;
}

void moon_mapping_close(moon_mapping *m) {
  pthread_mutex_lock(&lock);
  size_t size = atomic_load(&m->size);
  atomic_store(&m->size, 0);
  munmap((void *)atomic_load(&m->start), size);
  free(m->path);
  m->path = NULL;
  pthread_mutex_unlock(&lock);
}

const void *moon_mapping_data(const moon_mapping *m) {
  return (const void *)atomic_load(&m->start);
}

const char *moon_mapping_path(const moon_mapping *m) {
  return m->path;
}

/* ---- what was missing ---- */

static moon_status fail_missing(const moon_mapping *m, moon_err *err) {
  return moon_fail(err, MOON_EIO,
                   "%s: its bytes from %zu on are gone (another program cut the file off while it "
                   "was in use, or the disk failed)",
                   m->path ? m->path : "a file closed since", atomic_load(&m->missing_from));
}

moon_status moon_mapping_check(const moon_mapping *m, moon_status status, moon_err *err) {
  return atomic_load(&m->missing_from) == SIZE_MAX ? status : fail_missing(m, err);
}

/* Puts the pages that raise SIGBUS back where there are zeros now. They could only stay zeros if
 * the kernel had no memory for a mapping in the place of another. */
static void expose(const moon_mapping *m) {
  size_t from = atomic_load(&m->missing_from), size = atomic_load(&m->size);
  if (from < size)
    mremap(missing_page, 0, size - from, MREMAP_MAYMOVE | MREMAP_FIXED,
           (void *)(atomic_load(&m->start) + from));
}

moon_status moon_mapping_settle(moon_status status, moon_err *err) {
  if (!atomic_load(&last_torn)) /* the normal case: one load */
    return status;
  pthread_mutex_lock(&lock);
  const moon_mapping *torn = atomic_exchange(&last_torn, NULL);
  status = fail_missing(torn, err);
  for (const moon_mapping *m = atomic_load(&all); m; m = m->next)
    expose(m);
  pthread_mutex_unlock(&lock);
  return status;
}
