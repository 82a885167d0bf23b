// SPDX-License-Identifier: MIT
#include "io/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/npy.h"
#include "io/reader.h"
#include "utf8.h"

moon_status moon_checkpoint_new(moon_checkpoint **into, const char *path, moon_err *err) {
  *into = NULL;
  moon_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
  if (checkpoint)
    checkpoint->path = strdup(path);
  if (!checkpoint || !checkpoint->path) {
    free(checkpoint);
    return moon_fail(err, MOON_ENOMEM, "no memory for a checkpoint");
  }
  checkpoint->refs = 1;
  *into = checkpoint;
  return MOON_OK;
}

moon_checkpoint *moon_checkpoint_retain(moon_checkpoint *checkpoint) {
  atomic_fetch_add(&checkpoint->refs, 1);
  return checkpoint;
}

void moon_checkpoint_release(moon_checkpoint *checkpoint) {
  if (!checkpoint || atomic_fetch_sub(&checkpoint->refs, 1) > 1)
    return;
  for (size_t i = 0; i < checkpoint->n_entries; i++)
    free(checkpoint->entries[i].name);
  for (size_t i = 0; i < checkpoint->n_metadata; i++) {
    free(checkpoint->metadata[i].key);
    free(checkpoint->metadata[i].value);
  }
  for (size_t i = 0; i < checkpoint->n_packed; i++)
    moon_packed_free(checkpoint->packed[i]);
  for (size_t i = 0; i < checkpoint->n_files; i++)
    moon_bytes_release(checkpoint->files[i]);
  free(checkpoint->entries);
  free(checkpoint->metadata);
  free(checkpoint->packed);
  free(checkpoint->files);
  free(checkpoint->path);
  free(checkpoint);
}

/* ---- filling ---- */

/* Room for one more element of `each` bytes in *array, which has room for *room and holds n. */
static moon_status grow(void **array, size_t *room, size_t n, size_t each, moon_err *err) {
  if (n < *room)
    return MOON_OK;
  size_t wanted = n ? 2 * n : 8;
  void *larger = realloc(*array, wanted * each);
  if (!larger)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", wanted * each);
  *array = larger;
  *room = wanted;
  return MOON_OK;
}

moon_status moon_checkpoint_add_file(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  void *files = into->files;
  moon_status status = grow(&files, &into->files_room, into->n_files, sizeof *into->files, err);
  into->files = files;
  if (status == MOON_OK)
    into->files[into->n_files++] = moon_bytes_retain(bytes);
  return status;
}

moon_status moon_checkpoint_add_packed(moon_checkpoint *into, moon_packed *packed, moon_err *err) {
  void *all = into->packed;
  moon_status status = grow(&all, &into->packed_room, into->n_packed, sizeof *into->packed, err);
  into->packed = all;
  if (status == MOON_OK)
    into->packed[into->n_packed++] = packed;
  else
    moon_packed_free(packed);
  return status;
}

moon_status moon_checkpoint_count_bytes(moon_checkpoint *into, size_t size_bytes,
                                        const moon_bytes *file, moon_err *err) {
  size_t in_file = moon_bytes_size(file), most = 4 * in_file + ((size_t)1 << 30);
  if (size_bytes > most - into->tensor_bytes)
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "the tensors add up to more than %zu bytes in a file of %zu", most, in_file);
  into->tensor_bytes += size_bytes;
  return MOON_OK;
}

moon_status moon_checkpoint_add(moon_checkpoint *into, const char *name, const moon_entry *entry,
                                moon_err *err) {
  if (!moon_utf8_valid(name, strlen(name)))
    return moon_fail(err, MOON_EFORMAT, "tensor '%s': the name is not UTF-8", name);
  void *entries = into->entries;
  moon_status status =
      grow(&entries, &into->entries_room, into->n_entries, sizeof *into->entries, err);
  into->entries = entries;
  if (status != MOON_OK)
    return status;
  char *copy = strdup(name);
  if (!copy)
    return moon_fail(err, MOON_ENOMEM, "no memory for a name");
  into->entries[into->n_entries] = *entry;
  into->entries[into->n_entries++].name = copy;
  return MOON_OK;
}

moon_status moon_checkpoint_add_metadata(moon_checkpoint *into, const char *key, const char *value,
                                         moon_err *err) {
  if (!moon_utf8_valid(key, strlen(key)) || !moon_utf8_valid(value, strlen(value)))
    return moon_fail(err, MOON_EFORMAT, "metadata '%s': not UTF-8", key);
  void *metadata = into->metadata;
  moon_status status =
      grow(&metadata, &into->metadata_room, into->n_metadata, sizeof *into->metadata, err);
  into->metadata = metadata;
  if (status != MOON_OK)
    return status;
  moon_pair pair = {strdup(key), strdup(value)};
  if (!pair.key || !pair.value) {
    free(pair.key);
    free(pair.value);
    return moon_fail(err, MOON_ENOMEM, "no memory for metadata");
  }
  into->metadata[into->n_metadata++] = pair;
  return MOON_OK;
}

static int compare_entries(const void *a, const void *b) {
  return strcmp(((const moon_entry *)a)->name, ((const moon_entry *)b)->name);
}

static int compare_pairs(const void *a, const void *b) {
  return strcmp(((const moon_pair *)a)->key, ((const moon_pair *)b)->key);
}

/* Shards repeat their metadata: a pair that is there twice is kept once. */
static moon_status drop_repeated_metadata(moon_checkpoint *checkpoint, moon_err *err) {
  moon_pair *pairs = checkpoint->metadata;
  size_t kept = 0;
  for (size_t i = 0; i < checkpoint->n_metadata; i++) {
    if (!kept || strcmp(pairs[kept - 1].key, pairs[i].key)) {
      moon_pair pair = pairs[i];
      pairs[i] = (moon_pair){NULL, NULL};
      pairs[kept++] = pair;
    } else if (strcmp(pairs[kept - 1].value, pairs[i].value)) {
      return moon_fail(err, MOON_EFORMAT, "metadata '%s' has two values", pairs[i].key);
    } else {
      free(pairs[i].key);
      free(pairs[i].value);
      pairs[i] = (moon_pair){NULL, NULL};
    }
  }
  checkpoint->n_metadata = kept;
  return MOON_OK;
}

moon_status moon_checkpoint_sort(moon_checkpoint *checkpoint, moon_err *err) {
  moon_entry *entries = checkpoint->entries;
  if (checkpoint->n_entries)
    qsort(entries, checkpoint->n_entries, sizeof *entries, compare_entries);
  for (size_t i = 1; i < checkpoint->n_entries; i++)
    if (!strcmp(entries[i - 1].name, entries[i].name))
      return moon_fail(err, MOON_EFORMAT, "tensor '%s' is there twice", entries[i].name);
  if (checkpoint->n_metadata)
    qsort(checkpoint->metadata, checkpoint->n_metadata, sizeof *checkpoint->metadata,
          compare_pairs);
  return drop_repeated_metadata(checkpoint, err);
}

moon_status moon_fail_in_tensor(moon_err *err, moon_status code, const char *name) {
  char what[MOON_ERR_TEXT];
  snprintf(what, sizeof what, "tensor '%s'", name);
  return moon_fail_in(err, code, what);
}

/* ---- opening ---- */

/* Files that people take for checkpoints, by their first bytes. */
static const struct {
  const char *start;
  size_t size;
  moon_status code;
  const char *text;
} foreign[] = {
    {"version https://git-lfs", 23, MOON_EFORMAT,
     "a Git LFS pointer, not the file that it stands for"},
    {"GGUF", 4, MOON_EUNSUPPORTED, "a GGUF file"},
    {"<", 1, MOON_EFORMAT, "a web page or XML, not a checkpoint"},
};

static moon_status refuse_foreign(const uint8_t *data, size_t size, moon_err *err) {
  for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
    if (size >= foreign[i].size && !memcmp(data, foreign[i].start, foreign[i].size))
      return moon_fail(err, foreign[i].code, "%s", foreign[i].text);
  if (!size)
    return moon_fail(err, MOON_EFORMAT, "the file is empty");
  char hex[3 * 8 + 1] = "";
  for (size_t i = 0; i < size && i < 8; i++)
    snprintf(hex + 3 * i, 4, " %02x", data[i]);
  return moon_fail(err, MOON_EFORMAT,
                   "not a checkpoint of a known format; its %zu bytes start with%s", size, hex);
}

static moon_status read_zip(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  moon_zip zip;
  moon_status status = moon_zip_read(&zip, bytes, err);
  if (status == MOON_OK)
    status = moon_npz_matches(&zip) ? moon_npz_read(into, bytes, &zip, err)
                                    : moon_pth_read(into, bytes, &zip, err);
  moon_zip_free(&zip);
  return status;
}

static moon_status read_content(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  const uint8_t *data = moon_bytes_data(bytes);
  size_t size = moon_bytes_size(bytes);
  if (size >= 4 && !memcmp(data, "PK\3\4", 4))
    return read_zip(into, bytes, err);
  if (moon_legacy_matches(data, size))
    return moon_legacy_read(into, bytes, err);
  if (moon_npy_matches(data, size))
    return moon_npy_read(into, bytes, err);
  if (size > 8 && data[8] == '{')
    return moon_safetensors_read(into, bytes, err);
  return refuse_foreign(data, size, err);
}

static moon_status sorted(moon_checkpoint *into, moon_status status, moon_err *err) {
  return status == MOON_OK ? moon_checkpoint_sort(into, err) : status;
}

moon_status moon_safetensors_parse(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  return sorted(into, moon_safetensors_read(into, bytes, err), err);
}

moon_status moon_pth_parse(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  return sorted(into, read_zip(into, bytes, err), err);
}

moon_status moon_checkpoint_parse(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  return sorted(into, read_content(into, bytes, err), err);
}

static moon_status read_file(moon_checkpoint *into, const char *path, moon_err *err) {
  moon_bytes *bytes;
  moon_status status = moon_bytes_open(&bytes, path, err);
  if (status != MOON_OK)
    return status;
  status = read_content(into, bytes, err);
  if (status != MOON_OK)
    moon_fail_in(err, status, path);
  status = moon_bytes_check(bytes, status, err);
  moon_bytes_release(bytes);
  return status;
}

static bool exists(const char *path) {
  struct stat stat_;
  return stat(path, &stat_) == 0;
}

/* PyTorch's: a shard may not be anything else that we read. */
static moon_status read_torch(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  moon_status status = read_content(into, bytes, err);
  if (status == MOON_OK && strcmp(into->format, "pth"))
    return moon_fail(err, MOON_EFORMAT, "found %s, expected a file of PyTorch", into->format);
  return status;
}

/* What a model's folder has, in Hugging Face's order: safetensors first, a single file first. */
static const struct {
  const char *name;
  moon_read_fn *shards; /* NULL: the file itself has the tensors */
} weights[] = {
    {"model.safetensors", NULL},
    {"model.safetensors.index.json", moon_safetensors_read},
    {"pytorch_model.bin", NULL},
    {"pytorch_model.bin.index.json", read_torch},
};

enum { N_WEIGHTS = sizeof weights / sizeof *weights };

static moon_status read_folder(moon_checkpoint *into, const char *path, moon_err *err) {
  size_t size = strlen(path) + 64;
  char *name = malloc(size);
  if (!name)
    return moon_fail(err, MOON_ENOMEM, "no memory for a path");
  int i = 0;
  for (; i < N_WEIGHTS; i++) {
    snprintf(name, size, "%s/%s", path, weights[i].name);
    if (exists(name))
      break;
  }
  moon_status status;
  if (i == N_WEIGHTS)
    status = moon_fail(err, MOON_ENOENT, "%s: none of %s, %s, %s and %s in this folder", path,
                       weights[0].name, weights[1].name, weights[2].name, weights[3].name);
  else if (weights[i].shards)
    status = moon_shards_read(into, name, weights[i].shards, err);
  else
    status = read_file(into, name, err);
  free(name);
  return status;
}

static bool is_folder(const char *path) {
  struct stat stat_;
  return stat(path, &stat_) == 0 && S_ISDIR(stat_.st_mode);
}

moon_status moon_checkpoint_open(moon_checkpoint **out, const char *path, moon_err *err) {
  *out = NULL;
  moon_checkpoint *checkpoint;
  moon_status status = moon_checkpoint_new(&checkpoint, path, err);
  if (status != MOON_OK)
    return status;
  status = is_folder(path) ? read_folder(checkpoint, path, err) : read_file(checkpoint, path, err);
  if (status == MOON_OK && moon_checkpoint_sort(checkpoint, err) != MOON_OK)
    status = moon_fail_in(err, MOON_EFORMAT, path);
  if (status == MOON_OK)
    *out = checkpoint;
  else
    moon_checkpoint_release(checkpoint);
  return status;
}

/* ---- reading ---- */

const char *moon_checkpoint_path(const moon_checkpoint *checkpoint) {
  return checkpoint->path;
}

const char *moon_checkpoint_format(const moon_checkpoint *checkpoint) {
  return checkpoint->format;
}

moon_bytes *moon_checkpoint_file(const moon_checkpoint *checkpoint) {
  return checkpoint->n_files == 1 ? checkpoint->files[0] : NULL;
}

moon_bytes *const *moon_checkpoint_files(const moon_checkpoint *checkpoint, size_t *count) {
  *count = checkpoint->n_files;
  return checkpoint->files;
}

size_t moon_checkpoint_count(const moon_checkpoint *checkpoint) {
  return checkpoint->n_entries;
}

const moon_entry *moon_checkpoint_entry(const moon_checkpoint *checkpoint, size_t index) {
  return &checkpoint->entries[index];
}

const moon_entry *moon_checkpoint_find(const moon_checkpoint *checkpoint, const char *name) {
  if (!checkpoint->n_entries)
    return NULL;
  moon_entry key = {.name = (char *)name};
  return bsearch(&key, checkpoint->entries, checkpoint->n_entries, sizeof key, compare_entries);
}

const moon_pair *moon_checkpoint_metadata(const moon_checkpoint *checkpoint, size_t *count) {
  *count = checkpoint->n_metadata;
  return checkpoint->metadata;
}
