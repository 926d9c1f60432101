#!/usr/bin/env bash
# Builds and runs every test of this machine: all of them in the release build, then the parsers and
# their fuzz targets under AddressSanitizer and UndefinedBehaviorSanitizer, then the pipeline under
# ThreadSanitizer. Ends with how many passed, failed and were skipped in each build; exit code 1 where any failed.
# Usage: scripts/test.sh [--quick]   (--quick: the release build alone)
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -gt 1 || ( $# -eq 1 && "$1" != "--quick" ) ]]; then
  echo "Usage: scripts/test.sh [--quick]   (--quick: the release build alone)" >&2
  exit 2
fi
jobs=$(nproc)
failed=()
results=()
skipped_any=
# One build's failures do not keep the others from running.
run_tests() {
  local preset=$1 report="$PWD/build/$1/tests.xml"
  shift
  rm -f "$report"
  ctest --test-dir "build/$preset" -j "$jobs" --output-on-failure --output-junit "$report" "$@" || failed+=("$preset")
  if [[ ! -s "$report" ]]; then
    results+=("$preset: its tests could not be run")
    return
  fi
  local all passed skipped
  all=$(sed -n 's/^\s*tests="\([0-9]*\)"$/\1/p' "$report")
  passed=$(grep -c '^\s*<testcase .* status="run">' "$report") || true
  skipped=$(grep -c '^\s*<skipped message="SKIP_' "$report") || true
  results+=("$preset: $passed passed, $((all - passed - skipped)) failed, $skipped skipped")
  [[ $skipped == 0 ]] || skipped_any=yes
}

scripts/build.sh release
echo "== Release build"
run_tests release
if [[ "${1:-}" != "--quick" ]]; then
  # The sanitized builds take only what they run.
  asan_tests=(core checkpoint image video postprocess)
  targets=()
  for stage in "${asan_tests[@]}"; do targets+=("test_$stage"); done
  scripts/build.sh asan "${targets[@]}" fuzz_targets
  scripts/build.sh tsan test_pipeline
  pattern=$(IFS='|'; echo "${asan_tests[*]}")
  echo "== AddressSanitizer and UndefinedBehaviorSanitizer"
  # intercept_tls_get_addr: the leak checker crashes ("Tracer caught signal 11") on memory of a thread that has ended.
  ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:intercept_tls_get_addr=0 \
    run_tests asan -R "^($pattern|fuzz)\."
  echo "== ThreadSanitizer"
  run_tests tsan -R '^pipeline\.'
fi
echo
echo "Results:"
printf '  %s\n' "${results[@]}"
if [[ -n $skipped_any ]]; then
  echo "Skipped tests need what this machine lacks: a GPU, AVX2, or the RTSP server that scripts/install_deps.sh --dev installs."
fi
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "Failed:" >&2
  for preset in "${failed[@]}"; do
    list="build/$preset/Testing/Temporary/LastTestsFailed.log"
    if [[ -s "$list" ]]; then
      sed "s/^/  $preset, test /" "$list" >&2
    else
      echo "  $preset: its tests could not be run, see above" >&2
    fi
  done
  exit 1
fi
