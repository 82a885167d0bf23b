#!/bin/bash
# SPDX-License-Identifier: MIT
# Line and branch coverage of the parsers by what the fuzz targets have found: for each target its
# seeds, its regressions and build/fuzz/corpus (or the folder in $1). Needs llvm-14.
set -euo pipefail
cd "$(dirname "$0")/../.."
corpus=${1:-build/fuzz/corpus}
build=build/fuzz-coverage
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ cmake --preset fuzz -B $build -DCMAKE_C_FLAGS="-fprofile-instr-generate -fcoverage-mapping" &&
  cmake --build $build --target fuzzers; } >"$log" 2>&1 || { cat "$log" >&2; exit 1; }

objects=()
for program in "$build"/bin/fuzz_*; do
  target=${program##*/fuzz_}
  folders=()
  for folder in "$corpus/$target" "tests/fuzz/seeds/$target" "tests/fuzz/regressions/$target"; do
    [ ! -d "$folder" ] || folders+=("$folder")
  done
  LLVM_PROFILE_FILE=$build/$target.profraw ASAN_OPTIONS=allocator_may_return_null=1 \
    "$program" -runs=0 -max_len=8192 "${folders[@]}" >"$log" 2>&1 || { tail "$log" >&2; exit 1; }
  [ ${#objects[@]} = 0 ] || objects+=(-object)
  objects+=("$program")
done
llvm-profdata-14 merge -o $build/all.profdata $build/*.profraw
llvm-cov-14 report "${objects[@]}" -instr-profile=$build/all.profdata src/io/*.c src/llama/config.c \
  src/llama/tokenizer_file.c src/llama/vocab.c src/llama/special.c src/llama/split.c src/llama/bpe.c |
  awk 'NR > 2 && NF > 10 && $1 != "TOTAL" { printf "%-24s lines %s branches %s\n", $1, $10, $13 }'
