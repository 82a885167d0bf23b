#!/bin/bash
# SPDX-License-Identifier: MIT
# The module as LuaRocks builds and installs it, in a plain Lua: tests/install/rock.sh [SANITIZERS LIBRARY]
# SANITIZERS as in -fsanitize=, LIBRARY: what a Lua that was built without them has to load first.
set -euo pipefail
sanitizers=${1:-} preload=${2:-}
sources=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# LuaRocks builds inside of the sources.
mkdir "$work/sources"
cp -r CMakeLists.txt src lua rocks "$work/sources/"
cd "$work/sources"
if [ -n "$sanitizers" ]; then
  export CFLAGS="-O1 -g -fsanitize=$sanitizers -fno-sanitize-recover=all" LDFLAGS="-fsanitize=$sanitizers"
fi
HOME=$work CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) luarocks --lua-version=5.4 make --deps-mode=none rocks/moonscope-scm-1.rockspec \
  --tree "$work/tree" >"$work/log" 2>&1 || { tail -30 "$work/log"; exit 1; }

cd /
tree=$work/tree
cat >"$work/job.lua" <<'LUA'
local tree, tiny, ending = table.unpack(arg)
local ms = require "moonscope"
assert(package.searchpath("moonscope", package.path) == tree .. "/share/lua/5.4/moonscope/init.lua")
assert(package.searchpath("moonscope", package.cpath) == tree .. "/lib/lua/5.4/moonscope.so")
local function job()
  local model <close> = assert(ms.load_model(tiny, { precision = "exact" }))
  local sae <close> = assert(ms.load_sae(tiny .. "/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))
  return model:generate("Once upon a time there was a small red fox named Mia.", { max_tokens = 32,
    edits = { { sae = sae, feature = 458, op = "add", value = 3.85 } } }).text
end
local text = job()
assert(text:find("She felt hungry", 1, true), text)
print(ms.version)
collectgarbage()
collectgarbage()
if ending == "left" then os.exit(true, false) end
LUA

# LeakSanitizer dies on the thread-local variables of modules that were loaded later, so it shall not look at
# them; what libc alone refers to by such variables is then no leak.
printf 'leak:%s\n' add_name_to_object _dlerror_run >"$work/suppressions"

plain_lua() { # plain_lua ENDING OPTIONS: the job's output
  LUA_PATH="$tree/share/lua/5.4/?.lua;$tree/share/lua/5.4/?/init.lua;;" LUA_CPATH="$tree/lib/lua/5.4/?.so;;" \
    LD_PRELOAD=$preload ASAN_OPTIONS=${ASAN_OPTIONS:-}:$2 \
    LSAN_OPTIONS="use_tls=0:print_suppressions=0:suppressions=$work/suppressions" \
    lua5.4 "$work/job.lua" "$tree" "$sources/examples/tiny" "$1"
}
# Twice: with the state left open, so that the modules are still there when leaks are looked for, and with an
# orderly end, in which what was freed too early would be used.
said=$(plain_lua left detect_leaks=1)
[ "$said" = "$(plain_lua closed detect_leaks=0)" ] || { echo "FAILED: with an orderly end it says something else" >&2; exit 1; }
program=$("$tree/bin/moonscope" --version)
[ "moonscope $said" = "$program" ] || { echo "FAILED: the module is $said, the program $program" >&2; exit 1; }
echo "the rock's module: $said"
