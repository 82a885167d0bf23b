// SPDX-License-Identifier: MIT
/* Writing safetensors: layout, order, the bytes that come out, and what a failure leaves behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <jansson.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/writer.h"
#include "io_files.h"

static char folder[] = "/tmp/moonscope-writer-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  return !mkdtemp(folder) || chdir(folder);
}

static int remove_folder(void **state) {
  (void)state;
  return chdir("/") || rmdir(folder);
}

static int count_files(void) {
  DIR *dir = opendir(".");
  int n = 0;
  for (struct dirent *entry; (entry = readdir(dir));)
    n += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
  closedir(dir);
  return n;
}

static const moon_plan plans[] = {
    {"z", "F32", 4, 1, {2}, 8},       {"bytes", "U8", 1, 1, {3}, 3},
    {"scalar", "F64", 8, 0, {0}, 8},  {"a", "F32", 4, 2, {1, 3}, 12},
    {"none", "I64", 8, 2, {0, 4}, 0}, {"opaque", "C64", 0, 1, {1}, 8},
    {"flags", "BOOL", 1, 1, {1}, 1},
};
enum { N_PLANS = sizeof plans / sizeof *plans };

/* none and scalar have 8 bytes an element, a and z 4, bytes and flags 1; what is opaque comes last.
 */
static const char *const order[] = {"none", "scalar", "a", "z", "bytes", "flags", "opaque"};

/* Bytes 0, 1, 2, ... in pieces of `piece`, and sealed. */
static void fill(moon_writer *writer, size_t total, size_t piece, char sha256[MOON_SHA256_TEXT]) {
  uint8_t data[64];
  for (size_t i = 0; i < sizeof data; i++)
    data[i] = (uint8_t)i;
  for (size_t done = 0; done < total; done += piece)
    assert_int_equal(
        moon_writer_append(writer, data + done, piece < total - done ? piece : total - done, NULL),
        MOON_OK);
  assert_int_equal(moon_writer_seal(writer, sha256, NULL), MOON_OK);
}

static void writes_sorted_and_aligned(void **state) {
  (void)state;
  const moon_pair metadata[] = {{"k", "v"}, {"a\"b", "\xc3\xa9\n"}};
  moon_writer *writer;
  char sha256[MOON_SHA256_TEXT], again[MOON_SHA256_TEXT];
  assert_int_equal(moon_writer_create(&writer, "out", plans, N_PLANS, metadata, 2, NULL), MOON_OK);
  for (size_t i = 0; i < N_PLANS; i++)
    assert_string_equal(plans[moon_writer_order(writer)[i]].name, order[i]);
  size_t size = moon_writer_size(writer);
  fill(writer, 40, 7, sha256);
  assert_int_equal(moon_writer_publish(writer, NULL), MOON_OK);
  moon_writer_release(writer);

  buffer file = read_whole("out");
  size_t header_size = file.data[0] | (size_t)file.data[1] << 8;
  assert_int_equal(file.size, size);
  assert_int_equal((8 + header_size) % 64, 0);
  assert_int_equal(file.size, 8 + header_size + 40);
  const char *expected =
      "{\"__metadata__\":{\"a\\\"b\":\"\xc3\xa9\\n\",\"k\":\"v\"},"
      "\"none\":{\"dtype\":\"I64\",\"shape\":[0,4],\"data_offsets\":[0,0]},"
      "\"scalar\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
      "\"a\":{\"dtype\":\"F32\",\"shape\":[1,3],\"data_offsets\":[8,20]},";
  assert_memory_equal(file.data + 8, expected, strlen(expected));
  for (size_t i = 0; i < 40; i++)
    assert_int_equal(file.data[8 + header_size + i], i);
  moon_digest *digest;
  assert_int_equal(moon_digest_new(&digest, NULL), MOON_OK);
  moon_digest_add(digest, file.data, file.size);
  assert_int_equal(moon_digest_text(digest, again, NULL), MOON_OK);
  assert_string_equal(sha256, again);
  moon_digest_release(digest);

  moon_checkpoint *checkpoint; /* our reader agrees */
  assert_int_equal(moon_checkpoint_open(&checkpoint, "out", NULL), MOON_OK);
  assert_int_equal(moon_checkpoint_count(checkpoint), N_PLANS);
  assert_int_equal(moon_checkpoint_find(checkpoint, "z")->offset, 8 + header_size + 20);
  moon_checkpoint_release(checkpoint);
  free(file.data);
  unlink("out");
}

/* P7 */
static void same_input_gives_the_same_bytes(void **state) {
  (void)state;
  moon_plan turned[N_PLANS];
  char first[MOON_SHA256_TEXT], second[MOON_SHA256_TEXT];
  const moon_pair metadata[] = {{"k", "v"}, {"a", "b"}}, swapped[] = {{"a", "b"}, {"k", "v"}};
  moon_writer *writer;
  for (int i = 0; i < N_PLANS; i++)
    turned[i] = plans[N_PLANS - 1 - i];
  assert_int_equal(moon_writer_create(&writer, "out", plans, N_PLANS, metadata, 2, NULL), MOON_OK);
  fill(writer, 40, 40, first);
  moon_writer_release(writer);
  assert_int_equal(moon_writer_create(&writer, "out", turned, N_PLANS, swapped, 2, NULL), MOON_OK);
  fill(writer, 40, 1, second);
  moon_writer_release(writer);
  assert_string_equal(first, second);
  assert_int_equal(count_files(), 0);
}

static void needs_exactly_the_bytes(void **state) {
  (void)state;
  moon_writer *writer;
  moon_err err;
  char sha256[MOON_SHA256_TEXT];
  uint8_t data[64] = {0};
  assert_int_equal(moon_writer_create(&writer, "out", plans, N_PLANS, NULL, 0, NULL), MOON_OK);
  assert_int_equal(moon_writer_append(writer, data, 39, &err), MOON_OK);
  assert_int_equal(moon_writer_append(writer, data, 2, &err), MOON_EINVAL);
  assert_string_equal(err.text, "out: 1 bytes more than its header says");
  assert_int_equal(moon_writer_seal(writer, sha256, &err), MOON_EINVAL);
  assert_string_equal(err.text, "out: 1 bytes are missing, or it is sealed already");
  assert_int_equal(moon_writer_publish(writer, &err), MOON_EINVAL);
  assert_string_equal(err.text, "out: not sealed, or published already");
  assert_int_equal(moon_writer_append(writer, data, 1, &err), MOON_OK);
  assert_int_equal(moon_writer_seal(writer, sha256, &err), MOON_OK);
  assert_int_equal(moon_writer_seal(writer, sha256, &err), MOON_EINVAL);
  assert_int_equal(count_files(), 1); /* the temporary one */
  moon_writer_release(moon_writer_retain(writer));
  assert_int_equal(count_files(), 1);
  moon_writer_release(writer);
  assert_int_equal(count_files(), 0);
}

static void refuses_bad_plans(void **state) {
  (void)state;
  const moon_plan twice[] = {{"a", "U8", 1, 1, {1}, 1}, {"a", "U8", 1, 1, {1}, 1}};
  const moon_plan reserved[] = {{"__metadata__", "U8", 1, 1, {1}, 1}},
                  latin[] = {{"\xe9", "U8", 1, 1, {1}, 1}};
  const moon_plan huge[] = {{"a", "U8", 1, 1, {1}, SIZE_MAX}, {"b", "U8", 1, 1, {1}, 1}};
  const moon_pair bad_pair[] = {{"k", "\xff"}};
  const struct {
    const char *path;
    const moon_plan *plans;
    size_t n;
    const moon_pair *metadata;
    size_t n_metadata;
    moon_status code;
    const char *text;
  } cases[] = {
      {"out", twice, 2, NULL, 0, MOON_EINVAL, "tensor 'a' is there twice"},
      {"out", reserved, 1, NULL, 0, MOON_EINVAL,
       "tensor '__metadata__': safetensors keeps that name for itself"},
      {"out", latin, 1, NULL, 0, MOON_EINVAL, "tensor '?': the name is not UTF-8"},
      {"out", huge, 2, NULL, 0, MOON_EINVAL, "tensor 'b' is too large"},
      {"out", plans, 1, bad_pair, 1, MOON_EINVAL, "metadata that is not UTF-8 text"},
      {"missing/out", plans, 1, NULL, 0, MOON_ENOENT, "missing/out: No such file or directory"},
      {"/dev/full", plans, 1, NULL, 0, MOON_EINVAL,
       "/dev/full: there already, and not a regular file"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    moon_writer *writer;
    moon_err err;
    assert_int_equal(moon_writer_create(&writer, cases[i].path, cases[i].plans, cases[i].n,
                                        cases[i].metadata, cases[i].n_metadata, &err),
                     cases[i].code);
    assert_string_equal(err.text, cases[i].text);
    assert_null(writer);
    assert_int_equal(count_files(), 0);
  }
}

/* A file size limit stands for a full disk: the write fails, the old file stays. P12 */
static void full_disk_leaves_the_old_file(void **state) {
  (void)state;
  const moon_plan large[] = {{"w", "U8", 1, 1, {100000}, 100000}};
  struct rlimit before, small;
  moon_writer *writer;
  moon_err err;
  buffer old = {0};
  put_line(&old, "old");
  write_whole("out", &old);
  uint8_t *data = calloc(1, 100000);
  signal(SIGXFSZ, SIG_IGN);
  getrlimit(RLIMIT_FSIZE, &before);
  small = before;
  small.rlim_cur = 5000;
  assert_int_equal(moon_writer_create(&writer, "out", large, 1, NULL, 0, NULL), MOON_OK);
  setrlimit(RLIMIT_FSIZE, &small);
  moon_status status = moon_writer_append(writer, data, 100000, &err);
  setrlimit(RLIMIT_FSIZE, &before);
  assert_int_equal(status, MOON_EIO);
  assert_string_equal(err.text, "out: File too large");
  char sha256[MOON_SHA256_TEXT];
  assert_int_equal(moon_writer_seal(writer, sha256, &err), MOON_EINVAL);
  moon_writer_release(writer);
  buffer found = read_whole("out");
  assert_int_equal(found.size, 3);
  assert_int_equal(count_files(), 1);
  free(found.data);
  free(old.data);
  free(data);
  unlink("out");
}

/* Whose writer is gone goes with the next file; a living one's and a stranger's stay. P10 */
static void removes_what_killed_writers_left(void **state) {
  (void)state;
  char sha256[MOON_SHA256_TEXT];
  moon_writer *first, *second;
  buffer b = {0};
  put_line(&b, "half");
  write_whole(".moonscope-123-4.tmp", &b);
  write_whole(".moonscope-x-4.tmp", &b);
  write_whole(".moonscope-123-4.tmp.txt", &b);
  assert_int_equal(mkfifo(".moonscope-5-6.tmp", 0600), 0);
  assert_int_equal(moon_writer_create(&first, "first", plans, N_PLANS, NULL, 0, NULL), MOON_OK);
  assert_int_equal(count_files(), 4);
  assert_int_not_equal(access(".moonscope-123-4.tmp", F_OK), 0);
  fill(first, 40, 40, sha256); /* sealed, not published: still its own */
  assert_int_equal(moon_writer_create(&second, "second", plans, N_PLANS, NULL, 0, NULL), MOON_OK);
  assert_int_equal(count_files(), 5);
  assert_int_equal(moon_writer_publish(first, NULL), MOON_OK);
  moon_writer_release(first);
  moon_writer_release(second);
  assert_int_equal(count_files(), 4);
  unlink("first");
  unlink(".moonscope-x-4.tmp");
  unlink(".moonscope-123-4.tmp.txt");
  unlink(".moonscope-5-6.tmp");
  free(b.data);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(writes_sorted_and_aligned),
      cmocka_unit_test(same_input_gives_the_same_bytes),
      cmocka_unit_test(needs_exactly_the_bytes),
      cmocka_unit_test(refuses_bad_plans),
      cmocka_unit_test(full_disk_leaves_the_old_file),
      cmocka_unit_test(removes_what_killed_writers_left),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
