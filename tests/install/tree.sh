#!/bin/bash
# SPDX-License-Identifier: MIT
# cmake --install gives a tree that runs where it is moved to, and uninstall leaves nothing of it:
#   tests/install/tree.sh BUILD
set -euo pipefail
. tests/install/scratch.sh "$1"
sources=$PWD build=$1 version=$("$1/bin/moonscope" -e 'print(ms.version)')

prefix="$work/a place"
cmake --install "$build" --prefix "$prefix" >/dev/null
there="$work/else where"
mv "$prefix" "$there"
cd /
plain() { env -i PATH=/usr/bin:/bin "$@"; }

# The program, with its own Lua files; the quickstart's job; the module in a plain Lua.
[ "$(plain "$there/bin/moonscope" --version)" = "moonscope $version" ] || fail "--version"
found=$(plain "$there/bin/moonscope" -e 'print(package.searchpath("moonscope", package.path))')
[ "$found" = "$there/share/lua/5.4/moonscope/init.lua" ] || fail "its Lua files are $found"
plain "$there/share/moonscope/examples/quickstart.sh" "$work/sae" >"$work/said" || fail "quickstart.sh ends with $?"
grep -q "She felt hungry" "$work/said" || fail "quickstart.sh says $(cat "$work/said")"
[ "$(ls "$work/sae")" = $'sae_layer_3.safetensors\nsae_layer_3_metadata.json' ] || fail "it wrote $(ls "$work/sae")"
said=$(plain LUA_PATH="$there/share/lua/5.4/?.lua;$there/share/lua/5.4/?/init.lua;;" \
  LUA_CPATH="$there/lib/lua/5.4/?.so;;" lua5.4 -e 'print(require("moonscope").version)')
[ "$said" = "$version" ] || fail "the module says $said"
! grep -rlIF -e "$sources/" -e "$prefix" "$there" --include='*' --exclude='*.service' || fail "these name other places"

# The manual and the completions know each command and option.
plain "$there/bin/moonscope" --help | sed -n '/^commands:/,$s/^  \([a-z]*\) .*/\1/p' >"$work/commands"
[ "$(wc -l <"$work/commands")" -ge 9 ] || fail "commands: $(cat "$work/commands")"
complete_words() { # complete_words WORD...: what bash offers for the last one
  # shellcheck disable=SC2016 # the inner shell expands it
  bash -c '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _moonscope; printf "%s\n" "${COMPREPLY[@]}"' \
    sh "$there/share/bash-completion/completions/moonscope" moonscope "$@"
}
manual="$there/share/man/man1/moonscope.1"
# What stands about a command in the manual, and in the function of zsh that completes it.
section() { sed -n "/^\.SS \"moonscope $1\"/,/^\.S[SH]/p" "$manual" | sed 's/\\-/-/g'; }
in_zsh() { awk -v name="$1" '$1 == name ")" || $1 == name && $2 == ")" { on = 1 } on; on && /;;/ { exit }' "$zsh"; }
zsh="$there/share/zsh/site-functions/_moonscope"
options=0
while read -r command; do
  grep -qx ".SS \"moonscope $command\"" "$manual" || fail "the manual lacks $command"
  complete_words "" | grep -x -- "$command" >/dev/null || fail "bash does not offer $command"
  grep -q "^ *\"$command:" "$zsh" || fail "zsh does not offer $command"
  while read -r option; do
    options=$((options + 1))
    section "$command" | grep -- "^\.B.*$option\( \|,\|$\)" >/dev/null || fail "the manual lacks $command $option"
    complete_words "$command" "$option" | grep -x -- "$option" >/dev/null || fail "bash does not offer $command $option"
    in_zsh "$command" | grep -- "$option\b" >/dev/null || fail "zsh does not offer $command $option"
  done < <(plain "$there/bin/moonscope" "$command" --help | sed -n 's/^ \{3,13\}\(-.*\)/\1/p' | grep -oE '^(-[a-zA-Z]|--[a-z-]+)|, --[a-z-]+' | tr -d ', ')
done <"$work/commands"
[ $options -ge 100 ] || fail "only $options options"
! grep '@[A-Z]*@' "$there/share/man/man1/moonscope.1" || fail "the manual has gaps"
[ "$(complete_words gen)" = generate ] || fail "gen becomes $(complete_words gen)"
[ "$(complete_words features --ht)" = --html ] || fail "--ht becomes $(complete_words features --ht)"
[ "$(complete_words generate --precision e)" = exact ] || fail "e becomes $(complete_words generate --precision e)"
grep -q '^#compdef moonscope' "$there/share/zsh/site-functions/_moonscope" || fail "zsh would not find _moonscope"
! command -v zsh >/dev/null || zsh -n "$there/share/zsh/site-functions/_moonscope"

# What somebody else put there stays; the rest goes, folders too.
mv "$there" "$prefix"
echo other >"$prefix/share/man/man1/other.1"
cmake -D BUILD="$build" -P "$sources/rocks/uninstall.cmake"
left=$(cd "$prefix" && find . -type f -o -type d -empty)
[ "$left" = ./share/man/man1/other.1 ] || fail "uninstall leaves $left"
! cmake -D BUILD="$build" -P "$sources/rocks/uninstall.cmake" 2>"$work/said" || fail "uninstall works twice"
grep -q "install_manifest.txt: missing" "$work/said" || fail "uninstall says $(cat "$work/said")"
echo "installed, moved, removed"
