// SPDX-License-Identifier: MIT
/* Reading .npz and .npy: NumPy's own (tests/fixtures), hand-made ones, hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <zlib.h>

#include "io_expected.h"

#define FIXTURES MOON_SOURCE_DIR "/tests/fixtures/npz/"

static moon_checkpoint *open_fixture(const char *name) {
  char path[512];
  moon_checkpoint *checkpoint;
  moon_err err;
  snprintf(path, sizeof path, FIXTURES "%s", name);
  if (moon_checkpoint_open(&checkpoint, path, &err) != MOON_OK)
    fail_msg("%s", err.text);
  return checkpoint;
}

static void reads_what_numpy_writes(void **state) {
  (void)state;
  json_t *expected = load_json(FIXTURES "expected.json"), *tensors;
  const char *name;
  assert_int_equal(json_object_size(expected), 7);
  json_object_foreach(expected, name, tensors) {
    moon_checkpoint *checkpoint = open_fixture(name);
    assert_string_equal(moon_checkpoint_format(checkpoint), strrchr(name, '.') + 1);
    compare_tensors(checkpoint, tensors);
    moon_checkpoint_release(checkpoint);
  }
  json_decref(expected);
}

/* [100][300] of i % 97, deflated, in C and Fortran order: ranges in any order. */
static void reads_ranges_of_deflated_ones(void **state) {
  (void)state;
  moon_checkpoint *checkpoint = open_fixture("large_deflated.npz");
  const char *const names[] = {"c", "fortran"};
  const size_t firsts[] = {0, 5000, 5004, 100000, 0, 119996, 70000, 400};
  int32_t out[2500];
  for (int i = 0; i < 2; i++) {
    const moon_entry *entry = moon_checkpoint_find(checkpoint, names[i]);
    assert_non_null(entry->packed);
    for (size_t k = 0; k < sizeof firsts / sizeof *firsts; k++) {
      size_t size = firsts[k] + sizeof out <= 120000 ? sizeof out : 120000 - firsts[k];
      assert_int_equal(moon_entry_read(entry, firsts[k], size, out, NULL), MOON_OK);
      for (size_t n = 0; n < size / 4; n++)
        assert_int_equal(out[n], (firsts[k] / 4 + n) % 97);
    }
  }
  moon_checkpoint_release(checkpoint);
}

/* ---- one .npy with this header ---- */

static buffer npy(const char *header, size_t n_bytes) {
  buffer b = {0};
  put(&b, "\x93NUMPY\1\0", 8);
  put_uint(&b, strlen(header), 2);
  put_line(&b, header);
  for (size_t i = 0; i < n_bytes; i++)
    put_uint(&b, i, 1);
  return b;
}

/* P1 P7 */
static void checks_every_header(void **state) {
  (void)state;
#define KEYS "expected the keys descr, fortran_order and shape once each"
#define ALL  "expected descr, fortran_order and shape, and blanks behind them"
  const struct {
    const char *header;
    size_t n_bytes;
    const char *text; /* NULL: it is read */
  } cases[] = {
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n", 24, NULL},
      {"{\"shape\":(6,),\"descr\":\"<f4\",\"fortran_order\":True}", 24, NULL},
      {"{'descr': '|b1', 'fortran_order': False, 'shape': (), }", 1, NULL},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807), }", 0, NULL},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 23, "takes 24 bytes, but 23"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 25, "takes 24 bytes, but 25"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6), }", 24, "expected a comma behind"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }", 24, "expected ','"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 24, "expected a whole number"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 24,
       "expected a whole number"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 24,
       "shape [4294967296, 4294967296] is too large"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4, "rank 9"},
      {"{'descr': '>f4', 'fortran_order': False, 'shape': (6,), }", 24, "'>f4' is big endian"},
      {"{'descr': '|O', 'fortran_order': False, 'shape': (6,), }", 24, "array of Python objects"},
      {"{'descr': '<V2', 'fortran_order': False, 'shape': (6,), }", 12, "dtype '<V2' is not one"},
      {"{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", 24, "dtype '<c8' is not one"},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", 24, "expected a text"},
      {"{'descr': '<f4', 'fortran_order': 0, 'shape': (6,), }", 24, "expected True or False"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'x': 1}", 24, KEYS},
      {"{'descr': '<f4', 'descr': '<f4', 'shape': (6,), }", 24, KEYS},
      {"{'descr': '<f4', 'shape': (6,), }", 24, ALL},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), } x", 24, ALL},
      {"{'descr': '<f4' 'fortran_order': False, 'shape': (6,), }", 24, "expected ',' or '}'"},
      {"{'descr': '<f4", 0, "expected the end of a short text"},
      {"{'descr': 'a text that is longer than any dtype can be'", 0, "the end of a short text"},
      {"", 0, "its 10 bytes do not begin with its mark"},
      {"__import__('os').system('true')", 24, "expected '{'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer file = npy(cases[i].header, cases[i].n_bytes);
    moon_err err;
    moon_status status = parse_and_read(moon_checkpoint_parse, file.data, file.size, &err);
    if ((status == MOON_OK) != !cases[i].text ||
        !strstr(err.text, cases[i].text ? cases[i].text : ""))
      fail_msg("case %zu: found '%s', expected '%s'", i, err.text, cases[i].text);
    free(file.data);
  }
}

/* ---- deflated entries that are not what they say ---- */

static buffer deflated(const buffer *data) {
  buffer out = {.data = malloc(data->size + 1000)};
  z_stream stream = {.next_in = data->data, .avail_in = (uInt)data->size};
  deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  stream.next_out = out.data;
  stream.avail_out = (uInt)data->size + 1000;
  assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.size = out.room = data->size + 1000 - stream.avail_out;
  deflateEnd(&stream);
  return out;
}

/* An .npz of one deflated entry that claims these sizes and this sum. */
static buffer npz(const buffer *packed, uint32_t crc, size_t size) {
  zip_places places;
  zip_item item = {"w.npy", packed->data, packed->size};
  buffer file = zip(&item, 1, &places);
  for (int i = 0; i < 2; i++) {
    uint8_t *common = file.data + (i ? places.central[0] + 8 : places.local[0] + 6);
    common[2] = 8;
    for (int k = 0; k < 4; k++) {
      common[8 + k] = (uint8_t)(crc >> 8 * k);
      common[16 + k] = (uint8_t)(size >> 8 * k);
    }
  }
  return file;
}

/* P1 P8 */
static void bounds_deflated_entries(void **state) {
  (void)state;
  buffer array = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000,), }\n", 4000);
  buffer packed = deflated(&array);
  uint32_t crc = (uint32_t)crc32(0, array.data, (uInt)array.size);
  const struct {
    size_t drop, add; /* bytes at the end of the deflated ones */
    uint32_t crc;
    size_t size;
    const char *text; /* of opening or reading; NULL: neither fails */
  } cases[] = {
      {0, 0, crc, array.size, NULL},
      {0, 0, crc + 1, array.size, "a wrong checksum after 4071 of 4071 bytes"},
      {1, 0, crc, array.size, "deflated data: they end after"},
      {0, 1, crc, array.size, "more follows after 4071 of 4071 bytes"},
      {0, 0, crc, array.size - 4, "takes 4000 bytes, but 3996 follow the header"},
      {0, 0, crc, array.size + 4, "takes 4000 bytes, but 4004 follow the header"},
      {0, 0, crc, 5, "more follows after 5 of 5 bytes"},
      {0, 0, crc, 0xfffffff0, "deflated bytes cannot become 4294967280"},
      {packed.size, 0, crc, array.size, "deflated bytes cannot become"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer data = {0};
    put(&data, packed.data, packed.size - cases[i].drop);
    put(&data, "xx", cases[i].add);
    buffer file = npz(&data, cases[i].crc, cases[i].size);
    moon_checkpoint *checkpoint;
    moon_bytes *bytes;
    moon_err err = {0};
    uint8_t out[4000];
    assert_int_equal(moon_bytes_copy(&bytes, file.data, file.size, NULL), MOON_OK);
    assert_int_equal(moon_checkpoint_new(&checkpoint, "file", NULL), MOON_OK);
    moon_status status = moon_checkpoint_parse(checkpoint, bytes, &err);
    for (int again = 0; again < 2 && moon_checkpoint_count(checkpoint); again++)
      status = moon_entry_read(moon_checkpoint_entry(checkpoint, 0), 0, 4000, out, &err);
    if ((status == MOON_OK) != !cases[i].text ||
        !strstr(err.text, cases[i].text ? cases[i].text : ""))
      fail_msg("case %zu: found '%s', expected '%s'", i, err.text, cases[i].text);
    moon_checkpoint_release(checkpoint);
    moon_bytes_release(bytes);
    free(data.data);
    free(file.data);
  }
  free(packed.data);
  free(array.data);
}

/* A header that asks for more than the file can hold is not inflated further. */
static void refuses_other_entries(void **state) {
  (void)state;
  static const char array[] =
      "\x93NUMPY\1\0\x39\0{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }ab";
  const struct {
    zip_item items[2];
    const char *text;
  } cases[] = {
      {{{"w.npy", array, sizeof array - 1}, {"v.npy", array, sizeof array - 1}}, ""},
      {{{"w.npy", array, sizeof array - 1}, {"readme.txt", "x", 1}},
       "zip entry 'readme.txt' is no .npy beside others that are"},
      {{{"w.npy", array, sizeof array - 1}, {"w.npy", array, sizeof array - 1}},
       "zip entry 'w.npy' is there twice"},
      {{{"w.npy", "x", 1}, {"v.npy", array, sizeof array - 1}},
       "tensor 'w': not a .npy: its 1 bytes do not begin with its mark"},
      {{{"w.npy", "\x93NUMPY\4\0\0\0\0\0", 12}, {"v.npy", array, sizeof array - 1}},
       "tensor 'w': .npy version 4.0, expected 1.0 to 3.0"},
      {{{"w.npy", "\x93NUMPY\2\0\xff\xff\xff\xff", 12}, {"v.npy", array, sizeof array - 1}},
       "tensor 'w': .npy header up to byte 4294967307 of 12, at most 65536"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    zip_places places;
    moon_err err;
    buffer file = zip(cases[i].items, 2, &places);
    parse_and_read(moon_checkpoint_parse, file.data, file.size, &err);
    assert_string_equal(err.text, cases[i].text);
    free(file.data);
  }
}

/* P1 */
static void survives_truncation_and_bit_flips(void **state) {
  (void)state;
  const char *const names[] = {FIXTURES "orders.npz", FIXTURES "orders_deflated.npz",
                               FIXTURES "fortran.npy"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    buffer file = read_whole(names[i]);
    assert_true(file.size > 500);
    assert_int_equal(count_accepted_prefixes(moon_checkpoint_parse, &file), 0);
    flip_every_bit(moon_checkpoint_parse, &file);
    free(file.data);
  }
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_what_numpy_writes),
      cmocka_unit_test(reads_ranges_of_deflated_ones),
      cmocka_unit_test(checks_every_header),
      cmocka_unit_test(bounds_deflated_entries),
      cmocka_unit_test(refuses_other_entries),
      cmocka_unit_test(survives_truncation_and_bit_flips),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
