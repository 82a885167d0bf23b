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
HOME=$work CMAKE_GENERATOR=Ninja luarocks --lua-version=5.4 make --deps-mode=none rocks/moonscope-scm-1.rockspec \
  --tree "$work/tree" >"$work/log" 2>&1 || { tail -30 "$work/log"; exit 1; }

cd /
tree=$work/tree
cat >"$work/job.lua" <<'LUA'
local tree, tiny = arg[1], arg[2]
local ms = require "moonscope"
assert(package.searchpath("moonscope", package.path) == tree .. "/share/lua/5.4/moonscope/init.lua")
assert(package.searchpath("moonscope", package.cpath) == tree .. "/lib/lua/5.4/moonscope.so")
local model <close> = assert(ms.load_model(tiny, { precision = "exact" }))
local sae <close> = assert(ms.load_sae(tiny .. "/Moonscope-Tiny-Llama-SAE-l3.pth", { model = model }))
local reply = model:generate("Once upon a time there was a small red fox named Mia.", { max_tokens = 32,
  edits = { { sae = sae, feature = 458, op = "add", value = 3.85 } } })
assert(reply.text:find("She felt hungry", 1, true), reply.text)
print(ms.version)
LUA
# Without the leak check: its tracer dies where lua5.4 has unmapped modules at its end. The program's tests have it.
path="$tree/share/lua/5.4/?.lua;$tree/share/lua/5.4/?/init.lua;;"
said=$(LUA_PATH=$path LUA_CPATH="$tree/lib/lua/5.4/?.so;;" LD_PRELOAD=$preload \
  ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 \
  lua5.4 "$work/job.lua" "$tree" "$sources/examples/tiny")
program=$("$tree/bin/moonscope" --version)
[ "moonscope $said" = "$program" ] || { echo "FAILED: the module is $said, the program $program" >&2; exit 1; }
echo "the rock's module: $said"
