// SPDX-License-Identifier: MIT
#include "io/writer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "io/outfile.h"
#include "io/reader.h"
#include "utf8.h"

#define DATA_ALIGNMENT 64
#define PIECE          ((size_t)1 << 20)

struct moon_writer {
  atomic_int refs;
  moon_outfile file;
  moon_digest *digest;
  size_t *order; /* [n_plans] */
  size_t data_size, size;
  size_t data_left;             /* not taken yet */
  _Atomic(size_t) data_missing; /* not written yet */
};

typedef struct place {
  const moon_plan *plan;
  size_t index;
} place;

static int compare_places(const void *a, const void *b) {
  const moon_plan *x = ((const place *)a)->plan, *y = ((const place *)b)->plan;
  if (x->dtype_size != y->dtype_size)
    return x->dtype_size > y->dtype_size ? -1 : 1;
  return strcmp(x->name, y->name);
}

/* The plans in the order of the file; the caller's (free). */
static moon_status sort_plans(place **out, const moon_plan *plans, size_t n, moon_err *err) {
  place *places = malloc((n + 1) * sizeof *places);
  if (!places)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu tensors", n);
  for (size_t i = 0; i < n; i++)
    places[i] = (place){&plans[i], i};
  qsort(places, n, sizeof *places, compare_places);
  *out = places;
  return MOON_OK;
}

/* NULL: no memory. */
static json_t *tensor_json(const moon_plan *plan, size_t start) {
  json_t *shape = json_array();
  bool ok = shape != NULL;
  for (int i = 0; i < plan->rank && ok; i++)
    ok = json_array_append_new(shape, json_integer(plan->shape[i])) == 0;
  if (!ok) {
    json_decref(shape);
    return NULL;
  }
  return json_pack("{s:s, s:o, s:[I, I]}", "dtype", plan->dtype_name, "shape", shape,
                   "data_offsets", (json_int_t)start, (json_int_t)(start + plan->size_bytes));
}

static int compare_keys(const void *a, const void *b) {
  return strcmp(((const moon_pair *)a)->key, ((const moon_pair *)b)->key);
}

static bool metadata_valid(const moon_pair *metadata, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!moon_utf8_valid(metadata[i].key, strlen(metadata[i].key)) ||
        !moon_utf8_valid(metadata[i].value, strlen(metadata[i].value)))
      return false;
  return true;
}

/* NULL: no memory. */
static json_t *metadata_json(const moon_pair *metadata, size_t n) {
  moon_pair *sorted = malloc((n + 1) * sizeof *sorted);
  json_t *object = json_object();
  bool ok = sorted && object;
  if (ok && n) {
    memcpy(sorted, metadata, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_keys);
  }
  for (size_t i = 0; ok && i < n; i++)
    ok = json_object_set_new(object, sorted[i].key, json_string(sorted[i].value)) == 0;
  free(sorted);
  if (!ok)
    json_decref(object);
  return ok ? object : NULL;
}

/* A name that cannot be in the header, of a plan that follows its equals in the order of the file.
 */
static moon_status check_name(const json_t *header, const char *name, moon_err *err) {
  if (!moon_utf8_valid(name, strlen(name)))
    return moon_fail(err, MOON_EINVAL, "tensor '%s': the name is not UTF-8", name);
  if (!strcmp(name, "__metadata__"))
    return moon_fail(err, MOON_EINVAL,
                     "tensor '__metadata__': safetensors keeps that name for itself");
  if (json_object_get(header, name))
    return moon_fail(err, MOON_EINVAL, "tensor '%s' is there twice", name);
  return MOON_OK;
}

static moon_status fill_header(json_t *header, moon_writer *writer, const place *places, size_t n,
                               moon_err *err) {
  for (size_t i = 0; i < n; i++) {
    const moon_plan *plan = places[i].plan;
    moon_status status = check_name(header, plan->name, err);
    if (status != MOON_OK)
      return status;
    if (json_object_set_new(header, plan->name, tensor_json(plan, writer->data_size)))
      return moon_fail(err, MOON_ENOMEM, "no memory for a header");
    writer->order[i] = places[i].index;
    if (!moon_size_add(&writer->data_size, writer->data_size, plan->size_bytes))
      return moon_fail(err, MOON_EINVAL, "tensor '%s' is too large", plan->name);
  }
  return MOON_OK;
}

static moon_status append(moon_writer *writer, const void *data, size_t size, moon_err *err) {
  moon_digest_add(writer->digest, data, size);
  return moon_outfile_append(&writer->file, data, size, err);
}

/* NULL: no memory. Into a buffer of the right size, as json_dumps leaves out a key whose text it
 * had no memory for, and says nothing. */
static char *dump(const json_t *header, size_t *size) {
  *size = json_dumpb(header, NULL, 0, JSON_COMPACT);
  char *text = *size ? malloc(*size) : NULL;
  if (text && json_dumpb(header, text, *size, JSON_COMPACT) != *size) {
    free(text);
    return NULL;
  }
  return text;
}

/* 8 bytes of size, the JSON, and spaces until the data begin at a multiple of DATA_ALIGNMENT. */
static moon_status write_header(moon_writer *writer, const json_t *header, moon_err *err) {
  static const char spaces[DATA_ALIGNMENT + 1] =
      "                                                                ";
  size_t size;
  char *text = dump(header, &size);
  if (!text)
    return moon_fail(err, MOON_ENOMEM, "no memory for a header");
  size_t padding = (DATA_ALIGNMENT - (8 + size) % DATA_ALIGNMENT) % DATA_ALIGNMENT;
  if (size + padding > MOON_HEADER_MAX) {
    free(text);
    return moon_fail(err, MOON_EINVAL, "a header of %zu bytes, at most %d", size + padding,
                     MOON_HEADER_MAX);
  }
  uint8_t prefix[8];
  for (int i = 0; i < 8; i++)
    prefix[i] = (uint8_t)((uint64_t)(size + padding) >> 8 * i);
  writer->size = 8 + size + padding + writer->data_size;
  moon_status status = append(writer, prefix, sizeof prefix, err);
  if (status == MOON_OK)
    status = append(writer, text, size, err);
  if (status == MOON_OK)
    status = append(writer, spaces, padding, err);
  free(text);
  return status;
}

static moon_status start(moon_writer *writer, const place *places, size_t n_plans,
                         const moon_pair *metadata, size_t n_metadata, moon_err *err) {
  json_t *header = json_object();
  moon_status status = MOON_OK;
  if (!metadata_valid(metadata, n_metadata))
    status = moon_fail(err, MOON_EINVAL, "metadata that is not UTF-8 text");
  else if (n_metadata &&
           json_object_set_new(header, "__metadata__", metadata_json(metadata, n_metadata)))
    status = moon_fail(err, MOON_ENOMEM, "no memory for a header");
  if (status == MOON_OK)
    status = fill_header(header, writer, places, n_plans, err);
  if (status == MOON_OK)
    status = write_header(writer, header, err);
  json_decref(header);
  writer->data_left = writer->data_size;
  atomic_store(&writer->data_missing, writer->data_size);
  return status;
}

moon_status moon_writer_create(moon_writer **out, const char *path, const moon_plan *plans,
                               size_t n_plans, const moon_pair *metadata, size_t n_metadata,
                               moon_err *err) {
  *out = NULL;
  moon_writer *writer = calloc(1, sizeof *writer);
  if (!writer)
    return moon_fail(err, MOON_ENOMEM, "no memory for a writer");
  writer->refs = 1;
  place *places = NULL;
  moon_status status = moon_outfile_create(&writer->file, path, err);
  if (status == MOON_OK)
    status = moon_digest_new(&writer->digest, err);
  if (status == MOON_OK)
    status = sort_plans(&places, plans, n_plans, err);
  if (status == MOON_OK) {
    writer->order = malloc((n_plans + 1) * sizeof *writer->order);
    status = writer->order ? start(writer, places, n_plans, metadata, n_metadata, err)
                           : moon_fail(err, MOON_ENOMEM, "no memory for %zu tensors", n_plans);
  }
  free(places);
  if (status == MOON_OK)
    *out = writer;
  else
    moon_writer_release(writer);
  return status;
}

moon_writer *moon_writer_retain(moon_writer *writer) {
  atomic_fetch_add(&writer->refs, 1);
  return writer;
}

void moon_writer_release(moon_writer *writer) {
  if (!writer || atomic_fetch_sub(&writer->refs, 1) > 1)
    return;
  moon_outfile_close(&writer->file);
  moon_digest_release(writer->digest);
  free(writer->order);
  free(writer);
}

const size_t *moon_writer_order(const moon_writer *writer) {
  return writer->order;
}

size_t moon_writer_size(const moon_writer *writer) {
  return writer->size;
}

moon_status moon_writer_take(moon_writer *writer, size_t size, size_t *at, moon_err *err) {
  if (size > writer->data_left || writer->file.fd < 0)
    return moon_fail(err, MOON_EINVAL, "%s: %zu bytes more than its header says", writer->file.path,
                     size - writer->data_left);
  *at = writer->file.size;
  writer->file.size += size;
  writer->data_left -= size;
  return MOON_OK;
}

void moon_writer_hash(moon_writer *writer, const void *data, size_t size) {
  moon_digest_add(writer->digest, data, size);
}

moon_status moon_writer_write(moon_writer *writer, const void *data, size_t size, size_t at,
                              moon_err *err) {
  moon_status status = moon_outfile_write(&writer->file, data, size, at, err);
  if (status == MOON_OK)
    atomic_fetch_sub(&writer->data_missing, size);
  return status;
}

/* Piece by piece, so that what was hashed is still in the cache when it is written. */
moon_status moon_writer_append(moon_writer *writer, const void *data, size_t size, moon_err *err) {
  size_t at;
  moon_status status = moon_writer_take(writer, size, &at, err);
  for (size_t done = 0; done < size && status == MOON_OK; done += PIECE) {
    size_t n = size - done < PIECE ? size - done : PIECE;
    moon_writer_hash(writer, (const uint8_t *)data + done, n);
    status = moon_writer_write(writer, (const uint8_t *)data + done, n, at + done, err);
  }
  return status;
}

moon_status moon_writer_seal(moon_writer *writer, char sha256[MOON_SHA256_TEXT], moon_err *err) {
  size_t missing = atomic_load(&writer->data_missing);
  if (missing || writer->file.fd < 0)
    return moon_fail(err, MOON_EINVAL, "%s: %zu bytes are missing, or it is sealed already",
                     writer->file.path, missing);
  moon_status status = moon_digest_text(writer->digest, sha256, err);
  return status == MOON_OK ? moon_outfile_seal(&writer->file, err) : status;
}

moon_status moon_writer_publish(moon_writer *writer, moon_err *err) {
  return moon_outfile_publish(&writer->file, err);
}
