# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Sourced by bundle.sh and test_bundle.sh: which libraries travel.

# Reads what ldd prints; the paths of those that travel. libgcc_s stays behind because cuBLAS brings it along.
library_paths() {
  sed -n 's/.* => \(\/.*\) (0x.*/\1/p' |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|libgcc_s|libcuda|libcudart|libcublas|libcublasLt)\.so' || true
}
