#!/bin/bash
# SPDX-License-Identifier: MIT
# The bundle is made, runs from another place with an empty environment and nothing but libc of this
# system, and says so where there is no GPU: tests/gpu/test_bundle.sh BUILD
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/gpu/libraries.sh
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

tests/gpu/bundle.sh --build "$build" "$work/moonscope-gpu.tar"
mkdir "$work/else where"
tar -C "$work/else where" -xf "$work/moonscope-gpu.tar"
there="$work/else where/moonscope-gpu"

# What the programs and modules need comes out of the bundle.
find "$there/lib" -name '*.so*' ! -name 'libmoonscope_cuda.so' >"$work/files"
find "$there/bin" -type f >>"$work/files"
while read -r file; do
  env -i LD_LIBRARY_PATH="$there/lib" ldd "$file" >"$work/ldd"
  ! grep 'not found' "$work/ldd" || fail "$file: $(cat "$work/ldd")"
  ! library_paths <"$work/ldd" | grep -v "^$there/" || fail "$file needs libraries of this system"
done <"$work/files"

# So does everything that a run opens.
(cd "$work" && env -i "$(command -v strace)" -f -e trace=openat,execve -o "$work/trace" "$there/moonscope" generate \
  --model "$there/examples/tiny" --prompt "Once upon a time there was a small red fox named Mia." -n 24 \
  --sae "$there/examples/tiny/Moonscope-Tiny-Llama-SAE-l3.pth" --edit 458:add:3.85 --precision exact) >"$work/text"
grep -q "Mia did not eat" "$work/text" || fail "generate wrote: $(cat "$work/text")"
! grep -E '/usr/(local/)?(share|lib)/[^"]*lua|\.so[.0-9]*", .* = [0-9]' "$work/trace" |
  grep -v ENOENT | grep -vF "$there/" | grep -Ev '"/[^"]*/(libc|libm|ld-linux-x86-64)\.so' ||
  fail "files of this system were opened"

# Where there is no GPU, one line and 1.
code=0
env -i PATH="$PATH" CUDA_VISIBLE_DEVICES= "$there/run.sh" --logs "$work/logs" >"$work/out" 2>"$work/err" || code=$?
cat "$work/out" "$work/err"
[ $code = 1 ] || fail "run.sh without a GPU exits $code"
grep -qx 'run.sh: no GPU: device "cuda.*": .*' "$work/err" || fail "run.sh does not say that there is no GPU"
[ "$(wc -l <"$work/err")" = 1 ] || fail "run.sh says more than one line"

# Its steps, on the CPU.
env -i PATH=/usr/bin:/bin "$there/run.sh" --device cpu --shape tiny --logs "$work/logs" | tee "$work/out"
grep -q '^all passed in ' "$work/out" || fail "run.sh does not say that all passed"
for what in "^ok  *golden text" "^ok  *same bits twice" "^decode  *[0-9]" "^prefill .*%" "^SAE encode  *[0-9]"; do
  grep -q "$what" "$work/out" || fail "run.sh printed no line like $what"
done

# A check that fails, fails it.
for program in "$there"/bin/* "$there/moonscope"; do printf '#!/bin/sh\n' >"$program"; done
printf '#!/bin/sh\necho "FAILED: a number"\nexit 1\n' >"$there/bin/test_golden"
code=0
env -i PATH=/usr/bin:/bin "$there/run.sh" --device cpu --shape tiny --logs "$work/logs" >"$work/out" 2>&1 || code=$?
[ $code = 1 ] || fail "run.sh exits $code where a check failed"
grep -q '^FAILED  *golden numbers .*: FAILED: a number$' "$work/out" ||
  fail "run.sh does not name what failed: $(cat "$work/out")"
