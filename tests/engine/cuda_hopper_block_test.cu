// The kernels of an encoder block against plain ones that accumulate in double, on row counts that
// do and do not divide into tiles, and a chain of them with early launches against the same one by
// one. Outputs are poisoned before and checked beyond their edges after. Skipped, and shown as
// such, without a GPU of compute capability 9.x.

#include <gtest/gtest.h>

#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "engine/cuda/hopper/block.h"
#include "engine/cuda/hopper/block_steps.h"
#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda_arrays.h"
#include "engine/cuda_hopper_plain.h"
#include "engine/cuda_plain_attention.h"

namespace rfseg::cuda {
namespace {

double to_double(float v) { return v; }
double to_double(__half v) { return __half2float(v); }

/// Compares rows of `n`, `ld` apart, with dense `want`; all else must still be poison.
template <class T>
void expect_close(const std::vector<T>& got, const std::vector<double>& want, int n, int64_t ld,
                  double relative, double absolute) {
  std::vector<char> written(got.size(), 0);
  int wrong = 0, beyond = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const auto at =
        static_cast<std::size_t>(static_cast<int64_t>(i) / n * ld + static_cast<int64_t>(i) % n);
    ASSERT_LT(at, got.size());
    written[at] = 1;
    const double v = to_double(got[at]);
    if (std::abs(v - want[i]) <= relative * std::abs(want[i]) + absolute) continue;  // not NaN
    if (++wrong <= 4) ADD_FAILURE() << "element " << i << ": got " << v << ", want " << want[i];
  }
  EXPECT_EQ(wrong, 0) << "of " << want.size();
  T poison;
  std::memset(static_cast<void*>(&poison), 0xff, sizeof(T));
  for (std::size_t i = 0; i < got.size(); ++i) {
    beyond += !written[i] && std::memcmp(&got[i], &poison, sizeof(T)) != 0;
  }
  EXPECT_EQ(beyond, 0) << "elements written that are not the result's";
}

using CudaHopperBlock = CudaHopper;

void try_product(int m, int n, int k, Activation activation) {
  SCOPED_TRACE(testing::Message() << m << " x " << n << " x " << k);
  const int64_t lda = k + 8, ldo = n + 8;
  Array<__half> a(m * lda, 1.0f, 1), out((m + 2) * ldo);
  Array<__half> b(int64_t{n} * k, 2.0f / std::sqrt(static_cast<float>(k)), 2);
  Array<float> bias(n, 1.0f, 3);
  GemmArguments g;
  g.a = a.data();
  g.lda = lda;
  g.b = b.data();
  g.ldb = k;
  g.b_fixed = true;
  g.m = m;
  g.n = n;
  g.k = k;
  g.bias = bias.data();
  g.activation = activation;
  g.out = out.data();
  g.ldo = ldo;
  const std::vector<double> want = reference(g);
  for (const bool overlap : {false, true}) {
    out.poison();
    check(cudaDeviceSynchronize(), "preparing");
    ASSERT_TRUE(hopper::block_gemm({nullptr, overlap}, g));
    expect_close(out.read(), want, n, ldo, 6e-4, activation == Activation::kGelu ? 5e-5 : 2e-5);
  }
}

TEST_F(CudaHopperBlock, Products) {
  // From 705 rows on blocks have more columns, without GELU from 1,409 rows on two tiles of rows.
  for (const int m : {1, 64, 67, 677, 1028, 1300, 1354}) {
    try_product(m, 1152, 384, Activation::kNone);
    try_product(m, 1536, 384, Activation::kGelu);
  }
  try_product(1768, 1152, 384, Activation::kNone);
  try_product(2000, 768, 1536, Activation::kNone);
  try_product(130, 96, 64, Activation::kNone);
  try_product(200, 384, 768, Activation::kNone);
}

/// With windows > 0 the rows are the tokens of pictures, of which the cells are wanted too.
/// `apart`: without bias and scale, the sum elsewhere than the residual.
void try_norm(int m, int k, TokenLayout layout = {0, 0, 0}, bool apart = false) {
  SCOPED_TRACE(testing::Message() << m << " rows, k " << k << ", windows " << layout.windows);
  const int n = 384;
  const int64_t lda = k + 8, ld = n + 4, ldo = n + 2;
  Array<__half> a(m * lda, 1.0f, 1), out((m + 2) * ldo);
  Array<__half> b(int64_t{n} * k, 2.0f / std::sqrt(static_cast<float>(k)), 2);
  Array<float> bias(n, 1.0f, 3), scale(n, 1.0f, 4), sum((m + 2) * ld), residual((m + 2) * ld);
  // Far from zero on average, and a column much larger than the others.
  std::mt19937 random(5);
  std::vector<float> old(static_cast<std::size_t>((m + 2) * ld));
  std::memset(old.data(), 0xff, old.size() * sizeof(float));
  for (int64_t i = 0; i < static_cast<int64_t>(m) * n; ++i) {
    old[i / n * ld + i % n] = static_cast<float>(random()) * 0x1p-31f + (i % n == 77 ? 200 : 3);
  }
  GemmNormArguments args;
  GemmArguments& g = args.product;
  g.a = a.data();
  g.lda = lda;
  g.b = b.data();
  g.ldb = k;
  g.b_fixed = true;
  g.m = m;
  g.n = n;
  g.k = k;
  if (!apart) {
    g.bias = bias.data();
    g.scale = scale.data();
  }
  args.sum = sum.data();
  g.residual = apart ? residual.data() : sum.data();
  g.ldr = args.ld_sum = ld;
  args.eps = 1e-6f;
  args.out = out.data();
  args.ldo = ldo;
  const int pictures = layout.windows > 0 ? m / layout.tokens() : 0;
  const int cells = pictures * layout.cells();
  const int64_t ld_tap = 2 * n;
  Array<__half> taps((cells + 1) * ld_tap);
  Array<float> gamma(n, 1.0f, 6), beta(n, 1.0f, 7);
  if (pictures > 0) {
    args.tap = taps.data() + n;  // the second of two
    args.ld_tap = ld_tap;
    args.tap_gamma = gamma.data();
    args.tap_beta = beta.data();
    args.tap_layout = layout;
  }
  sum.write(old);
  residual.write(old);
  const std::vector<double> want = reference(g);
  std::vector<double> normed(want.size()), tapped(static_cast<std::size_t>(cells) * n);
  for (int r = 0; r < m; ++r) {
    const double* row = &want[static_cast<std::size_t>(r) * n];
    double mean = 0, variance = 0;
    for (int i = 0; i < n; ++i) mean += row[i] / n;
    for (int i = 0; i < n; ++i) variance += (row[i] - mean) * (row[i] - mean) / n;
    for (int i = 0; i < n; ++i) {
      normed[static_cast<std::size_t>(r) * n + i] = (row[i] - mean) / std::sqrt(variance + 1e-6);
    }
  }
  const std::vector<float> factors = gamma.read(), shifts = beta.read();
  for (int cell = 0; cell < cells; ++cell) {
    const int row =
        cell / layout.cells() * layout.tokens() + layout.token_of(cell % layout.cells());
    for (int i = 0; i < n; ++i) {
      tapped[static_cast<std::size_t>(cell) * n + i] =
          normed[static_cast<std::size_t>(row) * n + i] * factors[i] + shifts[i];
    }
  }
  for (const bool overlap : {false, true}) {
    sum.write(old);
    out.poison();
    taps.poison();
    check(cudaDeviceSynchronize(), "preparing");
    ASSERT_TRUE(hopper::block_gemm_norm({nullptr, overlap}, args));
    expect_close(sum.read(), want, n, ld, 2e-6, 2e-5);
    expect_close(out.read(), normed, n, ldo, 6e-4, 5e-5);
    if (cells == 0) continue;
    const std::vector<__half> all = taps.read();
    expect_close(std::vector<__half>(all.begin() + n, all.end()), tapped, n, ld_tap, 6e-4, 3e-3);
  }
}

TEST_F(CudaHopperBlock, SumsWithTheirNorm) {
  for (const int m : {1, 63, 67, 677, 961, 1028, 1300, 1354, 1768, 1920}) {
    try_norm(m, 384);
    try_norm(m, 1536);
  }
  try_norm(130, 128);
  for (const int k : {512, 640, 768}) try_norm(677, k, {0, 0, 0}, true);
  try_norm(1300, 640, {0, 0, 0}, true);
  try_norm(67, 1536, {1, 6, 11});
  try_norm(128, 1536, {2, 3, 5});
  try_norm(1300, 1536, {2, 18, 18});
}

/// A map of 256 columns: LayerNorm with gamma and beta, SiLU from k = 448 on, and normalised again.
void try_map(int m, int k, bool twice) {
  SCOPED_TRACE(testing::Message() << m << " cells, k " << k << (twice ? ", twice" : ""));
  const int n = 256;
  const int64_t lda = k + 8, ldo = n + 2;
  Array<__half> a(m * lda, 1.0f, 1), out((m + 2) * ldo);
  Array<__half> b(int64_t{n} * k, 2.0f / std::sqrt(static_cast<float>(k)), 2);
  Array<float> gamma(n, 1.0f, 3), beta(n, 1.0f, 4), then_gamma(n, 1.0f, 5), then_beta(n, 1.0f, 6);
  Array<float> between(int64_t{m} * n);
  GemmNormArguments args;
  GemmArguments& g = args.product;
  g.a = a.data();
  g.lda = lda;
  g.b = b.data();
  g.ldb = k;
  g.b_fixed = true;
  g.m = m;
  g.n = n;
  g.k = k;
  args.gamma = gamma.data();
  args.beta = beta.data();
  args.eps = 1e-6f;
  args.activation = k < 448 ? Activation::kNone : Activation::kSilu;
  args.out = out.data();
  args.ldo = ldo;
  if (twice) {
    args.then_gamma = then_gamma.data();
    args.then_beta = then_beta.data();
    args.out_float = between.data();
    args.ldo_float = n;
  }
  std::vector<double> want = reference(g);
  const auto normalise = [&](const std::vector<float>& factors, const std::vector<float>& shifts,
                             bool silu) {
    for (int r = 0; r < m; ++r) {
      double* row = &want[static_cast<std::size_t>(r) * n];
      double mean = 0, variance = 0;
      for (int i = 0; i < n; ++i) mean += row[i] / n;
      for (int i = 0; i < n; ++i) variance += (row[i] - mean) * (row[i] - mean) / n;
      for (int i = 0; i < n; ++i) {
        row[i] = (row[i] - mean) / std::sqrt(variance + 1e-6) * factors[i] + shifts[i];
        if (silu) row[i] /= 1 + std::exp(-row[i]);
      }
    }
  };
  normalise(gamma.read(), beta.read(), args.activation == Activation::kSilu);
  if (twice) normalise(then_gamma.read(), then_beta.read(), false);
  for (const bool overlap : {false, true}) {
    out.poison();
    check(cudaDeviceSynchronize(), "preparing");
    ASSERT_TRUE(hopper::block_gemm_norm({nullptr, overlap}, args));
    expect_close(out.read(), want, n, ldo, 6e-4, 2e-4);
  }
}

TEST_F(CudaHopperBlock, MapsWithTheirNorm) {
  for (const int m : {1, 676, 1024, 1296, 1764}) {
    try_map(m, 256, false);
    try_map(m, 1536, false);
    try_map(m, 640, true);
  }
}

void try_masks(int m, int n, bool early) {
  SCOPED_TRACE(testing::Message() << m << " queries, " << n << " pixels");
  const int k = 256;
  Array<__half> a(m * k, 1.0f, 1), b(int64_t{n} * k, 0.1f, 2), out((m + 2) * int64_t{n});
  Array<float> bias(m, 1.0f, 3);
  GemmArguments g;
  g.a = a.data();
  g.b = b.data();
  g.lda = g.ldb = g.k = k;
  g.b_fixed = early;
  g.m = m;
  g.n = n;
  g.row_bias = bias.data();
  g.out = out.data();
  g.ldo = n;
  const std::vector<double> want = reference(g);
  for (const bool overlap : {false, true}) {
    out.poison();
    check(cudaDeviceSynchronize(), "preparing");
    ASSERT_TRUE(hopper::block_masks({nullptr, overlap}, g));
    expect_close(out.read(), want, n, n, 6e-4, 2e-5);
  }
}

TEST_F(CudaHopperBlock, Masks) {
  try_masks(100, 4, false);  // fewer pixels than a block has
  try_masks(7, 132, true);
  try_masks(100, 6084, true);
  try_masks(100, 9216, false);
  try_masks(200, 11664, false);
  try_masks(200, 15876, true);  // rows that begin at no multiple of 16 bytes
  try_masks(256, 6340, false);
  try_masks(1, 16896, true);
}

void try_attention(int sequences, int length, int heads, float loud) {
  SCOPED_TRACE(testing::Message() << sequences << " sequences of " << length << ", " << heads
                                  << " heads, values to " << loud);
  const int width = heads * 64;
  const int64_t rows = static_cast<int64_t>(sequences) * length;
  Array<__half> qkv(rows * 3 * width, loud, 11), out((rows + 2) * (width + 8));
  Array<double> plain(rows * width);
  AttentionArguments a;
  a.sequences = sequences;
  a.length = length;
  a.heads = heads;
  a.head_dim = 64;
  a.scale = 0.125f;
  a.q = qkv.data();
  a.k = qkv.data() + width;
  a.v = qkv.data() + 2 * width;
  a.ldq = a.ldk = a.ldv = 3 * width;
  a.out = out.data();
  a.ldo = width + 8;
  plain_attention<<<static_cast<unsigned>(rows * heads), 32, (length + 4) * 8>>>(a, plain.data());
  check(cudaGetLastError(), "launching the plain attention");
  const std::vector<double> want = plain.read();
  const auto expect_right = [&](auto&& run) {
    out.poison();
    check(cudaDeviceSynchronize(), "preparing");
    ASSERT_TRUE(run());
    // Weights are halves, so that an output is off by up to 2^-11 of the largest value.
    expect_close(out.read(), want, width, a.ldo, 1e-3, 1e-3 * loud);
  };
  for (const bool overlap : {false, true}) {
    expect_right([&] { return hopper::block_attention({nullptr, overlap}, a); });
  }
  for (const hopper::StepDivision& division : hopper::step_divisions()) {
    SCOPED_TRACE(hopper::name(division));
    expect_right([&] { return hopper::block_attention_steps({nullptr, false}, a, division); });
  }
}

TEST_F(CudaHopperBlock, Attention) {
  try_attention(1, 1, 1, 1.0f);
  try_attention(3, 37, 2, 2.0f);
  try_attention(2, 65, 3, 2.0f);
  try_attention(1, 97, 6, 2.0f);
  try_attention(1, 384, 2, 6.0f);
  try_attention(1, 385, 6, 2.0f);  // two blocks of more than 48 keys a warpgroup
  try_attention(1, 576, 6, 6.0f);
  try_attention(1, 677, 6, 3.0f);
  try_attention(1, 700, 6, 1.0f);
  try_attention(4, 145, 6, 2.0f);
  try_attention(4, 192, 6, 6.0f);
  try_attention(4, 193, 6, 3.0f);
  try_attention(4, 257, 6, 3.0f);
  try_attention(4, 288, 6, 1.0f);
  try_attention(4, 289, 4, 1.0f);
  try_attention(2, 300, 12, 1.0f);
}

TEST_F(CudaHopperBlock, AttentionInSteps) {
  try_attention(1, 1028, 6, 2.0f);
  try_attention(1, 1300, 6, 6.0f);
  try_attention(1, 1768, 6, 3.0f);
  try_attention(1, 1940, 6, 1.0f);
  try_attention(4, 325, 6, 2.0f);
  try_attention(3, 134, 2, 6.0f);
  try_attention(4, 442, 6, 3.0f);
  try_attention(4, 485, 6, 6.0f);
  try_attention(16, 101, 6, 2.0f);
  try_attention(2, 677, 6, 2.0f);
}

TEST_F(CudaHopperBlock, LeavesTheRestToOthers) {
  Array<__half> x(64);
  GemmNormArguments n;
  GemmArguments& g = n.product;
  g.a = g.b = x.data();
  g.b_fixed = true;
  g.out = n.out = x.data();
  g.m = 64;
  g.n = g.ldo = n.ldo = 384;
  g.k = g.lda = g.ldb = 384;
  g.residual = n.sum = reinterpret_cast<float*>(x.data());
  g.ldr = n.ld_sum = 384;
  EXPECT_FALSE(hopper::block_gemm({}, g));  // a residual
  g.activation = Activation::kRelu;
  EXPECT_FALSE(hopper::block_gemm({}, g));
  g.activation = Activation::kNone;
  g.n = 768;
  EXPECT_FALSE(hopper::block_gemm_norm({}, n));
  g.n = 384;
  g.k = 72;
  EXPECT_FALSE(hopper::block_gemm_norm({}, n));
  g.k = 384;
  n.gamma = n.beta = reinterpret_cast<float*>(x.data());
  EXPECT_FALSE(hopper::block_gemm_norm({}, n));
  g.residual = nullptr;
  g.n = g.ldo = 1152;
  g.m = 64 * 132;
  EXPECT_FALSE(hopper::block_gemm({}, g));  // more tiles than multiprocessors
  GemmArguments masks;
  masks.a = masks.b = masks.out = x.data();
  masks.lda = masks.ldb = masks.k = 256;
  masks.row_bias = reinterpret_cast<float*>(x.data());
  masks.m = 100;
  masks.n = masks.ldo = 128 * 133;  // more blocks than multiprocessors
  EXPECT_FALSE(hopper::block_masks({}, masks));
  masks.n = masks.ldo = 9216;
  masks.m = 300;
  EXPECT_FALSE(hopper::block_masks({}, masks));
  masks.m = 100;
  masks.batch = 2;
  EXPECT_FALSE(hopper::block_masks({}, masks));
  AttentionArguments a;
  a.q = a.k = a.v = a.out = x.data();
  a.ldq = a.ldk = a.ldv = a.ldo = 384;
  a.sequences = 1;
  a.length = 3000;  // more blocks than multiprocessors however it is divided
  a.heads = 6;
  a.head_dim = 64;
  a.scale = 0.125f;
  EXPECT_FALSE(hopper::block_attention({}, a));
  a.length = 64;
  a.head_dim = 32;
  EXPECT_FALSE(hopper::block_attention({}, a));
}

// Kernels that start early must not read what is not there yet, nor write what is still read.
TEST_F(CudaHopperBlock, AChainOfBlocksIsTheSameWithEarlyLaunches) {
  const int m = 677, d = 384;
  const float spread = 2.0f / std::sqrt(static_cast<float>(d));
  Array<__half> qkv(3 * d * d, spread, 1), proj(d * d, spread, 2), fc1(4 * d * d, spread, 3),
      fc2(4 * d * d, spread / 2, 4), rows(m * d), wide(m * 4 * d), first(m * d, 1.0f, 5);
  Array<float> bias(4 * d, 0.5f, 6), scale(d, 0.5f, 7), x(m * d), old(m * d, 1.0f, 8);
  const Stream stream;
  const auto blocks = [&](bool overlap) {
    bool fresh = true;
    const auto queue = [&] {
      const Queue q{stream, overlap && !fresh};
      fresh = false;
      return q;
    };
    const auto product = [&](Array<__half>& a, Array<__half>& b, int n, int k) {
      GemmArguments g;
      g.a = a.data();
      g.b = b.data();
      g.lda = g.ldb = k;
      g.b_fixed = true;
      g.m = m;
      g.n = n;
      g.k = k;
      g.bias = bias.data();
      g.ldo = n;
      g.out = wide.data();
      return g;
    };
    const auto add = [&](Array<__half>& a, Array<__half>& b, int k) {
      GemmNormArguments n;
      n.product = product(a, b, d, k);
      n.product.scale = scale.data();
      n.product.residual = n.sum = x.data();
      n.product.ldr = n.ld_sum = n.ldo = d;
      n.eps = 1e-6f;
      n.out = rows.data();
      EXPECT_TRUE(hopper::block_gemm_norm(queue(), n));
    };
    for (int i = 0; i < 4; ++i) {
      EXPECT_TRUE(hopper::block_gemm(queue(), product(rows, qkv, 3 * d, d)));
      AttentionArguments a;
      a.q = wide.data();
      a.k = wide.data() + d;
      a.v = wide.data() + 2 * d;
      a.ldq = a.ldk = a.ldv = 3 * d;
      a.out = rows.data();
      a.ldo = d;
      a.sequences = 1;
      a.length = m;
      a.heads = d / 64;
      a.head_dim = 64;
      a.scale = 0.125f;
      EXPECT_TRUE(hopper::block_attention(queue(), a));
      add(rows, proj, d);
      GemmArguments g = product(rows, fc1, 4 * d, d);
      g.activation = Activation::kGelu;
      EXPECT_TRUE(hopper::block_gemm(queue(), g));
      add(wide, fc2, 4 * d);
    }
  };
  std::vector<float> want;
  for (int round = 0; round < 20; ++round) {
    rows.write(first.read());
    x.write(old.read());
    wide.poison();
    check(cudaDeviceSynchronize(), "preparing");
    blocks(round > 0);
    stream.synchronize("a chain of blocks");
    const std::vector<float> got = x.read();
    if (round == 0) {
      want = got;
      EXPECT_TRUE(std::all_of(want.begin(), want.end(), [](float v) { return std::isfinite(v); }));
    }
    EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0) << round;
  }
}

}  // namespace
}  // namespace rfseg::cuda
