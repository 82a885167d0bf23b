// SPDX-License-Identifier: MIT
#include "tensor/device.h"

#include <string.h>

moon_status moon_device_find(moon_device **out, const char *name, moon_err *err) {
  if (!strcmp(name, "cpu") || !strcmp(name, "auto"))
    return *out = moon_cpu(), MOON_OK;
  if (!strncmp(name, "cuda", 4))
    return moon_fail(err, MOON_EDEVICE, "device \"%s\": this build has no CUDA, expected cpu",
                     name);
  return moon_fail(err, MOON_EDEVICE, "device \"%s\" is unknown, expected auto or cpu", name);
}
