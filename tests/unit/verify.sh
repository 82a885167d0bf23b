#!/bin/bash
# SPDX-License-Identifier: MIT
# Installs into a folder of its own and lets systemd check the service there:
#   tests/unit/verify.sh BUILD
set -euo pipefail
if ! command -v systemd-analyze >/dev/null; then
  echo "# SKIP systemd-analyze is not installed"
  exit 77
fi
. tests/install/scratch.sh "$1"
folder=$work
cmake --install "$1" --prefix "$folder" >/dev/null
unit=$folder/lib/systemd/system/interpretability-workbench.service
grep -qx "ExecStart=$folder/bin/moonscope serve .*" "$unit"
"$folder/bin/moonscope" serve --help >/dev/null # as the unit calls it: with the Lua files beside it
said=$(systemd-analyze verify --man=no "$unit" 2>&1) || { echo "$said"; exit 1; }
echo "$said" | grep -F "$folder" && exit 1 # warnings, too: an unknown key is one
echo "interpretability-workbench.service: verified"
