#!/usr/bin/env bash
# Checks format (clang-format) and lint (clang-tidy) of all C++ sources.
# Usage: scripts/check.sh [--format | FOLDER...]
#   --format: the formatter alone, which takes a second; FOLDER, such as src/core: lint in these alone
set -euo pipefail
[[ "${1:-}" != -h && "${1:-}" != --help ]] || { sed -n '2,/^set -/p' "$0" | grep '^#'; exit 0; }
cd "$(dirname "$0")/.."
scripts/install_deps.sh --dev

mapfile -t sources < <(find src include tests bench examples -name '*.cpp' -o -name '*.h' -o -name '*.cu' | sort)
clang-format --dry-run --Werror "${sources[@]}"
echo "format: ${#sources[@]} files are clean"
if [[ "${1:-}" == "--format" ]]; then
  exit 0
fi
# What the build compiles is what is linted: its compile commands say how. clang-tidy reads no .cu.
mkdir -p build
cmake --preset release >build/lint-configure.log || { cat build/lint-configure.log >&2; exit 1; }
mapfile -t units < <(grep -o '"file": "[^"]*/src/[^"]*\.cpp"' build/release/compile_commands.json | cut -d'"' -f4 | sort -u)
if [[ $# -gt 0 ]]; then
  pattern=$(IFS='|'; echo "$*")
  mapfile -t units < <(printf '%s\n' "${units[@]}" | grep -E "^$PWD/($pattern)/")
fi
[[ ${#units[@]} -gt 0 ]] || { echo "lint: no source is in build/release/compile_commands.json" >&2; exit 1; }
printf '%s\n' "${units[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy --quiet -p build/release \
  --extra-arg=-Wno-unknown-warning-option 2> >(grep -v ' warnings\? generated\.$' >&2)
echo "lint: ${#units[@]} files are clean"
