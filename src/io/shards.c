// SPDX-License-Identifier: MIT
/*
 * A model in several safetensors files of one folder, and the index that says which tensor is
 * where:
 *   {"metadata": {...}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors",
 * ...}} The index and the files must tell the same: every tensor of either is in the other.
 */
#include <stdlib.h>
#include <string.h>

#include "io/reader.h"

static bool plain_name(const char *name) {
  return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

static int compare_texts(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The files that the map names, each once, sorted; borrowed from the map. The list is the caller's.
 */
static moon_status list_files(const char ***out, size_t *n_out, json_t *map, moon_err *err) {
  size_t n = 0, n_unique = 0;
  const char **files = malloc((json_object_size(map) + 1) * sizeof *files), *name;
  json_t *value;
  if (!files)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu names", json_object_size(map));
  json_object_foreach(map, name, value) {
    if (!json_is_string(value) || !plain_name(json_string_value(value))) {
      free(files);
      return moon_fail(err, MOON_EFORMAT,
                       "weight_map: '%s' does not name a file of the same folder", name);
    }
    files[n++] = json_string_value(value);
  }
  qsort(files, n, sizeof *files, compare_texts);
  for (size_t i = 0; i < n; i++)
    if (!n_unique || strcmp(files[n_unique - 1], files[i]))
      files[n_unique++] = files[i];
  *out = files;
  *n_out = n_unique;
  return MOON_OK;
}

/* Each entry from `first` on came from `file`: does the map say so too? */
static moon_status check_map(const moon_checkpoint *into, size_t first, const char *file,
                             const json_t *map, moon_err *err) {
  for (size_t i = first; i < into->n_entries; i++) {
    const char *name = into->entries[i].name,
               *expected = json_string_value(json_object_get(map, name));
    if (!expected || strcmp(expected, file))
      return moon_fail(err, MOON_EFORMAT, "tensor '%s' is in %s, but the index names %s", name,
                       file, expected ? expected : "no file for it");
  }
  return MOON_OK;
}

static moon_status read_shard(moon_checkpoint *into, const char *folder, int folder_size,
                              const char *file, const json_t *map, moon_err *err) {
  size_t first = into->n_entries, size = (size_t)folder_size + strlen(file) + 1;
  char *path = malloc(size);
  if (!path)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  memcpy(path, folder, (size_t)folder_size);
  strcpy(path + folder_size, file);
  moon_bytes *bytes;
  moon_status status = moon_bytes_open(&bytes, path, err);
  if (status == MOON_OK) {
    status = moon_safetensors_read(into, bytes, err);
    if (status == MOON_OK)
      status = check_map(into, first, file, map, err);
    if (status != MOON_OK)
      moon_fail_in(err, status, path);
    moon_bytes_release(bytes);
  }
  free(path);
  return status;
}

/* Names a tensor that the map has and the files do not. */
static moon_status fail_missing(moon_checkpoint *into, json_t *map, moon_err *err) {
  moon_status status = moon_checkpoint_sort(into, err);
  const char *name;
  json_t *value;
  if (status == MOON_OK) {
    json_object_foreach(map, name, value) {
      if (!moon_checkpoint_find(into, name))
        return moon_fail(err, MOON_EFORMAT, "tensor '%s' is not in %s", name,
                         json_string_value(value));
    }
  }
  return status;
}

static moon_status read_map(moon_checkpoint *into, const char *index_path, json_t *map,
                            moon_err *err) {
  if (!json_is_object(map))
    return moon_fail(err, MOON_EFORMAT, "no 'weight_map' object");
  const char **files = NULL;
  size_t n = 0;
  int folder_size = (int)(strrchr(index_path, '/') + 1 - index_path);
  moon_status status = list_files(&files, &n, map, err);
  if (status != MOON_OK)
    return status;
  for (size_t i = 0; i < n && status == MOON_OK; i++)
    status = read_shard(into, index_path, folder_size, files[i], map, err);
  free(files);
  if (status == MOON_OK && into->n_entries != json_object_size(map))
    status = fail_missing(into, map, err);
  return status;
}

/* index_path has a folder in front. */
moon_status moon_shards_read(moon_checkpoint *into, const char *index_path, moon_err *err) {
  into->format = "safetensors";
  moon_bytes *bytes;
  moon_status status = moon_bytes_open(&bytes, index_path, err);
  if (status != MOON_OK)
    return status;
  json_t *index = NULL;
  if (moon_bytes_size(bytes) > MOON_HEADER_MAX)
    status = moon_fail(err, MOON_EFORMAT, "%zu bytes, at most %d", moon_bytes_size(bytes),
                       MOON_HEADER_MAX);
  else
    status = moon_json_parse(&index, moon_bytes_data(bytes), moon_bytes_size(bytes), err);
  if (status == MOON_OK)
    status = read_map(into, index_path, json_object_get(index, "weight_map"), err);
  json_decref(index);
  moon_bytes_release(bytes);
  return status == MOON_OK ? status : moon_fail_in(err, status, index_path);
}
