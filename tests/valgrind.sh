#!/bin/bash
# SPDX-License-Identifier: MIT
# The main job and the prompt under valgrind: tests/valgrind.sh PROGRAM. Any error or lost block fails it.
# The compute thread lives as long as the process, so its stack is "possibly lost" and does not count.
set -euo pipefail
command -v valgrind >/dev/null || { echo "SKIP valgrind is missing: apt-get install valgrind"; exit 77; }
program=$1 model=examples/tiny
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

check() {
  valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect \
    --errors-for-leak-kinds=definite,indirect "$program" "$@"
}

check convert $model/Moonscope-Tiny-Llama-SAE-l3.pth -o "$out"
check inspect --hash "$out/sae_layer_3.safetensors"
check tokenize --model $model "a red fox"
check features --model $model --sae "$out/sae_layer_3.safetensors" --prompt "a red fox"
check generate --model $model --sae "$out/sae_layer_3.safetensors" --prompt "a red fox" -n 4 --edit 1174:set:4
check generate --model $model --prompt "a red fox" -n 4 --temperature 1 --seed 2
check -e 'print(ms.randn({64, 64}):matmul(ms.ones{64, 64}):sum():item() ~= nil)'
check < <(printf '%s\n' 'x = {1, ms.zeros{2, 2}}' 'x' 'help(ms)' 'for i = 1, 2 do' 'print(i)' 'end')
