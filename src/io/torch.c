// SPDX-License-Identifier: MIT
/*
 * A tensor in the pickle is a call that is never made:
 *   _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
 * offset and strides in elements; storage: the persistent id
 *   ('storage', torch.FloatStorage, KEY, location, number of elements)
 */
#include "io/torch.h"
#include "utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH  64
#define MAX_NAME   4096
#define MAX_KEY    256
#define MAX_BUDGET ((size_t)256 << 20)

/* What a name in the pickle means; its detail is a moon_dtype where it is a storage or a dtype. */
enum { ORDERED_DICT, TENSOR_V1, TENSOR_V2, TENSOR_V3, PARAMETER, SIZE, STORAGE, DTYPE };

#define STORAGE_AND_DTYPE(storage, name, dtype)                                \
  {"torch", storage "Storage", MOON_PICKLE_USE_NAME, STORAGE, MOON_##dtype}, { \
    "torch", name, MOON_PICKLE_USE_NAME, DTYPE, MOON_##dtype                   \
  }

static const moon_pickle_global globals[] = {
    {"collections", "OrderedDict", MOON_PICKLE_USE_DICT, ORDERED_DICT, 0},
    {"torch._utils", "_rebuild_tensor", MOON_PICKLE_USE_CALL, TENSOR_V1, 0}, /* before 0.4 */
    {"torch._utils", "_rebuild_tensor_v2", MOON_PICKLE_USE_CALL, TENSOR_V2, 0},
    {"torch._utils", "_rebuild_tensor_v3", MOON_PICKLE_USE_CALL, TENSOR_V3, 0},
    {"torch._utils", "_rebuild_parameter", MOON_PICKLE_USE_CALL, PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", MOON_PICKLE_USE_CALL, PARAMETER, 0},
    {"torch", "Size", MOON_PICKLE_USE_CALL, SIZE, 0},
    STORAGE_AND_DTYPE("Double", "float64", F64),
    STORAGE_AND_DTYPE("Float", "float32", F32),
    STORAGE_AND_DTYPE("Half", "float16", F16),
    STORAGE_AND_DTYPE("BFloat16", "bfloat16", BF16),
    STORAGE_AND_DTYPE("Long", "int64", I64),
    STORAGE_AND_DTYPE("Int", "int32", I32),
    STORAGE_AND_DTYPE("Short", "int16", I16),
    STORAGE_AND_DTYPE("Char", "int8", I8),
    STORAGE_AND_DTYPE("Byte", "uint8", U8),
    STORAGE_AND_DTYPE("Bool", "bool", BOOL),
    {"torch.storage", "UntypedStorage", MOON_PICKLE_USE_NAME, STORAGE,
     MOON_U8}, /* with _rebuild_tensor_v3 */
    {"torch", "uint64", MOON_PICKLE_USE_NAME, DTYPE, MOON_U64},
    {"torch", "uint32", MOON_PICKLE_USE_NAME, DTYPE, MOON_U32},
    {"torch", "uint16", MOON_PICKLE_USE_NAME, DTYPE, MOON_U16},
    {"torch", "float8_e4m3fn", MOON_PICKLE_USE_NAME, DTYPE, MOON_F8_E4M3},
    {"torch", "float8_e5m2", MOON_PICKLE_USE_NAME, DTYPE, MOON_F8_E5M2},
};

/* Everything that the walk over the pickle's values needs. */
typedef struct reader {
  moon_checkpoint *into;
  moon_bytes *bytes;
  const moon_pickle *pickle;
  moon_torch_find find;
  void *user;
  char name[MAX_NAME]; /* of the value in work: keys joined by '.' */
  size_t budget; /* bytes that names and values may still take: a value that repeats others could
                    fill the memory */
} reader;

static const char *where(const reader *r) {
  return r->name[0] ? r->name : "the outermost value";
}

/* ---- values ---- */

static const moon_pickle_value *value_of(const moon_pickle *pickle, moon_pickle_ref ref) {
  return &pickle->values[ref];
}

/* The items of a tuple into out[n]; how many there are at most. */
static size_t read_items(const moon_pickle *pickle, const moon_pickle_value *tuple,
                         const moon_pickle_value **out, size_t n) {
  moon_pickle_ref cell = tuple->n_items ? tuple->items.first : 0;
  size_t i = 0;
  for (; cell && i < n; i++, cell = pickle->cells[cell].next)
    out[i] = value_of(pickle, pickle->cells[cell].value);
  return i;
}

static bool is_called(const moon_pickle_value *value, int meaning) {
  return value->kind == MOON_PICKLE_CALLED && globals[value->call.global].meaning == meaning;
}

static bool is_global(const moon_pickle_value *value, int meaning) {
  return value->kind == MOON_PICKLE_GLOBAL && globals[value->global].meaning == meaning;
}

static bool is_text(const moon_pickle *pickle, const moon_pickle_value *value, const char *text) {
  return value->kind == MOON_PICKLE_TEXT && value->text.size == strlen(text) &&
         !memcmp(pickle->data + value->text.offset, text, value->text.size);
}

/* ---- tensors ---- */

typedef struct storage {
  moon_dtype dtype;
  size_t n;      /* elements */
  size_t offset; /* of its first byte */
} storage;

bool moon_torch_storage_read(moon_torch_storage *out, const moon_pickle *pickle,
                             const moon_pickle_value *value) {
  const moon_pickle_value *id[6];
  if (value->kind != MOON_PICKLE_EXTERNAL)
    return false;
  size_t n = read_items(pickle, value_of(pickle, value->call.arguments), id, 6);
  if (n < 5 || !is_text(pickle, id[0], "storage") || !is_global(id[1], STORAGE) ||
      id[2]->kind != MOON_PICKLE_TEXT || id[4]->kind != MOON_PICKLE_INT || id[4]->integer < 0 ||
      (n == 6 && id[5]->kind != MOON_PICKLE_NONE))
    return false;
  *out = (moon_torch_storage){.dtype = (moon_dtype)globals[id[1]->global].detail,
                              .n = (size_t)id[4]->integer,
                              .key = (const char *)pickle->data + id[2]->text.offset,
                              .key_size = id[2]->text.size};
  return true;
}

static moon_status read_storage(const reader *r, storage *out, const moon_pickle_value *value,
                                moon_err *err) {
  moon_torch_storage id;
  if (!moon_torch_storage_read(&id, r->pickle, value))
    return moon_fail(err, MOON_EFORMAT,
                     "a storage that is not ('storage', type, key, location, size)");
  out->dtype = id.dtype;
  out->n = id.n;
  char key[MAX_KEY + 1];
  snprintf(key, sizeof key, "%.*s", (int)(id.key_size < MAX_KEY ? id.key_size : MAX_KEY), id.key);
  size_t size_bytes, found = 0;
  moon_status status = r->find(r->user, key, &out->offset, &found, err);
  if (status == MOON_OK &&
      (!moon_size_mul(&size_bytes, out->n, moon_dtype_size(out->dtype)) || size_bytes > found))
    status =
        moon_fail(err, MOON_EFORMAT, "storage '%s' has %zu bytes, too few for %zu elements of %s",
                  key, found, out->n, moon_dtype_name(out->dtype));
  return status;
}

/* Whole numbers >= 0 of a tuple (torch.Size is one) into dims; *rank says how many. */
static moon_status read_dims(const reader *r, int64_t *dims, int *rank,
                             const moon_pickle_value *value, const char *what, moon_err *err) {
  const moon_pickle_value *items[MOON_MAX_RANK];
  if (is_called(value, SIZE) &&
      read_items(r->pickle, value_of(r->pickle, value->call.arguments), items, 1) == 1)
    value = items[0];
  if (value->kind != MOON_PICKLE_TUPLE && value->kind != MOON_PICKLE_LIST)
    return moon_fail(err, MOON_EFORMAT, "its %s is not a tuple", what);
  if (value->n_items > MOON_MAX_RANK)
    return moon_fail(err, MOON_EUNSUPPORTED, "rank %u, at most %d", value->n_items, MOON_MAX_RANK);
  *rank = (int)read_items(r->pickle, value, items, MOON_MAX_RANK);
  for (int i = 0; i < *rank; i++) {
    if (items[i]->kind != MOON_PICKLE_INT || items[i]->integer < 0)
      return moon_fail(err, MOON_EFORMAT, "its %s has something else than whole numbers >= 0",
                       what);
    dims[i] = items[i]->integer;
  }
  return MOON_OK;
}

/* The elements from offset on, through shape and strides, must lie within the storage's n. */
static moon_status check_extent(const moon_entry *entry, int64_t offset, size_t n, moon_err *err) {
  int64_t last = offset, step;
  bool fits = true, empty = false;
  for (int i = 0; i < entry->rank; i++) {
    empty = empty || entry->shape[i] == 0;
    fits = fits && (entry->shape[i] == 0 ||
                    (!__builtin_mul_overflow(entry->shape[i] - 1, entry->strides[i], &step) &&
                     !__builtin_add_overflow(last, step, &last)));
  }
  if (!fits || (empty ? (size_t)offset > n : (size_t)last >= n)) {
    char shape[MOON_SHAPE_TEXT], strides[MOON_SHAPE_TEXT];
    return moon_fail(err, MOON_EFORMAT,
                     "shape %s with strides %s from element %" PRId64 " passes its storage of %zu",
                     moon_shape_text(shape, sizeof shape, entry->shape, entry->rank),
                     moon_shape_text(strides, sizeof strides, entry->strides, entry->rank), offset,
                     n);
  }
  return MOON_OK;
}

/* The dtype is the storage's, or (v3) the one named in the call over a storage of bytes. */
static moon_status set_dtype(const moon_pickle_value *named, storage *s, moon_err *err) {
  if (!named)
    return MOON_OK;
  if (!is_global(named, DTYPE) || s->dtype != MOON_U8)
    return moon_fail(err, MOON_EFORMAT,
                     "_rebuild_tensor_v3 without a dtype or over a typed storage");
  s->dtype = (moon_dtype)globals[named->global].detail;
  s->n /= moon_dtype_size(s->dtype);
  return MOON_OK;
}

static moon_status read_shape(const reader *r, moon_entry *entry, const moon_pickle_value *shape,
                              const moon_pickle_value *strides, moon_err *err) {
  int n_strides = 0;
  moon_status status = read_dims(r, entry->shape, &entry->rank, shape, "shape", err);
  if (status == MOON_OK)
    status = read_dims(r, entry->strides, &n_strides, strides, "strides", err);
  if (status == MOON_OK && n_strides != entry->rank)
    status = moon_fail(err, MOON_EFORMAT, "%d dims but %d strides", entry->rank, n_strides);
  return status;
}

/* The arguments after the strides are for training, but for a dict at the end: it says that the
 * numbers are stored negated or conjugated. */
static moon_status read_call(const reader *r, moon_entry *entry, const moon_pickle_value *call,
                             moon_err *err) {
  const moon_pickle_value *a[8];
  size_t n = read_items(r->pickle, value_of(r->pickle, call->call.arguments), a, 8);
  bool v3 = is_called(call, TENSOR_V3);
  size_t expected = is_called(call, TENSOR_V1) ? 4 : v3 ? 7 : 6;
  if (n < expected || a[1]->kind != MOON_PICKLE_INT || a[1]->integer < 0)
    return moon_fail(err, MOON_EFORMAT, "its call lacks arguments or has a negative offset");
  if (n > expected && a[expected]->kind == MOON_PICKLE_DICT && a[expected]->n_items)
    return moon_fail(err, MOON_EUNSUPPORTED, "stored negated or conjugated");
  storage s;
  int64_t count;
  moon_status status = read_storage(r, &s, a[0], err);
  if (status == MOON_OK)
    status = set_dtype(v3 ? a[6] : NULL, &s, err);
  if (status == MOON_OK)
    status = read_shape(r, entry, a[2], a[3], err);
  if (status != MOON_OK)
    return status;
  size_t element_size = moon_dtype_size(s.dtype);
  if (!moon_shape_count(&count, entry->shape, entry->rank) ||
      !moon_size_mul(&entry->size_bytes, (size_t)count, element_size))
    return moon_fail(err, MOON_EFORMAT, "its shape is too large");
  entry->dtype = s.dtype;
  strcpy(entry->dtype_name, moon_dtype_name(s.dtype));
  entry->bytes = r->bytes;
  entry->offset = s.offset + (size_t)a[1]->integer * element_size;
  return check_extent(entry, a[1]->integer, s.n, err);
}

static moon_status add_tensor(reader *r, const moon_pickle_value *call, moon_err *err) {
  const char *name = r->name[0] ? r->name : "tensor"; /* torch.save of a tensor alone */
  moon_entry entry = {0};
  moon_status status = read_call(r, &entry, call, err);
  if (status == MOON_OK)
    status = moon_checkpoint_count_bytes(r->into, entry.size_bytes, r->bytes, err);
  if (status != MOON_OK)
    return moon_fail_in_tensor(err, status, name);
  return moon_checkpoint_add(r->into, name, &entry, err);
}

/* ---- everything else becomes metadata ---- */

/* The shortest text that reads back as the same number. */
static void format_real(char *text, size_t size, double real) {
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(text, size, "%.*g", digits, real);
    if (strtod(text, NULL) == real)
      return;
  }
}

static moon_status format_text(const reader *r, char **out, const moon_pickle_value *value,
                               moon_err *err) {
  const char *text = (const char *)r->pickle->data + value->text.offset;
  size_t size = value->text.size, room = size + 64;
  bool readable =
      value->kind == MOON_PICKLE_TEXT && !memchr(text, 0, size) && moon_utf8_valid(text, size);
  *out = malloc(room);
  if (!*out)
    return moon_fail(err, MOON_ENOMEM, "no memory for metadata");
  if (readable)
    snprintf(*out, room, "%.*s", (int)size, text);
  else
    snprintf(*out, room, "(%zu bytes)", size);
  return MOON_OK;
}

static void format_plain(char *text, size_t size, const moon_pickle_value *value) {
  if (value->kind == MOON_PICKLE_NONE)
    snprintf(text, size, "null");
  else if (value->kind == MOON_PICKLE_BOOL)
    snprintf(text, size, "%s", value->integer ? "true" : "false");
  else if (value->kind == MOON_PICKLE_INT)
    snprintf(text, size, "%" PRId64, value->integer);
  else if (value->kind == MOON_PICKLE_UINT)
    snprintf(text, size, "%" PRIu64, (uint64_t)value->integer);
  else if (value->kind == MOON_PICKLE_FLOAT)
    format_real(text, size, value->real);
  else
    snprintf(text, size, "%s.%s", globals[value->global].module, globals[value->global].name);
}

static moon_status spend(reader *r, size_t size, moon_err *err) {
  if (size > r->budget)
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "%s: names and values take far more room than the pickle itself", where(r));
  r->budget -= size;
  return MOON_OK;
}

static moon_status add_metadata(reader *r, const moon_pickle_value *value, moon_err *err) {
  const char *key = r->name[0] ? r->name : "value";
  if (value->kind == MOON_PICKLE_TEXT || value->kind == MOON_PICKLE_BYTES) {
    char *text = NULL;
    moon_status status = spend(r, value->text.size, err);
    if (status == MOON_OK)
      status = format_text(r, &text, value, err);
    if (status == MOON_OK)
      status = moon_checkpoint_add_metadata(r->into, key, text, err);
    free(text);
    return status;
  }
  char text[128];
  format_plain(text, sizeof text, value);
  return moon_checkpoint_add_metadata(r->into, key, text, err);
}

/* ---- the walk ---- */

static moon_status walk(reader *r, moon_pickle_ref ref, int depth, moon_err *err);

/* Puts ".key" behind the name of size bytes; the new size in *out. */
static moon_status append_key(reader *r, size_t size, size_t *out, const char *key, size_t key_size,
                              moon_err *err) {
  size_t dot = size > 0;
  if (memchr(key, 0, key_size) || key_size >= MAX_NAME - size - dot)
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "%s: a key with a zero byte, or a name of more than %d bytes", where(r),
                     MAX_NAME - 1);
  if (dot)
    r->name[size] = '.';
  memcpy(r->name + size + dot, key, key_size);
  *out = size + dot + key_size;
  r->name[*out] = 0;
  return MOON_OK;
}

static moon_status append_value(reader *r, size_t size, size_t *out, const moon_pickle_value *key,
                                moon_err *err) {
  if (key->kind == MOON_PICKLE_TEXT)
    return append_key(r, size, out, (const char *)r->pickle->data + key->text.offset,
                      key->text.size, err);
  if (key->kind > MOON_PICKLE_FLOAT)
    return moon_fail(err, MOON_EUNSUPPORTED, "%s: a key that is neither text nor a number",
                     where(r));
  char text[64];
  format_plain(text, sizeof text, key);
  return append_key(r, size, out, text, strlen(text), err);
}

static moon_status walk_items(reader *r, const moon_pickle_value *container, int depth,
                              moon_err *err) {
  size_t size = strlen(r->name), longer;
  bool is_dict = container->kind == MOON_PICKLE_DICT;
  moon_pickle_ref cell = container->n_items ? container->items.first : 0;
  moon_status status = MOON_OK;
  for (int64_t i = 0; cell && status == MOON_OK; i++) {
    moon_pickle_value index = {.kind = MOON_PICKLE_INT, .integer = i};
    const moon_pickle_value *key =
        is_dict ? value_of(r->pickle, r->pickle->cells[cell].value) : &index;
    if (is_dict)
      cell = r->pickle->cells[cell].next;
    status = append_value(r, size, &longer, key, err);
    if (status == MOON_OK)
      status = walk(r, r->pickle->cells[cell].value, depth + 1, err);
    r->name[size] = 0;
    cell = r->pickle->cells[cell].next;
  }
  return status;
}

/* A parameter is its first argument, which must be a tensor at once: parameters are not nested. */
static moon_status walk_call(reader *r, const moon_pickle_value *call, int depth, moon_err *err) {
  const moon_pickle_value *inner = NULL;
  const moon_pickle_global *global = &globals[call->call.global];
  read_items(r->pickle, value_of(r->pickle, call->call.arguments), &inner, 1);
  if (global->meaning == PARAMETER && inner)
    call = inner;
  if (is_called(call, TENSOR_V1) || is_called(call, TENSOR_V2) || is_called(call, TENSOR_V3))
    return add_tensor(r, call, err);
  if (global->meaning == SIZE && inner && inner->kind == MOON_PICKLE_TUPLE)
    return walk_items(r, inner, depth, err);
  return moon_fail(err, MOON_EUNSUPPORTED, "%s: a call of %s.%s that makes no tensor", where(r),
                   global->module, global->name);
}

static moon_status walk(reader *r, moon_pickle_ref ref, int depth, moon_err *err) {
  const moon_pickle_value *value = value_of(r->pickle, ref);
  if (depth > MAX_DEPTH)
    return moon_fail(err, MOON_EUNSUPPORTED,
                     "%.100s...: nested deeper than %d (or a value within itself)", where(r),
                     MAX_DEPTH);
  moon_status status = spend(r, strlen(r->name) + 64, err);
  if (status != MOON_OK)
    return status;
  switch (value->kind) {
    case MOON_PICKLE_TUPLE:
    case MOON_PICKLE_LIST:
    case MOON_PICKLE_SET:
    case MOON_PICKLE_DICT:
      return walk_items(r, value, depth, err);
    case MOON_PICKLE_CALLED:
      return walk_call(r, value, depth, err);
    case MOON_PICKLE_EXTERNAL:
      return moon_fail(err, MOON_EUNSUPPORTED, "%s: a storage without a tensor", where(r));
    default:
      return add_metadata(r, value, err);
  }
}

/* ---- a pickle ---- */

moon_status moon_torch_parse(moon_pickle *out, const uint8_t *data, size_t size, size_t *used,
                             moon_err *err) {
  return moon_pickle_parse(out, data, size, globals, sizeof globals / sizeof *globals, used, err);
}

moon_status moon_torch_walk(moon_checkpoint *into, moon_bytes *bytes, const moon_pickle *pickle,
                            size_t size, moon_torch_find find, void *user, moon_err *err) {
  reader *r = calloc(1, sizeof *r);
  if (!r)
    return moon_fail(err, MOON_ENOMEM, "no memory for %zu bytes", sizeof *r);
  r->into = into;
  r->bytes = bytes;
  r->pickle = pickle;
  r->find = find;
  r->user = user;
  r->budget = 64 * size + (64 << 10);
  if (r->budget > MAX_BUDGET)
    r->budget = MAX_BUDGET;
  moon_status status = walk(r, pickle->root, 0, err);
  free(r);
  return status;
}
