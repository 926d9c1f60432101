#!/usr/bin/env bash
# Builds rfseg. Usage: scripts/build.sh [PRESET] [TARGET...]   (presets: release, cpu, dev, asan, tsan)
# The program is build/PRESET/rfseg. RFSEG_CMAKE_ARGS may hold further arguments of cmake.
set -euo pipefail
cd "$(dirname "$0")/.."

preset="${1:-release}"
shift || true
scripts/install_deps.sh
log="build/$preset-configure.log"
mkdir -p build
# shellcheck disable=SC2086  # RFSEG_CMAKE_ARGS is a list of words
if ! cmake --preset "$preset" ${RFSEG_CMAKE_ARGS:-} >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
cmake --build "build/$preset" ${1:+--target "$@"}
