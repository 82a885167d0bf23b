#!/bin/bash
# SPDX-License-Identifier: MIT
# In a bundle (bundle.sh), on a machine with a GPU: checks that the GPU gives the golden numbers, then
# how fast it is. Under ten minutes; exits 0 when every check passed.
#   ./run.sh [--device cuda[:N]|cpu] [--shape 8b|tiny] [--logs DIR]
# The 8B shape needs 18 GB of room in /dev/shm or a temporary folder, and 24 GB on the GPU.
# cpu is there to try this script itself.
set -uo pipefail
start=$SECONDS
here=$(cd "$(dirname "$0")" && pwd)
device=cuda shape=8b logs=$PWD/gpu-logs

stop() {
  echo "run.sh: $*" >&2
  exit 1
}

while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:?} ;;
    --shape) shape=${2:?} ;;
    --logs) logs=${2:?} ;;
    *) echo "usage: run.sh [--device cuda[:N]|cpu] [--shape 8b|tiny] [--logs DIR]" >&2; exit 2 ;;
  esac
  shift 2
done
mkdir -p "$logs" || exit 1
logs=$(cd "$logs" && pwd)
cd "$here" || exit 1

# What this machine has

needed=$(sed -n 's/^glibc //p' BUNDLE)
found=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
echo "bundle     $(sed -n 1p BUNDLE), CUDA plugin: $(sed -n 's/^plugin //p' BUNDLE)"
echo "glibc      needs $needed, found $found"
[ "$(printf '%s\n' "$needed" "$found" | sort -V | head -1)" = "$needed" ] ||
  stop "glibc $found is older than $needed: make the bundle on an older system"

# Folders that may hold cuBLASLt 13, which is all of cuBLAS that the plugin opens: what the caller says, what the linker knows, toolkits, Python packages.
cublas_folders() {
  tr : '\n' <<<"$callers_path"
  ldconfig -p 2>/dev/null | sed -n 's/.*libcublasLt\.so\.13 .* => \(.*\)\/[^/]*$/\1/p'
  printf '%s\n' /usr/local/cuda*/lib64 /usr/local/cuda*/targets/x86_64-linux/lib
  python3 -c 'import sys; print("\n".join(p + "/nvidia/cu13/lib\n" + p + "/nvidia/cublas/lib" for p in sys.path if p))' 2>/dev/null
}

callers_path=${LD_LIBRARY_PATH:-}
take_cublas() {
  local folder
  while read -r folder; do
    if [ -e "$folder/libcublasLt.so.13" ]; then
      echo "cublasLt   $(readlink -f "$folder/libcublasLt.so.13")"
      export LD_LIBRARY_PATH=$folder${callers_path:+:$callers_path}
      return
    fi
  done < <(cublas_folders)
  echo "cublasLt   13 not found; set LD_LIBRARY_PATH to its folder if it is there"
}

if [ "$device" != cpu ]; then
  take_cublas
  answer=$(./moonscope -e "ms.zeros({1}, {device = '$device'})" 2>&1) ||
    stop "no GPU: $(head -1 <<<"$answer" | sed 's/^moonscope: //')"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null |
    sed 's/^/gpu        /'
fi
echo "device     $device; logs in $logs"
echo

# Steps

LIMIT_S=580 RESERVE_S=0
export OMP_WAIT_POLICY=passive # CPU threads that wait take no core from one another
results=() failed=0

note() { # note RESULT NAME DETAIL
  results+=("$(printf '%-8s %-34s %s' "$1" "$2" "$3")")
  echo "${results[-1]}"
}

# step NAME SECONDS COMMAND...: in its own log; the seconds are a limit.
step() {
  local name=$1 limit=$2 left=$((LIMIT_S - RESERVE_S - SECONDS + start)) began=$SECONDS code
  local log=$logs/${name//[, ]/_}.log why
  shift 2
  if [ $left -lt 5 ]; then
    note "NOT RUN" "$name" "out of time"
    failed=1
    return 1
  fi
  timeout -k 5 $((limit < left ? limit : left)) "$@" >"$log" 2>&1
  code=$?
  if [ $code = 0 ]; then
    note ok "$name" "$((SECONDS - began)) s"
    return 0
  fi
  failed=1
  if [ $code = 124 ]; then
    note FAILED "$name" "did not end in time, see $log"
  else
    why=$(grep -m1 -iE 'fail|error|moonscope:' "$log" || tail -1 "$log")
    note FAILED "$name" "code $code, see $log: ${why:0:160}"
  fi
  return 1
}

backend=$device
[ "$device" = cpu ] && backend=v2 # the instruction set that every machine has
[ "$shape" = tiny ] && rows=() || rows=("shape=$shape")

RESERVE_S=200 # for the benchmarks
step "conformance" 120 bin/test_ops "$backend"
step "golden numbers" 90 bin/test_golden "$backend"
step "golden text and edits" 60 ./moonscope tests/gpu/golden.lua "$device" "$logs/first.safetensors"
step "the family's golden numbers" 60 ./moonscope tests/gpu/family.lua "$device"
step "rows 1, 7, 128" 90 bin/test_rows "$backend" "${rows[@]}"
step "same again" 60 ./moonscope tests/gpu/golden.lua "$device" "$logs/second.safetensors"
[ "$device" = cpu ] || step "a step is one graph" 30 bin/graph "$device" examples/tiny
step "same bits twice" 10 cmp "$logs/first.safetensors" "$logs/second.safetensors"
rm -f "$logs"/{first,second}.safetensors

sanitizer=$(PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer command -v compute-sanitizer)
if [ "$device" = cpu ] || [ -z "$sanitizer" ]; then
  note skipped "memcheck, racecheck" "no compute-sanitizer"
else
  for tool in memcheck racecheck; do
    step "$tool of operations" 90 "$sanitizer" --tool $tool --error-exitcode 9 bin/test_ops "$backend" trials=2
    step "$tool of a model" 90 "$sanitizer" --tool $tool --error-exitcode 9 \
      bin/test_golden "$backend" only=test_steering
  done
fi

# Benchmarks

RESERVE_S=0
with_rates=() with_torch=()
# shellcheck disable=SC2016 # the inner shell's
step "rates" 60 sh -c 'bin/rates "$1" >"$2"' sh "$device" "$logs/rates.json" && with_rates=(--rates "$logs/rates.json")
if LD_LIBRARY_PATH=$callers_path python3 -c 'import torch' 2>/dev/null; then
  # shellcheck disable=SC2016
  step "PyTorch" 60 env LD_LIBRARY_PATH="$callers_path" sh -c 'python3 tests/gpu/torch_peer.py "$1" >"$2"' sh "$device" "$logs/torch.json" &&
    with_torch=(--torch "$logs/torch.json")
else
  note skipped "PyTorch" "python3 has no torch"
fi

# A folder with room for the 8B shape and its SAE.
roomy_folder() {
  local folder
  for folder in "${TMPDIR:-}" /dev/shm /tmp /var/tmp "$logs"; do
    [ -w "$folder" ] && [ "$(df --output=avail -k "$folder" | tail -1)" -gt 18000000 ] && echo "$folder" && return
  done
  return 1
}

bench=(./moonscope tests/gpu/bench.lua --device "$device" "${with_rates[@]}" "${with_torch[@]}")
if [ "$shape" = tiny ]; then
  step "benchmarks" 120 "${bench[@]}" --shape tiny
elif folder=$(roomy_folder); then
  folder=$(mktemp -d "$folder/moonscope-XXXXXX")
  trap 'rm -rf "$folder"' EXIT
  write='require("moonscope.bench.random").model(arg[2], require("moonscope.bench.shapes").shape(arg[1]))'
  step "random weights" 120 ./moonscope -e "$write" "$shape" "$folder/model" &&
    step "benchmarks" 180 "${bench[@]}" --shape "$shape" --folder "$folder/model"
else
  note skipped "benchmarks" "no folder with 18 GB of room"
fi

echo
printf '%s\n' "${results[@]}" >"$logs/summary.txt"
[ -s "$logs/benchmarks.log" ] && cat "$logs/benchmarks.log"
echo
if [ $failed = 0 ]; then echo "all passed in $((SECONDS - start)) s"; else echo "run.sh: not all passed" >&2; fi
exit $failed
