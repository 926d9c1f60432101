#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "engine/cpu/gemm.h"
#include "engine/cpu/kernels.h"
#include "rfseg/error.h"

// Every instruction set that this processor runs against plain double-precision formulas.

namespace rfseg::cpu {
namespace {

std::vector<const Kernels*> sets() {
  std::vector<const Kernels*> all{&plain_kernels()};
  if (const Kernels* k = avx2_kernels()) all.push_back(k);
  if (const Kernels* k = avx512_kernels()) all.push_back(k);
  return all;
}

AlignedVector<float> noise(int64_t n, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  AlignedVector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) x = normal(random);
  return v;
}

/// NaN fails.
void expect_near(double found, double wanted, double tolerance, const std::string& what) {
  EXPECT_TRUE(std::abs(found - wanted) <= tolerance)
      << what << ": " << found << ", expected " << wanted << " within " << tolerance;
}

double exact_gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

class KernelsTest : public ::testing::TestWithParam<const Kernels*> {};

TEST_P(KernelsTest, ProductsOfOddSizes) {
  const Kernels& k = *GetParam();
  WeightMemory memory;
  Worker worker;
  for (const auto& [rows, n, depth] : {std::array{1, 1, 1},
                                       {1, 4, 16},
                                       {2, 15, 3},
                                       {5, 16, 33},
                                       {6, 17, 64},
                                       {7, 31, 5},
                                       {13, 64, 40},
                                       {11, 65, 7},
                                       {12, 91, 256},
                                       {3, 112, 31},
                                       {8, 257, 48},
                                       {25, 1040, 600}}) {
    PackedMatrix w = make_matrix(memory, n, depth);
    const auto a = noise(int64_t{rows} * depth, 1), b = noise(int64_t{n} * depth, 2);
    const auto bias = noise(n, 3), residual = noise(int64_t{rows} * n, 4);
    const auto scale = noise(n + kPanel, 5);  // the kernels read whole panels
    pack_rows(b.data(), n, w, 0);
    std::copy(bias.begin(), bias.end(), w.bias);
    for (Epilogue epilogue : {Epilogue::kBias, Epilogue::kRelu, Epilogue::kGelu, Epilogue::kAdd,
                              Epilogue::kScaleAdd, Epilogue::kGeluAdd}) {
      constexpr int kPad = 3;  // floats between rows that must stay as they are
      AlignedVector<float> out(static_cast<std::size_t>(rows) * (n + kPad), 77.0f);
      for (int r = 0; r < rows; ++r) {
        std::copy_n(residual.begin() + r * n, n, out.begin() + r * (n + kPad));
      }
      // The residual is the output: as the residual stream of the encoder.
      multiply(k, worker, w, rows, {a.data(), depth}, {out.data(), n + kPad}, epilogue,
               {out.data(), n + kPad}, scale.data());
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < n; ++c) {
          double y = bias[c], size = std::abs(bias[c]);
          for (int i = 0; i < depth; ++i) {
            const double product = double{a[r * depth + i]} * b[c * depth + i];
            y += product;
            size += std::abs(product);
          }
          const double old = residual[r * n + c];
          if (epilogue == Epilogue::kRelu) y = std::max(y, 0.0);
          if (epilogue == Epilogue::kGelu) y = exact_gelu(y);
          if (epilogue == Epilogue::kAdd) y += old;
          if (epilogue == Epilogue::kScaleAdd) y = old + scale[c] * y;
          if (epilogue == Epilogue::kGeluAdd) y = old + exact_gelu(y);
          expect_near(out[r * (n + kPad) + c], y, 1e-6 * (size + std::abs(old) + 1),
                      "row " + std::to_string(r) + " column " + std::to_string(c));
        }
        for (int c = n; c < n + kPad; ++c) EXPECT_EQ(out[r * (n + kPad) + c], 77.0f);
      }
    }
  }
}

TEST_P(KernelsTest, GeluIsTheExactOne) {
  WeightMemory memory;
  Worker worker;
  PackedMatrix identity = make_matrix(memory, kPanel, kPanel);
  AlignedVector<float> one(kPanel * kPanel, 0.0f);
  for (int i = 0; i < kPanel; ++i) one[i * kPanel + i] = 1.0f;
  pack_rows(one.data(), kPanel, identity, 0);
  const int rows = 4000;
  AlignedVector<float> x(rows * kPanel), y(rows * kPanel);
  for (int i = 0; i < rows * kPanel; ++i)
    x[i] = -8.0f + 16.0f * static_cast<float>(i) / (rows * kPanel);
  x[0] = -300.0f;
  x[1] = 300.0f;
  x[2] = 0.0f;
  multiply(*GetParam(), worker, identity, rows, {x.data(), kPanel}, {y.data(), kPanel},
           Epilogue::kGelu);
  for (int i = 0; i < rows * kPanel; ++i) {
    // An error of erf of 2.4e-7, and rounding.
    const double tolerance = std::abs(x[i]) * (0.5 * 2.4e-7 + 1.2e-7) + 1e-12;
    expect_near(y[i], exact_gelu(x[i]), tolerance, "gelu(" + std::to_string(x[i]) + ")");
  }
}

TEST_P(KernelsTest, InputsInPieces) {
  const Kernels& k = *GetParam();
  WeightMemory memory;
  Worker worker;
  constexpr int kRows = 9, kTaps = 5, kDepth = 12, kColumns = 40;
  PackedMatrix w = make_matrix(memory, kColumns, kTaps * kDepth);
  const auto b = noise(kColumns * kTaps * kDepth, 1), a = noise(kRows * kTaps * kDepth, 2);
  pack_rows(b.data(), kColumns, w, 0);
  AlignedVector<float> whole(kRows * kColumns), pieces(kRows * kColumns);
  multiply(k, worker, w, kRows, {a.data(), kTaps * kDepth}, {whole.data(), kColumns});
  multiply_rows(
      k, worker, w, kRows, kTaps, Epilogue::kBias, nullptr,
      [&](int row, int tap) { return a.data() + (row * kTaps + tap) * kDepth; },
      Rows{pieces.data(), kColumns}, ConstRows{nullptr, 0});
  EXPECT_EQ(whole, pieces);
}

TEST_P(KernelsTest, AttentionOfOddLengths) {
  const Kernels& k = *GetParam();
  for (const auto& [tokens, heads, dim] : {std::array{1, 1, 8},
                                           {2, 2, 16},
                                           {7, 1, 64},
                                           {33, 2, 32},
                                           {49, 1, 64},
                                           {100, 2, 32},
                                           {353, 1, 64},
                                           {709, 1, 8}}) {
    const int64_t width = int64_t{heads} * dim;
    auto qkv = noise(2 * tokens * 3 * width, 7);
    // Scores far apart, so that the running maximum matters and some weights vanish.
    for (int64_t i = 0; i < 2 * tokens * 3 * width; i += 5) qkv[i] *= 6.0f;
    const auto before = qkv;
    ThreadTeam team(2);
    std::vector<Worker> workers(2);
    attend({k, team, workers}, qkv.data(), 2, tokens, heads, dim);
    double top = 0;
    for (float v : before) top = std::max(top, std::abs(double{v}));
    for (int s = 0; s < 2; ++s) {
      const float* base = before.data() + s * tokens * 3 * width;
      for (int h = 0; h < heads; ++h) {
        for (int t = 0; t < tokens; ++t) {
          std::vector<double> p(tokens);
          double most = -1e300, total = 0;
          for (int u = 0; u < tokens; ++u) {
            double dot = 0;
            for (int d = 0; d < dim; ++d) {
              dot += double{base[t * 3 * width + h * dim + d]} *
                     base[u * 3 * width + width + h * dim + d];
            }
            p[u] = dot / std::sqrt(double{1} * dim);
            most = std::max(most, p[u]);
          }
          for (double& v : p) total += v = std::exp(v - most);
          for (int d = 0; d < dim; ++d) {
            double y = 0;
            for (int u = 0; u < tokens; ++u)
              y += p[u] / total * base[u * 3 * width + 2 * width + h * dim + d];
            expect_near(qkv[(s * tokens + t) * 3 * width + h * dim + d], y, 2e-5 * top,
                        "token " + std::to_string(t) + " of " + std::to_string(tokens));
          }
        }
      }
    }
    // Keys and values are untouched.
    for (int64_t t = 0; t < 2 * tokens; ++t) {
      for (int64_t c = width; c < 3 * width; ++c) {
        ASSERT_EQ(qkv[t * 3 * width + c], before[t * 3 * width + c]);
      }
    }
  }
}

TEST_P(KernelsTest, LayerNormAndActivations) {
  for (int n : {16, 32, 48, 256, 400}) {
    const int rows = 3;
    auto x = noise(rows * n, 11, 3.0f);
    for (int c = 0; c < n; ++c) x[c] += 1000.0f;  // a mean far from zero must not cost the variance
    const auto weight = noise(n, 12), bias = noise(n, 13);
    for (Activation activation : {Activation::kNone, Activation::kRelu, Activation::kSilu}) {
      auto y = x;
      GetParam()->layer_norm(y.data(), n, y.data(), n, rows, n, weight.data(), bias.data(), 1e-5f,
                             activation);
      for (int r = 0; r < rows; ++r) {
        double mean = 0, variance = 0;
        for (int c = 0; c < n; ++c) mean += x[r * n + c] / double(n);
        for (int c = 0; c < n; ++c) variance += std::pow(x[r * n + c] - mean, 2) / n;
        for (int c = 0; c < n; ++c) {
          double v = (x[r * n + c] - mean) / std::sqrt(variance + 1e-5) * weight[c] + bias[c];
          if (activation == Activation::kRelu) v = std::max(v, 0.0);
          if (activation == Activation::kSilu) v = v / (1 + std::exp(-v));
          expect_near(y[r * n + c], v, r == 0 ? 3e-4 : 3e-6, "n " + std::to_string(n));
        }
      }
    }
  }
}

TEST_P(KernelsTest, SiluOfLargeValues) {
  const int n = 16;
  AlignedVector<float> x = noise(n, 3), bias(n), weight(n, 0.0f);
  for (int i = 0; i < n; ++i) bias[i] = static_cast<float>(i - 8) * 30.0f;
  GetParam()->layer_norm(x.data(), n, x.data(), n, 1, n, weight.data(), bias.data(), 1e-6f,
                         Activation::kSilu);
  for (int i = 0; i < n; ++i) {
    const double v = bias[i];
    expect_near(x[i], v / (1 + std::exp(-v)), 1e-6 * std::abs(v) + 1e-20, std::to_string(v));
  }
}

TEST_P(KernelsTest, DepthwiseOfFourPixels) {
  constexpr int n = 48;
  const auto map = noise(3 * 6 * n, 21), weight = noise(9 * n, 22), bias = noise(n, 23);
  const float* pixels[18];
  for (int i = 0; i < 18; ++i) pixels[i] = map.data() + i * n;
  AlignedVector<float> out(4 * n);
  float* to[4] = {out.data(), out.data() + n, out.data() + 2 * n, out.data() + 3 * n};
  GetParam()->depthwise4(pixels, weight.data(), bias.data(), n, to);
  for (int p = 0; p < 4; ++p) {
    for (int c = 0; c < n; ++c) {
      double y = bias[c];
      for (int t = 0; t < 9; ++t)
        y += double{map[(t / 3 * 6 + p + t % 3) * n + c]} * weight[t * n + c];
      expect_near(out[p * n + c], y, 1e-5, "pixel " + std::to_string(p));
    }
  }
}

// Locations are not bounded: none may read outside the map or overflow on the way to an integer.
TEST_P(KernelsTest, DeformableSamplingAtAnyLocation) {
  constexpr int kHeads = 2, kPoints = 2, kDim = 16, kLd = kHeads * kDim;
  const int rows[] = {3, 2}, cols[] = {4, 2};
  const int64_t first[] = {0, 12};
  const auto values = noise(16 * kLd, 31);
  for (float far :
       {0.0f, 0.3f, -0.6f, 1.5f, 40.0f, -1e9f, 3e38f, -std::numeric_limits<float>::infinity()}) {
    auto projected = noise(3 * kHeads * 2 * kPoints, 32);
    projected[1] = far;
    projected[6] = far;
    const float reference[] = {0.4f, 0.6f, 0.5f, 0.7f};
    AlignedVector<float> out(kLd);
    GetParam()->deformable({values.data(), kLd, kHeads, 2, kPoints, kDim, rows, cols, first,
                            reference, projected.data(), out.data()});
    for (int h = 0; h < kHeads; ++h) {
      const float* score = projected.data() + 2 * kHeads * 4 + h * 4;
      double total = 0;
      for (int s = 0; s < 4; ++s) total += std::exp(double{score[s]});
      for (int c = 0; c < kDim; ++c) {
        double y = 0;
        for (int s = 0; s < 4; ++s) {
          const int l = s / kPoints;
          const float* offset = projected.data() + (h * 4 + s) * 2;
          const double px =
              (reference[0] + offset[0] * double{reference[2]} * 0.25) * cols[l] - 0.5;
          const double py =
              (reference[1] + offset[1] * double{reference[3]} * 0.25) * rows[l] - 0.5;
          for (int yy = 0; yy < rows[l]; ++yy) {
            for (int xx = 0; xx < cols[l]; ++xx) {
              const double w =
                  std::max(0.0, 1 - std::abs(px - xx)) * std::max(0.0, 1 - std::abs(py - yy));
              y += w * std::exp(double{score[s]}) / total *
                   values[(first[l] + yy * cols[l] + xx) * kLd + h * kDim + c];
            }
          }
        }
        expect_near(out[h * kDim + c], y, 1e-5, "offset " + std::to_string(far));
      }
    }
  }
}

TEST_P(KernelsTest, InterpolationAndSum) {
  constexpr int n = 32;
  const auto a = noise(n, 1), b = noise(n, 2), c = noise(n, 3), d = noise(n, 4);
  AlignedVector<float> mixed(n), sum(n);
  GetParam()->interpolate(a.data(), b.data(), c.data(), d.data(), 0.25f, 0.5f, n, mixed.data());
  GetParam()->add(a.data(), b.data(), n, sum.data());
  for (int i = 0; i < n; ++i) {
    expect_near(mixed[i], 0.5 * (0.75 * a[i] + 0.25 * b[i]) + 0.5 * (0.75 * c[i] + 0.25 * d[i]),
                1e-6, "mix");
    EXPECT_EQ(sum[i], a[i] + b[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, KernelsTest, ::testing::ValuesIn(sets()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST(CpuKernels, TheSetCanBeForced) {
  const char* set = std::getenv("RFSEG_CPU_ISA");
  const std::string old = set ? set : "";
  for (const Kernels* k : sets()) {
    setenv("RFSEG_CPU_ISA", k->name, 1);
    EXPECT_STREQ(best_kernels().name, k->name);
  }
  unsetenv("RFSEG_CPU_ISA");
  EXPECT_EQ(&best_kernels(), sets().back());
  setenv("RFSEG_CPU_ISA", "mmx", 1);
  try {
    best_kernels();
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("mmx"), std::string::npos);
  }
  old.empty() ? unsetenv("RFSEG_CPU_ISA") : setenv("RFSEG_CPU_ISA", old.c_str(), 1);
}

TEST(CpuGemm, PackedColumnsCarryOnes) {
  const auto rows = noise(5 * 24, 1);
  AlignedVector<float> panels(kPanel * 25, -1.0f);
  pack_columns(rows.data(), 24, 5, 24, panels.data());
  for (int p = 0; p < 5; ++p) {
    for (int c = 0; c < 24; ++c) EXPECT_EQ(panels[c * kPanel + p], rows[p * 24 + c]);
    EXPECT_EQ(panels[24 * kPanel + p], 1.0f);
  }
}

/// What becomes of a team of four where there may be `processes` of the user (another one than
/// root, whom no limit holds): the code of the error, 0 for none.
int team_with_at_most(unsigned processes) {
  alarm(20);  // it must not wait for ever
  if (geteuid() == 0 && setuid(65534) != 0) return -1;
  const rlimit limit = {processes, processes};
  if (setrlimit(RLIMIT_NPROC, &limit) != 0) return -1;
  try {
    ThreadTeam team(4);
    return 0;
  } catch (const Error& error) {
    const bool told = std::string(error.what()).starts_with("cannot start another thread: ");
    return told ? static_cast<int>(error.code()) : -1;
  }
}

TEST(ThreadTeam, ThatCannotBeCompleteIsAnErrorOfTheDevice) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const unsigned processes : {1u, 2u, 3u}) {
    EXPECT_EXIT(_exit(team_with_at_most(processes)), testing::ExitedWithCode(5), "") << processes;
  }
}

}  // namespace
}  // namespace rfseg::cpu
