#!/usr/bin/env bash
# Checks format (clang-format) and lint (clang-tidy) of all C++ sources.
# Usage: scripts/check.sh [--format]   (--format: the formatter alone, which takes a second)
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install_deps.sh --dev

mapfile -t sources < <(find src include tests bench examples -name '*.cpp' -o -name '*.h' -o -name '*.cu' | sort)
clang-format --dry-run --Werror "${sources[@]}"
echo "format: ${#sources[@]} files are clean"
if [[ "${1:-}" == "--format" ]]; then
  exit 0
fi
[[ -f build/release/compile_commands.json ]] || scripts/build.sh release
mapfile -t units < <(git ls-files 'src/*.cpp')
printf '%s\n' "${units[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p build/release --extra-arg=-Wno-unknown-warning-option
echo "lint: ${#units[@]} files are clean"
