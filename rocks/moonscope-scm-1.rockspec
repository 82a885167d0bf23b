rockspec_format = "3.0"
package = "moonscope"
version = "scm-1"
source = {
  url = "git+file://.", -- of a clone: luarocks --lua-version=5.4 make rocks/moonscope-scm-1.rockspec
}
description = {
  summary = "An interpretability workbench for Llama models",
  detailed = [[
Shows which features of a sparse autoencoder fire on which token, and changes them while the model writes.
A C core (tensors, the forward pass, checkpoint files, SAE kernels) with Lua on top.]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = {
  "lua ~> 5.4",
  "argparse >= 0.7",
  "lua-cjson >= 2.1",
  "luv >= 1.44",
}
build = {
  type = "cmake",
  variables = {
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    MOON_ROCK = "ON",
    BUILD_TESTING = "OFF",
  },
}
deploy = {
  wrap_bin_scripts = false, -- the program is no script
}
