#!/bin/bash
# SPDX-License-Identifier: MIT
# From a fresh Debian 12 to the whole job: sets up, builds, converts a sparse autoencoder (SAE), shows
# the features that fire on a prompt, and turns one up so that the model writes something else.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh
build_packages | install_missing
build

model=examples/tiny
out=build/quickstart
sae=$out/sae_layer_3.safetensors
prompt="Once upon a time there was a small red fox named Mia."

say() { printf '\n== %s\n' "$*"; }

# Shows a command as one would type it, then runs it.
moonscope() {
  printf '$ build/release/bin/moonscope'
  printf ' %s' "${@@Q}" | sed "s/'\([a-zA-Z0-9_./:-]*\)'/\1/g"
  echo
  build/release/bin/moonscope "$@"
}

say "Convert the autoencoder, published as a PyTorch file, to safetensors"
moonscope convert $model/Moonscope-Tiny-Llama-SAE-l3.pth -o $out

say "Which features fire on which token?"
moonscope features --model $model --sae $sae --prompt "$prompt" --top 3

say "What the model writes"
moonscope generate --model $model --prompt "$prompt" -n 40

say "The same with feature 458 (hunger) turned up"
moonscope generate --model $model --prompt "$prompt" -n 40 --sae $sae --edit 458:add:3.85

cat <<NEXT

Next, try:
  build/release/bin/moonscope inspect $sae
  build/release/bin/moonscope generate --model $model --prompt "It was" -n 40 --sae $sae --edit 104:add:5.08
  build/release/bin/moonscope          # a prompt: model = ms.load_model "$model"
NEXT
