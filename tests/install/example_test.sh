#!/usr/bin/env bash
# Usage: example_test.sh SOURCE_DIR BINARY_DIR
set -euo pipefail
source_dir=$1
binary_dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$binary_dir" --prefix "$work/prefix" >/dev/null
cmake -S "$source_dir/examples/predict" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/build" >/dev/null

# What the README shows compiles as it stands there.
mkdir "$work/readme"
block() { awk -v open="\`\`\`$1" '$0 == "```" { on = 0 } on { print } $0 == open { on = 1 }' "$source_dir/README.md"; }
block cpp >"$work/readme/my_program.cpp"
block cmake >"$work/readme/CMakeLists.txt"
cmake -S "$work/readme" -B "$work/readme/build" -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/readme/build" >/dev/null

fail() {
  echo "$1" >&2
  exit 1
}

# The public headers stand alone: no header of another library is needed or leaked.
if grep -rhE '#include [<"]' "$work/prefix/include/rfseg" | grep -vE '"rfseg/|<[a-z_]+>'; then
  fail "a public header includes something that is not of the standard library"
fi

picture=$(find "$source_dir/assets/demo/images" -name '*.jpg' | sort | head -n 1)
model=$source_dir/assets/demo/model.safetensors
from_example=$("$work/build/predict" "$model" "$picture" | wc -l)
from_program=$("$work/prefix/bin/rfseg" predict -q -m "$model" "$picture" | grep -o '"class_id"' | wc -l)
[[ $from_example -gt 0 ]] || fail "the example found nothing"
[[ $from_example -eq $from_program ]] || fail "example: $from_example objects, program: $from_program"

from_readme=$("$work/readme/build/my_program" "$model" "$picture" | wc -l)
[[ $from_readme -eq $from_program ]] || fail "README's program: $from_readme objects, program: $from_program"

for licence in LICENSE LICENSE-DejaVu.txt; do
  [[ -s $work/prefix/share/doc/rfseg/$licence ]] || fail "$licence is not installed"
done

# The installed program finds its video module.
"$work/prefix/bin/rfseg" predict -q -m "$model" "$source_dir/assets/demo/clip.mp4" --end 0.1 >/dev/null

code=0
"$work/build/predict" no-such-model "$picture" 2>"$work/error" || code=$?
[[ $code -eq 3 ]] || fail "a missing model gave exit code $code"
grep -q no-such-model "$work/error" || fail "the error does not name the file"
