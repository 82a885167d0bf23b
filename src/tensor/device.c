// SPDX-License-Identifier: MIT
/*
 * Devices by name. Those with CUDA come from a plugin beside the running program or module, which
 * is opened when the first of them is asked for.
 */
#include "tensor/device.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tensor/cuda/plugin.h"

static struct {
  void *plugin;
  moon_device **devices;
  int n;
  moon_err why; /* there are none */
} cuda;

/* Folder of the program or module that this code is linked into, with the last slash. */
static bool find_folder(char *folder, size_t size) {
  Dl_info info;
  struct link_map *map;
  if (!dladdr1(&cuda, &info, (void **)&map, RTLD_DL_LINKMAP))
    return false;
  bool is_program = map->l_name[0] == 0;
  ssize_t n = is_program ? readlink("/proc/self/exe", folder, size) : (ssize_t)strlen(map->l_name);
  if (n < 0 || (size_t)n >= size)
    return false;
  if (!is_program)
    memcpy(folder, map->l_name, (size_t)n);
  while (n > 0 && folder[n - 1] != '/')
    n--;
  folder[n] = 0;
  return true;
}

/* Beside the program or module; for a program, where that of the module is. */
static void *open_plugin(moon_err *err) {
  static const char *const places[] = {"", "../lib/", "../lib/lua/5.4/"};
  char folder[4096], path[sizeof folder + 64];
  if (!find_folder(folder, sizeof folder)) {
    moon_fail(err, MOON_EDEVICE, "the program's own folder cannot be found");
    return NULL;
  }
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    snprintf(path, sizeof path, "%s%s%s", folder, places[i], MOON_CUDA_PLUGIN);
    if (access(path, F_OK))
      continue;
    void *plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!plugin)
      moon_fail(err, MOON_EDEVICE, "%s", dlerror());
    return plugin;
  }
  moon_fail(err, MOON_EDEVICE, "there is no %s in %s, ../lib or ../lib/lua/5.4", MOON_CUDA_PLUGIN,
            folder);
  return NULL;
}

static void find_cuda(void) {
  moon_cuda_open_fn *open;
  cuda.plugin = open_plugin(&cuda.why);
  if (!cuda.plugin)
    return;
  *(void **)&open = dlsym(cuda.plugin, "moon_cuda_open");
  if (!open)
    moon_fail(&cuda.why, MOON_EDEVICE, "%s is not moonscope's", MOON_CUDA_PLUGIN);
  else if (open(&cuda.devices, &cuda.n, &cuda.why))
    cuda.n = 0;
}

void *moon_cuda_plugin(void) {
  return cuda.plugin;
}

static void open_cuda(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, find_cuda);
}

moon_device *moon_device_at(int index) {
  if (index == 0)
    return moon_cpu();
  open_cuda();
  return index > 0 && index <= cuda.n ? cuda.devices[index - 1] : NULL;
}

/* "cuda:0, cuda:1" */
static const char *cuda_names(char *text, size_t size) {
  text[0] = 0;
  for (int i = 0; i < cuda.n; i++) {
    size_t used = strlen(text);
    snprintf(text + used, size - used, i ? ", %s" : "%s", cuda.devices[i]->name);
  }
  return text;
}

static moon_status find_cuda_device(moon_device **out, const char *name, moon_err *err) {
  char names[256];
  open_cuda();
  if (cuda.n == 0)
    return moon_fail(err, MOON_EDEVICE, "device \"%s\": %s", name, cuda.why.text);
  for (int i = 0; i < cuda.n; i++)
    if (!strcmp(cuda.devices[i]->name, strcmp(name, "cuda") ? name : "cuda:0"))
      return *out = cuda.devices[i], MOON_OK;
  return moon_fail(err, MOON_EDEVICE, "device \"%s\" is not here, expected cpu or %s", name,
                   cuda_names(names, sizeof names));
}

moon_status moon_device_find(moon_device **out, const char *name, moon_err *err) {
  if (!strcmp(name, "cpu"))
    return *out = moon_cpu(), MOON_OK;
  if (!strcmp(name, "auto")) {
    moon_device *first = moon_device_at(1);
    return *out = first ? first : moon_cpu(), MOON_OK;
  }
  if (!strcmp(name, "cuda") || !strncmp(name, "cuda:", 5))
    return find_cuda_device(out, name, err);
  return moon_fail(err, MOON_EDEVICE, "device \"%s\" is unknown, expected auto, cpu or cuda", name);
}
