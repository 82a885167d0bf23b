#!/bin/bash
# SPDX-License-Identifier: MIT
# /health by wrk at several numbers of connections, beside a bare handler of libmicrohttpd in C, in turns:
#   tests/bench/http.sh [SECONDS]
# and what memory the server takes before and after five times as long, about a million requests at 2 seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-3}
out=$(mktemp -d)
build/release/bin/http_bare >"$out/bare" & bare=$!
build/release/bin/moonscope serve --port 0 >"$out/moonscope" 2>"$out/log" & server=$!
trap 'kill $bare $server; rm -rf "$out"' EXIT
until [ -s "$out/bare" ] && [ -s "$out/moonscope" ]; do sleep 0.1; done
port=$(grep -o '[0-9]*$' "$out/moonscope")
rate() { wrk -t1 -c"$2" -d"${seconds}s" "http://127.0.0.1:$1/health" | awk '/Requests\/sec/ {print int($2)} /Socket|Non-2xx/ {print > "/dev/stderr"}'; }
echo "connections  bare/s  moonscope/s  share"
for n in 16 100 127 128 512; do
  a=$(rate "$(cat "$out/bare")" $n)
  b=$(rate "$port" $n)
  printf '%11d %7d %12d %6.2f\n' $n "$a" "$b" "$(awk "BEGIN {print $b / $a}")"
done

resident() { awk '/VmRSS/ {print $2}' /proc/$server/status; }
before=$(resident)
n=$(wrk -t1 -c100 -d$((5 * seconds))s "http://127.0.0.1:$port/health" | awk '/requests in/ {print $1}')
echo "memory, KiB: $before before, $(resident) after $n more requests"
