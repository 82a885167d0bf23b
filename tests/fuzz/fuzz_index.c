// SPDX-License-Identifier: MIT
/* A model.safetensors.index.json beside two shards, a.safetensors (with t0) and b.safetensors (t1).
 */
#include <unistd.h>

#include "fuzz.h"

static char folder[] = "/dev/shm/moonscope-fuzz-XXXXXX";

static void write_shard(const char *name, const char *header) {
  char path[64];
  buffer b = safetensors(header, 4);
  snprintf(path, sizeof path, "%s/%s", folder, name);
  write_whole(path, &b);
  free(b.data);
}

static void remove_folder(void) {
  static const char *const names[] = {"a.safetensors", "b.safetensors",
                                      "model.safetensors.index.json"};
  char path[64];
  for (size_t i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    unlink(path);
  }
  rmdir(folder);
}

static void make_folder(void) {
  if (!mkdtemp(folder))
    abort();
  write_shard("a.safetensors", "{\"t0\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}");
  write_shard("b.safetensors", "{\"t1\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}");
  atexit(remove_folder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bool ready;
  char path[64];
  if (!ready)
    make_folder();
  ready = true;
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
  buffer index = {(uint8_t *)(uintptr_t)data, size, size};
  write_whole(path, &index);
  moon_checkpoint *checkpoint;
  moon_err err = {0};
  check_message(moon_checkpoint_open(&checkpoint, folder, &err), &err);
  moon_checkpoint_release(checkpoint);
  return 0;
}
