#!/usr/bin/env bash
# Installs what is missing, builds rfseg and shows it at work on the bundled photographs and clip.
# Usage: scripts/demo.sh [FOLDER]   (results go to FOLDER, default out/demo)
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ $# -gt 1 || "${1:-}" == -* ]]; then
  echo "Usage: scripts/demo.sh [FOLDER]   (results go to FOLDER, default out/demo)" >&2
  exit 2
fi
out="${1:-out/demo}"
# The program and its video module, without tests and benchmarks.
echo "== Building: the first time 7 to 15 minutes on 2 idle cores, half where nvcc is not installed"
scripts/build.sh release rfseg_cli rfseg_libav
rfseg=build/release/rfseg
demo=assets/demo
notice="This page demonstrates the program. The bundled model has memorised these photographs; it is not a detector for new pictures. For that, fetch the official weights: rfseg download seg-nano"
mkdir -p "$out"

echo
echo "== Photographs"
"$rfseg" predict -m "$demo/model.safetensors" "$demo/images" -o "$out/results.json" \
  --image-ids "$demo/instances.json" --overlay "$out/pictures" --report "$out/report.html" \
  --report-title "rfseg demonstration" --report-notice "$notice"
echo
echo "== Video"
"$rfseg" predict -m "$demo/model.safetensors" "$demo/clip.mp4" -o "$out/clip.jsonl" \
  --overlay "$out" --stats "$out/clip-stats.json"
echo
echo "== What the model has memorised (COCO average precision on its own training photographs)"
"$rfseg" predict -q -m "$demo/model.safetensors" "$demo/images" -o "$out/all.json" \
  --image-ids "$demo/instances.json" --threshold 0
"$rfseg" eval --gt "$demo/instances.json" --results "$out/all.json" --iou segm | head -n 1

echo
echo "Open these:"
echo "  $out/report.html      all photographs, masks that switch on and off"
echo "  $out/pictures/        annotated photographs"
echo "  $out/clip.mp4         annotated video"
echo "  $out/results.json     COCO results (pycocotools: loadRes)"
echo "  $out/clip.jsonl       one JSON line a frame"
echo
echo "The bundled model has memorised these photographs; it is not a detector for new pictures."
echo "For that, fetch the official weights: rfseg download seg-nano"
