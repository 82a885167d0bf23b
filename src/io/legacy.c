// SPDX-License-Identifier: MIT
/*
 * PyTorch's form from before 1.6, without a zip file: pickles one after another, of
 *   a magic number, the version 1001, a dict about the machine, the object, the list of the keys of
 *   its storages,
 * then for each key, in the order of the list, the number of elements (8 bytes) and the elements.
 */
#include <stdlib.h>
#include <string.h>

#include "io/torch.h"

#define VERSION 1001

/* LONG1 of 10 bytes, STOP */
static const uint8_t magic[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9,
                                0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};

typedef struct place { /* of a storage */
  const char *key;     /* in the pickle of the keys, or that of the object */
  size_t key_size;
  moon_dtype dtype; /* as the object's pickle says */
  size_t n;
  size_t offset, size_bytes; /* offset 0: the list of keys has not named it yet */
} place;

typedef struct reader {
  const uint8_t *data;
  size_t size, at;
  moon_pickle object, keys;
  place *places; /* by key */
  size_t n_places;
} reader;

/* Behind the protocol, and a frame that says nothing, of the first pickle. 0: another file. */
static size_t magic_end(const uint8_t *data, size_t size) {
  size_t at = 2;
  if (size >= 3 && data[2] == 0x95) /* protocol 4 */
    at += 9;
  if (size < at + sizeof magic || data[0] != 0x80 || memcmp(data + at, magic, sizeof magic))
    return 0;
  return at + sizeof magic;
}

bool moon_legacy_matches(const uint8_t *data, size_t size) {
  return magic_end(data, size) > 0;
}

/* The next pickle; owned by the caller, also after a failure. */
static moon_status next_pickle(reader *r, moon_pickle *out, size_t *size, const char *what,
                               moon_err *err) {
  size_t left = r->size - r->at;
  moon_status status = moon_torch_parse(out, r->data + r->at,
                                        left < MOON_HEADER_MAX ? left : MOON_HEADER_MAX, size, err);
  r->at += *size;
  return status == MOON_OK ? status : moon_fail_in(err, status, what);
}

static bool is_text(const moon_pickle *pickle, const moon_pickle_value *value, const char *text) {
  return value->kind == MOON_PICKLE_TEXT && value->text.size == strlen(text) &&
         !memcmp(pickle->data + value->text.offset, text, value->text.size);
}

static moon_status check_version(reader *r, moon_err *err) {
  moon_pickle pickle;
  size_t size;
  moon_status status = next_pickle(r, &pickle, &size, "the version", err);
  if (status == MOON_OK) {
    const moon_pickle_value *root = &pickle.values[pickle.root];
    if (root->kind != MOON_PICKLE_INT || root->integer != VERSION)
      status = moon_fail(err, MOON_EUNSUPPORTED, "not version %d of PyTorch's older form", VERSION);
  }
  moon_pickle_free(&pickle);
  return status;
}

/* {"little_endian": True, ...} */
static moon_status check_machine(reader *r, moon_err *err) {
  moon_pickle pickle;
  size_t size;
  bool little = false;
  moon_status status = next_pickle(r, &pickle, &size, "the machine", err);
  if (status == MOON_OK) {
    const moon_pickle_value *root = &pickle.values[pickle.root];
    moon_pickle_ref cell = root->kind == MOON_PICKLE_DICT && root->n_items ? root->items.first : 0;
    while (cell) {
      const moon_pickle_value *key = &pickle.values[pickle.cells[cell].value];
      cell = pickle.cells[cell].next;
      const moon_pickle_value *value = &pickle.values[pickle.cells[cell].value];
      cell = pickle.cells[cell].next;
      if (is_text(&pickle, key, "little_endian"))
        little = value->kind == MOON_PICKLE_BOOL && value->integer;
    }
    if (!little)
      status = moon_fail(err, MOON_EUNSUPPORTED, "not written on a little-endian machine");
  }
  moon_pickle_free(&pickle);
  return status;
}

/* ---- storages ---- */

static int compare_keys(const char *a, size_t a_size, const char *b, size_t b_size) {
  int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
  return order ? order : (a_size > b_size) - (a_size < b_size);
}

static int compare_places(const void *a, const void *b) {
  const place *x = a, *y = b;
  return compare_keys(x->key, x->key_size, y->key, y->key_size);
}

static place *find_place(const reader *r, const char *key, size_t size) {
  place wanted = {.key = key, .key_size = size};
  return r->n_places ? bsearch(&wanted, r->places, r->n_places, sizeof wanted, compare_places)
                     : NULL;
}

/* One place for each key that occurs, whose storages must all say the same. */
static moon_status merge_places(reader *r, moon_err *err) {
  size_t kept = 0;
  if (r->n_places)
    qsort(r->places, r->n_places, sizeof *r->places, compare_places);
  for (size_t i = 0; i < r->n_places; i++) {
    const place *next = &r->places[i], *last = kept ? &r->places[kept - 1] : NULL;
    if (!last || compare_places(last, next))
      r->places[kept++] = *next;
    else if (last->dtype != next->dtype || last->n != next->n)
      return moon_fail(err, MOON_EFORMAT, "storage '%.*s' has two types or sizes",
                       (int)(next->key_size < 100 ? next->key_size : 100), next->key);
  }
  r->n_places = kept;
  return MOON_OK;
}

/* What the object's pickle says of its storages. */
static moon_status collect_places(reader *r, moon_err *err) {
  const moon_pickle *object = &r->object;
  size_t n = 0;
  for (size_t i = 1; i <= object->n_values; i++)
    n += object->values[i].kind == MOON_PICKLE_EXTERNAL;
  r->places = calloc(n + 1, sizeof *r->places);
  if (!r->places)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu storages", n);
  for (size_t i = 1; i <= object->n_values; i++) {
    moon_torch_storage id;
    if (object->values[i].kind != MOON_PICKLE_EXTERNAL)
      continue;
    if (!moon_torch_storage_read(&id, object, &object->values[i]))
      return moon_fail(err, MOON_EUNSUPPORTED,
                       "something stored apart that is not a whole storage of numbers");
    r->places[r->n_places++] =
        (place){.key = id.key, .key_size = id.key_size, .dtype = id.dtype, .n = id.n};
  }
  return merge_places(r, err);
}

static uint64_t read_u64(const uint8_t *p) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; i--)
    value = value << 8 | p[i];
  return value;
}

/* The storage that begins at r->at. */
static moon_status locate(reader *r, place *p, moon_err *err) {
  int shown = (int)(p->key_size < 100 ? p->key_size : 100);
  if (r->size - r->at < 8 || read_u64(r->data + r->at) != p->n)
    return moon_fail(err, MOON_EFORMAT, "storage '%.*s' at byte %zu: not its %zu elements", shown,
                     p->key, r->at, p->n);
  r->at += 8;
  if (!moon_size_mul(&p->size_bytes, p->n, moon_dtype_size(p->dtype)) ||
      p->size_bytes > r->size - r->at)
    return moon_fail(err, MOON_EFORMAT,
                     "storage '%.*s' at byte %zu: %zu elements of %s pass the end of the file at "
                     "%zu (truncated?)",
                     shown, p->key, r->at, p->n, moon_dtype_name(p->dtype), r->size);
  p->offset = r->at;
  r->at += p->size_bytes;
  return MOON_OK;
}

/* Every storage of the object must be in the list once, and the last one must end the file. */
static moon_status locate_all(reader *r, moon_err *err) {
  const moon_pickle_value *root = &r->keys.values[r->keys.root];
  moon_status status = MOON_OK;
  if (root->kind != MOON_PICKLE_LIST || root->n_items != r->n_places)
    return moon_fail(err, MOON_EFORMAT, "not a list of the keys of its %zu storages", r->n_places);
  moon_pickle_ref cell = root->n_items ? root->items.first : 0;
  for (; cell && status == MOON_OK; cell = r->keys.cells[cell].next) {
    const moon_pickle_value *key = &r->keys.values[r->keys.cells[cell].value];
    place *p = NULL;
    if (key->kind == MOON_PICKLE_TEXT)
      p = find_place(r, (const char *)r->keys.data + key->text.offset, key->text.size);
    if (!p || p->offset)
      return moon_fail(err, MOON_EFORMAT,
                       "the list of keys names a storage twice, or one that there is not");
    status = locate(r, p, err);
  }
  if (status == MOON_OK && r->at != r->size)
    status = moon_fail(err, MOON_EFORMAT, "%zu bytes follow the last storage", r->size - r->at);
  return status;
}

static moon_status find_storage(void *user, const char *key, size_t *offset, size_t *size_bytes,
                                moon_err *err) {
  const place *p = find_place(user, key, strlen(key));
  if (!p)
    return moon_fail(err, MOON_EFORMAT, "storage '%s' is not in the file", key);
  *offset = p->offset;
  *size_bytes = p->size_bytes;
  return MOON_OK;
}

moon_status moon_legacy_read(moon_checkpoint *into, moon_bytes *bytes, moon_err *err) {
  reader r = {.data = moon_bytes_data(bytes), .size = moon_bytes_size(bytes)};
  size_t size = 0, keys_size;
  into->format = "pth";
  r.at = magic_end(r.data, r.size);
  moon_status status = moon_checkpoint_add_file(into, bytes, err);
  if (status == MOON_OK)
    status = check_version(&r, err);
  if (status == MOON_OK)
    status = check_machine(&r, err);
  if (status == MOON_OK)
    status = next_pickle(&r, &r.object, &size, "the object", err);
  if (status == MOON_OK)
    status = next_pickle(&r, &r.keys, &keys_size, "the keys", err);
  if (status == MOON_OK)
    status = collect_places(&r, err);
  if (status == MOON_OK)
    status = locate_all(&r, err);
  if (status == MOON_OK)
    status = moon_torch_walk(into, bytes, &r.object, size, find_storage, &r, err);
  free(r.places);
  moon_pickle_free(&r.keys);
  moon_pickle_free(&r.object);
  return status;
}
