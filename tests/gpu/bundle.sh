#!/bin/bash
# SPDX-License-Identifier: MIT
# Makes a folder that runs on a machine with a GPU and nothing else: no Lua, no packages, no network.
#   tests/gpu/bundle.sh [--build DIR] OUT     OUT: a new folder, or a new file ending in .tar
# In it: the program, the CUDA plugin where it was built, test programs, Lua files, what they need of
# this system's libraries (all but libc's own and CUDA's), the small model and its golden numbers.
# There, ./run.sh does everything. DIR: a Release build, default build/release.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/gpu/libraries.sh

die() {
  echo "bundle.sh: $*" >&2
  exit 1
}

build=build/release
[ "${1:-}" = --build ] && { build=$2; shift 2; }
[ $# = 1 ] || die "usage: tests/gpu/bundle.sh [--build DIR] OUT"
out=$1
[ -e "$out" ] && die "$out: exists already, expected a new folder or .tar"
programs=(moonscope test_ops test_rows test_golden rates graph)
for program in "${programs[@]}"; do
  [ -x "$build/bin/$program" ] || die "$build/bin/$program: missing, build it first (tests/run.sh --setup-only)"
done
command -v patchelf >/dev/null || die "patchelf is missing: apt-get install patchelf"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
name=$(basename "$out" .tar)
folder=$work/$name
mkdir -p "$folder"/{bin,lib/lua,share/lua/5.4,examples,tests/fixtures/tiny,tests/gpu}

# Programs and modules, then what they need, until nothing is new.
for program in "${programs[@]}"; do cp "$build/bin/$program" "$folder/bin/"; done
plugin=$build/lib/libmoonscope_cuda.so
has_plugin=no
if [ -e "$plugin" ]; then has_plugin=yes && cp "$plugin" "$folder/lib/"; fi
where_is() { # where_is path|cpath MODULE: its file, by this system's Lua
  "$build/bin/moonscope" -e "print(assert(package.searchpath('$2', package.$1)))"
}
for module in cjson luv; do cp "$(where_is cpath "$module")" "$folder/lib/lua/"; done
for library in $(find "$folder" -type f -exec ldd {} + | library_paths | sort -u); do
  cp "$library" "$folder/lib/"
done

# RPATH, not RUNPATH: the program's serves for whatever it loads later, and comes before LD_LIBRARY_PATH.
while read -r file; do
  strip --strip-unneeded "$file"
  patchelf --remove-rpath "$file"
done < <(find "$folder/bin" "$folder/lib" -type f)
for program in "${programs[@]}"; do
  # shellcheck disable=SC2016 # $ORIGIN is for the dynamic linker
  patchelf --force-rpath --set-rpath '$ORIGIN/../lib' "$folder/bin/$program"
done

cp -r lua/moonscope "$folder/share/lua/5.4/"
cp "$(where_is path argparse)" "$folder/share/lua/5.4/"
cp -r examples/tiny "$folder/examples/"
cp -r tests/fixtures/tiny/golden "$folder/tests/fixtures/tiny/"
cp -r tests/fixtures/family "$folder/tests/fixtures/"
cp tests/gpu/*.lua tests/gpu/*.py "$folder/tests/gpu/"
cp tests/gpu/run.sh LICENSE "$folder/"
cat >"$folder/moonscope" <<'LAUNCHER'
#!/bin/sh
here=$(cd "${0%/*}" && pwd)
LUA_CPATH="$here/lib/lua/?.so" exec "$here/bin/moonscope" "$@"
LAUNCHER
chmod +x "$folder/moonscope"

{
  "$build/bin/moonscope" --version
  echo "glibc $(find "$folder/bin" "$folder/lib" -type f -exec objdump -T {} + |
    grep -o 'GLIBC_[0-9.]*' | sed s/GLIBC_// | sort -uV | tail -1)"
  echo "plugin $has_plugin"
} >"$folder/BUNDLE"

size_mb=$(($(du -sk "$folder" | cut -f1) / 1024))
[ $size_mb -lt 50 ] || die "$size_mb MB, expected less than 50"
case $out in
  *.tar) tar -C "$work" -cf "$out" "$name" ;;
  *) mkdir -p "$(dirname "$out")" && mv "$folder" "$out" ;;
esac
echo "$out: $size_mb MB, CUDA plugin: $has_plugin"
