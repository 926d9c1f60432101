#!/usr/bin/env bash
# Builds rfseg. Usage: scripts/build.sh [--all-arch] [PRESET] [TARGET...]   (presets: release, cpu, dev, asan, tsan)
# The program is build/PRESET/rfseg. RFSEG_CMAKE_ARGS may hold further arguments of cmake; docs/building.md lists them.
# --all-arch: CUDA machine code for every kind of GPU from compute capability 8.0 on, instead of for 8.0 (which 8.6 and
# 8.9 run too) and 9.0, with newer ones' compiled by the driver at the first start; takes several times as long.
set -euo pipefail
[[ "${1:-}" != -h && "${1:-}" != --help ]] || { sed -n '2,/^set -/p' "$0" | grep '^#'; exit 0; }
cd "$(dirname "$0")/.."

words=()
for word in "$@"; do
  if [[ "$word" == --all-arch ]]; then
    RFSEG_CMAKE_ARGS="${RFSEG_CMAKE_ARGS:-} -DRFSEG_ALL_ARCH=ON"
  elif [[ "$word" == -* ]]; then
    echo "build.sh: unknown option $word; accepted: --all-arch" >&2
    exit 2
  else
    words+=("$word")
  fi
done
set -- "${words[@]}"
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
