// SPDX-License-Identifier: MIT
/*
 * A model in several files of one folder, safetensors or PyTorch's, and the index that says which
 * tensor is where:
 *   {"metadata": {...}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors",
 * ...}} The index and the files must tell the same: every tensor of either is in the other.
 */
#include <stdlib.h>
#include <string.h>

#include "io/reader.h"

typedef struct map {
  moon_pair *pairs; /* tensor, file: sorted by tensor once it is read */
  size_t n, room;
} map;

static int compare_keys(const void *a, const void *b) {
  return strcmp(((const moon_pair *)a)->key, ((const moon_pair *)b)->key);
}

static const char *file_of(const map *m, const char *tensor) {
  moon_pair key = {.key = (char *)tensor};
  const moon_pair *found = m->n ? bsearch(&key, m->pairs, m->n, sizeof key, compare_keys) : NULL;
  return found ? found->value : NULL;
}

static void free_map(map *m) {
  for (size_t i = 0; i < m->n; i++) {
    free(m->pairs[i].key);
    free(m->pairs[i].value);
  }
  free(m->pairs);
}

/* ---- the index ---- */

static bool plain_name(const char *name) {
  return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

static moon_status add_pair(map *m, const char *tensor, const char *file, moon_err *err) {
  if (!plain_name(file))
    return moon_fail(err, MOON_EFORMAT, "weight_map: '%s' does not name a file of the same folder",
                     tensor);
  if (m->n == m->room) {
    size_t room = m->n ? 2 * m->n : 64;
    moon_pair *larger = realloc(m->pairs, room * sizeof *larger);
    if (!larger)
      return moon_fail(err, MOON_ENOMEM, "no memory for %zu names", room);
    m->pairs = larger;
    m->room = room;
  }
  moon_pair pair = {strdup(tensor), strdup(file)};
  m->pairs[m->n++] = pair;
  return pair.key && pair.value ? MOON_OK : moon_fail(err, MOON_ENOMEM, "no memory for a name");
}

static moon_status read_weight_map(map *m, moon_scan *scan, moon_err *err) {
  moon_status status = MOON_OK;
  moon_scan_enter(scan, '{');
  for (bool first = true; status == MOON_OK && moon_scan_more(scan, '}', &first);) {
    char *tensor = strdup(moon_scan_key(scan)); /* the scan's text is gone with the next string */
    const char *file = moon_scan_text(scan);
    if (!tensor)
      status = moon_fail(err, MOON_ENOMEM, "no memory for a name");
    else if (!scan->status)
      status = add_pair(m, tensor, file, err);
    free(tensor);
  }
  return status == MOON_OK ? scan->status : status;
}

static moon_status read_members(map *m, moon_scan *scan, moon_err *err) {
  moon_status status = MOON_OK;
  bool found = false;
  moon_scan_enter(scan, '{');
  for (bool first = true; status == MOON_OK && moon_scan_more(scan, '}', &first);) {
    bool is_map = !strcmp(moon_scan_key(scan), "weight_map");
    if (is_map && found)
      moon_scan_fail(scan, "one weight_map only");
    else if (is_map)
      status = read_weight_map(m, scan, err);
    else
      moon_scan_skip(scan);
    found = found || is_map;
  }
  if (status == MOON_OK)
    status = moon_scan_end(scan);
  return status == MOON_OK && !found ? moon_fail(err, MOON_EFORMAT, "no 'weight_map'") : status;
}

static moon_status read_map(map *m, const moon_bytes *bytes, moon_err *err) {
  if (moon_bytes_size(bytes) > MOON_HEADER_MAX)
    return moon_fail(err, MOON_EFORMAT, "%zu bytes, at most %d", moon_bytes_size(bytes),
                     MOON_HEADER_MAX);
  moon_scan scan;
  moon_scan_open(&scan, moon_bytes_data(bytes), moon_bytes_size(bytes), err);
  moon_status status = read_members(m, &scan, err);
  moon_scan_close(&scan);
  if (status != MOON_OK || !m->n)
    return status;
  qsort(m->pairs, m->n, sizeof *m->pairs, compare_keys);
  for (size_t i = 1; i < m->n; i++)
    if (!strcmp(m->pairs[i - 1].key, m->pairs[i].key))
      return moon_fail(err, MOON_EFORMAT, "weight_map: '%s' is there twice", m->pairs[i].key);
  return MOON_OK;
}

/* ---- the files ---- */

static int compare_texts(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files that the map names, each once, sorted; borrowed from the map. The list is the caller's.
 */
static moon_status list_files(const char ***out, size_t *n_out, const map *m, moon_err *err) {
  size_t n = 0;
  const char **files = malloc((m->n + 1) * sizeof *files);
  if (!files)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu names", m->n);
  for (size_t i = 0; i < m->n; i++)
    files[i] = m->pairs[i].value;
  qsort(files, m->n, sizeof *files, compare_texts);
  for (size_t i = 0; i < m->n; i++)
    if (!n || strcmp(files[n - 1], files[i]))
      files[n++] = files[i];
  *out = files;
  *n_out = n;
  return MOON_OK;
}

/* Each entry from `first` on came from `file`: does the map say so too? */
static moon_status check_entries(const moon_checkpoint *into, size_t first, const char *file,
                                 const map *m, moon_err *err) {
  for (size_t i = first; i < into->n_entries; i++) {
    const char *name = into->entries[i].name, *expected = file_of(m, name);
    if (!expected || strcmp(expected, file))
      return moon_fail(err, MOON_EFORMAT, "tensor '%s' is in %s, but the index names %s", name,
                       file, expected ? expected : "no file for it");
  }
  return MOON_OK;
}

static moon_status read_shard(moon_checkpoint *into, moon_read_fn *read_file, const char *folder,
                              size_t folder_size, const char *file, const map *m, moon_err *err) {
  size_t first = into->n_entries;
  char *path = malloc(folder_size + strlen(file) + 1);
  if (!path)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  memcpy(path, folder, folder_size);
  strcpy(path + folder_size, file);
  moon_bytes *bytes;
  moon_status status = moon_bytes_open(&bytes, path, err);
  if (status == MOON_OK) {
    status = read_file(into, bytes, err);
    if (status == MOON_OK)
      status = check_entries(into, first, file, m, err);
    if (status != MOON_OK)
      moon_fail_in(err, status, path);
    status = moon_bytes_check(bytes, status, err);
    moon_bytes_release(bytes);
  }
  free(path);
  return status;
}

/* Every tensor of the files is in the map: are there as many, or which one is missing? */
static moon_status check_map(moon_checkpoint *into, const map *m, moon_err *err) {
  moon_status status = moon_checkpoint_sort(into, err);
  for (size_t i = 0; i < m->n && status == MOON_OK && into->n_entries != m->n; i++)
    if (!moon_checkpoint_find(into, m->pairs[i].key))
      status = moon_fail(err, MOON_EFORMAT, "tensor '%s' is not in %s", m->pairs[i].key,
                         m->pairs[i].value);
  return status;
}

static moon_status read_files(moon_checkpoint *into, const char *index_path,
                              moon_read_fn *read_file, const map *m, moon_err *err) {
  const char **files = NULL;
  size_t n = 0, folder_size = (size_t)(strrchr(index_path, '/') + 1 - index_path);
  moon_status status = list_files(&files, &n, m, err);
  for (size_t i = 0; i < n && status == MOON_OK; i++)
    status = read_shard(into, read_file, index_path, folder_size, files[i], m, err);
  free(files);
  return status == MOON_OK ? check_map(into, m, err) : status;
}

moon_status moon_shards_read(moon_checkpoint *into, const char *index_path, moon_read_fn *read_file,
                             moon_err *err) {
  moon_bytes *bytes;
  moon_status status = moon_bytes_open(&bytes, index_path, err);
  if (status != MOON_OK)
    return status;
  map m = {0};
  status = read_map(&m, bytes, err);
  if (status == MOON_OK)
    status = read_files(into, index_path, read_file, &m, err);
  free_map(&m);
  if (status != MOON_OK)
    moon_fail_in(err, status, index_path);
  status = moon_bytes_check(bytes, status, err);
  moon_bytes_release(bytes);
  return status;
}
