// Times each variant of Hopper's products and attention beside cuBLASLt (the product alone, best of
// its eight first proposals) at seg-nano's shapes.
//   bench_engine_cuda_hopper [BATCH ...] [SHAPE ...]  default 32 8 1, all shapes
//   bench_engine_cuda_hopper SHAPE BATCH VARIANT    launches one four times, for a profiler
// A figure is the median of 7 replays of a captured graph of 20 launches over 4 sets of operands,
// with programmatic dependent launch as in the product. Random operands.

#include <cublasLt.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>

#include "core/cuda/device.h"
#include "cuda_replay_time.h"
#include "engine/cuda/hopper/attention.h"
#include "engine/cuda/hopper/gemm.h"

namespace rfseg::cuda {
namespace {

constexpr int kMostSets = 4, kLaunches = 20, kReplays = 7;
int sets = kMostSets;

template <class T>
T* allocate(int64_t size, float scale) {
  T* data = nullptr;
  check(cudaMalloc(&data, static_cast<std::size_t>(size) * sizeof(T)), "allocating");
  std::vector<T> host(static_cast<std::size_t>(std::min<int64_t>(size, 1 << 20)));
  std::mt19937 random(static_cast<unsigned>(size));
  for (T& v : host) v = static_cast<T>(scale * (static_cast<float>(random()) * 0x1p-31f - 1.0f));
  for (int64_t at = 0; at < size; at += static_cast<int64_t>(host.size())) {
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(host.size()), size - at);
    upload(data + at, host.data(), static_cast<std::size_t>(count) * sizeof(T), "filling");
  }
  return data;
}

/// Microseconds of one launch.
double time_us(cudaStream_t stream, const std::function<bool(int)>& launch) {
  if (!launch(0)) return -1;
  Graph graph;
  graph.capture(stream, [&] {
    for (int i = 0; i < kLaunches; ++i) launch(i % sets);
  });
  graph.launch(stream);
  return median_replay_us(stream, graph, kReplays) / kLaunches;
}

struct Shape {
  const char* name;
  int64_t rows;  // of one picture
  int n, k;
  Activation activation = Activation::kNone;
  int residual = 0;  // 1: float with scale, to float; 2: half
  int conv = 0;      // side of the map
  bool norm = false;
  int batched = 0;        // rows are a product of their own
  bool hands_on = false;  // halves and norms of the rows, too
};

double library_us(cublasLtHandle_t handle, cudaStream_t stream, int m, int n, int k, int batch,
                  __half* const* a, const __half* b, __half* const* out) {
  cublasLtMatmulDesc_t operation;
  cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                 sizeof transposed);
  cublasLtMatrixLayout_t lb, la, lo;
  cublasLtMatrixLayoutCreate(&lb, CUDA_R_16F, k, n, k);
  cublasLtMatrixLayoutCreate(&la, CUDA_R_16F, k, m, k);
  cublasLtMatrixLayoutCreate(&lo, CUDA_R_16F, n, m, n);
  if (batch > 1) {
    const int64_t steps[3] = {int64_t{n} * k, int64_t{m} * k, int64_t{m} * n};
    const cublasLtMatrixLayout_t layouts[3] = {lb, la, lo};
    for (int i = 0; i < 3; ++i) {
      cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch,
                                       sizeof batch);
      cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                       &steps[i], sizeof steps[i]);
    }
  }
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulPreferenceCreate(&preference);
  static void* workspace = allocate<float>(8 << 20, 1);
  const std::size_t workspace_bytes = 32 << 20;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                       &workspace_bytes, sizeof workspace_bytes);
  cublasLtMatmulHeuristicResult_t found[8];
  int count = 0;
  cublasLtMatmulAlgoGetHeuristic(handle, operation, lb, la, lo, lo, preference, 8, found, &count);
  double best = 1e30;
  for (int i = 0; i < count; ++i) {
    const double t = time_us(stream, [&](int set) {
      const float one = 1, zero = 0;
      return cublasLtMatmul(handle, operation, &one, b, lb, a[set], la, &zero, out[set], lo,
                            out[set], lo, &found[i].algo, workspace, workspace_bytes,
                            stream) == CUBLAS_STATUS_SUCCESS;
    });
    if (t > 0) best = std::min(best, t);
  }
  return best;
}

/// `only`: launches this variant, and nothing else.
void run(const Shape& shape, int pictures, cublasLtHandle_t handle, const Stream& stream,
         const std::string& only = "") {
  const int m = static_cast<int>(shape.rows * (shape.batched ? 1 : pictures));
  const int batch = shape.batched ? pictures : 1, n = shape.n, k = shape.k;
  const int64_t a_size = int64_t{m} * k * batch, out_size = int64_t{m} * n * batch;
  __half *a[kMostSets], *out[kMostSets];
  float *stream_rows[kMostSets] = {}, *shares[kMostSets] = {}, *scratch = nullptr;
  for (int i = 0; i < sets; ++i) {
    a[i] = allocate<__half>(a_size, 1);
    out[i] = allocate<__half>(out_size, 1);
    if (shape.residual == 1) stream_rows[i] = allocate<float>(out_size, 1);
    if (shape.hands_on) shares[i] = allocate<float>(out_size / 64, 1);
  }
  __half* b = allocate<__half>(int64_t{n} * k * batch, 0.05f);
  float* vectors = allocate<float>(n, 0.5f);
  const double flop = 2.0 * m * n * k * batch;
  const double library = only.empty() ? library_us(handle, stream, m, n, k, batch, a, b, out) : 0;
  std::printf("%-10s batch %2d: %6d x %4d x %4d  cuBLASLt %8.2f us %5.0f TFLOP/s\n", shape.name,
              pictures, m, n, k, library, flop / library * 1e-6);
  const auto arguments = [&](int set) {
    GemmArguments g;
    g.a = a[set];
    g.lda = g.ldb = k;
    g.b = b;
    g.b_fixed = batch == 1;
    g.m = m;
    g.n = n;
    g.k = k;
    g.bias = vectors;
    g.activation = shape.activation;
    g.out = out[set];
    g.ldo = g.ldr = n;
    if (shape.residual == 1) {
      g.scale = vectors;
      g.residual = g.out = stream_rows[set];
      g.out_float = true;
      if (shape.hands_on) {
        g.halves = out[set];
        g.shares = shares[set];
      }
    } else if (shape.residual == 2) {
      g.residual = out[set];
      g.residual_float = false;
    }
    if (shape.conv) {
      g.source = RowSource::kConv3x3;
      g.lda = g.channels = k / 9;
      g.map_rows = g.map_cols = g.out_rows = g.out_cols = shape.conv;
    }
    if (batch > 1) {
      g.batch = batch;
      g.a_step = int64_t{m} * k;
      g.b_step = int64_t{n} * k;
      g.out_step = int64_t{m} * n;
    }
    return g;
  };
  const auto norm_arguments = [&](int set) {
    GemmNormArguments g;
    g.product = arguments(set);
    g.gamma = g.beta = vectors;
    g.eps = 1e-6f;
    g.activation = Activation::kSilu;
    g.out = out[set];
    g.ldo = n;
    g.scratch = scratch;
    return g;
  };
  if (!only.empty()) {
    for (const hopper::GemmVariant& v : hopper::gemm_variants()) {
      if (hopper::name(v) != only) continue;
      for (int i = 0; i < 4; ++i) {
        const Queue queue = {stream, false};
        const bool taken = shape.norm ? hopper::gemm_norm(queue, norm_arguments(i % sets), v)
                                      : hopper::gemm(queue, arguments(i % sets), v);
        std::printf("%s: %d\n", only.c_str(), taken);
      }
    }
    stream.synchronize("profiled launches");
    return;
  }
  for (const bool overlap : {true, false}) {
    const Queue queue = {stream, overlap};
    const hopper::GemmVariant chosen =
        shape.norm ? hopper::choose(norm_arguments(0), 132) : hopper::choose(arguments(0), 132);
    for (const hopper::GemmVariant& v : hopper::gemm_variants()) {
      if (!overlap && !(v == chosen)) continue;
      const double t = time_us(stream, [&](int set) {
        return shape.norm ? hopper::gemm_norm(queue, norm_arguments(set), v)
                          : hopper::gemm(queue, arguments(set), v);
      });
      if (t < 0) continue;
      std::printf("    %-32s %8.2f us %5.0f TFLOP/s  %.2f of the library's time%s%s\n",
                  hopper::name(v).c_str(), t, flop / t * 1e-6, t / library,
                  v == chosen ? "  <- chosen" : "", overlap ? "" : ", one after the other");
    }
  }
  std::fflush(stdout);
  for (int i = 0; i < sets; ++i) {
    cudaFree(a[i]);
    cudaFree(out[i]);
    cudaFree(stream_rows[i]);
    cudaFree(shares[i]);
  }
  cudaFree(b);
  cudaFree(vectors);
}

void run_attention(int sequences, int length, const Stream& stream, const std::string& only = "") {
  const int heads = 6, width = heads * 64;
  const int64_t rows = int64_t{sequences} * length;
  __half *qkv[kMostSets], *out[kMostSets];
  for (int i = 0; i < sets; ++i) {
    qkv[i] = allocate<__half>(rows * 3 * width, 2);
    out[i] = allocate<__half>(rows * width, 1);
  }
  const double flop = 4.0 * sequences * heads * length * static_cast<double>(length) * 64;
  std::printf("attention  %d sequences of %d\n", sequences, length);
  const Queue queue = {stream, true};
  const auto arguments = [&](int set) {
    AttentionArguments a;
    a.q = qkv[set];
    a.k = qkv[set] + width;
    a.v = qkv[set] + 2 * width;
    a.ldq = a.ldk = a.ldv = 3 * width;
    a.out = out[set];
    a.ldo = width;
    a.sequences = sequences;
    a.length = length;
    a.heads = heads;
    a.head_dim = 64;
    a.scale = 0.125f;
    return a;
  };
  if (!only.empty()) {
    for (const hopper::AttentionVariant& v : hopper::attention_variants()) {
      if (hopper::name(v) != only) continue;
      for (int i = 0; i < 4; ++i) hopper::attention({stream, false}, arguments(i % sets), v);
    }
    stream.synchronize("profiled launches");
    return;
  }
  const hopper::AttentionVariant chosen = hopper::choose(arguments(0), 132);
  for (const hopper::AttentionVariant& v : hopper::attention_variants()) {
    const double t =
        time_us(stream, [&](int set) { return hopper::attention(queue, arguments(set), v); });
    std::printf("    %-22s %8.2f us %5.0f TFLOP/s%s\n", hopper::name(v).c_str(), t, flop / t * 1e-6,
                v == chosen ? "  <- chosen" : "");
  }
  std::fflush(stdout);
  for (int i = 0; i < sets; ++i) {
    cudaFree(qkv[i]);
    cudaFree(out[i]);
  }
}

}  // namespace
}  // namespace rfseg::cuda

int main(int argc, char** argv) {
  using namespace rfseg;
  using namespace rfseg::cuda;
  cublasLtHandle_t handle;
  cublasLtCreate(&handle);
  const Stream stream;
  const Shape shapes[] = {
      {"qkv", 677, 1152, 384},
      {"proj", 677, 384, 384, Activation::kNone, 1},
      {"proj+norms", 677, 384, 384, Activation::kNone, 1, 0, false, 0, true},
      {"fc1", 677, 1536, 384, Activation::kGelu},
      {"fc2", 677, 384, 1536, Activation::kNone, 1},
      {"fc2+norms", 677, 384, 1536, Activation::kNone, 1, 0, false, 0, true},
      {"conv3x3", 676, 128, 1152, Activation::kNone, 0, 26, true},
      {"cv1", 676, 256, 1536, Activation::kNone, 0, 0, true},
      {"cv2", 676, 256, 640, Activation::kNone, 0, 0, true},
      {"values", 676, 1024, 256},
      {"pointwise", 6084, 256, 256, Activation::kGelu, 2},
      {"masks", 100, 6084, 256, Activation::kNone, 0, 0, false, 1},
      {"decoder", 100, 256, 256},
      {"decoder ff", 100, 2048, 256, Activation::kRelu},
  };
  if (argc == 4 && std::atoi(argv[1]) == 0 && std::atoi(argv[2]) > 0) {
    const int batch = std::atoi(argv[2]);
    sets = batch >= 16 ? kMostSets : 1;
    if (std::string(argv[1]) == "attention") run_attention(batch, 677, stream, argv[3]);
    for (const Shape& shape : shapes) {
      if (std::string(shape.name) == argv[1]) run(shape, batch, handle, stream, argv[3]);
    }
    return 0;
  }
  std::vector<int> batches;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    if (std::atoi(argv[i]) > 0) {
      batches.push_back(std::atoi(argv[i]));
    } else {
      names.push_back(argv[i]);
    }
  }
  const auto wanted = [&](const std::string& name) {
    return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
  };
  if (batches.empty()) batches = {32, 8, 1};
  for (const int batch : batches) {
    sets = batch >= 16 ? kMostSets : 1;
    if (wanted("attention")) run_attention(batch, 677, stream);
    for (const Shape& shape : shapes) {
      if (wanted(shape.name)) run(shape, batch, handle, stream);
    }
  }
  cublasLtDestroy(handle);
  return 0;
}
