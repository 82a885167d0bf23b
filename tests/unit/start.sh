#!/bin/bash
# SPDX-License-Identifier: MIT
# Starts the installed service as its unit has it, without systemd: a user without rights, everything read-only but
# the state folder, HF_HOME in it, a socket that is told how things stand (P22):
#   tests/unit/start.sh BUILD MANAGER
set -euo pipefail
skip() { echo "# SKIP $1"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root, to become nobody"
unshare --mount true 2>/dev/null || skip "no mount namespace of its own"
build=$(realpath "$1") manager=$(realpath "$2")
folder=$(mktemp -d "$build/unit-XXXXXX") children=()
finish() {
  [ ${#children[@]} = 0 ] || kill -KILL "${children[@]}" 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT
chmod 755 "$folder"
cmake --install "$build" --prefix "$folder/usr" >/dev/null
unit=$folder/usr/lib/systemd/system/interpretability-workbench.service
state=$folder/interpretability-workbench

# What the unit says, with this state folder for systemd's.
mkdir "$state" "$state/data" "$state/huggingface" "$folder/run"
grep -qx "StateDirectory=interpretability-workbench interpretability-workbench/data interpretability-workbench/huggingface" "$unit"
command=$(sed -n "s|^ExecStart=||p" "$unit" | sed "s|%S|$folder|; s|\$OPTIONS|--port 0|")
home=$(sed -n "s|^Environment=HF_HOME=||p" "$unit" | sed "s|%S|$folder|")
cp -r examples/tiny "$state/data/tiny"
chown -R nobody "$state"
chmod -R go= "$state"

mkfifo "$folder/told" "$folder/out"
"$manager" "$folder/run/notify" >"$folder/told" &
children+=($!)
exec 3<"$folder/told"
read -r -t 60 -u 3 line && [ "$line" = listening ]

# All else read-only, as ProtectSystem=strict has it, even /tmp.
unshare --mount --propagation private bash -c '
  mount --bind "$2" "$2"
  while read -r _ _ _ _ point _; do
    [ "$point" = "$2" ] || mount -o remount,bind,ro "$point" 2>/dev/null || true
  done </proc/self/mountinfo
  cd "$2/data"
  umask 0077
  exec setpriv --reuid nobody --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    env -i PATH=/usr/bin HF_HOME="$3" NOTIFY_SOCKET="$1/run/notify" $4' \
  bash "$folder" "$state" "$home" "$command" >"$folder/out" 2>"$folder/log" &
server=$!
children+=("$server")
exec 4<"$folder/out"
fail() { echo "$1"; cat "$folder/log"; exit 1; }
read -r -t 60 -u 4 line || fail "the server said nothing"
url=${line#Listening on }
read -r -t 60 -u 3 line && [ "$line" = READY=1 ] || fail "found '$line', expected READY=1"

ask() { curl -sS --max-time 60 -H "Content-Type: application/json" -X POST "$url/$1" -d "$2"; }
ask load-model '{"model_name": "tiny"}' | grep '"success":true' >/dev/null || fail "the model does not load"
answer=$(ask load-goodfire-sae '{"sae_name": "Moonscope-Tiny-Llama-SAE-l3"}')
made=saes/Moonscope-Tiny-Llama-SAE-l3/sae_layer_3
echo "$answer" | grep "\"path\":\"$made.safetensors\"" >/dev/null || fail "not converted: $answer"
ask inference '{"text": "The red fox", "max_length": 4}' | grep '"generated_text"' >/dev/null || fail "no inference"
ask export-patches '{"output_path": "patches.json"}' | grep '"success":true' >/dev/null || fail "nothing written"
for name in "$made.safetensors" "${made}_metadata.json" patches.json; do
  [ "$(stat -c "%U %a" "$state/data/$name")" = "nobody 600" ] || fail "$name: $(ls -l "$state/data/$name")"
done
[ "$(ps -o uid= -p "$server")" -eq "$(id -u nobody)" ] || fail "not a user without rights"

kill -TERM "$server"
read -r -t 60 -u 3 line && [ "$line" = STOPPING=1 ] || fail "found '$line', expected STOPPING=1"
code=0
wait "$server" || code=$?
[ "$code" = 0 ] || fail "exit code $code"
echo "interpretability-workbench.service: started, ready, wrote its state, stopped"
