// SPDX-License-Identifier: MIT
/* Reading .pth files: torch's own (tests/fixtures), hand-made ones, hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <unistd.h>

#include "io_expected.h"
#include "tensor/dtype.h"

#define FIXTURES MOON_SOURCE_DIR "/tests/fixtures/pth/"
#define GOLDEN   MOON_SOURCE_DIR "/tests/fixtures/tiny/golden/pth/"

static moon_checkpoint *open_fixture(const char *folder, const char *name) {
  char path[512];
  moon_checkpoint *checkpoint;
  moon_err err;
  snprintf(path, sizeof path, "%s%s.pth", folder, name);
  if (moon_checkpoint_open(&checkpoint, path, &err) != MOON_OK)
    fail_msg("%s", err.text);
  return checkpoint;
}

static void reads_what_torch_writes(void **state) {
  (void)state;
  json_t *expected = load_json(FIXTURES "expected.json"), *content, *text;
  const char *name;
  assert_true(json_object_size(expected) >= 17);
  json_object_foreach(expected, name, content) {
    json_t *tensors = json_object_get(content, "tensors"),
           *metadata = json_object_get(content, "metadata");
    moon_checkpoint *checkpoint = open_fixture(FIXTURES, name);
    compare_tensors(checkpoint, tensors);
    size_t n;
    const moon_pair *pairs = moon_checkpoint_metadata(checkpoint, &n);
    assert_int_equal(n, json_object_size(metadata));
    for (size_t i = 0; i < n; i++) {
      text = json_object_get(metadata, pairs[i].key);
      assert_non_null(text);
      assert_string_equal(pairs[i].value, json_string_value(text));
    }
    moon_checkpoint_release(checkpoint);
  }
  json_decref(expected);
}

/* tests/fixtures/tiny/golden/pth: values as numbers, and keys without the wrapper. */
static void compare_golden(const moon_checkpoint *checkpoint, const char *prefix,
                           const json_t *expected) {
  const char *key;
  json_t *tensor, *value;
  size_t i;
  assert_int_equal(moon_checkpoint_count(checkpoint), json_object_size(expected));
  json_object_foreach((json_t *)expected, key, tensor) {
    char name[256];
    snprintf(name, sizeof name, "%s%s", prefix, key);
    const moon_entry *entry = moon_checkpoint_find(checkpoint, name);
    assert_non_null(entry);
    compare_shape(entry, json_object_get(tensor, "shape"));
    void *bytes = malloc(entry->size_bytes);
    double *numbers = malloc(entry->size_bytes * 8);
    size_t n = entry->size_bytes / moon_dtype_size(entry->dtype);
    assert_int_equal(moon_entry_read(entry, 0, entry->size_bytes, bytes, NULL), MOON_OK);
    moon_dtype_convert(numbers, MOON_F64, bytes, entry->dtype, n);
    assert_int_equal(n, json_array_size(json_object_get(tensor, "values")));
    json_array_foreach(json_object_get(tensor, "values"), i, value)
        assert_true(numbers[i] == json_number_value(value));
    free(numbers);
    free(bytes);
  }
}

static void reads_the_golden_variants(void **state) {
  (void)state;
  json_t *expected = load_json(GOLDEN "expected.json"), *content;
  const char *name;
  assert_int_equal(json_object_size(expected), 11);
  json_object_foreach(expected, name, content) {
    moon_checkpoint *checkpoint = open_fixture(GOLDEN, name);
    assert_string_equal(moon_checkpoint_format(checkpoint), "pth");
    compare_golden(checkpoint, strcmp(name, "wrapped") ? "" : "state_dict.", content);
    moon_checkpoint_release(checkpoint);
  }
  json_decref(expected);
}

static void refuses_a_value_within_itself(void **state) {
  (void)state;
  moon_checkpoint *checkpoint;
  moon_err err;
  assert_int_equal(moon_checkpoint_open(&checkpoint, FIXTURES "loop.pth", &err), MOON_EUNSUPPORTED);
  assert_non_null(strstr(err.text, "nested deeper than 64 (or a value within itself)"));
}

/* ---- tensors that are not what they say ---- */

#define FLOATS(...) \
  { "FloatStorage", "0", 6, __VA_ARGS__ }

static void checks_every_extent(void **state) {
  (void)state;
  const struct {
    tensor_spec spec;
    const char *text; /* "" is accepted; the storage has 24 bytes */
  } cases[] = {
      {FLOATS(0, 2, 2, {2, 3}, {3, 1}), ""},
      {FLOATS(0, 2, 2, {3, 2}, {1, 3}), ""},
      {FLOATS(5, 1, 1, {1}, {1}), ""},
      {FLOATS(5, 0, 0, {0}, {0}), ""},
      {FLOATS(6, 2, 2, {0, 9}, {9, 1}), ""},
      {FLOATS(1, 2, 2, {1000, 2}, {0, 1}), ""},
      {FLOATS(0, 3, 3, {2, 2, 2}, {2, 1, 1}), ""},
      {FLOATS(1, 2, 2, {2, 3}, {3, 1}),
       "tensor 'w': shape [2, 3] with strides [3, 1] from element 1 passes its storage of 6"},
      {FLOATS(6, 0, 0, {0}, {0}),
       "tensor 'w': shape [] with strides [] from element 6 passes its storage of 6"},
      {FLOATS(7, 1, 1, {0}, {1}),
       "tensor 'w': shape [0] with strides [1] from element 7 passes its storage of 6"},
      {FLOATS(0, 1, 1, {2}, {6}),
       "tensor 'w': shape [2] with strides [6] from element 0 passes its storage of 6"},
      {FLOATS(0, 1, 1, {3}, {INT64_MAX}),
       "tensor 'w': shape [3] with strides [9223372036854775807] from element 0 passes its storage "
       "of 6"},
      {FLOATS(INT64_MAX, 1, 1, {2}, {1}),
       "tensor 'w': shape [2] with strides [1] from element 9223372036854775807 passes its storage "
       "of 6"},
      {FLOATS(-1, 1, 1, {2}, {1}), "tensor 'w': its call lacks arguments or has a negative offset"},
      {FLOATS(0, 1, 1, {2}, {-1}),
       "tensor 'w': its strides has something else than whole numbers >= 0"},
      {FLOATS(0, 1, 1, {-2}, {1}),
       "tensor 'w': its shape has something else than whole numbers >= 0"},
      {FLOATS(0, 2, 1, {2, 1}, {1}), "tensor 'w': 2 dims but 1 strides"},
      {FLOATS(0, 9, 9, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {0}), "tensor 'w': rank 9, at most 8"},
      {FLOATS(0, 2, 2, {INT64_MAX, 3}, {0, 0}), "tensor 'w': its shape is too large"},
      {FLOATS(0, 1, 1, {INT64_MAX - 3}, {0}), "tensor 'w': its shape is too large"},
      {FLOATS(0, 1, 1, {(int64_t)1 << 40}, {0}), "the tensors add up to more than"},
      {{"FloatStorage", "0", 7, 0, 1, 1, {2}, {1}},
       "tensor 'w': storage '0' has 24 bytes, too few for 7 elements of f32"},
      {{"FloatStorage", "0", INT64_MAX, 0, 1, 1, {2}, {1}},
       "tensor 'w': storage '0' has 24 bytes, too few for 9223372036854775807 "
       "elements of f32"},
      {{"DoubleStorage", "0", 4, 0, 1, 1, {2}, {1}},
       "tensor 'w': storage '0' has 24 bytes, too few for 4 elements of f64"},
      {{"FloatStorage", "1", 6, 0, 1, 1, {2}, {1}},
       "tensor 'w': storage 'archive/data/1' is not in the file"},
      {{"FloatStorage", "../data/0", 6, 0, 1, 1, {2}, {1}},
       "tensor 'w': storage 'archive/data/../data/0' is not in the file"},
      {{"FloatStorage", "0", -6, 0, 1, 1, {2}, {1}},
       "tensor 'w': a storage that is not ('storage', type, key, location, size)"},
      {{"ComplexFloatStorage", "0", 3, 0, 1, 1, {2}, {1}},
       "the pickle asks for torch.ComplexFloatStorage, which is not one of the names that tensors "
       "need"},
      {{"float32", "0", 6, 0, 1, 1, {2}, {1}},
       "tensor 'w': a storage that is not ('storage', type, key, location, size)"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer pickle = pickle_of(&cases[i].spec);
    zip_places places;
    buffer file = pth(&pickle, 24, &places);
    moon_err err;
    moon_status status = parse_and_read(moon_pth_parse, file.data, file.size, &err);
    if (!strstr(err.text, cases[i].text) || (status == MOON_OK) != !*cases[i].text)
      fail_msg("case %zu: found '%s', expected '%s'", i, err.text, cases[i].text);
    free(pickle.data);
    free(file.data);
  }
}

/* Parses a .pth of a pickle given as text after its protocol; a storage "0" of 24 bytes. */
static moon_status parse_pickle(const char *text, size_t size, moon_err *err) {
  buffer pickle = {0};
  zip_places places;
  put(&pickle, "\x80\2", 2);
  put(&pickle, text, size);
  buffer file = pth(&pickle, 24, &places);
  moon_status status = parse_and_read(moon_pth_parse, file.data, file.size, err);
  free(file.data);
  free(pickle.data);
  return status;
}

#define CASE(pickle, text) \
  { pickle, sizeof pickle - 1, text }

static void refuses_other_values(void **state) {
  (void)state;
  const struct {
    const char *pickle;
    size_t size;
    const char *text;
  } cases[] = {
      CASE("}(U\1ccposix\nsystem\nU\1x\x85Ru.",
           "the pickle asks for posix.system, which is not one of the names that tensors need"),
      CASE("}(U\1actorch._utils\n_rebuild_parameter\nK\1\x85Ru.",
           "a: a call of torch._utils._rebuild_parameter that makes no tensor"),
      CASE("}(U\1actorch._utils\n_rebuild_parameter\n)Ru.",
           "a: a call of torch._utils._rebuild_parameter that makes no tensor"),
      CASE("}(U\1actorch\nSize\nK\1\x85Ru.", "a: a call of torch.Size that makes no tensor"),
      CASE("}(U\1actorch._utils\n_rebuild_tensor_v2\n)Ru.",
           "tensor 'a': its call lacks arguments or has a negative offset"),
      CASE("}(U\1a(U\1xNNNNtQu.", "a: a storage without a tensor"),
      CASE("}(NN\x86Nu.", "the outermost value: a key that is neither text nor a number"),
      CASE("}(]Nu.", "the outermost value: a key that is neither text nor a number"),
      CASE("}(U\2\0aNu.",
           "the outermost value: a key with a zero byte, or a name of more than 4095 bytes"),
      CASE("}(U\1\xffNu.", "metadata '?': not UTF-8"),
      CASE("}(U\1aK\1U\1aK\2u.", "metadata 'a' has two values"),
      CASE("}(U\3a.bK\1U\1a}U\1bK\2su.", "metadata 'a.b' has two values"),
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    moon_err err;
    assert_int_not_equal(parse_pickle(cases[i].pickle, cases[i].size, &err), MOON_OK);
    assert_string_equal(err.text, cases[i].text);
  }
}

/* P7 */
static void refuses_the_same_tensor_name_twice(void **state) {
  (void)state;
  const tensor_spec spec = FLOATS(0, 1, 1, {2}, {1});
  buffer pickle = {0};
  zip_places places;
  moon_err err;
  put(&pickle, "\x80\2}", 3);
  for (int i = 0; i < 2; i++) {
    put_text(&pickle, "w");
    put_tensor(&pickle, &spec);
    put_line(&pickle, "s");
  }
  put_line(&pickle, ".");
  buffer file = pth(&pickle, 24, &places);
  assert_int_equal(parse_and_read(moon_pth_parse, file.data, file.size, &err), MOON_EFORMAT);
  assert_string_equal(err.text, "tensor 'w' is there twice");
  free(pickle.data);
  free(file.data);
}

/* PyTorch 2 writes newer dtypes as bytes with a dtype beside them. */
static void reads_v3_tensors(void **state) {
  (void)state;
  const struct {
    const char *dtype;
    int64_t n;
    moon_dtype expected;
  } cases[] = {{"float8_e4m3fn", 24, MOON_F8_E4M3},
               {"float8_e5m2", 24, MOON_F8_E5M2},
               {"uint16", 12, MOON_U16},
               {"uint32", 6, MOON_U32},
               {"uint64", 3, MOON_U64},
               {"uint64", 4, MOON_OPAQUE}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer b = {0};
    zip_places places;
    moon_checkpoint *checkpoint;
    moon_bytes *bytes;
    put(&b, "\x80\2", 2);
    put_line(&b, "ctorch._utils\n_rebuild_tensor_v3\n(");
    put_storage(&b, "torch.storage", "UntypedStorage", "0", 24);
    put_int(&b, 0);
    put_tuple(&b, &cases[i].n, 1);
    put_tuple(&b, (int64_t[]){1}, 1);
    put_line(&b,
             "\x89"
             "ccollections\nOrderedDict\n)Rctorch\n");
    put_line(&b, cases[i].dtype);
    put_line(&b, "\ntR.");
    buffer file = pth(&b, 24, &places);
    assert_int_equal(moon_bytes_copy(&bytes, file.data, file.size, NULL), MOON_OK);
    assert_int_equal(moon_checkpoint_new(&checkpoint, "file", NULL), MOON_OK);
    moon_status status = moon_pth_parse(checkpoint, bytes, NULL);
    assert_int_equal(status, cases[i].expected == MOON_OPAQUE ? MOON_EFORMAT : MOON_OK);
    if (status == MOON_OK)
      assert_int_equal(moon_checkpoint_find(checkpoint, "tensor")->dtype, cases[i].expected);
    moon_checkpoint_release(checkpoint);
    moon_bytes_release(bytes);
    free(b.data);
    free(file.data);
  }
}

/* Ten lists, each of ten times the one before: small to write, 10^10 values to walk. P8 */
static void stops_at_endless_repetition(void **state) {
  (void)state;
  buffer pickle = {0};
  moon_err err;
  put(&pickle, "K\1q\0", 4);
  for (uint8_t level = 0; level < 10; level++) {
    put_line(&pickle, "](");
    for (int i = 0; i < 10; i++)
      put(&pickle, (uint8_t[]){'h', level}, 2);
    put(&pickle, (uint8_t[]){'e', 'q', (uint8_t)(level + 1)}, 3);
  }
  put_line(&pickle, ".");
  assert_int_equal(parse_pickle((char *)pickle.data, pickle.size, &err), MOON_EUNSUPPORTED);
  assert_non_null(strstr(err.text, "names and values take far more room than the pickle itself"));
  free(pickle.data);
}

/* ---- zip files that are not what they say ---- */

static buffer small_file(zip_places *places) {
  const tensor_spec spec = FLOATS(0, 2, 2, {2, 3}, {3, 1});
  buffer pickle = pickle_of(&spec), file = pth(&pickle, 24, places);
  free(pickle.data);
  return file;
}

static void expect(const buffer *file, moon_status code, const char *text) {
  moon_err err;
  moon_status status = parse_and_read(moon_pth_parse, file->data, file->size, &err);
  assert_string_equal(err.text, text);
  assert_int_equal(status, code);
}

/* What must be refused when one field of the file is changed. P7 */
static void refuses_bad_zip_fields(void **state) {
  (void)state;
  zip_places p;
  buffer probe = small_file(&p);
  free(probe.data);
  static const char disagree[] =
      "zip entry 'archive/data/0': its local header and the directory disagree";
  const struct {
    size_t at;
    uint32_t value;
    size_t size;
    const char *text;
  } cases[] = {
      {p.local[1] + 30, 'A', 1, disagree},                    /* name in the local header */
      {p.local[1] + 18, 23, 4, disagree},                     /* size there */
      {p.local[1] + 22, 25, 4, disagree},                     /* and uncompressed */
      {p.local[1], 0, 4, disagree},                           /* no local header */
      {p.central[1] + 42, (uint32_t)p.local[0], 4, disagree}, /* the header of another */
      {p.central[1] + 42, 0x7fffffff, 4, disagree},           /* none there */
      {p.central[1] + 20, 5000, 4, "zip entry 'archive/data/0': stored, but of two sizes"},
      {p.central[1] + 10, 8, 2, disagree},
      {p.central[1] + 10, 9, 2,
       "zip entry 'archive/data/0' is compressed by method 9; stored and deflated ones are read"},
      {p.central[1] + 8, 1, 2, "zip entry 'archive/data/0' is encrypted"},
      {p.central[1] + 28, 2000, 2, "the zip directory is broken"}, /* a longer name */
      {p.central[1], 0, 4, "the zip directory is broken"},
      {p.end + 10, 2, 2, ""}, /* counts: fewer, more */
      {p.end + 10, 4, 2, ""},
      {p.end + 16, (uint32_t)p.central[1], 4, ""}, /* where the directory begins */
      {p.end, 0, 4, ""},
      {p.end + 20, 7, 2, "no zip directory at the end of its"}, /* a comment that is not there */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer file = small_file(&p);
    moon_err err;
    for (size_t k = 0; k < cases[i].size; k++)
      file.data[cases[i].at + k] = (uint8_t)(cases[i].value >> 8 * k);
    assert_int_not_equal(parse_and_read(moon_pth_parse, file.data, file.size, &err), MOON_OK);
    if (strncmp(err.text, cases[i].text, strlen(cases[i].text)))
      fail_msg("case %zu: found '%s', expected '%s'", i, err.text, cases[i].text);
    free(file.data);
  }
}

/* P7 */
static void refuses_bytes_around_the_zip(void **state) {
  (void)state;
  zip_places places;
  buffer file = small_file(&places), before = {0};
  expect(&file, MOON_OK, "");
  put(&before, "PK\3\4", 4);
  put(&before, file.data, file.size);
  moon_err err;
  assert_int_equal(parse_and_read(moon_pth_parse, before.data, before.size, &err), MOON_EFORMAT);
  put_line(&file, "x");
  char text[128];
  snprintf(text, sizeof text,
           "no zip directory at the end of its %zu bytes (truncated, or bytes behind it)",
           file.size);
  expect(&file, MOON_EFORMAT, text);
  free(file.data);
  free(before.data);
}

static void refuses_other_zip_contents(void **state) {
  (void)state;
  static const uint8_t none[] = "\x80\2}.";
  const struct {
    zip_item items[3];
    size_t n;
    moon_status code;
    const char *text;
  } cases[] = {
      {{{"a/data.pkl", none, 4}}, 1, MOON_OK, ""},
      {{{"any name/data.pkl", none, 4}, {"any name/byteorder", "little", 6}}, 2, MOON_OK, ""},
      {{{"a/data.pkl", none, 4}, {"a/byteorder", "big", 3}},
       2,
       MOON_EUNSUPPORTED,
       "its byte order is 'big', expected 'little'"},
      {{{"a/data.pkl", none, 4}, {"b/data.pkl", none, 4}},
       2,
       MOON_EFORMAT,
       "zip entry 'b/data.pkl' lies outside of the folder 'a'"},
      {{{"a/data.pkl", none, 4}, {"a/data.pkl", none, 4}},
       2,
       MOON_EFORMAT,
       "zip entry 'a/data.pkl' is there twice"},
      {{{"data.pkl", none, 4}},
       1,
       MOON_EUNSUPPORTED,
       "a zip file without a folder: neither PyTorch's nor one of .npy files"},
      {{{"/data.pkl", none, 4}},
       1,
       MOON_EUNSUPPORTED,
       "a zip file without a folder: neither PyTorch's nor one of .npy files"},
      {{{"a/b/data.pkl", none, 4}},
       1,
       MOON_EUNSUPPORTED,
       "a zip file without a/data.pkl: not written by PyTorch"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    zip_places places;
    buffer file = zip(cases[i].items, cases[i].n, &places);
    expect(&file, cases[i].code, cases[i].text);
    free(file.data);
  }
}

/* Two names for the same bytes: the second local header lies in the first one's data. P7 */
static void refuses_overlapping_entries(void **state) {
  (void)state;
  zip_places places;
  buffer inner = {0};
  put(&inner, "PK\3\4\24\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\1\0\0\0\3\0\0\0a/yz", 34);
  zip_item items[] = {{"a/x", inner.data, inner.size}, {"a/y", "z", 1}};
  buffer file = zip(items, 2, &places);
  size_t at = places.local[0] + 30 + 3;
  for (size_t k = 0; k < 4; k++)
    file.data[places.central[1] + 42 + k] = (uint8_t)(at >> 8 * k);
  expect(&file, MOON_EFORMAT, "zip entry 'a/y' begins at byte 33, expected at least 67");
  free(inner.data);
  free(file.data);
}

/* ---- broken files ---- */

/* P1 */
static void survives_truncation_and_bit_flips(void **state) {
  (void)state;
  const char *const names[] = {FIXTURES "nested.pth", FIXTURES "strides.pth",
                               FIXTURES "protocol5.pth", GOLDEN "parameters.pth"};
  zip_places places;
  buffer file = small_file(&places);
  assert_int_equal(count_accepted_prefixes(moon_pth_parse, &file), 0);
  flip_every_bit(moon_pth_parse, &file);
  free(file.data);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    file = read_whole(names[i]);
    assert_true(file.size > 500);
    assert_int_equal(count_accepted_prefixes(moon_pth_parse, &file), 0);
    flip_every_bit(moon_pth_parse, &file);
    free(file.data);
  }
}

/* ---- larger than 4 GiB: sizes and offsets in zip64 fields ---- */

static void put_local(buffer *b, const char *name, uint64_t size) {
  put(b, "PK\3\4\55\0\0\0\0\0\0\0\0\0\0\0\0\0", 18);
  put_uint(b, UINT32_MAX, 4);
  put_uint(b, UINT32_MAX, 4);
  put_uint(b, strlen(name), 2);
  put_uint(b, 20, 2);
  put_line(b, name);
  put(b, "\1\0\20\0", 4);
  put_uint(b, size, 8);
  put_uint(b, size, 8);
}

static void put_central(buffer *b, const char *name, uint64_t size, uint64_t offset) {
  put(b, "PK\1\2\55\0\55\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  put_uint(b, UINT32_MAX, 4);
  put_uint(b, UINT32_MAX, 4);
  put_uint(b, strlen(name), 2);
  put_uint(b, 28, 2);
  put(b, "\0\0\0\0\0\0\0\0\0\0", 10);
  put_uint(b, UINT32_MAX, 4);
  put_line(b, name);
  put(b, "\1\0\30\0", 4);
  put_uint(b, size, 8);
  put_uint(b, size, 8);
  put_uint(b, offset, 8);
}

static void put_end64(buffer *b, uint64_t n, uint64_t start, uint64_t size) {
  put(b, "PK\6\6\54\0\0\0\0\0\0\0\55\0\55\0\0\0\0\0\0\0\0\0", 24);
  put_uint(b, n, 8);
  put_uint(b, n, 8);
  put_uint(b, size, 8);
  put_uint(b, start, 8);
  put(b, "PK\6\7\0\0\0\0", 8);
  put_uint(b, start + size, 8);
  put_uint(b, 1, 4);
  put(b, "PK\5\6\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0", 22);
}

static void reads_zip64(void **state) {
  (void)state;
  const int64_t n = ((int64_t)5 << 30) / 4; /* 5 GiB of f32, a hole in the file */
  const tensor_spec spec = {"FloatStorage", "0", n, 0, 1, 1, {n}, {1}};
  char path[] = "/tmp/moonscope-zip64-XXXXXX";
  int fd = mkstemp(path);
  buffer first = {0}, rest = {0}, pickle = pickle_of(&spec);
  put_local(&first, "a/data/0", 4 * (uint64_t)n);
  uint64_t second = first.size + 4 * (uint64_t)n;
  put(&rest, "\1\2\3\4", 4); /* the last element */
  put_local(&rest, "a/data.pkl", pickle.size);
  put(&rest, pickle.data, pickle.size);
  uint64_t start = second + rest.size - 4, before = rest.size;
  put_central(&rest, "a/data/0", 4 * (uint64_t)n, 0);
  put_central(&rest, "a/data.pkl", pickle.size, second);
  put_end64(&rest, 2, start, rest.size - before);
  assert_int_equal(pwrite(fd, first.data, first.size, 0), first.size);
  assert_int_equal(pwrite(fd, rest.data, rest.size, (off_t)second - 4), rest.size);
  moon_checkpoint *checkpoint;
  moon_err err;
  if (moon_checkpoint_open(&checkpoint, path, &err) != MOON_OK)
    fail_msg("%s", err.text);
  const moon_entry *w = moon_checkpoint_find(checkpoint, "w");
  size_t resident = count_resident(w->bytes);
  print_message("opened 5 GiB of .pth: %zu of %zu pages in memory\n", resident,
                moon_bytes_size(w->bytes) / 4096);
  assert_in_range(resident, 1, 512);
  uint8_t last[4];
  assert_true(w->size_bytes == (size_t)5 << 30);
  assert_int_equal(moon_entry_read(w, w->size_bytes - 4, 4, last, &err), MOON_OK);
  assert_memory_equal(last, "\1\2\3\4", 4);
  moon_checkpoint_release(checkpoint);
  close(fd);
  unlink(path);
  free(first.data);
  free(rest.data);
  free(pickle.data);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_what_torch_writes),
      cmocka_unit_test(reads_the_golden_variants),
      cmocka_unit_test(refuses_a_value_within_itself),
      cmocka_unit_test(checks_every_extent),
      cmocka_unit_test(refuses_other_values),
      cmocka_unit_test(refuses_the_same_tensor_name_twice),
      cmocka_unit_test(reads_v3_tensors),
      cmocka_unit_test(stops_at_endless_repetition),
      cmocka_unit_test(refuses_bad_zip_fields),
      cmocka_unit_test(refuses_bytes_around_the_zip),
      cmocka_unit_test(refuses_other_zip_contents),
      cmocka_unit_test(refuses_overlapping_entries),
      cmocka_unit_test(survives_truncation_and_bit_flips),
      cmocka_unit_test(reads_zip64),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
