// Times whole passes of the network on the GPU: bench_network_cuda [--precision fp16|fp32|tf32]
// [--rounds N] [--no-overlap] [--one-stream] [--portable] [--many-rows] [--steps] VARIANT:BATCH...
// Weights and pictures are random (hashed); each round is one graph launch between two events, all
// enqueued before the first is read. A line a case: median, p90, p99, pictures a second, and the
// time a pass takes when they follow each other. --steps: each kind of step alone, too, with what
// it reaches of the device's peak (of products or of memory, whichever is nearer) and cuBLASLt's
// time.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda/device.h"
#include "engine/cuda/cuda_engine.h"
#include "engine/golden.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

double percentile(std::vector<float> sorted, double p) {
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<std::size_t>(p * static_cast<double>(sorted.size() - 1))];
}

void print_steps(CudaEngine& engine, int batch) {
  const DevicePeaks peaks = engine.peaks();
  double sum = 0;
  for (const StepTime& step : engine.time_steps(batch)) {
    sum += step.ms * step.count;
    fmt::print("  {:<26} {:<50} {:>3} x {:>8.2f} us = {:>8.1f} us {:>5.1f} % of peak", step.kind,
               step.shape, step.count, step.ms * 1e3, step.ms * step.count * 1e3,
               100 * share_of_peak(step, peaks));
    if (std::isnan(step.cublaslt_ms)) {
      fmt::print("\n");
    } else {
      fmt::print(", cuBLASLt {:.2f}\n", step.cublaslt_ms * 1e3);
    }
  }
  fmt::print("  {} launches, sum of the steps {:.3f} ms\n", engine.launches(batch), sum);
}

void run_case(const std::string& name, int batch, const CudaEngineOptions& options, int rounds,
              bool steps) {
  const testing::Golden golden = testing::load_golden(name);
  const auto engine = create_cuda_engine(golden.config, golden.weights(), options);
  const Tensor input = testing::hash_input(golden.config, batch, 3);
  EngineOutputs first, second;
  engine->forward(input.data.data(), batch, first);
  engine->forward(input.data.data(), batch, second);
  const bool finite = std::all_of(first.logits.data.begin(), first.logits.data.end(),
                                  [](float v) { return std::isfinite(v); });
  if (!finite || first.boxes.data != second.boxes.data || first.masks.data != second.masks.data) {
    throw Error(ErrorCode::kInternal, name + ": results are not finite or not reproducible");
  }

  const cuda::Stream stream;
  std::vector<std::unique_ptr<cuda::Event>> events;
  for (int i = 0; i <= rounds; ++i) events.push_back(std::make_unique<cuda::Event>(true));
  for (int i = 0; i < 20; ++i) engine->enqueue(batch, stream);
  stream.synchronize("warming up");
  for (int i = 0; i < rounds; ++i) {
    cuda::check(cudaEventRecord(*events[i], stream), "recording an event");
    engine->enqueue(batch, stream);
  }
  cuda::check(cudaEventRecord(*events[rounds], stream), "recording an event");
  stream.synchronize("timing");
  std::vector<float> times;
  for (int i = 0; i < rounds; ++i) times.push_back(cuda::elapsed_ms(*events[i], *events[i + 1]));
  const double total = cuda::elapsed_ms(*events[0], *events[rounds]);
  const double median = percentile(times, 0.5);
  fmt::print("{:<18} {:>5} {:<5} {:>9.4f} {:>9.4f} {:>9.4f} {:>10.1f} {:>9.4f} {:>8.1f}\n", name,
             batch, engine->precision(), median, percentile(times, 0.9), percentile(times, 0.99),
             1000.0 * batch / median, total / rounds,
             static_cast<double>(engine->memory_bytes()) / 1e6);
  if (steps) print_steps(*engine, batch);
  std::fflush(stdout);
}

}  // namespace
}  // namespace rfseg

int main(int argc, char** argv) {
  using namespace rfseg;
  CudaEngineOptions options;
  options.threads = 8;
  int rounds = 300;
  bool steps = false;
  fmt::print("{:<18} {:>5} {:<5} {:>9} {:>9} {:>9} {:>10} {:>9} {:>8}\n", "variant", "batch", "",
             "median ms", "p90", "p99", "images/s", "chain ms", "MB");
  try {
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      if (word == "--rounds" && i + 1 < argc) {
        rounds = std::max(1, std::atoi(argv[++i]));
      } else if (word == "--precision" && i + 1 < argc) {
        const std::string name = argv[++i];
        options.precision = name == "fp32"   ? Precision::kFp32
                            : name == "tf32" ? Precision::kTf32
                                             : Precision::kFp16;
      } else if (word == "--no-overlap") {
        options.overlap = false;
      } else if (word == "--portable") {
        options.portable = true;
      } else if (word == "--steps") {
        steps = true;
      } else if (word == "--many-rows") {
        options.few_rows = false;
      } else if (word == "--one-stream") {
        options.two_streams = false;
      } else {
        const std::size_t colon = word.find(':');
        const int batch = colon == std::string::npos ? 1 : std::atoi(word.c_str() + colon + 1);
        run_case(word.substr(0, colon), std::max(1, batch), options, rounds, steps);
      }
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
