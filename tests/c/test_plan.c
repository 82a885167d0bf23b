// SPDX-License-Identifier: MIT
/* What a model needs of a device's memory, and what the machine has left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "llama/plan.h"
#include "tensor/host_memory.h"

static moon_err err;

static void plan_of_the_tiny_model(void **state) {
  (void)state;
  static moon_llama_plan plan;
  assert_int_equal(moon_llama_plan_make(&plan, "examples/tiny", moon_cpu(), MOON_FAST, 100, &err),
                   MOON_OK);
  assert_int_equal(plan.n_parameters, 1296000);
  assert_int_equal(plan.weights_bytes, 2 * plan.n_parameters);
  assert_int_equal(plan.mapped_bytes, plan.weights_bytes);
  assert_int_equal(plan.token_bytes, 2 * 6 * 2 * 16 * 2); /* k, v; layers; heads; d_head; bf16 */
  assert_int_equal(plan.context_bytes, 100 * (768 + 16 * 4));
  assert_int_equal(plan.allocated_bytes, plan.context_bytes);
  assert_int_equal(moon_llama_plan_make(&plan, "examples/tiny", moon_cpu(), MOON_EXACT, 0, &err),
                   MOON_OK);
  assert_int_equal(plan.n_ctx, 512);
  assert_int_equal(plan.token_bytes, 2 * 768);
}

static char logged[512];

static void keep_log(void *user, moon_log_level level, const char *text) {
  (void)user;
  if (level == MOON_LOG_WARN)
    snprintf(logged, sizeof logged, "%s", text);
}

static moon_llama_plan sized(size_t weights_gib, size_t mapped_gib, size_t context_gib) {
  return (moon_llama_plan){.n_ctx = 8192,
                           .weights_bytes = weights_gib << 30,
                           .mapped_bytes = mapped_gib << 30,
                           .context_bytes = context_gib << 30,
                           .allocated_bytes = (weights_gib - mapped_gib + context_gib) << 30};
}

static void a_shortage_is_one_line(void **state) {
  (void)state;
  static moon_llama_plan plan;
  moon_log_set(keep_log, NULL);
  plan = sized(16, 0, 1);
  assert_int_equal(moon_llama_plan_check(&plan, "cuda:0", (size_t)17 << 30, &err), MOON_OK);
  assert_int_equal(moon_llama_plan_check(&plan, "cuda:0", ((size_t)17 << 30) - 1, &err),
                   MOON_ENOMEM);
  assert_string_equal(
      err.text,
      "cuda:0: 17.00 GiB are needed (weights 16.00 GiB, a context of 8192 tokens 1.00 GiB), "
      "17.00 GiB are free: make the context smaller (--context), or free some");
  assert_int_equal(moon_llama_plan_check(&plan, "cuda:0", (size_t)10 << 30, &err), MOON_ENOMEM);
  assert_non_null(strstr(err.text, "10.00 GiB are free: free some, or take another device"));
  assert_string_equal(logged, "");
  plan = sized(16, 16, 1);
  assert_int_equal(moon_llama_plan_check(&plan, "cpu", (size_t)4 << 30, &err), MOON_OK);
  assert_string_equal(logged,
                      "cpu: 16.00 GiB of mapped weights and 1.00 GiB for a context of 8192 tokens "
                      "do not fit into 4.00 GiB of free memory: weights will be read from the disk "
                      "again and again");
  moon_log_set(NULL, NULL);
}

/* ---- the machine ---- */

static char root[] = "/tmp/moonscope-memory-XXXXXX";

static void put(const char *path, const char *text) {
  char full[256];
  snprintf(full, sizeof full, "%s%s", root, path);
  for (char *slash = full + sizeof root; (slash = strchr(slash, '/')); slash++) {
    *slash = 0;
    mkdir(full, 0700);
    *slash = '/';
  }
  FILE *file = fopen(full, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static void assert_memory(size_t free_mib, size_t total_mib) {
  size_t free_bytes, total;
  assert_int_equal(moon_host_memory(root, &free_bytes, &total, &err), MOON_OK);
  assert_int_equal(free_bytes >> 20, free_mib);
  assert_int_equal(total >> 20, total_mib);
}

static void the_least_of_machine_and_groups(void **state) {
  (void)state;
  size_t free_bytes, total;
  assert_non_null(mkdtemp(root));
  assert_int_equal(moon_host_memory(root, &free_bytes, &total, &err), MOON_EIO);
  assert_non_null(strstr(err.text, "/proc/meminfo: no MemTotal and MemAvailable"));
  put("/proc/meminfo", "MemTotal:  8192000 kB\nMemFree: 1 kB\nMemAvailable:  4096000 kB\n");
  assert_memory(4000, 8000);
  put("/proc/self/cgroup", "0::/a/b\n");
  put("/sys/fs/cgroup/a/b/memory.max", "max\n");
  assert_memory(4000, 8000);
  put("/sys/fs/cgroup/a/memory.max", "1048576000\n");    /* 1000 MiB */
  put("/sys/fs/cgroup/a/memory.current", "943718400\n"); /* 900, of which 300 are files */
  put("/sys/fs/cgroup/a/memory.stat", "anon 629145600\nfile 314572800\n");
  assert_memory(400, 1000);
  put("/proc/self/cgroup", "4:memory:/c\n0::/\n");
  put("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "524288000\n");
  put("/sys/fs/cgroup/memory/c/memory.usage_in_bytes", "209715200\n");
  put("/sys/fs/cgroup/memory/c/memory.stat", "cache 104857600\n");
  assert_memory(400, 500);
  put("/sys/fs/cgroup/memory/c/memory.usage_in_bytes", "1048576000\n");
  assert_memory(0, 500);
  char command[64];
  snprintf(command, sizeof command, "rm -r %s", root);
  assert_int_equal(system(command), 0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(plan_of_the_tiny_model),
      cmocka_unit_test(a_shortage_is_one_line),
      cmocka_unit_test(the_least_of_machine_and_groups),
  };
  if (argc > 1)
    cmocka_set_test_filter(argv[1]);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
