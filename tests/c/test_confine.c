// SPDX-License-Identifier: MIT
/* Nothing below a confined folder leads out of it, however quickly its links change (P26). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/bytes.h"
#include "io/confine.h"
#include "io/outfile.h"

#define TRIES      10000
#define MOST_TRIES (100 * TRIES) /* until both ways were seen */

static char root[] = "/tmp/moonscope-confine-XXXXXX";
static char data[64], cache[64];

static void put(const char *path, const char *text) {
  FILE *file = fopen(path, "wb");
  assert_non_null(file);
  assert_int_equal(fputs(text, file) < 0, 0);
  assert_int_equal(fclose(file), 0);
}

/* data/ is confined, links from it may lead into cache/ too, and outside/ is nobody's business. */
static int make_folders(void **state) {
  (void)state;
  if (!mkdtemp(root) || chdir(root))
    return 1;
  snprintf(data, sizeof data, "%s/data", root);
  snprintf(cache, sizeof cache, "%s/cache", root);
  if (mkdir("data", 0700) || mkdir("data/in", 0700) || mkdir("cache", 0700) ||
      mkdir("outside", 0700))
    return 1;
  put("data/in/file", "inside");
  put("cache/file", "cached");
  put("outside/file", "secret");
  const char *folders[] = {data}, *beyond[] = {cache};
  return moon_confine(folders, 1, beyond, 1, NULL);
}

static int remove_folders(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", root);
  return moon_confine(NULL, 0, NULL, 0, NULL) || chdir("/") || system(command);
}

static char *below(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", data, name);
  return path;
}

static void reads(const char *name, const char *text) {
  moon_bytes *bytes;
  assert_int_equal(moon_bytes_open(&bytes, below(name), NULL), MOON_OK);
  assert_int_equal(moon_bytes_size(bytes), strlen(text));
  assert_memory_equal(moon_bytes_data(bytes), text, strlen(text));
  moon_bytes_release(bytes);
}

static void refuses(const char *name, moon_status code, const char *why) {
  moon_bytes *bytes;
  moon_err err;
  assert_int_equal(moon_bytes_open(&bytes, below(name), &err), code);
  assert_null(bytes);
  assert_memory_equal(err.text, data, strlen(data));
  assert_non_null(strstr(err.text, why));
}

#define WAY_OUT "leads out of the folders that it must stay in"

static void reads_what_stays_inside(void **state) {
  (void)state;
  assert_int_equal(symlink("in/file", "data/link"), 0);
  assert_int_equal(symlink("../cache/file", "data/blob"), 0);
  assert_int_equal(symlink(data, "data/in/absolute"), 0);
  reads("in/file", "inside");
  reads("link", "inside");
  reads("blob", "cached");
  reads("in/absolute/link", "inside");
}

static void refuses_what_leads_out(void **state) {
  (void)state;
  assert_int_equal(symlink("../outside/file", "data/out"), 0);
  assert_int_equal(symlink("../outside", "data/out_folder"), 0);
  assert_int_equal(symlink("/dev/zero", "data/device"), 0);
  assert_int_equal(symlink("/proc/self/environ", "data/environ"), 0);
  refuses("out", MOON_EACCES, WAY_OUT);
  refuses("out_folder/file", MOON_EACCES, WAY_OUT);
  refuses("in/../../outside/file", MOON_EACCES, WAY_OUT);
  refuses("device", MOON_EACCES, WAY_OUT);
  refuses("environ", MOON_EACCES, WAY_OUT);
  refuses("missing", MOON_ENOENT, "No such file or directory");
}

static void refuses_what_is_no_file(void **state) {
  (void)state;
  assert_int_equal(mkfifo("data/fifo", 0600), 0);
  refuses("fifo", MOON_EINVAL, "not a regular file"); /* and does not wait for a writer */
  refuses("in", MOON_EINVAL, "not a regular file");
}

static void leaves_other_paths_alone(void **state) {
  (void)state;
  moon_bytes *bytes;
  assert_int_equal(symlink("../data/out", "outside/link"), 0);
  assert_int_equal(moon_bytes_open(&bytes, "outside/link", NULL), MOON_OK);
  moon_bytes_release(bytes);
  char neighbour[128];
  snprintf(neighbour, sizeof neighbour, "%s-not", data);
  assert_int_equal(symlink("outside/file", neighbour), 0);
  assert_int_equal(moon_bytes_open(&bytes, neighbour, NULL), MOON_OK);
  moon_bytes_release(bytes);
}

/* MOON_OK: written */
static moon_status write_file(const char *path, moon_err *err) {
  moon_outfile file;
  moon_status status = moon_outfile_create(&file, path, err);
  if (status == MOON_OK)
    status = moon_outfile_append(&file, "new", 3, err);
  if (status == MOON_OK)
    status = moon_outfile_seal(&file, err);
  if (status == MOON_OK)
    status = moon_outfile_publish(&file, err);
  moon_outfile_close(&file);
  return status;
}

static void writes_where_the_path_says(void **state) {
  (void)state;
  moon_err err;
  assert_int_equal(write_file(below("in/written"), &err), MOON_OK);
  reads("in/written", "new");
  assert_int_equal(write_file(below("in/../out_folder/written"), &err), MOON_EACCES);
  assert_non_null(strstr(err.text, WAY_OUT));
  assert_int_equal(symlink("../cache", "data/cached"), 0);
  assert_int_equal(write_file(below("cached/written"), &err), MOON_EACCES); /* for reading only */
  assert_int_equal(write_file(below("missing/written"), &err), MOON_ENOENT);
  assert_int_equal(write_file(below("in"), &err), MOON_EINVAL);
  assert_int_equal(access("outside/written", F_OK), -1);
  assert_int_equal(access("cache/written", F_OK), -1);
  assert_int_equal(write_file("outside/link", &err), MOON_OK); /* free */
  assert_int_equal(unlink("outside/link"), 0);
}

static void publishes_a_new_file_only(void **state) {
  (void)state;
  moon_outfile file;
  moon_err err;
  assert_int_equal(moon_outfile_create(&file, below("in/file"), &err), MOON_OK);
  assert_int_equal(moon_outfile_seal(&file, &err), MOON_OK);
  assert_int_equal(moon_outfile_publish_new(&file, &err), MOON_EEXIST);
  moon_outfile_close(&file);
  reads("in/file", "inside");
  assert_int_equal(moon_outfile_create(&file, below("in/new"), &err), MOON_OK);
  assert_int_equal(moon_outfile_seal(&file, &err), MOON_OK);
  assert_int_equal(moon_outfile_publish_new(&file, &err), MOON_OK);
  moon_outfile_close(&file);
  reads("in/new", "");
}

/* ---- the race ---- */

static atomic_bool over;

/* data/in is by turns the folder and a link to the other one. */
static void *exchange(void *unused) {
  (void)unused;
  while (!over)
    renameat2(AT_FDCWD, "data/in", AT_FDCWD, "data/out_folder", RENAME_EXCHANGE);
  return NULL;
}

static int n_in_outside(void) {
  FILE *names = popen("ls -A outside | wc -l", "r");
  int n = -1;
  assert_non_null(names);
  assert_int_equal(fscanf(names, "%d", &n), 1);
  pclose(names);
  return n;
}

/* As often as it takes to see both ways. */
static void never_escapes_while_links_change(void **state) {
  (void)state;
  int n_read = 0, n_refused = 0, n_written = 0, n_write_refused = 0;
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, exchange, NULL), 0);
  for (int i = 0; i < TRIES || (!(n_read && n_refused) && i < MOST_TRIES); i++) {
    moon_bytes *bytes;
    moon_status status = moon_bytes_open(&bytes, below("in/file"), NULL);
    if (status == MOON_OK) {
      assert_memory_equal(moon_bytes_data(bytes), "inside", 6);
      n_read++;
    } else {
      assert_int_equal(status, MOON_EACCES);
      n_refused++;
    }
    moon_bytes_release(bytes);
  }
  for (int i = 0; i < TRIES || (!(n_written && n_write_refused) && i < MOST_TRIES); i++) {
    moon_status status = write_file(below("in/raced"), NULL);
    assert_true(status == MOON_OK || status == MOON_EACCES);
    *(status == MOON_OK ? &n_written : &n_write_refused) += 1;
  }
  over = true;
  pthread_join(thread, NULL);
  print_message("read %d, refused %d, written %d, refused %d\n", n_read, n_refused, n_written,
                n_write_refused);
  assert_int_equal(n_in_outside(), 1);
  assert_true(n_read && n_refused && n_written && n_write_refused);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_what_stays_inside),
      cmocka_unit_test(refuses_what_leads_out),
      cmocka_unit_test(refuses_what_is_no_file),
      cmocka_unit_test(leaves_other_paths_alone),
      cmocka_unit_test(writes_where_the_path_says),
      cmocka_unit_test(publishes_a_new_file_only),
      cmocka_unit_test(never_escapes_while_links_change),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, make_folders, remove_folders);
}
