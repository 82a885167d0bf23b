// SPDX-License-Identifier: MIT
/* Mapped files, outputs that appear whole, digests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/digest.h"
#include "io/outfile.h"
#include "io_files.h"

static char folder[] = "/tmp/moonscope-bytes-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  return !mkdtemp(folder) || chdir(folder);
}

static int remove_folder(void **state) {
  (void)state;
  return chdir("/") || rmdir(folder);
}

static void maps_a_file(void **state) {
  (void)state;
  buffer content = {0};
  put_line(&content, "some bytes");
  write_whole("file", &content);
  moon_bytes *bytes;
  int64_t live = moon_bytes_live();
  assert_int_equal(moon_bytes_open(&bytes, "file", NULL), MOON_OK);
  assert_int_equal(moon_bytes_live(), live + 1);
  assert_int_equal(unlink("file"), 0);
  assert_int_equal(moon_bytes_size(bytes), 10);
  assert_memory_equal(moon_bytes_data(bytes), "some bytes", 10);
  moon_bytes *same = moon_bytes_retain(bytes);
  moon_bytes_release(bytes);
  assert_memory_equal(moon_bytes_data(same), "some bytes", 10);
  moon_bytes_release(same);
  moon_bytes_release(NULL);
  assert_int_equal(moon_bytes_live(), live);
  free(content.data);
}

static void maps_an_empty_file(void **state) {
  (void)state;
  buffer empty = {0};
  moon_bytes *bytes;
  write_whole("empty", &empty);
  assert_int_equal(moon_bytes_open(&bytes, "empty", NULL), MOON_OK);
  assert_int_equal(moon_bytes_size(bytes), 0);
  assert_null(moon_bytes_data(bytes));
  moon_bytes_release(bytes);
  unlink("empty");
}

static void refuses_what_is_no_file(void **state) {
  (void)state;
  moon_bytes *bytes;
  moon_err err;
  assert_int_equal(mkfifo("fifo", 0600), 0);
  assert_int_equal(moon_bytes_open(&bytes, "fifo", &err),
                   MOON_EINVAL); /* and does not wait for a writer */
  assert_string_equal(err.text, "fifo: not a regular file");
  assert_int_equal(moon_bytes_open(&bytes, "/", &err), MOON_EINVAL);
  assert_string_equal(err.text, "/: not a regular file");
  assert_int_equal(moon_bytes_open(&bytes, "/dev/zero", &err), MOON_EINVAL);
  assert_int_equal(moon_bytes_open(&bytes, "missing", &err), MOON_ENOENT);
  assert_string_equal(err.text, "missing: No such file or directory");
  assert_null(bytes);
  unlink("fifo");
}

static void output_appears_when_published(void **state) {
  (void)state;
  moon_outfile file;
  struct stat stat_;
  mode_t before = umask(027);
  assert_int_equal(moon_outfile_create(&file, "out", NULL), MOON_OK);
  umask(before);
  assert_int_equal(moon_outfile_append(&file, "abc", 3, NULL), MOON_OK);
  assert_int_equal(moon_outfile_publish(&file, NULL), MOON_EINVAL); /* not sealed */
  assert_int_equal(moon_outfile_seal(&file, NULL), MOON_OK);
  assert_int_not_equal(access("out", F_OK), 0);
  assert_int_equal(moon_outfile_publish(&file, NULL), MOON_OK);
  moon_outfile_close(&file);
  assert_int_equal(stat("out", &stat_), 0);
  assert_int_equal(stat_.st_size, 3);
  assert_int_equal(stat_.st_mode & 0777, 0640);
  unlink("out"); /* remove_folder fails if anything else is left */
}

static void unpublished_output_leaves_the_old_one(void **state) {
  (void)state;
  buffer old = {0};
  moon_outfile file;
  put_line(&old, "old");
  write_whole("out", &old);
  assert_int_equal(moon_outfile_create(&file, "out", NULL), MOON_OK);
  assert_int_equal(moon_outfile_append(&file, "newer", 5, NULL), MOON_OK);
  assert_int_equal(moon_outfile_seal(&file, NULL), MOON_OK);
  moon_outfile_close(&file);
  buffer found = read_whole("out");
  assert_int_equal(found.size, 3);
  assert_memory_equal(found.data, "old", 3);
  free(found.data);
  free(old.data);
  unlink("out");
}

static void refuses_outputs(void **state) {
  (void)state;
  const struct {
    const char *path;
    moon_status code;
    const char *text;
  } cases[] = {
      {"missing/out", MOON_ENOENT, "missing/out: No such file or directory"},
      {"/dev/null", MOON_EINVAL, "/dev/null: there already, and not a regular file"},
      {"folder/", MOON_EINVAL, "folder/: not the name of a file"},
      {"", MOON_EINVAL, ": not the name of a file"},
      {"/tmp", MOON_EINVAL, "/tmp: there already, and not a regular file"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    moon_outfile file;
    moon_err err;
    assert_int_equal(moon_outfile_create(&file, cases[i].path, &err), cases[i].code);
    assert_string_equal(err.text, cases[i].text);
    moon_outfile_close(&file);
  }
}

static void digests(void **state) {
  (void)state;
  moon_digest *digest;
  char text[MOON_SHA256_TEXT];
  assert_int_equal(moon_digest_new(&digest, NULL), MOON_OK);
  assert_int_equal(moon_digest_text(digest, text, NULL), MOON_OK);
  assert_string_equal(text, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  moon_digest_add(digest, "a", 1);
  moon_digest_add(digest, "bc", 2);
  assert_int_equal(moon_digest_text(digest, text, NULL), MOON_OK); /* FIPS 180-2's first example */
  assert_string_equal(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  moon_digest_release(moon_digest_retain(digest));
  moon_digest_release(digest);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(maps_a_file),
      cmocka_unit_test(maps_an_empty_file),
      cmocka_unit_test(refuses_what_is_no_file),
      cmocka_unit_test(output_appears_when_published),
      cmocka_unit_test(unpublished_output_leaves_the_old_one),
      cmocka_unit_test(refuses_outputs),
      cmocka_unit_test(digests),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
