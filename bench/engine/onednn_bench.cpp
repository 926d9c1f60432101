// The same products by oneDNN's matmul, bias alone, weights in the layout that it prefers: what
// the engine's own kernels are measured against. One thread: run with OMP_NUM_THREADS=1.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>

namespace {

void run(benchmark::State& state, int rows, int n, int k) {
  using dnnl::memory;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto f32 = memory::data_type::f32;
  const memory::desc in({rows, k}, f32, memory::format_tag::ab);
  const memory::desc weights({k, n}, f32, memory::format_tag::any);
  const memory::desc bias({1, n}, f32, memory::format_tag::ab);
  const memory::desc out({rows, n}, f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(in, weights, bias, out), engine);
  const dnnl::matmul product(desc);
  memory parts[] = {{desc.src_desc(), engine},
                    {desc.weights_desc(), engine},
                    {desc.bias_desc(), engine},
                    {desc.dst_desc(), engine}};
  for (memory& m : parts) {
    std::fill_n(static_cast<float*>(m.get_data_handle()), m.get_desc().get_size() / 4, 0.5f);
  }
  while (state.KeepRunning()) {
    product.execute(stream, {{DNNL_ARG_SRC, parts[0]},
                             {DNNL_ARG_WEIGHTS, parts[1]},
                             {DNNL_ARG_BIAS, parts[2]},
                             {DNNL_ARG_DST, parts[3]}});
    stream.wait();
  }
  state.SetLabel(desc.impl_info_str());
  state.counters["flops"] = benchmark::Counter(
      2.0 * rows * n * k * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

struct Product {
  const char* name;
  int rows, n, k;
};
constexpr Product kProducts[] = {
    {"qkv", 677, 1152, 384},  {"proj", 677, 384, 384},  {"fc1", 677, 1536, 384},
    {"fc2", 677, 384, 1536},  {"cv1", 676, 256, 1536},  {"values", 676, 1024, 256},
    {"ffn1", 100, 2048, 256}, {"ffn2", 100, 256, 2048}, {"pointwise", 6084, 256, 256}};

const bool kRegistered = [] {
  for (const Product& p : kProducts) {
    benchmark::RegisterBenchmark(("gemm/" + std::string(p.name) + "/onednn").c_str(),
                                 [=](benchmark::State& s) { run(s, p.rows, p.n, p.k); });
  }
  return true;
}();

}  // namespace
