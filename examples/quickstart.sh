#!/bin/bash
# SPDX-License-Identifier: MIT
# From a fresh Debian 12 to the whole job: sets up, builds, converts a sparse autoencoder (SAE), shows
# the features that fire on a prompt, and turns one up so that the model writes something else.
# Where moonscope is installed, there is nothing to set up: examples/quickstart.sh [FOLDER-FOR-THE-SAE]
set -euo pipefail
out=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.."
if [ -e tests/setup.sh ]; then
  . tests/setup.sh
  build_packages | install_missing
  build
  program=build/release/bin/moonscope
  out=${out:-build/quickstart}
else
  program=$(realpath ../../bin/moonscope)
  out=${out:-$(mktemp -d)}
fi

model=examples/tiny
sae=$out/sae_layer_3.safetensors
prompt="Once upon a time there was a small red fox named Mia."

say() { printf '\n== %s\n' "$*"; }

# Shows a command as one would type it, then runs it.
moonscope() {
  printf '$ %s' "$program"
  printf ' %s' "${@@Q}" | sed "s/'\([a-zA-Z0-9_./:-]*\)'/\1/g"
  echo
  "$program" "$@"
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
  $program inspect $sae
  $program generate --model $model --prompt "It was" -n 40 --sae $sae --edit 104:add:5.08
  $program          # a prompt: model = ms.load_model "$model"
NEXT
