#!/bin/sh
# Records assets/cases from the demonstration model: make_cases.sh RFSEG OUT (a new folder).
# Small on purpose: few queries, float16 masks, the middle of a picture for pre-processing.
set -eu
rfseg=$(realpath "$1") out=$2
mkdir "$out"
out=$(realpath "$out")
cd "$(dirname "$0")/.."
model=assets/demo/model.safetensors pictures=assets/demo/images
"$rfseg" capture -q -m $model $pictures/000000055299.jpg $pictures/000000269314.jpg \
  --device cpu --stage postprocess --survivors --weaker 2 --half -o "$out/rfdetr"
"$rfseg" capture -q -m $model $pictures/000000269314.jpg --like inference \
  --device cpu --stage postprocess --survivors --weaker 2 --half -o "$out/inference"
for resize in bilinear pil antialias; do
  "$rfseg" capture -q -m $model $pictures/000000269314.jpg --resize $resize \
    --device cpu --stage preprocess --crop 75x100 --shape 48x48 -o "$out/resize_$resize"
done
