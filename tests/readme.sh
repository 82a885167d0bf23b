#!/bin/bash
# SPDX-License-Identifier: MIT
# Does what README.md shows, as it stands there, and looks whether it happens as the README says:
#   tests/readme.sh            on a fresh Debian 12, as root: packages, moonscope itself and nginx are installed
#   tests/readme.sh --built    with build/release as it is; what would change the system is left out and named
# The Hub is tests/hub/mock.mjs, with files that stand in for the large ones (tests/readme/stand_ins.lua). What the
# README shows and `try` has no rule for is a failure.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/install/scratch.sh
. tests/install/scratch.sh build/release
here=$work/here tiny=examples/tiny children=()
sae=$tiny/Moonscope-Tiny-Llama-SAE-l3.pth prompt="Once upon a time there was a small red fox named Mia."
is_fresh=yes
[ "${1:-}" != --built ] || is_fresh=no
export HOME=$work/home XDG_STATE_HOME=/dev/null
mkdir -p "$here" "$HOME"
ln -s "$PWD/examples" "$here/examples"

end() {
  [ ${#children[@]} -eq 0 ] || kill "${children[@]}" 2>/dev/null || true
  wait
  forget
}
trap end EXIT
trap 'fail "line $LINENO: $BASH_COMMAND"' ERR

# in_folder FOLDER COMMAND: its two outputs go to $work/said.
in_folder() {
  (cd "$1" && timeout -k 5 "${patience:-100}" bash -euo pipefail -c "$2") >"$work/said" 2>&1 </dev/null ||
    fail "$2: ends with $?: $(tail -20 "$work/said")"
}
run() { in_folder . "$1"; }
run_here() { in_folder "$here" "$1"; }

says() {
  local text
  for text in "$@"; do grep -qF -- "$text" "$work/said" || fail "$command: does not say $text: $(cat "$work/said")"; done
}

# What was said holds the README's block that begins with this line; a line "..." there stands for any lines.
says_block() {
  local rest part
  rest=$(cat "$work/said")
  while IFS= read -r -d $'\x01' part; do
    [[ $rest == *"$part"* ]] || fail "$command: does not say $part: $(cat "$work/said")"
    rest=${rest#*"$part"}
  done < <(awk -v first="$1" '
    /^```/ { inside = !inside; block = 0; next }
    inside && $0 == first { block = 1 }
    block && $0 == "..." { printf "\1"; n = 0; next }
    block { printf "%s%s", n++ ? "\n" : "", $0; some = 1 }
    END { if (some) printf "\1" }' README.md)
}

not_here() { printf '    not here: %s\n' "$*"; }

fresh_only() {
  [ $is_fresh = no ] || return 0
  not_here "$*"
  return 1
}

# serve ARGUMENT...: the server listens on $port when this returns.
serve() {
  (cd "$here" && exec moonscope serve --port 0 "$@") >"$work/served" 2>"$work/log" &
  children+=($!)
  for _ in {1..600}; do
    port=$(sed -n 's/.*Listening on http:.*:\([0-9]*\).*/\1/p' "$work/served")
    [ -z "$port" ] || return 0
    kill -0 "${children[-1]}" 2>/dev/null || break
    sleep 0.1
  done
  fail "serve $*: $(cat "$work/log")"
}

stop_serving() {
  kill "${children[-1]}"
  wait "${children[-1]}" || fail "the server ends with $?"
  unset 'children[-1]'
}

ask() { run_here "${1//localhost:8000/localhost:$port}"; }

# The Hub, and a moonscope in whose list the stand-in's width is the known one.
start_hub() {
  mkdir -p "$work"/{hub,real/bin,real/share/lua}
  moonscope tests/readme/stand_ins.lua "$work/hub"
  cp build/release/bin/moonscope "$work/real/bin/"
  cp -r lua "$work/real/share/lua/5.4"
  sed -i '/"Llama-3.1-8B-Instruct-SAE-l19"\] = {/,/}/ s/d_model = 4096/d_model = 128/' \
    "$work/real/share/lua/5.4/moonscope/sae_configs.lua"
  mkfifo "$work/hub/stop"
  node tests/hub/mock.mjs "$work/hub" <"$work/hub/stop" &
  children+=($!)
  exec 7>"$work/hub/stop"
  for _ in {1..600}; do
    [ ! -e "$work/hub/ports.json" ] || break
    sleep 0.1
  done
  HF_ENDPOINT=http://127.0.0.1:$(sed 's/.*"hub":\([0-9]*\).*/\1/' "$work/hub/ports.json")
  export HF_ENDPOINT HF_HOME=$work/cache
}

real() { (export PATH=$work/real/bin:$PATH && run_here "$1"); }

# What lies where no package writes.
installed() { find /usr/local "$HOME" -type f -o -type l | sort; }

try_installed_package() {
  (cd / && /usr/bin/moonscope --version && /usr/share/moonscope/examples/quickstart.sh "$work/of_the_package") >"$work/said"
  says "She felt hungry"
  run "apt-get install -y -qq --no-install-recommends bash-completion"
  # shellcheck disable=SC2016 # for the other shell
  run 'set +u; . /usr/share/bash-completion/bash_completion; _completion_loader moonscope || [ $? = 124 ]
    COMP_WORDS=(moonscope generate --comp) COMP_CWORD=2; _moonscope; echo "${COMPREPLY[@]}"'
  [ "$(cat "$work/said")" = --compare ] || fail "Tab offers $(cat "$work/said")"
  run "apt-get remove -y -qq moonscope"
  ! find / -xdev -path "$PWD" -prune -o -path "$work" -prune -o -path /proc -prune -o -name '*moonscope*' -print |
    grep -v '^/var/\(lib/dpkg\|log\|cache\)\|^/tmp/' || fail "apt-get remove leaves these"
}

try_nginx() {
  run "apt-get install -y -qq --no-install-recommends nginx-light"
  serve --data examples --allow-host workbench.example
  awk '/^```nginx/ { on = 1; next } /^```/ { on = 0 } on' README.md |
    sed "s/listen 80;/listen 127.0.0.1:18080;/; s/127.0.0.1:8000/127.0.0.1:$port/" >/etc/nginx/conf.d/workbench.conf
  rm -f /etc/nginx/sites-enabled/default
  run "nginx"
  local url=http://127.0.0.1:18080
  run "curl -sS --fail -H 'Host: workbench.example' -H 'Origin: http://workbench.example' $url/api/health"
  says '"status":"healthy"'
  run "curl -sS --fail -H 'Host: workbench.example' $url/"
  says "<title>"
  run "nginx -s stop"
  stop_serving
}

# try WHERE COMMAND: does the command, or what the block that begins with this line is about.
try() {
  local command=$2
  case "$1 $2" in
    "sh ./examples/quickstart.sh") patience=1200 run "$2" && says_block "== What the model writes" ;;
    "text == What the model writes") ;; # by the line above
    "sh ./tests/run.sh")
      fresh_only "these are tests of their own" || return 0
      not_here "the other tests, which take more than half an hour"
      patience=1200 run "$2 -R '^(c_moon|lua_readme|lua_examples)$'"
      says "100% tests passed, 0 tests failed out of 3"
      ;;
    "sentence examples/01_look_and_steer.lua" | "lua local ms = require"* | "text <|begin_of_text|>"* | "text > t = "*) ;;
    "lua { sae = sae, "* | "lua return { "* | "lua [\"My-SAE-"*) ;; # lua_readme runs each of these, or fails
    "sentence build/release/bin/moonscope examples/01_look_and_steer.lua") run "$2" && says_block "<|begin_of_text|>  feature  286  40.98" ;;
    "sentence build/release/bin/moonscope")
      run "echo '6 * 7' | script -qec $2 /dev/null"
      says "$($2 --version), Lua 5.4" 42
      ;;
    "sh export PATH="*) eval "$2" && run "moonscope --version" ;;
    "sh LUA_PATH="*) run "$2" && says "$(moonscope -e 'print(ms.version)')" ;;

    "sh export HF_TOKEN="*) start_hub && eval "$2" ;;
    "sh moonscope convert") real "$2" && says sae_layer_19.safetensors sae_layer_19_metadata.json ;;
    "sh moonscope features --model meta-llama/"*) real "$2" && says "' over'" "features of model.layers.19" ;;
    "sh moonscope generate --model meta-llama/"*) real "$2" ;;
    "sentence tests/bench/mapped.lua") not_here "it takes a model of 16 GB" ;;

    "row moonscope") run "echo 'print(6 * 7)' | $2" && says 42 ;;
    "row moonscope FILE.lua "*) run_here "moonscope examples/04_features.lua" ;;
    "row moonscope -e CODE") run "moonscope -e 'print(ms.version, help)'" && says "help(ms)" ;;
    "row moonscope convert [NAME or PATH] "*) run_here "moonscope convert $sae -o out --layer 3 --dtype f32" ;;
    "row moonscope convert PATH "*) run_here "moonscope convert $sae -o all.safetensors" && says "4 tensors" ;;
    "row moonscope inspect "*) run_here "moonscope inspect all.safetensors --hash" && says "encoder_linear.weight" ;;
    "row moonscope info "* | "sentence moonscope info "*) run_here "moonscope info $tiny $sae" && says "memory     " ;;
    "row moonscope download "*)
      run_here "moonscope download meta-llama/Llama-3.1-8B-Instruct@main config.json"
      says "/snapshots/"
      ;;
    "row moonscope cache ls "*) run_here "moonscope cache ls" && says meta-llama/Llama-3.1-8B-Instruct ;;
    "row moonscope verify "* | "sentence moonscope cache verify") run_here "moonscope cache verify" ;;
    "row moonscope rm "*)
      run_here "moonscope cache rm Goodfire/Llama-3.1-8B-Instruct-SAE-l19"
      run_here "moonscope cache ls"
      ! grep Goodfire "$work/said" || fail "cache rm leaves it"
      ;;
    "row moonscope tokenize "*) run_here "moonscope tokenize --model $tiny 'a red fox'" && says " fox" ;;
    "row moonscope features "*)
      run_here "moonscope features --model $tiny --sae $sae --prompt '$prompt' --top 3 --html page.html"
      grep -q "<title>" "$here/page.html"
      ;;
    "row moonscope doctor "* | "sentence moonscope doctor --model M --sae S")
      run_here "moonscope doctor --model $tiny --sae $sae --text examples/tiny/README.md"
      ;;
    "sentence moonscope doctor --json") run_here "$2 --model $tiny --sae $sae" && says '"verdict"' ;;
    "row moonscope generate "*)
      run_here "moonscope generate --model $tiny --prompt '$prompt' -n 32 --temperature 0 --sae $sae --edit 458:add:3.85 --compare"
      says "hungry"
      ;;
    "row moonscope bench "*) not_here "shown again below, with its options" ;;
    "sentence moonscope bench "*)
      run_here "moonscope bench decode prefill growth sae load convert http --shape tiny --layers 1 --threads 1 --precision exact --rounds 1"
      says "tokens/s" "GET /health"
      ;;
    "row moonscope serve "*)
      serve --model $tiny --sae $sae --layer 3 --data examples --routes examples/my_routes.lua
      stop_serving
      ;;
    "sentence cmake --build build/release --target doc") run "$2" && grep -q "<title>" build/release/doc/moonscope.html ;;
    "sentence echo "*) run "$2" && says '{ "cpu" }' ;;

    "sh moonscope serve --data examples &") serve --data examples ;;
    "sentence moonscope" | "sentence moonscope serve") ;; # by the lines behind them
    "sh curl -X POST \"localhost:8000/load-model"*) ask "$2" && says '"success":true' ;;
    "sh curl -X POST localhost:8000/load-sae"*) ask "$2" && says '"success":true' '"layer_idx":3' ;;
    "sh curl localhost:8000/v1/completions"*) ask "$2" && says 'data: {' 'data: [DONE]' ;;
    "sentence examples/test_goodfire_sae.lua")
      run_here "moonscope $2 http://localhost:$port tiny tiny/Moonscope-Tiny-Llama-SAE-l3.pth 3" && says "ok inference"
      stop_serving
      ;;
    "sentence examples/my_routes.lua")
      serve --model $tiny --sae $sae --data examples --routes "$2"
      ask "curl -sS --fail localhost:8000/compare -H 'Content-Type: application/json' \
        -d '{\"text\": \"$prompt\", \"feature\": 458, \"value\": 3.85}'"
      says '"plain"' "hungry"
      stop_serving
      ;;

    "sh cmake --install build/release")
      fresh_only "it would write below /usr/local" || return 0
      installed >"$work/before"
      run "$2"
      (cd / && [ "$(/usr/local/bin/moonscope --version)" = "$(moonscope --version)" ]) || fail "it does not run"
      (cd / && lua5.4 -e 'require "moonscope"') || fail "Debian's Lua does not find the module"
      run "systemd-analyze verify /usr/local/lib/systemd/system/interpretability-workbench.service"
      run "cmake --build build/release --target uninstall"
      installed | diff "$work/before" - || fail "uninstall leaves these"
      ;;
    "sh systemctl "* | "sh journalctl "*) not_here "it takes a systemd; tests: unit, unit_start" ;;
    "nginx map "*) fresh_only "it takes an nginx" && try_nginx || return 0 ;;
    "sh tests/gpu/bundle.sh moonscope-gpu.tar")
      run "$2"
      mv moonscope-gpu.tar "$here/"
      ;;
    "sh tar xf moonscope-gpu.tar && "*)
      not_here "its checks take a GPU; test: gpu_bundle"
      run_here "tar xf moonscope-gpu.tar && moonscope-gpu/moonscope --version"
      ;;
    "sentence tests/bench/peers.lua") not_here "it takes llama.cpp, PyTorch or oneDNN" ;;
    "sentence moonscope convert My-SAE-l12") not_here "an invented name; lua_readme checks the entry" ;;

    "sh cmake --install build/release --prefix "*)
      run "$2"
      (cd / && mv "$HOME/moonscope" "$work/moved" && env -i "$work/moved/bin/moonscope" --version) >"$work/said"
      mv "$work/moved" "$HOME/moonscope"
      says "$(moonscope --version)"
      ;;
    "sh cmake --build build/release --target uninstall")
      run "$2"
      [ ! -e "$HOME/moonscope/bin" ] || fail "uninstall leaves $(find "$HOME/moonscope")"
      ;;
    "sh (cd build/release && cpack)") run "$2" && says ".deb generated" ;;
    "sh apt-get install "*)
      [ -e "${2##* }" ] || fail "${2##* } is not what cpack wrote"
      fresh_only "it installs a package" || return 0
      run "${2/install/install -y -qq}"
      try_installed_package
      ;;
    "sh luarocks "*)
      fresh_only "it builds everything once more; test: rock" || return 0
      patience=1200 run "CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) $2"
      (cd / && LUA_PATH="$HOME/rocks/share/lua/5.4/?.lua;$HOME/rocks/share/lua/5.4/?/init.lua;;" \
        LUA_CPATH="$HOME/rocks/lib/lua/5.4/?.so;;" lua5.4 -e 'print(require("moonscope").version)') >"$work/said"
      (cd / && "$HOME/rocks/bin/moonscope" --version) | grep -F "$(cat "$work/said")" >/dev/null || fail "the rock does not run"
      ;;
    "text src/moon.h "*)
      awk '/^```/ { inside = !inside; on = 0; next } inside && /^src\/moon.h/ { on = 1 } on && /^[^ ]/ { print $1 }' README.md |
        while read -r path; do [ -e "$path" ] || fail "Layout: $path is not there"; done
      ;;
    "sentence tests/readme.sh") ;;
    "sentence tests/fuzz/run.sh "*) not_here "test: fuzz" ;;
    *) fail "README.md shows \"$2\" ($1), for which this script has no rule" ;;
  esac
}

n=0
while IFS=$'\t' read -r where what <&3; do
  printf '%-8s %s\n' "$where" "${what:0:110}"
  try "$where" "$what"
  n=$((n + 1))
done 3< <(awk -f tests/readme/commands.awk README.md)
[ $n -ge 60 ] || fail "only $n things found in README.md"
echo "$n things that the README shows: as it says"
