# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by examples/quickstart.sh and tests/run.sh, in the project's folder: installs the Debian
# packages that are missing and builds Release. Says nothing and asks nothing where all is there.

build_packages() {
  cat <<'LIST'
gcc               the C compiler
libc6-dev         C headers
cmake             configures the build
ninja-build       runs the build
pkg-config        finds the libraries
liblua5.4-dev     Lua, the language on top
lua-argparse      command lines
lua-cjson         JSON in Lua
lua-luv           the event loop
libedit-dev       line editing at the prompt
libmicrohttpd-dev the HTTP server
libwslay-dev      WebSocket framing
libjansson-dev    JSON in the core: headers, config, tokenizer
libpcre2-dev      the tokenizer's split pattern
libutf8proc-dev   Unicode's normal form, for tokenizers that ask for it
libssl-dev        sha256
libcurl4-openssl-dev  downloads
ca-certificates   whom a download may trust
zlib1g-dev        deflated entries of .npz
LIST
}

test_packages() {
  cat <<'LIST'
lua5.4            the module in a plain Lua
lua-busted        runs the Lua tests
lua-check         luacheck
luarocks          the module as a rock
dpkg-dev          which libraries a .deb depends on
file              which files of a .deb are programs
libcmocka-dev     C tests
clang-14          the thread sanitizer and the fuzzers
libclang-rt-14-dev  their run-time libraries
libomp-14-dev     OpenMP for clang
clang-format-14   the format of C files
clang-tidy-14     what the compiler does not see
patchelf          the bundle for machines with a GPU
valgrind          memory checks of a smoke set
curl              a client of the server
wrk               how fast the server is (moonscope bench http)
systemd           checks the service's unit
chromium          the web page in a browser
strace            which files are opened, which system calls made
LIST
  # Any node from 18 on will do.
  local major
  major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null) || major=0
  [ "$major" -ge 18 ] || echo "nodejs            reference tokenizer to compare with, a Hub to download from"
  command -v npm >/dev/null || echo "npm               brings the reference tokenizer"
}

is_installed() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    env DEBIAN_FRONTEND=noninteractive "$@"
  else
    sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
  fi
}

# Reads "package reason" lines and installs what is missing.
install_missing() {
  local package reason missing=()
  while read -r package reason; do
    is_installed "$package" && continue
    [ ${#missing[@]} -gt 0 ] || echo "Installing Debian packages:"
    printf '  %-20s %s\n' "$package" "$reason"
    missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! { as_root apt-get update -qq &&
    as_root apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -20 "$log" >&2
    echo "set-up: could not install them. By hand, as root: apt-get install ${missing[*]}" >&2
    return 1
  fi
}

# Runs a command quietly; its output is shown if it fails.
quietly() {
  "$@" >"$log" 2>&1 </dev/null || { cat "$log" >&2; return 1; }
}

# What a folder's package-lock.json pins.
install_npm_packages() {
  [ "$1/node_modules/.package-lock.json" -nt "$1/package-lock.json" ] && return
  echo "Installing $2 from npm"
  (cd "$1" && quietly npm ci --no-audit --no-fund)
}

# Builds what is there to build; the web page where npm is.
build() {
  ! command -v npm >/dev/null || install_npm_packages src/ui "what the web page is made with"
  [ -x build/release/bin/moonscope ] || echo "Building moonscope in build/release"
  quietly cmake --preset release
  quietly cmake --build --preset release
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
