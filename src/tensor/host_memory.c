// SPDX-License-Identifier: MIT
#include "tensor/host_memory.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, LINE_BYTES = 4096 };

/* The number behind `key` and blanks in a file of lines; false: not there. */
static bool find_number(const char *path, const char *key, uint64_t *out) {
  char line[LINE_BYTES];
  FILE *file = fopen(path, "re");
  bool found = false;
  while (file && !found && fgets(line, sizeof line, file)) {
    char *end = line;
    uint64_t number = strncmp(line, key, strlen(key)) ? 0 : strtoull(line + strlen(key), &end, 10);
    found = end > line + strlen(key);
    if (found)
      *out = number;
  }
  if (file)
    fclose(file);
  return found;
}

/* The two kinds of control groups, and what their files are called. */
typedef struct group_kind {
  const char *mark; /* in a line of /proc/self/cgroup, in front of the group's path */
  const char *folder, *limit, *used, *cached;
} group_kind;

static const group_kind kinds[] = {
    {"0::", "/sys/fs/cgroup", "memory.max", "memory.current", "file "},
    {":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
     "cache "},
};

/* What one group leaves. A limit of "max", or one that no machine has, is none. */
static void apply_group(const group_kind *kind, const char *folder, size_t *free_bytes,
                        size_t *total) {
  char path[PATH_BYTES + 64];
  uint64_t limit = 0, used = 0, cached = 0;
  snprintf(path, sizeof path, "%s/%s", folder, kind->limit);
  if (!find_number(path, "", &limit) || limit >= *total)
    return;
  snprintf(path, sizeof path, "%s/%s", folder, kind->used);
  find_number(path, "", &used);
  snprintf(path, sizeof path, "%s/memory.stat", folder);
  find_number(path, kind->cached, &cached);
  used = used > cached ? used - cached : 0;
  size_t left = limit > used ? (size_t)(limit - used) : 0;
  *free_bytes = left < *free_bytes ? left : *free_bytes;
  *total = (size_t)limit;
}

/* The group and those above it. */
static void apply_groups(const group_kind *kind, const char *root, char *group, size_t *free_bytes,
                         size_t *total) {
  char folder[PATH_BYTES];
  for (;;) {
    snprintf(folder, sizeof folder, "%s%s%s", root, kind->folder, group);
    apply_group(kind, folder, free_bytes, total);
    char *slash = strrchr(group, '/');
    if (!slash)
      return;
    *slash = 0;
  }
}

static void apply_limits(const char *root, size_t *free_bytes, size_t *total) {
  char path[PATH_BYTES], line[LINE_BYTES];
  snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  FILE *file = fopen(path, "re");
  while (file && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
      char *mark = strstr(line, kinds[i].mark);
      if (mark && (i > 0 || mark == line))
        apply_groups(&kinds[i], root, mark + strlen(kinds[i].mark), free_bytes, total);
    }
  }
  if (file)
    fclose(file);
}

moon_status moon_host_memory(const char *root, size_t *free_bytes, size_t *total, moon_err *err) {
  char path[PATH_BYTES];
  uint64_t all_kib, free_kib;
  snprintf(path, sizeof path, "%s/proc/meminfo", root);
  if (!find_number(path, "MemTotal:", &all_kib) || !find_number(path, "MemAvailable:", &free_kib))
    return moon_fail(err, MOON_EIO, "%s: no MemTotal and MemAvailable", path);
  *total = (size_t)all_kib << 10;
  *free_bytes = (size_t)free_kib << 10;
  apply_limits(root, free_bytes, total);
  return MOON_OK;
}
