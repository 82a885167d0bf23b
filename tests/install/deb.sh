#!/bin/bash
# SPDX-License-Identifier: MIT
# cpack gives a .deb that dpkg installs into a folder, runs there, and goes without a trace:
#   tests/install/deb.sh BUILD
set -euo pipefail
. tests/install/scratch.sh "$1"
build=$1 version=$("$1/bin/moonscope" -e 'print(ms.version)')

cpack --config "$build/CPackConfig.cmake" -B "$work/cpack" >"$work/log" 2>&1 || fail "cpack: $(cat "$work/log")"
deb=$work/cpack/moonscope_${version}_amd64.deb
[ -e "$deb" ] || fail "cpack wrote $(ls "$work/cpack")"
depends=$(dpkg-deb -f "$deb" Depends)
for package in libc6 libedit2 libgomp1 libjansson4 liblua5.4-0 libmicrohttpd12 libpcre2-8-0 libssl3 libwslay1 zlib1g \
  libcurl4 lua-argparse lua-cjson lua-luv; do
  echo ", $depends" | grep ", $package\( \|,\|$\)" >/dev/null || fail "Depends lacks $package: $depends"
done

root=$work/root
mkdir -p "$root"/var/lib/dpkg/{info,updates,triggers}
touch "$root/var/lib/dpkg/status"
# Its dependencies are not in that folder, and whoever tests need not be root.
dpkg_there() { dpkg --root="$root" --force-depends --force-not-root --no-triggers --log=/dev/null "$@"; }
dpkg_there -i "$deb" >"$work/log" 2>&1 || fail "dpkg -i: $(cat "$work/log")"
find "$root/usr" ! -perm -a+r >"$work/unreadable"
[ ! -s "$work/unreadable" ] || fail "not for everybody: $(cat "$work/unreadable")"
grep -qx 'ExecStart=/usr/bin/moonscope serve .*' "$root/usr/lib/systemd/system/interpretability-workbench.service" ||
  fail "the service starts something else"
for file in share/man/man1/moonscope.1 share/zsh/vendor-completions/_moonscope lib/lua/5.4/moonscope.so \
  share/bash-completion/completions/moonscope share/doc/moonscope/copyright; do
  [ -s "$root/usr/$file" ] || fail "$file is not in it"
done
(cd / && env -i PATH=/usr/bin:/bin "$root/usr/share/moonscope/examples/quickstart.sh" "$work/sae") >"$work/said" ||
  fail "quickstart.sh ends with $?"
grep -q "She felt hungry" "$work/said" || fail "quickstart.sh says $(cat "$work/said")"

dpkg_there -r moonscope >"$work/log" 2>&1 || fail "dpkg -r: $(cat "$work/log")"
left=$(find "$root" -path "$root/var/lib/dpkg" -prune -o -mindepth 1 -print | grep -v '^'"$root"'/var\(/lib\)\?$' || true)
[ -z "$left" ] || fail "dpkg -r leaves $left"
echo "packed, installed, removed"
