// SPDX-License-Identifier: MIT
/*
 * Every allocation and I/O call fails in turn, once and from there on: what does not succeed says
 * why, leaves nothing behind (LSan looks for leaks in the asan build) and works the next time; what
 * succeeds is right. P12 P13 P14
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../c/io_files.h"
#include "fallible.h"
#include "io/writer.h"
#include "llama/config.h"
#include "llama/tokenizer.h"

#define FIXTURES MOON_SOURCE_DIR "/tests/fixtures/"
#define MODEL    MOON_SOURCE_DIR "/examples/tiny"
#define MAX_RUNS 5000 /* more calls than this are sampled */

typedef struct job {
  const char *name;
  moon_status (*run)(const struct job *job, moon_err *err);
  const char *path;
} job;

static char folder[] = "/tmp/moonscope-faults-XXXXXX";
static char shards[64], output[64];

/* Reads every byte of every tensor. */
static moon_status read_all(const moon_checkpoint *checkpoint, uint32_t *sum, moon_err *err) {
  moon_status status = MOON_OK;
  for (size_t i = 0; i < moon_checkpoint_count(checkpoint) && status == MOON_OK; i++) {
    const moon_entry *entry = moon_checkpoint_entry(checkpoint, i);
    const void *data;
    void *owned;
    status = moon_entry_view(&data, &owned, entry, 0, entry->size_bytes, err);
    for (size_t k = 0; k < entry->size_bytes && status == MOON_OK; k++)
      *sum = *sum * 31 + ((const uint8_t *)data)[k];
    free(owned);
  }
  return status;
}

static moon_status open_and_read(const job *j, moon_err *err) {
  static const char *seen;
  static uint32_t expected;
  uint32_t sum = 0;
  moon_checkpoint *checkpoint;
  moon_status status = moon_checkpoint_open(&checkpoint, j->path, err);
  if (status == MOON_OK)
    status = read_all(checkpoint, &sum, err);
  moon_checkpoint_release(checkpoint);
  if (status == MOON_OK && seen == j->path)
    assert_int_equal(sum, expected);
  if (status == MOON_OK)
    seen = j->path, expected = sum;
  return status;
}

static moon_status load_tokenizer(const job *j, moon_err *err) {
  moon_tokenizer *tokenizer;
  moon_encoding ids = {0};
  moon_status status = moon_tokenizer_load(&tokenizer, j->path, err);
  if (status == MOON_OK)
    status = moon_tokenizer_encode(tokenizer, "Once upon a time", 16, 0, &ids, err);
  if (status == MOON_OK)
    assert_in_range(ids.n, 4, 16);
  moon_encoding_free(&ids);
  moon_tokenizer_release(tokenizer);
  return status;
}

static moon_status load_config(const job *j, moon_err *err) {
  moon_llama_config config;
  moon_status status = moon_llama_config_load(&config, j->path, err);
  if (status == MOON_OK)
    assert_int_equal(config.d_model, 128);
  return status;
}

/* A checkpoint's bytes into a writer that was planned for them. */
static moon_status write_all(const moon_checkpoint *checkpoint, moon_writer *writer,
                             moon_err *err) {
  moon_status status = MOON_OK;
  for (size_t i = 0; i < moon_checkpoint_count(checkpoint) && status == MOON_OK; i++) {
    const moon_entry *entry = moon_checkpoint_entry(checkpoint, moon_writer_order(writer)[i]);
    const void *data;
    void *owned;
    status = moon_entry_view(&data, &owned, entry, 0, entry->size_bytes, err);
    if (status == MOON_OK)
      status = moon_writer_append(writer, data, entry->size_bytes, err);
    free(owned);
  }
  char sha256[MOON_SHA256_TEXT];
  if (status == MOON_OK)
    status = moon_writer_seal(writer, sha256, err);
  return status == MOON_OK ? moon_writer_publish(writer, err) : status;
}

static moon_status copy(const moon_checkpoint *checkpoint, moon_err *err) {
  moon_plan plans[16];
  size_t n = moon_checkpoint_count(checkpoint);
  assert_in_range(n, 1, 16);
  for (size_t i = 0; i < n; i++) {
    const moon_entry *entry = moon_checkpoint_entry(checkpoint, i);
    plans[i] = (moon_plan){.name = entry->name,
                           .dtype_name = moon_dtype_file_name(entry->dtype),
                           .dtype_size = moon_dtype_size(entry->dtype),
                           .rank = entry->rank,
                           .size_bytes = entry->size_bytes};
    memcpy(plans[i].shape, entry->shape, sizeof entry->shape);
  }
  moon_pair pair = {(char *)(uintptr_t) "k", (char *)(uintptr_t) "v"};
  moon_writer *writer;
  moon_status status = moon_writer_create(&writer, output, plans, n, &pair, 1, err);
  if (status == MOON_OK)
    status = write_all(checkpoint, writer, err);
  moon_writer_release(writer);
  return status;
}

static size_t count_files(void) {
  size_t n = 0;
  DIR *entries = opendir(folder);
  while (readdir(entries))
    n++;
  closedir(entries);
  return n - 2; /* . and .. */
}

/* The old file, all of the new one, or none; and nothing beside it. */
static void check_output(const job *j, moon_status status) {
  static const job *seen;
  static buffer whole;
  buffer now = read_whole(output);
  if (seen != j) {
    assert_int_equal(status, MOON_OK);
    free(whole.data);
    whole = now;
    seen = j;
    return;
  }
  bool old = now.size == 3 && !memcmp(now.data, "old", 3);
  bool complete = now.size == whole.size && !memcmp(now.data, whole.data, whole.size);
  if (!complete && (!old || status == MOON_OK))
    fail_msg("%zu bytes of output after status %d", now.size, status);
  assert_int_equal(count_files(), 2); /* it and shards */
  free(now.data);
}

static moon_status convert(const job *j, moon_err *err) {
  moon_checkpoint *checkpoint;
  moon_status status = moon_checkpoint_open(&checkpoint, j->path, err);
  if (status == MOON_OK)
    status = copy(checkpoint, err);
  moon_checkpoint_release(checkpoint);
  return status;
}

static const job jobs[] = {
    {"safetensors", open_and_read, FIXTURES "tiny/golden/golden.safetensors"},
    {"a folder of shards", open_and_read, shards},
    {"pth", open_and_read, FIXTURES "pth/nested.pth"},
    {"strides", open_and_read, FIXTURES "pth/strides.pth"},
    {"older pth", open_and_read, FIXTURES "pth/legacy_nested.pth"},
    {"npz", open_and_read, FIXTURES "npz/orders.npz"},
    {"deflated npz", open_and_read, FIXTURES "npz/orders_deflated.npz"},
    {"config", load_config, MODEL},
    {"tokenizer", load_tokenizer, MODEL "/tokenizer.json"},
    {"convert", convert, FIXTURES "pth/dtypes.pth"},
    {"convert deflated", convert, FIXTURES "npz/dtypes_deflated.npz"},
};

static void write_text(const char *path, const char *text) {
  buffer b = {0};
  put_line(&b, text);
  write_whole(path, &b);
  free(b.data);
}

/* Runs the job with the n-th call failing. */
static moon_status run(const job *j, long n, moon_fail_mode mode, moon_err *err) {
  int64_t live = moon_bytes_live() + moon_tokenizer_live();
  if (j->run == convert)
    write_text(output, "old");
  memset(err, 0, sizeof *err);
  moon_fallible_arm(n, mode, NULL);
  moon_status status = j->run(j, err);
  long calls = moon_fallible_calls();
  moon_fallible_arm(0, MOON_FAIL_ONCE, NULL);
  assert_int_equal(moon_bytes_live() + moon_tokenizer_live(), live);
  bool named = status == MOON_ENOMEM || status == MOON_EIO; /* not taken for a broken file */
  if (status != MOON_OK && (!named || !err->text[0] || err->code != status || calls < n))
    fail_msg("%s, call %ld: status %d, '%s'", j->name, n, status, err->text);
  if (j->run == convert)
    check_output(j, status);
  moon_fallible_arm(0, MOON_FAIL_ONCE, NULL);
  return status;
}

static long count_calls(const job *j) {
  moon_err err;
  moon_fallible_arm(0, MOON_FAIL_ONCE, NULL);
  if (j->run == convert)
    write_text(output, "old");
  moon_fallible_arm(0, MOON_FAIL_ONCE, NULL);
  if (j->run(j, &err) != MOON_OK)
    fail_msg("%s: %s", j->name, err.text);
  return moon_fallible_calls();
}

static void fails_at_every_call(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
    const job *j = &jobs[i];
    moon_err err;
    if (run(j, 0, MOON_FAIL_ONCE, &err) != MOON_OK)
      fail_msg("%s: %s", j->name, err.text);
    long n = count_calls(j), step = n / MAX_RUNS + 1, failed = 0, runs = 0;
    for (long at = 1; at <= n; at += step)
      for (int mode = MOON_FAIL_ONCE; mode <= MOON_FAIL_FOREVER; mode++, runs++)
        failed += run(j, at, (moon_fail_mode)mode, &err) != MOON_OK;
    assert_int_equal(run(j, 0, MOON_FAIL_ONCE, &err), MOON_OK);
    print_message("%s: %ld calls, %ld runs, %ld failed\n", j->name, n, runs, failed);
    assert_true(n > 3 && failed > n / step / 2);
  }
}

/* P14 */
static void goes_on_after_short_writes_and_interrupts(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
    moon_err err;
    assert_int_equal(run(&jobs[i], 0, MOON_FAIL_ONCE, &err), MOON_OK);
    assert_int_equal(run(&jobs[i], 1, MOON_FAIL_SHORT, &err), MOON_OK);
    assert_int_equal(run(&jobs[i], 1, MOON_FAIL_AGAIN, &err), MOON_OK);
  }
}

static int make_folder(void **state) {
  (void)state;
  if (!mkdtemp(folder))
    return -1;
  snprintf(output, sizeof output, "%s/out.safetensors", folder);
  snprintf(shards, sizeof shards, "%s/shards", folder);
  char path[128];
  mkdir(shards, 0700);
  for (int i = 0; i < 2; i++) {
    char header[128];
    snprintf(header, sizeof header,
             "{\"t%d\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", i);
    snprintf(path, sizeof path, "%s/%d.safetensors", shards, i);
    buffer b = safetensors(header, 8);
    write_whole(path, &b);
    free(b.data);
  }
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", shards);
  write_text(path, "{\"weight_map\":{\"t0\":\"0.safetensors\",\"t1\":\"1.safetensors\"}}");
  return 0;
}

static int remove_folder(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", folder);
  return system(command);
}

int main(int argc, char **argv) {
  static const struct CMUnitTest tests[] = {
      cmocka_unit_test(fails_at_every_call),
      cmocka_unit_test(goes_on_after_short_writes_and_interrupts),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
