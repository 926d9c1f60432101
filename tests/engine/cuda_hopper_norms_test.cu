// Hopper's products with norms: handed on from one product to the next, and at the end of a product
// whose tiles are as wide as its rows. As in cuda_hopper_gemm_test.cu.

#include "engine/cuda_hopper_plain.h"

namespace rfseg::cuda {
namespace {

/// The same product with its stream as pairs of halves before, after, or both (in place then).
void try_pairs(GemmArguments g, const Array<float>& stream, const std::vector<double>& want,
               const std::vector<double>& want_shares, bool overlap) {
  const std::size_t size = want.size();
  const std::vector<float> values = stream.read();
  std::vector<__half> halves(size), rest(size);
  for (std::size_t i = 0; i < size; ++i) {
    halves[i] = __float2half_rn(values[i]);
    rest[i] = __float2half_rn(values[i] - __half2float(halves[i]));
  }
  const auto count = static_cast<int64_t>(size);
  Array<__half> pair_halves(count), pair_rest(count), separate(count);
  Array<float> out(count), shares(static_cast<int64_t>(want_shares.size()));
  const auto dense = [](int64_t i) { return i; };
  const GemmArguments floats = g;
  for (const auto& [before, after] : {std::pair(true, true), {false, true}, {true, false}}) {
    int taken = 0;
    for (const hopper::GemmVariant& variant : hopper::gemm_variants()) {
      const std::string what = hopper::name(variant) + (before ? " from pairs" : " from floats") +
                               (after ? " to pairs" : " to floats");
      for (Array<__half>* array : {&pair_halves, &pair_rest, &separate}) array->poison();
      out.poison();
      shares.poison();
      g = floats;
      g.shares = shares.data();
      g.out = after ? nullptr : out.data();
      g.halves = after ? pair_halves.data() : separate.data();
      g.rest = after ? pair_rest.data() : nullptr;
      if (before) {
        pair_halves.write(halves);
        pair_rest.write(rest);
        g.residual = nullptr;
        g.residual_halves = pair_halves.data();
        g.residual_rest = pair_rest.data();
      }
      if (!hopper::gemm({nullptr, overlap}, g, variant)) continue;
      ++taken;
      check(cudaDeviceSynchronize(), "adding to a stream in pairs");
      const std::vector<__half> big = after ? pair_halves.read() : separate.read();
      expect_close(big, want, 6e-4, 2e-5, dense, what + " halves");
      if (after) {
        const std::vector<__half> small = pair_rest.read();
        std::vector<float> sums(size);
        for (std::size_t i = 0; i < size; ++i) sums[i] = to_float(big[i]) + to_float(small[i]);
        expect_close(sums, want, 2e-6, 2e-5, dense, what);
      } else {
        expect_close(out.read(), want, 2e-6, 2e-5, dense, what);
      }
      expect_close(shares.read(), want_shares, 1e-5, 1e-5, dense, what + " shares");
    }
    EXPECT_GT(taken, 2);
  }
  g = floats;
  g.rest = pair_rest.data();
  g.shares = nullptr;
  EXPECT_FALSE(hopper::gemm({nullptr, overlap}, g)) << "pairs without shares";
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
  try_pairs(g, stream, want, want_shares, overlap);
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

}  // namespace
}  // namespace rfseg::cuda
