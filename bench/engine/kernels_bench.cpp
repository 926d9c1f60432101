// The engine's inner loops on one thread, on the shapes of seg-nano, for every instruction set that
// this processor runs. items_per_second counts floating-point operations.

#include <benchmark/benchmark.h>

#include <string>

#include "engine/cpu/gemm.h"
#include "engine/cpu/kernels.h"

namespace rfseg::cpu {
namespace {

const Kernels* const kSets[] = {avx512_kernels(), avx2_kernels(), &plain_kernels()};

AlignedVector<float> ramp(int64_t n) {
  AlignedVector<float> v(static_cast<std::size_t>(n));
  for (int64_t i = 0; i < n; ++i) v[i] = 0.001f * static_cast<float>(i % 1999) - 1.0f;
  return v;
}

void flops(benchmark::State& state, double per_run) {
  state.counters["flops"] = benchmark::Counter(per_run * static_cast<double>(state.iterations()),
                                               benchmark::Counter::kIsRate);
}

/// rows x n x k in runs of 48 rows, as the engine does it.
void run_gemm(benchmark::State& state, const Kernels& k, int rows, int n, int depth,
              Epilogue epilogue) {
  WeightMemory memory;
  PackedMatrix w = make_matrix(memory, n, depth);
  const auto weights = ramp(int64_t{n} * depth);
  pack_rows(weights.data(), n, w, 0);
  const auto in = ramp(int64_t{rows} * depth);
  auto out = ramp(int64_t{rows} * n);
  const auto scale = ramp(n + kPanel);
  Worker worker;
  while (state.KeepRunning()) {
    for (int first = 0; first < rows; first += 48) {
      const int count = std::min(48, rows - first);
      float* to = out.data() + int64_t{first} * n;
      multiply(k, worker, w, count, {in.data() + int64_t{first} * depth, depth}, {to, n}, epilogue,
               {to, n}, scale.data());
    }
    benchmark::ClobberMemory();
  }
  flops(state, 2.0 * rows * n * depth);
}

void run_attention(benchmark::State& state, const Kernels& k, int tokens, int heads, int dim) {
  const int64_t width = int64_t{heads} * dim;
  auto qkv = ramp(tokens * 3 * width);
  ThreadTeam team(1);
  std::vector<Worker> workers(1);
  const Execution ex{k, team, workers};
  while (state.KeepRunning()) attend(ex, qkv.data(), 1, tokens, heads, dim);
  flops(state, 4.0 * tokens * tokens * static_cast<double>(width));
}

void run_layer_norm(benchmark::State& state, const Kernels& k, int rows, int n, Activation a) {
  const auto in = ramp(int64_t{rows} * n);
  auto out = in;
  const auto weight = ramp(n), bias = ramp(n);
  while (state.KeepRunning()) {
    k.layer_norm(in.data(), n, out.data(), n, rows, n, weight.data(), bias.data(), 1e-6f, a);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 8 * rows * n);
}

void run_depthwise(benchmark::State& state, const Kernels& k, int cols, int n) {
  const auto in = ramp(int64_t{3} * (cols + 2) * n);
  auto out = ramp(int64_t{cols} * n);
  const auto weight = ramp(9 * n), bias = ramp(n);
  while (state.KeepRunning()) {
    for (int x = 0; x + 4 <= cols; x += 4) {
      const float* pixels[18];
      float* to[4];
      for (int i = 0; i < 18; ++i)
        pixels[i] = in.data() + (int64_t{i / 6} * (cols + 2) + x + i % 6) * n;
      for (int i = 0; i < 4; ++i) to[i] = out.data() + (x + i) * n;
      k.depthwise4(pixels, weight.data(), bias.data(), n, to);
    }
    benchmark::ClobberMemory();
  }
  const int whole = cols / 4 * 4;
  flops(state, 18.0 * whole * n);
}

struct Product {
  const char* name;
  int rows, n, k;
  Epilogue epilogue;
};
constexpr Product kProducts[] = {
    {"qkv", 677, 1152, 384, Epilogue::kBias},         {"proj", 677, 384, 384, Epilogue::kScaleAdd},
    {"fc1+gelu", 677, 1536, 384, Epilogue::kGelu},    {"fc2", 677, 384, 1536, Epilogue::kScaleAdd},
    {"cv1", 676, 256, 1536, Epilogue::kBias},         {"values", 676, 1024, 256, Epilogue::kBias},
    {"ffn1", 100, 2048, 256, Epilogue::kRelu},        {"ffn2", 100, 256, 2048, Epilogue::kAdd},
    {"pointwise", 6084, 256, 256, Epilogue::kGeluAdd}};

const bool kRegistered = [] {
  for (const Kernels* k : kSets) {
    if (!k) continue;
    const std::string set = std::string("/") + k->name;
    for (const Product& p : kProducts) {
      benchmark::RegisterBenchmark(
          ("gemm/" + std::string(p.name) + set).c_str(),
          [=](benchmark::State& s) { run_gemm(s, *k, p.rows, p.n, p.k, p.epilogue); });
    }
    benchmark::RegisterBenchmark(("attention/677x6x64" + set).c_str(),
                                 [=](benchmark::State& s) { run_attention(s, *k, 677, 6, 64); });
    benchmark::RegisterBenchmark(("attention/100x8x32" + set).c_str(),
                                 [=](benchmark::State& s) { run_attention(s, *k, 100, 8, 32); });
    benchmark::RegisterBenchmark(("layer_norm/677x384" + set).c_str(), [=](benchmark::State& s) {
      run_layer_norm(s, *k, 677, 384, Activation::kNone);
    });
    benchmark::RegisterBenchmark(
        ("layer_norm_silu/676x128" + set).c_str(),
        [=](benchmark::State& s) { run_layer_norm(s, *k, 676, 128, Activation::kSilu); });
    benchmark::RegisterBenchmark(("depthwise/78x256" + set).c_str(),
                                 [=](benchmark::State& s) { run_depthwise(s, *k, 78, 256); });
  }
  return true;
}();

}  // namespace
}  // namespace rfseg::cpu
