// Hopper's products against plain kernels that accumulate in double, on shapes that do and do not
// divide into tiles, each variant apart. Outputs are poisoned before and checked beyond their edges
// after.

#include "engine/cuda_hopper_plain.h"

namespace rfseg::cuda {
namespace {

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
}

}  // namespace
}  // namespace rfseg::cuda
