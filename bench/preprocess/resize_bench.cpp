// preprocess() on one thread: resize and normalise to the input of seg-nano (312) and seg-large
// (504). Counters: source pixels a second, and bytes of source and result a second.

#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "preprocess/preprocess.h"
#include "preprocess/resize_kernels.h"

namespace rfseg {
namespace {

Image noise_picture(int width, int height) {
  Image image(width, height);
  std::mt19937 random(1);
  for (uint8_t& byte : image.pixels) byte = static_cast<uint8_t>(random());
  return image;
}

void count(benchmark::State& state, const Image& image, int side) {
  const double pixels = static_cast<double>(image.width) * image.height;
  const double bytes = pixels * 3 + static_cast<double>(side) * side * 3 * sizeof(float);
  state.counters["pixels"] =
      benchmark::Counter(pixels, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["bytes"] =
      benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
}

/// Arguments: width, height, network side.
void run(benchmark::State& state, ResizeMode mode, Backend backend) {
  const Image image =
      noise_picture(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  PreprocessSpec spec;
  spec.network_height = spec.network_width = static_cast<int>(state.range(2));
  spec.resize = mode;
  spec.backend = backend;
  std::vector<float> out(static_cast<std::size_t>(spec.network_height) * spec.network_width * 3);
  for (auto _ : state) {
    preprocess(image.view(), spec, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count(state, image, spec.network_width);
}

#define RFSEG_SIZES \
  Args({1920, 1080, 312})->Args({3840, 2160, 312})->Args({640, 480, 312})->Args({1920, 1080, 504})

BENCHMARK_CAPTURE(run, pil_reference, ResizeMode::kPil, Backend::kReference)->RFSEG_SIZES;
BENCHMARK_CAPTURE(run, pil_cpu, ResizeMode::kPil, Backend::kCpu)->RFSEG_SIZES;
BENCHMARK_CAPTURE(run, bilinear_reference, ResizeMode::kBilinear, Backend::kReference)->RFSEG_SIZES;
BENCHMARK_CAPTURE(run, bilinear_cpu, ResizeMode::kBilinear, Backend::kCpu)->RFSEG_SIZES;
BENCHMARK_CAPTURE(run, antialias_reference, ResizeMode::kAntialias, Backend::kReference)
    ->RFSEG_SIZES;
BENCHMARK_CAPTURE(run, antialias_cpu, ResizeMode::kAntialias, Backend::kCpu)->RFSEG_SIZES;

using PilKernel = void (*)(RgbRows&, const PilAxis&, const PilAxis&, const Normalization&, float*);

/// One of the vectorised Pillow kernels, whatever preprocess() would choose.
void run_pil(benchmark::State& state, PilKernel kernel, bool supported) {
  if (!supported) return state.SkipWithError("this processor cannot run it");
  const Image image =
      noise_picture(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  const int side = static_cast<int>(state.range(2));
  const PreprocessSpec spec;
  std::vector<float> out(static_cast<std::size_t>(side) * side * 3);
  for (auto _ : state) {
    RgbRows rows(image.view(), CropRect{0, 0, image.width, image.height}, 16);
    kernel(rows, make_pil_axis(image.width, side), make_pil_axis(image.height, side),
           Normalization{spec.mean, spec.std}, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count(state, image, side);
}

BENCHMARK_CAPTURE(run_pil, avx2, pil_resize_avx2, cpu_has_avx2_fma())->RFSEG_SIZES;
BENCHMARK_CAPTURE(run_pil, avx512, pil_resize_avx512, cpu_has_avx512_vnni())->RFSEG_SIZES;

}  // namespace
}  // namespace rfseg
