#!/bin/bash
# SPDX-License-Identifier: MIT
# Sets everything up, builds and runs all tests. Arguments go to ctest: tests/run.sh -R lua_
#   --setup-only   installs and builds, runs nothing
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh
{ build_packages; test_packages; } | install_missing
install_npm_packages tests "the reference tokenizer and the tests' clients"
build
[ "${1:-}" = --setup-only ] && exit
ctest --test-dir build/release --output-on-failure --parallel "$(nproc)" "$@"
