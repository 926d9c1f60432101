#!/usr/bin/env bash
# Fuzzes every parser under AddressSanitizer and UndefinedBehaviorSanitizer.
# Usage: scripts/fuzz.sh [RUNS] [SEED]   (mutated inputs per target, default 200000; random seed, default the time)
set -euo pipefail
[[ "${1:-}" != -h && "${1:-}" != --help ]] || { sed -n '2,/^set -/p' "$0" | grep '^#'; exit 0; }
cd "$(dirname "$0")/.."
runs="${1:-200000}"
seed="${2:-$(date +%s)}"
scripts/build.sh asan fuzz_targets
mkdir -p build/asan/fuzz
cd build/asan/fuzz
echo "random seed $seed"
# The seed folders are those that ctest uses.
ctest --test-dir .. -N -V -R '^fuzz\.' | sed -n 's/^.*Test command: //p' | while read -r command; do
  command=$(sed -E "s/\"--runs\" \"[0-9]+\"/\"--runs\" \"$runs\"/" <<<"$command")
  echo "$command"
  eval "$command --seed $seed"
done
