#!/bin/bash
# SPDX-License-Identifier: MIT
# Runs the fuzz targets of the preset `fuzz` (clang 14, ASan, UBSan, LSan), which it builds first.
#
#   tests/fuzz/run.sh MINUTES [TARGET...]      each target for so long; "0.17" is ten seconds
#
# A crash, a leak, an input that takes more than 512 MB or 20 s (of the clock: 2 s where it has a
# core to itself) fails and is left in build/fuzz/findings; once mended it goes to
# tests/fuzz/regressions/TARGET, which every run starts with. What a run finds to reach more code
# stays in build/fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1:-} in
  '' | *[!0-9.]*) sed -n '3,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
seconds=$(awk "BEGIN { print int($1 * 60) }")
shift
if [ $# = 0 ]; then
  for source in tests/fuzz/fuzz_*.c; do
    name=${source##*/fuzz_}
    set -- "$@" "${name%.c}"
  done
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ cmake --preset fuzz && cmake --build --preset fuzz --target fuzzers; } >"$log" 2>&1 || { cat "$log" >&2; exit 1; }

export ASAN_OPTIONS=quarantine_size_mb=32:allocator_may_return_null=1
failed=0
for target; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus" build/fuzz/findings
  folders=("$corpus" "tests/fuzz/seeds/$target")
  [ ! -d "tests/fuzz/regressions/$target" ] || folders+=("tests/fuzz/regressions/$target")
  options=(-max_total_time="$seconds" -timeout=20 -rss_limit_mb=512 -max_len=8192 -print_final_stats=1
    -artifact_prefix="build/fuzz/findings/$target-")
  case $target in
    config | tokenizer | index) options+=(-dict=tests/fuzz/json.dict) ;;
  esac
  # libFuzzer can lock itself up when its alarm rings inside malloc: it does not get for ever.
  if timeout -k 10 $((seconds + 120)) "build/fuzz/bin/fuzz_$target" "${options[@]}" "${folders[@]}" >"$log" 2>&1; then
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs," \
      "$(find "$corpus" -type f | wc -l) inputs kept, nothing found"
  else
    failed=1
    tail -40 "$log" >&2
    echo "$target: FAILED" >&2
  fi
done
exit $failed
