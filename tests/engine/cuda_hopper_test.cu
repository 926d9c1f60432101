// Hopper's products and attention against plain kernels that accumulate in double, on shapes that
// do and do not divide into tiles, each variant apart. Outputs are poisoned before and checked
// beyond their edges after. Skipped, and shown as such, without a GPU of compute capability 9.x.

#include <gtest/gtest.h>

#include <cuda_fp16.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "core/cuda/device.h"
#include "engine/cuda/hopper/attention.h"
#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda/hopper/mask_block.h"

namespace rfseg::cuda {
namespace {

template <class T>
class Array {
 public:
  explicit Array(int64_t size) : size_(size) {
    check(cudaMalloc(&data_, static_cast<std::size_t>(size) * sizeof(T)), "allocating");
    poison();
  }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  /// All bits one: not a number in every type here.
  void poison() {
    check(cudaMemset(data_, 0xff, static_cast<std::size_t>(size_) * sizeof(T)), "poisoning");
  }
  T* data() { return data_; }
  std::vector<T> read() const {
    std::vector<T> host(static_cast<std::size_t>(size_));
    check(cudaMemcpy(host.data(), data_, host.size() * sizeof(T), cudaMemcpyDeviceToHost),
          "reading");
    return host;
  }
  void write(const std::vector<T>& host) {
    check(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice),
          "writing");
  }

 private:
  T* data_ = nullptr;
  int64_t size_;
};

float to_float(float v) { return v; }
float to_float(__half v) { return __half2float(v); }
template <class T>
T from_float(float v) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(v);
  else
    return v;
}

/// Even, from -scale to scale.
template <class T>
void fill(Array<T>& array, int64_t size, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> host(static_cast<std::size_t>(size));
  for (T& v : host) {
    v = from_float<T>(scale * (static_cast<float>(random()) * 0x1p-31f - 1.0f));
  }
  array.write(host);
}

// ---- The plain product

__device__ double activate(double x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return x > 0 ? x : 0;
    case Activation::kGelu:
      return 0.5 * x * (1 + erf(x * 0.70710678118654752));
    case Activation::kSilu:
      return x / (1 + exp(-x));
    default:
      return x;
  }
}

/// One thread an element, to a dense [batch, m, n] double. `norm`: stops after the residual.
__global__ void plain_product(GemmArguments g, bool norm, double* out) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= static_cast<int64_t>(g.batch) * g.m * g.n) return;
  const int column = static_cast<int>(i % g.n), row = static_cast<int>(i / g.n % g.m),
            picture = static_cast<int>(i / g.n / g.m);
  const __half* a =
      static_cast<const __half*>(g.split && column >= g.split ? g.a2 : g.a) + picture * g.a_step;
  const __half* b = static_cast<const __half*>(g.b) + picture * g.b_step + column * g.ldb;
  double sum = 0;
  if (g.source == RowSource::kConv3x3) {
    const int cells = g.out_rows * g.out_cols, map = row / cells;
    const int y = row % cells / g.out_cols, x = row % cells % g.out_cols;
    for (int tap = 0; tap < 9; ++tap) {
      const int from_y = y * g.stride + tap / 3 - 1, from_x = x * g.stride + tap % 3 - 1;
      if (from_y < 0 || from_y >= g.map_rows || from_x < 0 || from_x >= g.map_cols) continue;
      const __half* cell =
          a + ((static_cast<int64_t>(map) * g.map_rows + from_y) * g.map_cols + from_x) * g.lda;
      for (int c = 0; c < g.channels; ++c) {
        sum += static_cast<double>(__half2float(cell[c])) * __half2float(b[tap * g.channels + c]);
      }
    }
  } else {
    for (int k = 0; k < g.k; ++k) {
      sum += static_cast<double>(__half2float(a[row * g.lda + k])) * __half2float(b[k]);
    }
  }
  if (g.bias) sum += g.bias[column];
  if (!norm) {
    if (g.row_bias) sum += g.row_bias[picture * g.row_bias_step + row];
    sum = activate(sum, g.activation);
    if (g.scale) sum *= g.scale[column];
  }
  const int64_t to = !norm && g.out_group
                         ? row + row / g.out_group * static_cast<int64_t>(g.out_skip) + g.out_first
                         : row;
  if (g.residual) {
    const int64_t at = (g.residual_period ? to % g.residual_period : to) * g.ldr + column;
    sum += g.residual_float ? static_cast<const float*>(g.residual)[at]
                            : __half2float(static_cast<const __half*>(g.residual)[at]);
  }
  out[i] = sum;
}

std::vector<double> reference(const GemmArguments& g, bool norm = false) {
  const int64_t size = static_cast<int64_t>(g.batch) * g.m * g.n;
  Array<double> out(size);
  plain_product<<<static_cast<unsigned>((size + 127) / 128), 128>>>(g, norm, out.data());
  check(cudaGetLastError(), "launching the plain product");
  return out.read();
}

// ---- Comparing

/// Compares what lies at `at(i)` of `got` with want[i]; all other elements must still be poison.
template <class T, class Place>
void expect_close(const std::vector<T>& got, const std::vector<double>& want, double relative,
                  double absolute, Place&& at, const std::string& what) {
  std::vector<char> written(got.size(), 0);
  int wrong = 0;
  double worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const auto place = static_cast<std::size_t>(at(static_cast<int64_t>(i)));
    ASSERT_LT(place, got.size());
    written[place] = 1;
    const double v = to_float(got[place]), off = std::abs(v - want[i]);
    const bool good = off <= relative * std::abs(want[i]) + absolute;  // false for NaN
    if (good) worst = std::max(worst, off);
    if (!good && ++wrong <= 8) {
      std::printf("  %s: element %zu (place %zu): got %g, want %g\n", what.c_str(), i, place, v,
                  want[i]);
    }
  }
  EXPECT_EQ(wrong, 0) << what << ": of " << want.size();
  int beyond = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    T poison;
    std::memset(&poison, 0xff, sizeof(T));
    if (!written[i] && std::memcmp(&got[i], &poison, sizeof(T)) != 0 && ++beyond <= 4) {
      std::printf("  %s: wrote beyond, place %zu\n", what.c_str(), i);
    }
  }
  EXPECT_EQ(beyond, 0) << what << ": elements written that are not the product's";
  if (wrong == 0) std::printf("  %s: worst %.2e\n", what.c_str(), worst);
}

class CudaHopper : public testing::Test {
 protected:
  void SetUp() override {
    if (!hopper::usable()) GTEST_SKIP() << "no GPU of compute capability 9.x";
  }
};

struct Case {
  const char* name;
  int m, n, k;
  Activation activation = Activation::kNone;
  bool bias = true, scale = false;
  int residual = 0;  // 1: float, 2: half
  bool out_float = false;
  int batch = 1;
  int lda_more = 0, ldo_more = 0;
  int split = 0;
  bool row_bias = false;
  int group = 0;
  bool in_place = true;
  int period = 0;
  // convolution
  int rows = 0, cols = 0, stride = 1;
};

/// Runs every variant that takes the case; returns how many.
int try_case(const Case& c, bool overlap = false) {
  SCOPED_TRACE(c.name);
  std::printf("%s: %d x %d x %d\n", c.name, c.m, c.n, c.k);
  GemmArguments g;
  g.m = c.m;
  g.n = c.n;
  g.k = c.k;
  g.batch = c.batch;
  int64_t map_size = 0;
  if (c.rows) {
    g.source = RowSource::kConv3x3;
    g.channels = c.k / 9;
    g.lda = g.channels + c.lda_more;
    g.map_rows = c.rows;
    g.map_cols = c.cols;
    g.stride = c.stride;
    g.out_rows = (c.rows - 1) / c.stride + 1;
    g.out_cols = (c.cols - 1) / c.stride + 1;
    map_size = static_cast<int64_t>(c.m) / (g.out_rows * g.out_cols) * c.rows * c.cols * g.lda;
  } else {
    g.lda = c.k + c.lda_more;
    map_size = c.m * g.lda * c.batch;
  }
  g.ldb = c.k;
  g.b_fixed = true;
  g.ldo = g.ldr = c.n + c.ldo_more;
  Array<__half> a(map_size), a2(map_size), b(static_cast<int64_t>(c.n) * c.k * c.batch);
  fill(a, map_size, 1.0f, 1);
  fill(a2, map_size, 1.0f, 2);
  fill(b, static_cast<int64_t>(c.n) * c.k * c.batch, 2.0f / std::sqrt(static_cast<float>(c.k)), 3);
  Array<float> bias(c.n), scale(c.n), row_bias(c.m * c.batch);
  fill(bias, c.n, 1.0f, 4);
  fill(scale, c.n, 1.0f, 5);
  fill(row_bias, c.m * c.batch, 1.0f, 6);
  g.a = a.data();
  g.b = b.data();
  if (c.split) {
    g.a2 = a2.data();
    g.split = c.split;
  }
  if (c.bias) g.bias = bias.data();
  if (c.scale) g.scale = scale.data();
  if (c.row_bias) {
    g.row_bias = row_bias.data();
    g.row_bias_step = c.m;
  }
  g.activation = c.activation;
  if (c.batch > 1) {
    g.a_step = c.m * g.lda;
    g.b_step = static_cast<int64_t>(c.n) * c.k;
    g.b_fixed = false;
  }
  int64_t out_rows = c.m + 3;
  if (c.group) {
    g.out_group = c.group;
    g.out_skip = 1;
    g.out_first = 1;
    out_rows += c.m / c.group + 2;
  }
  g.residual_period = c.period;
  g.out_step = out_rows * g.ldo;
  const int64_t out_size = g.out_step * c.batch;
  g.out_float = c.out_float;
  const auto place = [&](int64_t i) {
    const int64_t row = i / c.n % c.m, to = c.group ? row + row / c.group + 1 : row;
    return i / c.n / c.m * g.out_step + to * g.ldo + i % c.n;
  };

  Array<float> residual_float(out_size), out_float(out_size);
  Array<__half> residual_half(out_size), out_half(out_size);
  fill(residual_float, out_size, 1.0f, 7);
  fill(residual_half, out_size, 1.0f, 8);
  if (c.residual) {
    g.residual_float = c.residual == 1;
    g.residual = c.residual == 1 ? static_cast<void*>(residual_float.data())
                                 : static_cast<void*>(residual_half.data());
  }
  const std::vector<double> want = reference(g);
  const std::vector<float> old_float = residual_float.read();
  const std::vector<__half> old_half = residual_half.read();

  // GELU is approximated.
  const double absolute = c.activation == Activation::kGelu ? 5e-5 : 2e-5;
  int taken = 0;
  for (const hopper::GemmVariant& variant : hopper::gemm_variants()) {
    const std::string what = hopper::name(variant);
    out_float.poison();
    out_half.poison();
    g.out =
        c.out_float ? static_cast<void*>(out_float.data()) : static_cast<void*>(out_half.data());
    // In place: the old values stand where results go, and poison elsewhere.
    const bool in_place = c.residual && c.in_place && (c.residual == 1) == c.out_float;
    const auto set_up = [&] {
      if (!in_place) return;
      if (c.out_float) {
        std::vector<float> host = out_float.read();
        std::memset(host.data(), 0xff, host.size() * 4);
        for (int64_t i = 0; i < static_cast<int64_t>(want.size()); ++i)
          host[place(i)] = old_float[place(i)];
        out_float.write(host);
      } else {
        std::vector<__half> host = out_half.read();
        std::memset(static_cast<void*>(host.data()), 0xff, host.size() * 2);
        for (int64_t i = 0; i < static_cast<int64_t>(want.size()); ++i)
          host[place(i)] = old_half[place(i)];
        out_half.write(host);
      }
      g.residual = g.out;
    };
    set_up();
    check(cudaDeviceSynchronize(), "preparing");
    if (!hopper::gemm({nullptr, overlap}, g, variant)) continue;
    ++taken;
    check(cudaDeviceSynchronize(), "running a product");
    const std::vector<float> first_float = out_float.read();
    const std::vector<__half> first_half = out_half.read();
    if (c.out_float)
      expect_close(first_float, want, 2e-6, 2e-5, place, what);
    else
      expect_close(first_half, want, 6e-4, absolute, place, what);
    out_float.poison();
    out_half.poison();
    set_up();
    g.from_end = true;  // the same tiles in another order
    hopper::gemm({nullptr, overlap}, g, variant);
    g.from_end = false;
    const std::vector<float> again_float = out_float.read();
    const std::vector<__half> again_half = out_half.read();
    EXPECT_EQ(std::memcmp(again_float.data(), first_float.data(), first_float.size() * 4), 0);
    EXPECT_EQ(std::memcmp(again_half.data(), first_half.data(), first_half.size() * 2), 0);
  }
  // What the model of the time takes, which may be the general way out.
  out_float.poison();
  out_half.poison();
  if (c.residual) {
    g.residual = c.residual == 1 ? static_cast<void*>(residual_float.data())
                                 : static_cast<void*>(residual_half.data());
  }
  EXPECT_TRUE(hopper::gemm({nullptr, overlap}, g));
  check(cudaDeviceSynchronize(), "running a product");
  if (c.out_float)
    expect_close(out_float.read(), want, 2e-6, 2e-5, place, "chosen");
  else
    expect_close(out_half.read(), want, 6e-4, absolute, place, "chosen");
  return taken;
}

// The plain kernel itself, against the host.
TEST_F(CudaHopper, PlainProductIsTheProduct) {
  GemmArguments g;
  g.m = 3;
  g.n = 5;
  g.k = g.lda = g.ldb = 8;
  Array<__half> a(24), b(40);
  fill(a, 24, 1.0f, 1);
  fill(b, 40, 1.0f, 2);
  g.a = a.data();
  g.b = b.data();
  const auto got = reference(g);
  const auto x = a.read(), y = b.read();
  for (int m = 0; m < 3; ++m) {
    for (int n = 0; n < 5; ++n) {
      double sum = 0;
      for (int k = 0; k < 8; ++k) {
        sum += static_cast<double>(to_float(x[m * 8 + k])) * to_float(y[n * 8 + k]);
      }
      EXPECT_NEAR(got[m * 5 + n], sum, 1e-12);
    }
  }
}

TEST_F(CudaHopper, OneTile) { EXPECT_GT(try_case({"one tile", 64, 64, 64}), 0); }
TEST_F(CudaHopper, WholeTiles) { EXPECT_GT(try_case({"whole tiles", 384, 768, 384}), 5); }
TEST_F(CudaHopper, OddSizes) {
  EXPECT_GT(try_case({"odd", 67, 100, 72, Activation::kNone, true, false, 0, false, 1, 8, 4}), 2);
  EXPECT_GT(try_case({"one row", 1, 8, 8}), 3);
  EXPECT_GT(
      try_case({"odd columns as floats", 77, 91, 264, Activation::kNone, true, false, 0, true}), 0);
}
TEST_F(CudaHopper, ManyTiles) {
  EXPECT_GT(try_case({"qkv", 5416, 1152, 384}), 5);
  EXPECT_GT(try_case({"qkv of one picture, early", 677, 1152, 384}, true), 5);
}
TEST_F(CudaHopper, Gelu) {
  EXPECT_GT(try_case({"fc1", 1354, 1536, 384, Activation::kGelu}), 5);
  EXPECT_GT(try_case({"fc1 without bias", 130, 256, 264, Activation::kGelu, false}), 5);
}
TEST_F(CudaHopper, Residual) {
  EXPECT_GT(try_case({"proj", 1354, 384, 384, Activation::kNone, true, true, 1, true}), 5);
  EXPECT_GT(try_case({"fc2", 2031, 384, 1536, Activation::kNone, true, true, 1, true}, true), 3);
  EXPECT_GT(try_case({"apart", 131, 100, 384, Activation::kNone, false, false, 1, true, 1, 0, 6, 0,
                      false, 0, false}),
            2);
}
TEST_F(CudaHopper, HalfResidual) {
  EXPECT_GT(try_case({"pointwise", 12168, 256, 256, Activation::kGelu, true, false, 2}), 2);
  EXPECT_GT(try_case({"query2", 100, 256, 1024, Activation::kNone, true, false, 2}), 0);
}
TEST_F(CudaHopper, EverythingElse) {
  EXPECT_GT(try_case({"relu", 300, 2048, 256, Activation::kRelu}), 2);
  try_case({"silu", 300, 200, 256, Activation::kSilu});
  EXPECT_GT(try_case({"patch embedding", 1352, 384, 432, Activation::kNone, true, false, 1, true, 1,
                      0, 0, 0, false, 676}),
            0);
  EXPECT_GT(try_case({"patch embedding, one start for all", 1352, 384, 432, Activation::kNone, true,
                      false, 1, true, 1, 0, 0, 0, false, 676, false, 677}),
            0);
  EXPECT_GT(
      try_case({"split", 100, 768, 256, Activation::kNone, true, false, 0, false, 1, 0, 0, 512}),
      3);
  EXPECT_GT(try_case({"masks", 100, 6084, 256, Activation::kNone, false, false, 0, false, 3, 0, 0,
                      0, true}),
            0);
}

/// Norms handed on: a product into a residual stream, and one of its normalised rows.
void try_handing_on(int m, int n, int k, int next, Activation activation, bool overlap = false) {
  std::printf("norms handed on: %d x %d x %d, then %d\n", m, n, k, next);
  GemmArguments g;
  g.m = m;
  g.n = n;
  g.k = g.lda = g.ldb = k;
  g.b_fixed = true;
  g.ldo = g.ldr = n;
  g.out_float = true;
  const int64_t size = static_cast<int64_t>(m) * n;
  Array<__half> a(static_cast<int64_t>(m) * k), b(static_cast<int64_t>(n) * k), halves(size + 64);
  Array<float> bias(n), scale(n), stream(size), shares(size / 64 + 64), out(size);
  fill(a, static_cast<int64_t>(m) * k, 1.0f, 1);
  fill(b, static_cast<int64_t>(n) * k, 2.0f / std::sqrt(static_cast<float>(k)), 2);
  fill(bias, n, 1.0f, 3);
  fill(scale, n, 1.0f, 4);
  fill(stream, size, 3.0f, 5);
  g.a = a.data();
  g.b = b.data();
  g.bias = bias.data();
  g.scale = scale.data();
  g.residual = stream.data();
  g.out = out.data();
  g.halves = halves.data();
  g.shares = shares.data();
  const std::vector<double> want = reference(g);
  std::vector<double> want_shares;
  for (int64_t i = 0; i < size; i += 128) {
    double mean = 0, squares = 0;
    for (int c = 0; c < 128; ++c) mean += want[i + c] / 128;
    for (int c = 0; c < 128; ++c) squares += (want[i + c] - mean) * (want[i + c] - mean);
    want_shares.push_back(mean);
    want_shares.push_back(squares);
  }
  const auto dense = [](int64_t i) { return i; };
  int taken = 0;
  for (const hopper::GemmVariant& variant : hopper::gemm_variants()) {
    out.poison();
    halves.poison();
    shares.poison();
    if (!hopper::gemm({nullptr, overlap}, g, variant)) continue;
    ++taken;
    check(cudaDeviceSynchronize(), "handing on norms");
    const std::string what = hopper::name(variant);
    expect_close(out.read(), want, 2e-6, 2e-5, dense, what);
    expect_close(halves.read(), want, 6e-4, 2e-5, dense, what + " halves");
    expect_close(shares.read(), want_shares, 1e-5, 1e-5, dense, what + " shares");
  }
  EXPECT_GT(taken, 0);
  out.poison();
  ASSERT_TRUE(hopper::gemm({nullptr, overlap}, g));
  check(cudaDeviceSynchronize(), "handing on norms");

  // The second product, of exactly these halves and shares.
  GemmArguments second;
  second.m = m;
  second.n = next;
  second.k = second.lda = second.ldb = n;
  second.b_fixed = true;
  second.ldo = next;
  second.activation = activation;
  second.eps = 1e-6f;
  Array<__half> weight(static_cast<int64_t>(next) * n), result(static_cast<int64_t>(m) * next + 64);
  Array<float> next_bias(next), row_sums(next);
  fill(weight, static_cast<int64_t>(next) * n, 2.0f / std::sqrt(static_cast<float>(n)), 6);
  fill(next_bias, next, 1.0f, 7);
  const std::vector<__half> weights = weight.read(), rows = halves.read();
  const std::vector<float> host_bias = next_bias.read();
  std::vector<double> weight_sums(next, 0.0);
  for (std::size_t i = 0; i < weights.size(); ++i) weight_sums[i / n] += to_float(weights[i]);
  row_sums.write(std::vector<float>(weight_sums.begin(), weight_sums.end()));
  second.a = halves.data();
  second.b = weight.data();
  second.bias = next_bias.data();
  second.norm_of = shares.data();
  second.row_sums = row_sums.data();
  second.out = result.data();
  GemmArguments plain = second;
  plain.bias = nullptr;
  plain.activation = Activation::kNone;
  std::vector<double> normed = reference(plain);
  for (int r = 0; r < m; ++r) {
    double mean = 0, variance = 0;
    for (int c = 0; c < n; ++c) mean += want[static_cast<int64_t>(r) * n + c] / n;
    for (int c = 0; c < n; ++c) {
      const double off = want[static_cast<int64_t>(r) * n + c] - mean;
      variance += off * off / n;
    }
    for (int c = 0; c < next; ++c) {
      double& v = normed[static_cast<int64_t>(r) * next + c];
      v = (v - mean * weight_sums[c]) / std::sqrt(variance + 1e-6) + host_bias[c];
      if (activation == Activation::kGelu) v = 0.5 * v * (1 + std::erf(v * 0.70710678118654752));
    }
  }
  taken = 0;
  for (const hopper::GemmVariant& variant : hopper::gemm_variants()) {
    result.poison();
    if (!hopper::gemm({nullptr, overlap}, second, variant)) continue;
    ++taken;
    check(cudaDeviceSynchronize(), "multiplying normalised rows");
    expect_close(result.read(), normed, 6e-4, 6e-5, dense, hopper::name(variant) + " of norms");
  }
  EXPECT_GT(taken, 3);
  EXPECT_TRUE(hopper::gemm({nullptr, overlap}, second));
  check(cudaDeviceSynchronize(), "multiplying normalised rows");
}

TEST_F(CudaHopper, NormsHandedOn) {
  try_handing_on(1354, 384, 384, 192, Activation::kNone);
  try_handing_on(131, 384, 1536, 128, Activation::kGelu, true);
  try_handing_on(5, 768, 256, 136, Activation::kNone);
}

struct NormCase {
  const char* name;
  int m, n, k;
  Activation activation;
  bool residual, out_float, out, plus;
  int rows = 0, cols = 0, stride = 1, pictures = 0;
};

void try_norm(const NormCase& c) {
  SCOPED_TRACE(c.name);
  std::printf("%s: %d x %d x %d\n", c.name, c.m, c.n, c.k);
  GemmNormArguments n;
  GemmArguments& g = n.product;
  g.m = c.m;
  g.n = c.n;
  g.k = g.lda = g.ldb = c.k;
  int64_t map_size = static_cast<int64_t>(c.m) * c.k;
  if (c.rows) {
    g.source = RowSource::kConv3x3;
    g.channels = c.k / 9;
    g.lda = g.channels + 64;
    g.map_rows = c.rows;
    g.map_cols = c.cols;
    g.stride = c.stride;
    g.out_rows = (c.rows - 1) / c.stride + 1;
    g.out_cols = (c.cols - 1) / c.stride + 1;
    ASSERT_EQ(c.m, c.pictures * g.out_rows * g.out_cols);
    map_size = static_cast<int64_t>(c.pictures) * c.rows * c.cols * g.lda;
  }
  Array<__half> a(map_size), b(static_cast<int64_t>(c.n) * c.k);
  fill(a, map_size, 1.0f, 1);
  fill(b, static_cast<int64_t>(c.n) * c.k, 2.0f / std::sqrt(static_cast<float>(c.k)), 2);
  Array<float> bias(c.n), gamma(c.n), beta(c.n), plus(static_cast<int64_t>(c.m) * c.n);
  fill(bias, c.n, 1.0f, 3);
  fill(gamma, c.n, 1.0f, 4);
  fill(beta, c.n, 1.0f, 5);
  fill(plus, static_cast<int64_t>(c.m) * c.n, 1.0f, 6);
  g.a = a.data();
  g.b = b.data();
  g.b_fixed = true;
  g.bias = bias.data();
  n.gamma = gamma.data();
  n.beta = beta.data();
  n.eps = 1e-5f;
  n.activation = c.activation;
  const int64_t ldo = c.n + 8, size = (c.m + 2) * ldo, dense = static_cast<int64_t>(c.m) * c.n;
  Array<float> residual(size), out_float(size), scratch(dense);
  fill(residual, size, 1.0f, 7);
  Array<__half> out(size), out_plus(dense);
  g.residual = c.residual ? residual.data() : nullptr;
  g.ldr = ldo;
  n.out_float = c.out_float ? out_float.data() : nullptr;
  n.ldo_float = ldo;
  n.out = c.out ? out.data() : nullptr;
  n.ldo = ldo;
  n.plus = plus.data();
  n.out_plus = c.plus ? out_plus.data() : nullptr;
  n.scratch = scratch.data();

  std::vector<double> want = reference(g, true), want_plus(want.size());
  const auto host_gamma = gamma.read(), host_beta = beta.read(), host_plus = plus.read();
  for (int m = 0; m < c.m; ++m) {
    double* row = &want[static_cast<std::size_t>(m) * c.n];
    double mean = 0, variance = 0;
    for (int i = 0; i < c.n; ++i) mean += row[i] / c.n;
    for (int i = 0; i < c.n; ++i) variance += (row[i] - mean) * (row[i] - mean) / c.n;
    for (int i = 0; i < c.n; ++i) {
      double z = (row[i] - mean) / std::sqrt(variance + 1e-5f) * host_gamma[i] + host_beta[i];
      if (c.activation == Activation::kSilu) z = z / (1 + std::exp(-z));
      row[i] = z;
      want_plus[static_cast<std::size_t>(m) * c.n + i] =
          z + host_plus[static_cast<std::size_t>(m) * c.n + i];
    }
  }
  int taken = 0;
  for (const hopper::GemmVariant& variant : hopper::gemm_variants()) {
    out.poison();
    out_float.poison();
    out_plus.poison();
    if (!hopper::gemm_norm({nullptr, false}, n, variant)) continue;
    ++taken;
    check(cudaDeviceSynchronize(), "running a product with a norm");
    const std::string what = hopper::name(variant);
    const auto place = [&](int64_t i) { return i / c.n * ldo + i % c.n; };
    if (c.out_float) expect_close(out_float.read(), want, 1e-5, 3e-5, place, what + " float");
    if (c.out) expect_close(out.read(), want, 6e-4, 5e-5, place, what + " half");
    if (c.plus) {
      expect_close(
          out_plus.read(), want_plus, 6e-4, 5e-5, [](int64_t i) { return i; }, what + " plus");
    }
  }
  EXPECT_GT(taken, 0);
  EXPECT_EQ(hopper::gemm_norm({nullptr, false}, n), c.m > 4000);
  check(cudaDeviceSynchronize(), "running a product with a norm");
}

TEST_F(CudaHopper, Norm) {
  try_norm({"decoder", 100, 256, 256, Activation::kNone, true, true, true, true});
  try_norm({"cv1", 1352, 256, 1536, Activation::kSilu, false, false, true, false});
  try_norm(
      {"cv1 of eight pictures", 5408, 256, 1536, Activation::kSilu, false, false, true, false});
  try_norm({"cv2", 677, 256, 640, Activation::kSilu, false, true, false, false});
}
TEST_F(CudaHopper, ConvolutionWithNorm) {
  try_norm(
      {"conv", 2 * 26 * 26, 128, 1152, Activation::kSilu, false, false, true, false, 26, 26, 1, 2});
  try_norm({"conv of odd maps", 7 * 17 * 13, 128, 576, Activation::kSilu, false, true, true, false,
            17, 13, 1, 7});
  try_norm({"stride 2", 9 * 12 * 15, 128, 1152, Activation::kSilu, false, false, true, false, 23,
            30, 2, 9});
}

// ---- A block of the segmentation head

/// A block of threads a cell, a thread a channel.
__global__ void plain_mask_block(MaskBlockArguments a, double* out) {
  __shared__ double v[256], other[256];
  const int c = threadIdx.x, x = blockIdx.x % a.cols, y = blockIdx.x / a.cols % a.rows,
            picture = blockIdx.x / a.cols / a.rows;
  const auto cell = [&](int y, int x) {
    return static_cast<const __half*>(a.map) +
           ((static_cast<int64_t>(picture) * a.rows + y) * a.cols + x) * a.channels;
  };
  double sum = a.depthwise_bias[c];
  for (int tap = 0; tap < 9; ++tap) {
    const int from_y = y + tap / 3 - 1, from_x = x + tap % 3 - 1;
    if (from_y < 0 || from_y >= a.rows || from_x < 0 || from_x >= a.cols) continue;
    sum += static_cast<double>(a.depthwise[tap * a.channels + c]) *
           __half2float(cell(from_y, from_x)[c]);
  }
  v[c] = sum;
  __syncthreads();
  double mean = 0, variance = 0;
  for (int i = 0; i < a.channels; ++i) mean += v[i] / a.channels;
  for (int i = 0; i < a.channels; ++i) variance += (v[i] - mean) * (v[i] - mean) / a.channels;
  other[c] = (v[c] - mean) / sqrt(variance + a.eps);
  __syncthreads();
  double product = a.bias[c];
  for (int i = 0; i < a.channels; ++i) {
    product += __half2float(static_cast<const __half*>(a.weight)[c * a.channels + i]) * other[i];
  }
  out[static_cast<int64_t>(blockIdx.x) * a.channels + c] =
      __half2float(cell(y, x)[c]) + activate(product, Activation::kGelu);
}

void try_mask_block(int batch, int rows, int cols, float mean, bool overlap = false) {
  std::printf("mask block: %d maps of %d x %d cells, mean %g\n", batch, rows, cols, mean);
  constexpr int kChannels = 256;
  const int64_t size = static_cast<int64_t>(batch) * rows * cols * kChannels;
  Array<__half> map(size), weight(kChannels * kChannels), out(size + 1024);
  fill(map, size, 2.0f, 1);
  fill(weight, kChannels * kChannels, 0.125f, 2);
  Array<float> depthwise(9 * kChannels), depthwise_bias(kChannels), bias(kChannels),
      sums(kChannels);
  fill(depthwise, 9 * kChannels, 0.5f, 3);
  fill(depthwise_bias, kChannels, 1.0f, 4);
  fill(bias, kChannels, 1.0f, 5);
  std::vector<float> host = depthwise.read();
  for (float& v : host) v = to_float(__float2half_rn(v));  // the kernel's precision
  depthwise.write(host);
  host = depthwise_bias.read();
  for (float& v : host) v += mean;
  depthwise_bias.write(host);
  const std::vector<__half> rounded = weight.read();
  std::vector<float> row_sums(kChannels, 0.0f);
  for (int i = 0; i < kChannels * kChannels; ++i) row_sums[i / kChannels] += to_float(rounded[i]);
  sums.write(row_sums);
  MaskBlockArguments a;
  a.map = map.data();
  a.out = out.data();
  a.depthwise = depthwise.data();
  a.depthwise_bias = depthwise_bias.data();
  a.eps = 1e-6f;
  a.weight = weight.data();
  a.bias = bias.data();
  a.row_sums = sums.data();
  a.batch = batch;
  a.rows = rows;
  a.cols = cols;
  a.channels = kChannels;
  Array<double> plain(size);
  plain_mask_block<<<static_cast<unsigned>(batch * rows * cols), kChannels>>>(a, plain.data());
  check(cudaGetLastError(), "launching the plain block");
  const std::vector<double> want = plain.read();
  ASSERT_TRUE(hopper::mask_block({nullptr, overlap}, a));
  check(cudaDeviceSynchronize(), "running a mask block");
  const std::vector<__half> first = out.read();
  // The product's rows are halves, of values about `mean`.
  expect_close(
      first, want, 1e-3, 1e-3 * (1 + std::abs(mean)), [](int64_t i) { return i; }, "mask block");
  out.poison();
  ASSERT_TRUE(hopper::mask_block({nullptr, overlap}, a));
  const std::vector<__half> again = out.read();
  EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * 2), 0);
}

TEST_F(CudaHopper, MaskBlock) {
  try_mask_block(1, 8, 8, 0);
  try_mask_block(1, 78, 78, 0, true);
  try_mask_block(3, 13, 27, 0);
  try_mask_block(7, 1, 1, 0);
  try_mask_block(5, 96, 78, 1, true);
}
TEST_F(CudaHopper, MaskBlockTakesItsWidthAlone) {
  MaskBlockArguments a;
  a.batch = a.rows = a.cols = 1;
  a.channels = 384;
  EXPECT_FALSE(hopper::mask_block({}, a));
}

// ---- Attention

__global__ void plain_attention(AttentionArguments a, double* out) {
  const int query = blockIdx.x % a.length, head = blockIdx.x / a.length % a.heads,
            sequence = blockIdx.x / a.length / a.heads, lane = threadIdx.x;
  const auto row = [&](const void* p, int64_t ld, int i) {
    return static_cast<const __half*>(p) + (static_cast<int64_t>(sequence) * a.length + i) * ld +
           head * 64;
  };
  extern __shared__ double scores[];
  double highest = -1e300;
  for (int i = lane; i < a.length; i += 32) {
    double s = 0;
    for (int c = 0; c < 64; ++c) {
      s += static_cast<double>(__half2float(row(a.q, a.ldq, query)[c])) *
           __half2float(row(a.k, a.ldk, i)[c]);
    }
    scores[i] = s * a.scale;
    highest = max(highest, scores[i]);
  }
  for (int d = 16; d; d /= 2) highest = max(highest, __shfl_xor_sync(~0u, highest, d));
  double sum = 0;
  for (int i = lane; i < a.length; i += 32) {
    scores[i] = exp(scores[i] - highest);
    sum += scores[i];
  }
  for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  __syncwarp();
  for (int c = lane; c < 64; c += 32) {
    double v = 0;
    for (int i = 0; i < a.length; ++i) v += scores[i] * __half2float(row(a.v, a.ldv, i)[c]);
    out[(static_cast<int64_t>(sequence) * a.length + query) * a.heads * 64 + head * 64 + c] =
        v / sum;
  }
}

void try_attention(int sequences, int length, int heads, float loud, bool overlap = false) {
  std::printf("attention: %d sequences of %d, %d heads, scores to %g\n", sequences, length, heads,
              loud);
  AttentionArguments a;
  a.sequences = sequences;
  a.length = length;
  a.heads = heads;
  a.head_dim = 64;
  a.scale = 0.125f;
  const int width = heads * 64;
  const int64_t rows = static_cast<int64_t>(sequences) * length;
  Array<__half> qkv(rows * 3 * width);
  fill(qkv, rows * 3 * width, loud, 11);
  a.q = qkv.data();
  a.k = qkv.data() + width;
  a.v = qkv.data() + 2 * width;
  a.ldq = a.ldk = a.ldv = 3 * width;
  a.ldo = width + 8;
  Array<__half> out((rows + 2) * a.ldo);
  a.out = out.data();
  Array<double> plain(rows * width);
  plain_attention<<<static_cast<unsigned>(rows * heads), 32, length * 8>>>(a, plain.data());
  check(cudaGetLastError(), "launching the plain attention");
  const std::vector<double> want = plain.read();
  for (const hopper::AttentionVariant& variant : hopper::attention_variants()) {
    out.poison();
    ASSERT_TRUE(hopper::attention({nullptr, overlap}, a, variant));
    check(cudaDeviceSynchronize(), "running attention");
    const auto first = out.read();
    // Weights are halves, so that an output is off by up to 2^-11 of the largest value.
    expect_close(
        first, want, 1e-3, 1e-3 * loud, [&](int64_t i) { return i / width * a.ldo + i % width; },
        hopper::name(variant));
    out.poison();
    a.from_end = true;  // the same units in another order
    hopper::attention({nullptr, overlap}, a, variant);
    a.from_end = false;
    const auto again = out.read();
    EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * 2), 0);
  }
  EXPECT_TRUE(hopper::attention({nullptr, overlap}, a));
  check(cudaDeviceSynchronize(), "running attention");
}

TEST_F(CudaHopper, AttentionOneTile) { try_attention(1, 64, 1, 1.0f); }
TEST_F(CudaHopper, AttentionShort) {
  try_attention(1, 1, 1, 1.0f);
  try_attention(3, 37, 2, 2.0f);
  try_attention(2, 65, 1, 2.0f);
}
TEST_F(CudaHopper, AttentionOnePicture) { try_attention(1, 677, 6, 3.0f, true); }
TEST_F(CudaHopper, AttentionManyPictures) {
  try_attention(8, 677, 6, 2.0f);
  try_attention(12, 257, 6, 6.0f);
  try_attention(24, 130, 6, 2.0f);  // blocks whose runs of units cross heads
  try_attention(20, 677, 6, 2.0f);
  try_attention(5, 442, 12, 1.0f);
}

TEST_F(CudaHopper, LeavesTheRestToOthers) {
  Array<__half> x(64 * 64);
  GemmArguments g;
  g.a = g.b = x.data();
  g.out = x.data();
  g.m = g.n = g.k = 64;
  g.lda = g.ldb = g.ldo = 64;
  g.source = RowSource::kNormed;
  EXPECT_FALSE(hopper::gemm({}, g));
  g.source = RowSource::kRows;
  Array<int32_t> index(64);
  g.index = index.data();
  EXPECT_FALSE(hopper::gemm({}, g));
  AttentionArguments a;
  a.q = a.k = a.v = a.out = x.data();
  a.ldq = a.ldk = a.ldv = a.ldo = 64;
  a.sequences = 1;
  a.length = 8;
  a.heads = 2;
  a.head_dim = 32;
  EXPECT_FALSE(hopper::attention({}, a));
}

}  // namespace
}  // namespace rfseg::cuda
