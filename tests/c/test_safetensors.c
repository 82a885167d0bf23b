// SPDX-License-Identifier: MIT
/* Reading safetensors and shards: what must be accepted, what must be refused and in which words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/reader.h"
#include "io_files.h"

static moon_checkpoint *parse(const buffer *file, moon_err *err) {
  moon_checkpoint *checkpoint;
  moon_bytes *bytes;
  assert_int_equal(moon_bytes_copy(&bytes, file->data, file->size, err), MOON_OK);
  assert_int_equal(moon_checkpoint_new(&checkpoint, "file", err), MOON_OK);
  if (moon_safetensors_parse(checkpoint, bytes, err) != MOON_OK) {
    moon_checkpoint_release(checkpoint);
    checkpoint = NULL;
  }
  moon_bytes_release(bytes);
  return checkpoint;
}

static void reads_tensors_and_metadata(void **state) {
  (void)state;
  buffer file = safetensors(
      "{\"__metadata__\":{\"b\":\"2\",\"a\":\"1\"},"
      "\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
      "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
      "\"none\":{\"dtype\":\"I64\",\"shape\":[5,0,2],\"data_offsets\":[4,4]},"
      "\"c\":{\"dtype\":\"C64\",\"shape\":[2],\"data_offsets\":[16,32]},"
      "\"f4\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[32,34]}}  ",
      34);
  moon_err err;
  moon_checkpoint *checkpoint = parse(&file, &err);
  assert_non_null(checkpoint);
  assert_string_equal(moon_checkpoint_format(checkpoint), "safetensors");
  assert_int_equal(moon_checkpoint_count(checkpoint), 5);
  assert_string_equal(moon_checkpoint_entry(checkpoint, 0)->name, "c");
  const moon_entry *w = moon_checkpoint_find(checkpoint, "w"),
                   *c = moon_checkpoint_find(checkpoint, "c");
  assert_int_equal(w->dtype, MOON_BF16);
  assert_int_equal(w->rank, 2);
  assert_int_equal(w->shape[1], 3);
  assert_int_equal(w->strides[0], 3);
  assert_int_equal(w->size_bytes, 12);
  assert_int_equal(moon_bytes_data(w->bytes)[w->offset], 4);
  assert_true(moon_entry_contiguous(w));
  assert_int_equal(c->dtype, MOON_OPAQUE);
  assert_string_equal(c->dtype_name, "c64");
  assert_int_equal(moon_checkpoint_find(checkpoint, "f4")->size_bytes, 2);
  assert_int_equal(moon_checkpoint_find(checkpoint, "none")->size_bytes, 0);
  assert_null(moon_checkpoint_find(checkpoint, "x"));
  uint8_t bytes[4];
  assert_int_equal(moon_entry_read(w, 4, 4, bytes, NULL), MOON_OK);
  assert_memory_equal(bytes, "\10\11\12\13", 4);
  size_t n;
  const moon_pair *metadata = moon_checkpoint_metadata(checkpoint, &n);
  assert_int_equal(n, 2);
  assert_string_equal(metadata[0].key, "a");
  assert_string_equal(metadata[1].value, "2");
  moon_checkpoint_release(checkpoint);
  free(file.data);
}

#define ONE(dtype, shape, offsets) \
  "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(a, b) \
  "{\"a\":{\"dtype\":\"U8\",\"shape\":" a "},\"b\":{\"dtype\":\"U8\",\"shape\":" b "}}"

#define TWO_A                                                       \
  "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}," \
  "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}"

/* P1, P7 */
static void refuses_bad_headers(void **state) {
  (void)state;
  const struct {
    const char *header;
    size_t data_size;
    const char *text;
  } cases[] = {
      {ONE("\"F32\"", "[2]", "[0,8]"), 7,
       "tensor 'w': data_offsets end at 8, but the file has 7 data bytes (truncated?)"},
      {ONE("\"F32\"", "[2]", "[0,8]"), 9, "1 data bytes belong to no tensor"},
      {ONE("\"F32\"", "[3]", "[0,8]"), 8,
       "tensor 'w': shape [3] in f32 takes 12 bytes, 'data_offsets' give it 8"},
      {ONE("\"F4\"", "[3]", "[0,1]"), 1,
       "tensor 'w': shape [3] in f4 takes 1 bytes, 'data_offsets' give it 1"},
      {ONE("\"F32\"", "[2]", "[8,0]"), 8, "tensor 'w': data_offsets [8, 0] run backwards"},
      {ONE("\"F32\"", "[2]", "[-8,0]"), 8,
       "header: tensor 'w': byte 48: expected a whole number from 0 to 2^63 - 1, found '-'"},
      {ONE("\"F32\"", "[2]", "[0,8,8]"), 8,
       "tensor 'w': lacks a dtype, a shape or two data_offsets"},
      {ONE("\"F32\"", "[2]", "[0,8.0]"), 8,
       "header: tensor 'w': byte 51: expected a whole number from 0 to 2^63 - 1, found '.'"},
      {ONE("\"F32\"", "[2]", "null"), 8, "header: tensor 'w': byte 47: expected '[', found 'n'"},
      {ONE("\"F32\"", "[-2]", "[0,8]"), 8,
       "header: tensor 'w': byte 29: expected a whole number from 0 to 2^63 - 1, found '-'"},
      {ONE("\"F32\"", "[2.0]", "[0,8]"), 8,
       "header: tensor 'w': byte 30: expected a whole number from 0 to 2^63 - 1, found '.'"},
      {ONE("\"F32\"", "\"2\"", "[0,8]"), 8,
       "header: tensor 'w': byte 28: expected '[', found '\"'"},
      {ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "tensor 'w': rank 9, at most 8"},
      {ONE("\"F32\"", "[4611686018427387904,4]", "[0,0]"), 0,
       "tensor 'w': shape [4611686018427387904, 4] is too large"},
      {ONE("\"F32\"", "[2305843009213693952]", "[0,0]"), 0,
       "tensor 'w': shape [2305843009213693952] is too large"},
      {ONE("\"F33\"", "[2]", "[0,8]"), 8, "tensor 'w': unknown dtype 'F33'"},
      {ONE("\"f32\"", "[2]", "[0,8]"), 8, "tensor 'w': unknown dtype 'f32'"},
      {ONE("32", "[2]", "[0,8]"), 8, "header: tensor 'w': byte 14: expected a string, found '3'"},
      {"{\"w\":[]}", 0, "header: tensor 'w': byte 5: expected '{', found '['"},
      {"{\"w\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"more\":1}}", 0,
       "header: tensor 'w': byte 59: expected the keys dtype, shape and data_offsets once each, "
       "found '1'"},
      {TWO("[2],\"data_offsets\":[0,2]", "[2],\"data_offsets\":[1,3]"), 3,
       "tensor 'b': data begin at 1, but the tensors before it end at 2 (an overlap)"},
      {TWO("[2],\"data_offsets\":[0,2]", "[2],\"data_offsets\":[3,5]"), 5,
       "tensor 'b': data begin at 3, but the tensors before it end at 2 (a hole)"},
      {TWO("[2],\"data_offsets\":[0,2]", "[2],\"data_offsets\":[0,2]"), 2,
       "tensor 'b': data begin at 0, but the tensors before it end at 2 (an overlap)"},
      {TWO_A, 2, "tensor 'a' is there twice"},
      {"{\"a\":1,\"a\":2}", 0, "header: tensor 'a': byte 5: expected '{', found '1'"},
      {"{\"a\":", 0, "header: tensor 'a': byte 5: expected '{', found the end"},
      {"[1]", 0, "the header does not begin with '{'"},
      {" {}", 0, "the header does not begin with '{'"},
      {"", 0, "the header does not begin with '{'"},
      {"{} x", 0, "header: byte 3: expected nothing more, found 'x'"},
      {"{\"\xff\":1}", 0, "header: byte 2: expected a string in UTF-8, found 0xff"},
      {"{\"a\\u0000b\":1}", 0,
       "header: byte 9: expected a character, not \\u0000 or half a surrogate pair, found 'b'"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0,
       "header: byte 34: expected one __metadata__ only, found '{'"},
      {"{\"__metadata__\":[]}", 0, "header: byte 16: expected '{', found '['"},
      {"{\"__metadata__\":{\"k\":1}}", 0, "header: byte 21: expected a string, found '1'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer file = safetensors(cases[i].header, cases[i].data_size);
    moon_err err;
    moon_status status = parse_and_read(moon_safetensors_parse, file.data, file.size, &err);
    if (strcmp(err.text, cases[i].text))
      print_error("case %zu\n", i);
    assert_string_equal(err.text, cases[i].text);
    assert_int_equal(status, strstr(err.text, "rank") ? MOON_EUNSUPPORTED : MOON_EFORMAT);
    free(file.data);
  }
}

static void reads_escaped_names(void **state) {
  (void)state;
  const struct {
    const char *json, *name, *text;
  } cases[] = {
      {"a\\u00e9\\n\\/\\\"", "a\xc3\xa9\n/\"", ""},
      {"\\ud83d\\ude00", "\xf0\x9f\x98\x80", ""},
      {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80", ""},
      {"\\uFFFF\\u007f\\u0080", "\xef\xbf\xbf\x7f\xc2\x80", ""},
      {"\\ud83d", "", "header: byte 8: expected the second half of a surrogate pair, found '\"'"},
      {"\\ud83d\\u0041", "",
       "header: byte 14: expected the second half of a surrogate pair, found '\"'"},
      {"\\ude00", "",
       "header: byte 8: expected a character, not \\u0000 or half a surrogate pair, found '\"'"},
      {"\\u12g4", "", "header: byte 6: expected four hex digits, found 'g'"},
      {"\\x", "", "header: byte 3: expected an escape, found 'x'"},
      {"a\nb", "", "header: byte 3: expected no control byte in a string, found 0x0a"},
      {"\xc0\x80", "", "header: byte 2: expected a string in UTF-8, found 0xc0"},
      {"\xed\xa0\x80", "", "header: byte 2: expected a string in UTF-8, found 0xed"},
      {"\xf4\x90\x80\x80", "", "header: byte 2: expected a string in UTF-8, found 0xf4"},
      {"\xe2\x82", "", "header: byte 2: expected a string in UTF-8, found 0xe2"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char header[256];
    snprintf(header, sizeof header,
             "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", cases[i].json);
    buffer file = safetensors(header, 1);
    moon_err err = {0};
    moon_checkpoint *checkpoint = parse(&file, &err);
    assert_string_equal(err.text, cases[i].text);
    if (checkpoint)
      assert_string_equal(moon_checkpoint_entry(checkpoint, 0)->name, cases[i].name);
    moon_checkpoint_release(checkpoint);
    free(file.data);
  }
}

static void refuses_bad_sizes(void **state) {
  (void)state;
  const struct {
    uint64_t header_size;
    const char *text;
  } cases[] = {
      {UINT64_MAX, "header of 18446744073709551615 bytes, at most 100000000"},
      {100000001, "header of 100000001 bytes, at most 100000000"},
      {3, "header of 3 bytes in a file of 10 (truncated?)"},
      {0, "the header does not begin with '{'"},
  };
  moon_err err;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    buffer file = {0};
    put_uint(&file, cases[i].header_size, 8);
    put_line(&file, "{}");
    assert_int_equal(parse_and_read(moon_safetensors_parse, file.data, file.size, &err),
                     MOON_EFORMAT);
    assert_string_equal(err.text, cases[i].text);
    free(file.data);
  }
  assert_int_equal(parse_and_read(moon_safetensors_parse, "1234567", 7, &err), MOON_EFORMAT);
  assert_string_equal(err.text, "7 bytes, too short for a safetensors header");
}

static const char small[] =
    "{\"__metadata__\":{\"k\":\"v\"},\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}"
    ","
    "\"w\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[4,12]}}";

/* P1 */
static void survives_truncation_and_bit_flips(void **state) {
  (void)state;
  buffer file = safetensors(small, 12);
  assert_int_equal(count_accepted_prefixes(moon_safetensors_parse, &file), 0);
  flip_every_bit(moon_safetensors_parse, &file);
  free(file.data);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* P8 */
static void opens_100k_tensors_in_a_second(void **state) {
  (void)state;
  enum { N = 100000 };
  buffer header = {0};
  char line[128];
  put_line(&header, "{");
  for (int i = 0; i < N; i++) {
    snprintf(line, sizeof line,
             "%s\"layers.%d.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
             i ? "," : "", i, i, i + 1);
    put_line(&header, line);
  }
  put(&header, "}", 2);
  buffer file = safetensors((char *)header.data, N);
  moon_err err;
  double start = seconds();
  moon_checkpoint *checkpoint = parse(&file, &err);
  assert_non_null(checkpoint);
  for (int i = 0; i < N; i++) {
    snprintf(line, sizeof line, "layers.%d.weight", i);
    const moon_entry *entry = moon_checkpoint_find(checkpoint, line);
    assert_non_null(entry);
    assert_int_equal(moon_bytes_data(entry->bytes)[entry->offset], i & 0xff);
  }
  double took = seconds() - start;
  print_message("100k tensors: %.3f s\n", took);
#ifndef __SANITIZE_ADDRESS__
  assert_true(took < 1);
#endif
  moon_checkpoint_release(checkpoint);
  free(header.data);
  free(file.data);
}

/* ---- files and folders ---- */

static char folder[] = "/tmp/moonscope-safetensors-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  return !mkdtemp(folder) || chdir(folder);
}

static int remove_folder(void **state) {
  (void)state;
  const char *const files[] = {"a.safetensors", "b.safetensors", "model.safetensors",
                               "model.safetensors.index.json", "foreign"};
  for (size_t i = 0; i < sizeof files / sizeof *files; i++)
    unlink(files[i]);
  return chdir("/") || rmdir(folder);
}

static void write_text(const char *path, const char *text) {
  buffer b = {0};
  put_line(&b, text);
  write_whole(path, &b);
  free(b.data);
}

static void write_safetensors(const char *path, const char *header, size_t data_size) {
  buffer b = safetensors(header, data_size);
  write_whole(path, &b);
  free(b.data);
}

static void refuses_foreign_files(void **state) {
  (void)state;
  const struct {
    const char *content;
    moon_status code;
    const char *text;
  } cases[] = {
      {"", MOON_EFORMAT, "foreign: the file is empty"},
      {"x", MOON_EFORMAT, "foreign: not a checkpoint of a known format; its 1 bytes start with 78"},
      {"GGUF....", MOON_EUNSUPPORTED, "foreign: a GGUF file"},
      {"version https://git-lfs.github.com/spec/v1\n", MOON_EFORMAT,
       "foreign: a Git LFS pointer, not the file that it stands for"},
      {"<!DOCTYPE html>", MOON_EFORMAT, "foreign: a web page or XML, not a checkpoint"},
  };
  moon_checkpoint *checkpoint;
  moon_err err;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_text("foreign", cases[i].content);
    assert_int_equal(moon_checkpoint_open(&checkpoint, "foreign", &err), cases[i].code);
    assert_string_equal(err.text, cases[i].text);
    assert_null(checkpoint);
  }
  assert_int_equal(moon_checkpoint_open(&checkpoint, "missing", &err), MOON_ENOENT);
  assert_string_equal(err.text, "missing: No such file or directory");
  assert_int_equal(moon_checkpoint_open(&checkpoint, ".", &err), MOON_ENOENT);
  assert_string_equal(
      err.text,
      ".: none of model.safetensors, model.safetensors.index.json, pytorch_model.bin and "
      "pytorch_model.bin.index.json in this folder");
}

#define A "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}"
#define B                                                                                          \
  "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[" \
  "0,1]}}"

static void reads_shards(void **state) {
  (void)state;
  write_safetensors("a.safetensors", A, 2);
  write_safetensors("b.safetensors", B, 1);
  write_text("model.safetensors.index.json",
             "{\"metadata\": {\"total_size\": -1.5e3, \"x\": [[], {}, true, \"\"]},\n"
             " \"weight_map\": {\"a\": \"a.safetensors\", \"b\": \"b.safetensors\"}}\n");
  moon_checkpoint *checkpoint;
  moon_err err;
  assert_int_equal(moon_checkpoint_open(&checkpoint, ".", &err), MOON_OK);
  assert_int_equal(moon_checkpoint_count(checkpoint), 2);
  assert_ptr_not_equal(moon_checkpoint_entry(checkpoint, 0)->bytes,
                       moon_checkpoint_entry(checkpoint, 1)->bytes);
  assert_null(moon_checkpoint_file(checkpoint));
  moon_checkpoint_release(checkpoint);
  write_safetensors("model.safetensors", A, 2); /* a single file comes before the index */
  assert_int_equal(moon_checkpoint_open(&checkpoint, ".", &err), MOON_OK);
  assert_int_equal(moon_checkpoint_count(checkpoint), 1);
  assert_non_null(moon_checkpoint_file(checkpoint));
  moon_checkpoint_release(checkpoint);
  unlink("model.safetensors");
}

#define FIVE_BRACKETS       "[[[[["
#define TWENTY_BRACKETS     FIVE_BRACKETS FIVE_BRACKETS FIVE_BRACKETS FIVE_BRACKETS
#define SIXTY_FIVE_BRACKETS TWENTY_BRACKETS TWENTY_BRACKETS TWENTY_BRACKETS FIVE_BRACKETS

static void refuses_bad_indices(void **state) {
  (void)state;
  const struct {
    const char *index, *text;
  } cases[] = {
      {"{", "byte 1: expected a string, found the end"},
      {"[]", "byte 0: expected '{', found '['"},
      {"{\"metadata\":[1,],\"weight_map\":{}}", "byte 15: expected a value, found ']'"},
      {"{\"metadata\":{1:2},\"weight_map\":{}}", "byte 13: expected a string, found '1'"},
      {"{\"metadata\":" SIXTY_FIVE_BRACKETS, "byte 77: expected no deeper nesting, found the end"},
      {"{\"metadata\":{}}", "no 'weight_map'"},
      {"{\"weight_map\":{},\"weight_map\":{\"a\":1}} x",
       "byte 30: expected one weight_map only, found '{'"},
      {"{\"weight_map\":[]}", "byte 14: expected '{', found '['"},
      {"{\"weight_map\":{\"a\":1}}", "byte 19: expected a string, found '1'"},
      {"{\"weight_map\":{\"a\":\"../a.safetensors\"}}",
       "weight_map: 'a' does not name a file of the same folder"},
      {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}",
       "weight_map: 'a' does not name a file of the same folder"},
      {"{\"weight_map\":{\"a\":\"..\"}}",
       "weight_map: 'a' does not name a file of the same folder"},
      {"{\"weight_map\":{\"a\":\"\"}}", "weight_map: 'a' does not name a file of the same folder"},
      {"{\"weight_map\":{\"a\":\"c.safetensors\"}}", "./c.safetensors: No such file or directory"},
      {"{\"weight_map\":{\"a\":\"b.safetensors\"}}",
       "./b.safetensors: tensor 'b' is in b.safetensors, but the index names no file for it"},
      {"{\"weight_map\":{\"a\":\"b.safetensors\",\"b\":\"a.safetensors\"}}",
       "./a.safetensors: tensor 'a' is in a.safetensors, but the index names b.safetensors"},
      {"{\"weight_map\":{\"a\":\"a.safetensors\",\"x\":\"a.safetensors\"}}",
       "tensor 'x' is not in a.safetensors"},
      {"{\"weight_map\":{\"a\":\"a.safetensors\",\"a\":\"a.safetensors\"}}",
       "weight_map: 'a' is there twice"},
  };
  write_safetensors("a.safetensors", A, 2);
  write_safetensors("b.safetensors", B, 1);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    moon_checkpoint *checkpoint;
    moon_err err;
    write_text("model.safetensors.index.json", cases[i].index);
    assert_int_not_equal(moon_checkpoint_open(&checkpoint, ".", &err), MOON_OK);
    assert_memory_equal(err.text, "./model.safetensors.index.json: ", 32);
    assert_string_equal(err.text + 32, cases[i].text);
  }
}

static void opening_touches_the_header_only(void **state) {
  (void)state;
  const off_t size = 1 << 30;
  char header[256];
  snprintf(header, sizeof header, ONE("\"U8\"", "[%lld]", "[0,%lld]"), (long long)size,
           (long long)size);
  write_safetensors("a.safetensors", header, 0);
  assert_int_equal(truncate("a.safetensors", 8 + (off_t)strlen(header) + size), 0);
  moon_checkpoint *checkpoint;
  moon_err err;
  assert_int_equal(moon_checkpoint_open(&checkpoint, "a.safetensors", &err), MOON_OK);
  size_t resident = count_resident(moon_checkpoint_file(checkpoint));
  print_message("opened 1 GiB of safetensors: %zu of 262145 pages in memory\n", resident);
  assert_in_range(resident, 1, 512);
  moon_checkpoint_release(checkpoint);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_tensors_and_metadata),
      cmocka_unit_test(refuses_bad_headers),
      cmocka_unit_test(reads_escaped_names),
      cmocka_unit_test(refuses_bad_sizes),
      cmocka_unit_test(survives_truncation_and_bit_flips),
      cmocka_unit_test(opens_100k_tensors_in_a_second),
      cmocka_unit_test(opening_touches_the_header_only),
      cmocka_unit_test(refuses_foreign_files),
      cmocka_unit_test(reads_shards),
      cmocka_unit_test(refuses_bad_indices),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
