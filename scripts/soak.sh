#!/usr/bin/env bash
# Runs `rfseg predict` over many frames and fails where memory grows. Usage: scripts/soak.sh [OPTIONS OF predict]...
# Environment:
#   RFSEG_SOAK_FRAMES  frames in all (default 20000; without a GPU 300 are a matter of minutes)
#   RFSEG_SOAK_CLIP    the clip that is repeated (default the bundled one)
#   RFSEG_GPU_BUILD    build folder; default build/release
# Bounds: from a fifth of the run on, the resident memory of the process grows by no more than 32 MiB and the GPU's
# memory in use by no more than 8 MiB (allocators round; a leak of 2 KiB a frame would be 32 MiB).
set -euo pipefail
cd "$(dirname "$0")/.."
rfseg="${RFSEG_GPU_BUILD:-build/release}/rfseg"
clip="${RFSEG_SOAK_CLIP:-assets/demo/clip.mp4}"
frames="${RFSEG_SOAK_FRAMES:-20000}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

"$rfseg" predict -q -m assets/demo/model.safetensors "$clip" -o "$folder/one.jsonl" --end "${RFSEG_SOAK_END:-1e9}" "$@"
each="$(wc -l <"$folder/one.jsonl")"
for ((i = 0; i < frames; i += each)); do echo "$clip"; done >"$folder/list"
"$rfseg" predict -q -m assets/demo/model.safetensors - -o "$folder/all.jsonl" --stats "$folder/stats.json" \
  --end "${RFSEG_SOAK_END:-1e9}" "$@" <"$folder/list"

python3 - "$folder" "$each" <<'EOF'
import json, pathlib, sys

folder, each = pathlib.Path(sys.argv[1]), int(sys.argv[2])
stats = json.loads((folder / "stats.json").read_text())
one = (folder / "one.jsonl").read_text().splitlines()
with open(folder / "all.jsonl") as lines:
    count = 0
    for line in lines:
        if line.rstrip("\n") != one[count % each]:
            sys.exit(f"soak: frame {count} has other results than at its first time")
        count += 1
notes = stats["memory"]
late = [n for n in notes if n["frame"] >= 0.2 * count]
if len(late) < 2:
    sys.exit(f"soak: {count} frames are too few to tell whether memory grows; raise RFSEG_SOAK_FRAMES")
ok = count == stats["counts"]["frames"]
print(f"{count} frames at {stats['frames_per_s']:.0f}/s on {stats['device']}, the same results in every round; "
      f"slowest stage: {stats['slowest_stage']}")
for name, key, bound in (("host", "host_bytes", 32), ("GPU", "device_bytes", 8)):
    growth = (max(n[key] for n in late) - late[0][key]) / 2**20
    print(f"{name}: {late[0][key] / 2**20:.1f} MiB after a fifth, at most {growth:+.1f} MiB later (bound {bound})")
    ok = ok and growth <= bound
sys.exit(0 if ok else "soak: failed")
EOF
