# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced with the build's folder: $work is an empty folder until the script ends, and what the build
# notes of an installation that somebody made is there again afterwards.
work=$(mktemp -d)
notes=$(mktemp -d)
noted=$1
for note in install_manifest.txt install_prefix.txt; do
  [ ! -e "$noted/$note" ] || cp -p "$noted/$note" "$notes/"
done
forget() {
  rm -f "$noted/install_manifest.txt" "$noted/install_prefix.txt"
  cp -p "$notes"/* "$noted/" 2>/dev/null || true
  rm -rf "$work" "$notes"
}
trap forget EXIT
fail() {
  echo "FAILED: $*" >&2
  exit 1
}
