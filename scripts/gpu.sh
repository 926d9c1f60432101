#!/usr/bin/env bash
# Tests and times the CUDA backend on this machine's GPU. Usage: scripts/gpu.sh post [test|grid|sanitize|bench]...
# or scripts/gpu.sh pre [test|sanitize|bench]...
# or scripts/gpu.sh net [test|sanitize|bench|kernels|ptx]... : the network; its bench times torch.compile beside it
#   (RFSEG_NET_CASES, default "seg-nano:1 seg-nano:32"; a compile takes 35 to 60 s); kernels: each kind of step against the
#   device's peak and cuBLASLt; ptx: the tests on the kernels for every GPU, compiled by the driver from the PTX of
#   compute capability 8.0 (RFSEG_PTX_BUILD, default build/ptx, built first where it is missing)
# or scripts/gpu.sh ablate : post-processing and the network in several ways, beside PyTorch's
# or scripts/gpu.sh video [test|sanitize|bench|soak]... : the pipeline; its bench runs over RFSEG_VIDEO_CLIPS (default the
#   bundled clip, scaled to each size), with RFSEG_VIDEO_STREAMS files at once too (default 8)
# Without steps all but grid, and that where its cases are given. Environment:
#   RFSEG_GPU_BUILD   build folder; default build/release, built first where its programs are missing
#   RFSEG_POST_CASES  folder of case sets that bench/postprocess/make_coco_cases.py writes: coco/ (10 survivors
#                     on average), crowd60/ (--crowd 60), crowd300/ (--crowd 300 --queries 300 --cells 192), each with
#                     case folders of boxes.npy, logits.npy, masks.npy; without it only tests run
#   RFSEG_GRID_CASES  folders of cases for the comparison with PyTorch on this GPU (tests/postprocess/torch_grid.py),
#                     such as the 80 pictures with three seeds of noise; needs torch and pycocotools
#   RFSEG_CUDA_CASES  differential cases in all (default 100000), spread over RFSEG_JOBS processes
#   RFSEG_BENCH_SETS  other settings than the usual, see bench/postprocess/cuda_postprocess_bench.cpp
#   RFSEG_PEERS       "no" leaves out the PyTorch sequence
#   RFSEG_SANITIZER   compute-sanitizer, 2026.1 or newer (PyPI: nvidia-cuda-sanitizer-api); racecheck of older ones reports
#                     what a barrier of the block orders in kernels whose warpgroups have barriers of their own
#   RFSEG_TRITON_PEER a command that times upstream's Triton path (inference-models of Roboflow, with its flag on);
#                     it is called with the same settings as the benchmark, NAME=FOLDER[:HxW][:batch] each, and
#                     prints its own table; without it that row is left out
set -euo pipefail
cd "$(dirname "$0")/.."

[[ "${1:-}" == post || "${1:-}" == pre || "${1:-}" == net || "${1:-}" == ablate || "${1:-}" == video ]] || {
  sed -n '2,/^set -/p' "$0" | grep '^#' >&2
  exit 2
}
stage="$1"
shift
steps=("$@")
[[ ${#steps[@]} -gt 0 || $stage != post ]] || steps=(test ${RFSEG_GRID_CASES:+grid} sanitize bench)
[[ ${#steps[@]} -gt 0 || $stage != video ]] || steps=(test sanitize bench soak)
[[ ${#steps[@]} -gt 0 ]] || steps=(test sanitize bench)
build="${RFSEG_GPU_BUILD:-build/release}"
jobs="${RFSEG_JOBS:-$(nproc)}"
cases="${RFSEG_CUDA_CASES:-100000}"
sanitizer="${RFSEG_SANITIZER:-compute-sanitizer}"
if [[ $stage == ablate ]]; then
  [[ -x "$build/rfseg" ]] || { scripts/build.sh release; build=build/release; }
  scenes="$(mktemp -d)"
  pictures=(assets/demo/images/*.jpg)
  "$build/rfseg" ablate --rounds "${RFSEG_BENCH_CALLS:-200}" --save "$scenes" -m assets/demo/model.safetensors \
    --image "${pictures[0]}"
  [[ "${RFSEG_PEERS:-yes}" == no ]] || python3 bench/postprocess/ablate_torch_cuda.py "$scenes"/*/case
  exit 0
fi
if [[ $stage == video ]]; then
  [[ -x "$build/test_pipeline_cuda" && -x "$build/rfseg" ]] || { scripts/build.sh release; build=build/release; }
  # shellcheck disable=SC2206  # a list of words
  clips=(${RFSEG_VIDEO_CLIPS:-assets/demo/clip.mp4})
  for step in "${steps[@]}"; do
    case "$step" in
      test)
        "$build/test_pipeline_cuda" --gtest_brief=1
        [[ ! -x "$build/test_nvdec" ]] || "$build/test_nvdec" --gtest_brief=1 ;;
      sanitize)
        for tool in memcheck racecheck; do
          echo "== $tool"
          "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/test_pipeline_cuda" \
            --gtest_filter='*BatchSizes*:*Companions*:*OneLaunch*' 2>&1 | tail -n 3
        done ;;
      bench)
        "$build/rfseg" bench -m assets/demo/model.safetensors --device cuda --video "${clips[@]}" \
          --video-streams "${RFSEG_VIDEO_STREAMS:-8}" --rounds 3 ;;
      soak) RFSEG_GPU_BUILD=$build scripts/soak.sh --device cuda ;;
      *) echo "unknown step $step: test, sanitize, bench, soak" >&2; exit 2 ;;
    esac
  done
  exit 0
fi
if [[ $stage == net ]]; then
  programs=(test_engine_cuda test_engine_cuda_hopper test_engine_cuda_hopper_block
    test_engine_cuda_products bench/bench_network_cuda)
  for program in "${programs[@]}"; do
    [[ -x "$build/$program" ]] || { scripts/build.sh release; build=build/release; break; }
  done
  small='*custom_two_levels:*custom_rectangle:*custom_patch16'
  # shellcheck disable=SC2206  # a list of words
  net_cases=(${RFSEG_NET_CASES:-seg-nano:1 seg-nano:32})
  for step in "${steps[@]}"; do
    case "$step" in
      test) for program in "${programs[@]:0:4}"; do "$build/$program" --gtest_brief=1; done ;;
      sanitize)
        for tool in memcheck racecheck synccheck initcheck; do
          echo "== $tool"
          RFSEG_CUDA_SEEDS=1 "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/test_engine_cuda" \
            --gtest_filter="$small" 2>&1 | tail -n 3
          "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/test_engine_cuda_hopper_block" \
            --gtest_filter='*SumsWithTheirNorm' 2>&1 | tail -n 3
          "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/test_engine_cuda_products" \
            --gtest_filter='*HoppersAttentionOfFloats/fp32' 2>&1 | tail -n 3
        done ;;
      bench)
        "$build/bench/bench_network_cuda" "${net_cases[@]}"
        "$build/bench/bench_network_cuda" --portable "${net_cases[@]}"
        [[ "${RFSEG_PEERS:-yes}" == no ]] || python3 bench/engine/peer_torch_cuda.py "${net_cases[@]}" ;;
      kernels)
        "$build/bench/bench_network_cuda" --steps --rounds 100 "${net_cases[@]}"
        "$build/rfseg" bench -m assets/demo/model.safetensors --device cuda --kernels --batch "${RFSEG_BATCHES:-1,32}" ;;
      ptx)
        ptx="${RFSEG_PTX_BUILD:-build/ptx}"
        if [[ ! -x "$ptx/test_engine_cuda" ]]; then
          ptx=build/ptx
          cmake --preset release -B "$ptx" -DCMAKE_CUDA_ARCHITECTURES=80-virtual >/dev/null
          cmake --build "$ptx" --target test_engine_cuda
        fi
        # Nothing there but PTX: a test would fail for want of code if the driver did not compile it.
        "$ptx/test_engine_cuda" --gtest_brief=1 ;;
      *) echo "unknown step $step: test, sanitize, bench, kernels, ptx" >&2; exit 2 ;;
    esac
  done
  exit 0
fi
if [[ ! -x "$build/test_${stage}process_cuda" || ! -x "$build/bench/bench_${stage}process_cuda" ]]; then
  scripts/build.sh release
  build=build/release
fi

# run_tests PROGRAM TEST: all of the program's tests; TEST, the differential one, in many processes.
run_tests() {
  "$build/$1" --gtest_filter="-$2"
  local each=$(((cases + jobs - 1) / jobs)) pids=() logs failed=0
  logs="$(mktemp -d)"
  for ((i = 0; i < jobs; ++i)); do
    RFSEG_CUDA_CASES=$each RFSEG_CUDA_FIRST=$((1 + i * each)) "$build/$1" --gtest_filter="$2" \
      >"$logs/$i" 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  grep -h -E ' cases, |differ|Failure|seed' "$logs"/* | sort | uniq -c | sort -rn | head -20
  [[ $failed == 0 ]] || { tail -n 20 "$logs"/*; return 1; }
}

grid() {
  [[ -n "${RFSEG_GRID_CASES:-}" ]] || { echo "RFSEG_GRID_CASES names no folders" >&2; return 1; }
  local folders
  # shellcheck disable=SC2206  # a list of words
  folders=($RFSEG_GRID_CASES)
  python3 tests/postprocess/torch_grid.py "$build/dump_detections" "${folders[@]}"
  python3 tests/postprocess/torch_grid.py "$build/dump_detections" "${folders[@]}" --like inference
}

# sanitize PROGRAM TESTS
sanitize() {
  command -v "$sanitizer" >/dev/null || { echo "$sanitizer is not installed" >&2; return 1; }
  for tool in memcheck racecheck initcheck; do
    echo "== $tool"
    RFSEG_CUDA_CASES=${RFSEG_SANITIZE_CASES:-40} "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$build/$1" --gtest_filter="$2" 2>&1 | tail -n 12
  done
}

bench() {
  [[ -d "${RFSEG_POST_CASES:-}" ]] || { echo "RFSEG_POST_CASES names no folder" >&2; return 1; }
  local c="$RFSEG_POST_CASES"
  # shellcheck disable=SC2206  # RFSEG_BENCH_SETS is a list of words; CASES in it is the folder
  local sets=(${RFSEG_BENCH_SETS:+${RFSEG_BENCH_SETS//CASES/$c}})
  [[ ${#sets[@]} -gt 0 ]] || sets=("1080p_10=$c/coco:1080x1920" "640x480_10=$c/coco:480x640" "4K_10=$c/coco:2160x3840"
              "1080p_60=$c/crowd60:1080x1920" "1080p_300=$c/crowd300:1080x1920"
              "1080p_10_boxes=$c/coco:1080x1920" "1080p_10_inference=$c/coco:1080x1920"
              "batch32_1080p_10=$c/coco:1080x1920:32"
              "1080p_10_dense_device=$c/coco:1080x1920" "1080p_10_bits_device=$c/coco:1080x1920"
              "1080p_10_dense_host=$c/coco:1080x1920" "1080p_10_bits_host=$c/coco:1080x1920"
              "1080p_10_rle_device=$c/coco:1080x1920")
  "$build/bench/bench_postprocess_cuda" --calls "${RFSEG_BENCH_CALLS:-1000}" "${sets[@]}"
  [[ "${RFSEG_PEERS:-yes}" == no ]] || python3 bench/postprocess/peer_torch_cuda.py "${sets[@]}"
  # shellcheck disable=SC2086  # a command with its arguments
  [[ -z "${RFSEG_TRITON_PEER:-}" ]] || $RFSEG_TRITON_PEER "${sets[@]}"
}

pre_bench() {
  local sets
  # shellcheck disable=SC2206  # RFSEG_BENCH_SETS is a list of words
  sets=(${RFSEG_BENCH_SETS:-})
  [[ ${#sets[@]} -gt 0 ]] || sets=(1920x1080:312:pil 1920x1080:312:pil:nv12 1918x1080:312:pil 1920x1080:312:pil:rgba
              640x480:312:pil 3840x2160:312:pil 1080x1920:312:pil13 1920x1080:432:pil 1920x1080:312:pil:rgb:1:0:half
              1920x1080:312:bilinear 1920x1080:312:antialias 1920x1080:312:pil:rgb:8 1920x1080:312:pil:rgb:32)
  "$build/bench/bench_preprocess_cuda" kernel --replays "${RFSEG_BENCH_CALLS:-300}" "${sets[@]}"
  "$build/bench/bench_preprocess_cuda" pinned --replays "${RFSEG_BENCH_CALLS:-300}" 1920x1080:312:pil
  "$build/bench/bench_preprocess_cuda" host --replays "${RFSEG_BENCH_CALLS:-300}" 1920x1080:312:pil 640x480:312:pil
  [[ "${RFSEG_PEERS:-yes}" == no ]] || python3 bench/preprocess/peer_torch_cuda.py 1920x1080:312 640x480:312
}

for step in "${steps[@]}"; do
  case "$stage $step" in
    'post test') run_tests test_postprocess_cuda CudaDifferential.GpuEqualsTheCpuInEveryByte ;;
    'post grid') grid ;;
    'post sanitize')
      sanitize test_postprocess_cuda 'CudaDifferential.Gpu*:Cuda.BoxesAlone*:Cuda.Pixels*:Cuda.Recovers*' ;;
    'post bench') bench ;;
    'pre test') run_tests test_preprocess_cuda PreprocessCuda.GpuEqualsTheCpuInEveryBit ;;
    'pre sanitize') sanitize test_preprocess_cuda 'PreprocessCuda.GpuEquals*:PreprocessCuda.PreprocessRuns*' ;;
    'pre bench') pre_bench ;;
    *) echo "unknown step $step: test, grid (post only), sanitize, bench" >&2; exit 2 ;;
  esac
done
