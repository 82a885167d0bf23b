// SPDX-License-Identifier: MIT
/* PyTorch's older form, hand-made and broken; torch's own files are in test_pth.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "io_files.h"

#define FIXTURES MOON_SOURCE_DIR "/tests/fixtures/pth/legacy_"

#define MAGIC "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

typedef struct parts { /* what a test changes; NULL: as it should be */
  const char *version, *machine, *keys;
  size_t version_size, machine_size, keys_size;
} parts;

#define OR(part, good) (part) ? (part) : (good), (part) ? part##_size : sizeof(good) - 1

static void put_start(buffer *b, const parts *p) {
  put(b, MAGIC, sizeof MAGIC - 1);
  put(b, OR(p->version, "\x80\2M\xe9\3."));
  put(b, OR(p->machine, "\x80\2}U\15little_endian\x88s."));
}

/* {"w": tensor} over one storage "0" of 6 floats, whose size is said to be n. */
static buffer legacy(const parts *p, const tensor_spec *spec, uint64_t n, size_t n_bytes) {
  buffer b = {0}, object = pickle_of(spec);
  put_start(&b, p);
  put(&b, object.data, object.size);
  put(&b, OR(p->keys,
             "\x80\2]U\1"
             "0a."));
  put_uint(&b, n, 8);
  for (size_t i = 0; i < n_bytes; i++)
    put_uint(&b, i, 1);
  free(object.data);
  return b;
}

static const tensor_spec floats = {"FloatStorage", "0", 6, 2, 2, 2, {2, 2}, {2, 1}};

static void expect(const buffer *file, moon_status code, const char *text) {
  moon_err err;
  moon_status status = parse_and_read(moon_checkpoint_parse, file->data, file->size, &err);
  if (!strstr(err.text, text))
    fail_msg("found '%s', expected '%s'", err.text, text);
  assert_int_equal(status, code);
}

static void reads_a_hand_made_file(void **state) {
  (void)state;
  buffer file = legacy(&(parts){0}, &floats, 6, 24);
  moon_checkpoint *checkpoint;
  moon_bytes *bytes;
  assert_int_equal(moon_bytes_copy(&bytes, file.data, file.size, NULL), MOON_OK);
  assert_int_equal(moon_checkpoint_new(&checkpoint, "file", NULL), MOON_OK);
  assert_int_equal(moon_checkpoint_parse(checkpoint, bytes, NULL), MOON_OK);
  assert_string_equal(moon_checkpoint_format(checkpoint), "pth");
  const moon_entry *w = moon_checkpoint_find(checkpoint, "w");
  uint8_t out[16];
  assert_int_equal(w->size_bytes, 16);
  assert_int_equal(moon_entry_read(w, 0, 16, out, NULL), MOON_OK);
  for (int i = 0; i < 16; i++)
    assert_int_equal(out[i], 8 + i);
  moon_checkpoint_release(checkpoint);
  moon_bytes_release(bytes);
  free(file.data);
}

/* Before PyTorch 0.4 a tensor was a call with four arguments. */
static void reads_the_first_rebuild_call(void **state) {
  (void)state;
  buffer file = {0}, object = {0};
  put(&object, "\x80\2", 2);
  put_line(&object, "ctorch._utils\n_rebuild_tensor\n(");
  put_storage(&object, "torch", "FloatStorage", "0", 6);
  put_int(&object, 0);
  put_tuple(&object, (int64_t[]){3, 2}, 2);
  put_tuple(&object, (int64_t[]){1, 3}, 2);
  put_line(&object, "tR.");
  put_start(&file, &(parts){0});
  put(&file, object.data, object.size);
  put(&file,
      "\x80\2]U\1"
      "0a.",
      8);
  put_uint(&file, 6, 8);
  put(&file, "000011112222333344445555", 24);
  expect(&file, MOON_OK, "");
  free(object.data);
  free(file.data);
}

#define PART(name, text) .name = (text), .name##_size = sizeof(text) - 1

/* P1 P7 */
static void refuses_what_is_not_so(void **state) {
  (void)state;
  tensor_spec far = floats, bytes = floats, huge = floats;
  far.offset = 3;
  bytes.storage_type = "DoubleStorage";
  huge.storage_n = INT64_MAX;
  const struct {
    parts parts;
    const tensor_spec *spec;
    uint64_t n;
    size_t n_bytes;
    moon_status code;
    const char *text;
  } cases[] = {
      {{0}, &floats, 6, 24, MOON_OK, ""},
      {{PART(version, "\x80\2M\xea\3.")}, &floats, 6, 24, MOON_EUNSUPPORTED, "not version 1001"},
      {{PART(version, "\x80\2N.")}, &floats, 6, 24, MOON_EUNSUPPORTED, "not version 1001"},
      {{PART(machine, "\x80\2}U\15little_endian\x89s.")},
       &floats,
       6,
       24,
       MOON_EUNSUPPORTED,
       "not written on a little-endian machine"},
      {{PART(machine, "\x80\2}.")}, &floats, 6, 24, MOON_EUNSUPPORTED, "little-endian"},
      {{PART(machine, "\x80\2K\1.")}, &floats, 6, 24, MOON_EUNSUPPORTED, "little-endian"},
      {{PART(machine,
             "\x80\2"
             "cposix\nsystem\n.")},
       &floats,
       6,
       24,
       MOON_EUNSUPPORTED,
       "the machine: the pickle asks for posix.system"},
      {{PART(keys, "\x80\2].")}, &floats, 6, 24, MOON_EFORMAT, "not a list of the keys of its 1"},
      {{PART(keys, "\x80\2}.")}, &floats, 6, 24, MOON_EFORMAT, "not a list of the keys of its 1"},
      {{PART(keys,
             "\x80\2]U\1"
             "1a.")},
       &floats,
       6,
       24,
       MOON_EFORMAT,
       "names a storage twice, or one"},
      {{PART(keys, "\x80\2]K\0a.")}, &floats, 6, 24, MOON_EFORMAT, "names a storage twice, or one"},
      {{0}, &floats, 5, 24, MOON_EFORMAT, "not its 6 elements"},
      {{0}, &floats, 6, 23, MOON_EFORMAT, "6 elements of f32 pass the end of the file"},
      {{0}, &floats, 6, 25, MOON_EFORMAT, "1 bytes follow the last storage"},
      {{0},
       &far,
       6,
       24,
       MOON_EFORMAT,
       "tensor 'w': shape [2, 2] with strides [2, 1] from element 3"},
      {{0}, &bytes, 6, 24, MOON_EFORMAT, "6 elements of f64 pass the end of the file"},
      {{0}, &huge, INT64_MAX, 24, MOON_EFORMAT, "elements of f32 pass the end of the file"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer file = legacy(&cases[i].parts, cases[i].spec, cases[i].n, cases[i].n_bytes);
    expect(&file, cases[i].code, cases[i].text);
    free(file.data);
  }
}

/* One storage, two tensors: they must agree about it. A view of a storage is refused. P7 */
static void refuses_storages_that_disagree(void **state) {
  (void)state;
  const tensor_spec other = {"FloatStorage", "0", 5, 0, 1, 1, {1}, {1}};
  for (int same = 0; same < 2; same++) {
    buffer file = {0}, object = {0};
    put(&object, "\x80\2}(U\1a", 7);
    put_tensor(&object, &floats);
    put_line(&object, "U\1b");
    put_tensor(&object, same ? &floats : &other);
    put_line(&object, "u.");
    put_start(&file, &(parts){0});
    put(&file, object.data, object.size);
    put(&file,
        "\x80\2]U\1"
        "0a.",
        8);
    put_uint(&file, 6, 8);
    put(&file, "000011112222333344445555", 24);
    expect(&file, same ? MOON_OK : MOON_EFORMAT, same ? "" : "storage '0' has two types or sizes");
    free(object.data);
    free(file.data);
  }
  buffer file = {0};
  put_start(&file, &(parts){0});
  put_line(&file,
           "\x80\2((U\7storagectorch\nFloatStorage\nU\1"
           "0U\3cpuK\6(U\1xK\1K\2ttQt.");
  put(&file, "\x80\2].", 4);
  expect(&file, MOON_EUNSUPPORTED, "not a whole storage of numbers");
  free(file.data);
}

/* P1 */
static void survives_truncation_and_bit_flips(void **state) {
  (void)state;
  const char *const names[] = {FIXTURES "nested.pth", FIXTURES "protocol4.pth",
                               FIXTURES "parameter.pth"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    buffer file = read_whole(names[i]);
    assert_true(file.size > 300);
    assert_int_equal(count_accepted_prefixes(moon_checkpoint_parse, &file), 0);
    flip_every_bit(moon_checkpoint_parse, &file);
    free(file.data);
  }
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_a_hand_made_file),
      cmocka_unit_test(reads_the_first_rebuild_call),
      cmocka_unit_test(refuses_what_is_not_so),
      cmocka_unit_test(refuses_storages_that_disagree),
      cmocka_unit_test(survives_truncation_and_bit_flips),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
