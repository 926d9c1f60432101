#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/cuda/device.h"
#include "core/half.h"
#include "engine/cuda/products.h"

// Random problems for the contract of engine/cuda/products.h, their answers by plain loops in
// double, and what a kernel may differ from them. "Device" memory comes from the CUDA runtime,
// which the emulation fakes.

namespace rfseg::cuda::test {

/// Values as the kernels see them (already rounded to halves where they are), with their device
/// copy.
class Values {
 public:
  Values() = default;
  Values(Math math, std::size_t count, uint64_t seed, float from, float to, bool as_float = false)
      : half_(math == Math::kFp16 && !as_float), values_(count) {
    std::mt19937_64 random(seed);
    std::uniform_real_distribution<float> uniform(from, to);
    for (float& v : values_)
      v = half_ ? half_to_float(float_to_half(uniform(random))) : uniform(random);
    upload();
  }
  float operator[](int64_t i) const { return values_[static_cast<std::size_t>(i)]; }
  std::size_t size() const { return values_.size(); }
  bool half() const { return half_; }
  void* device() const { return device_.data(); }
  const float* floats() const { return device_.as<float>(); }
  std::vector<float> download() const {
    std::vector<float> result(values_.size());
    if (!half_) {
      check(cudaMemcpy(result.data(), device_.data(), result.size() * 4, cudaMemcpyDeviceToHost),
            "copying results");
      return result;
    }
    std::vector<uint16_t> halves(values_.size());
    check(cudaMemcpy(halves.data(), device_.data(), halves.size() * 2, cudaMemcpyDeviceToHost),
          "copying results");
    for (std::size_t i = 0; i < halves.size(); ++i) result[i] = half_to_float(halves[i]);
    return result;
  }

 private:
  void upload() {
    if (values_.empty()) return;
    device_.reserve(values_.size() * 4);
    std::vector<uint16_t> halves;
    if (half_) {
      for (const float v : values_) halves.push_back(float_to_half(v));
    }
    cuda::upload(
        device_.data(),
        half_ ? static_cast<const void*>(halves.data()) : static_cast<const void*>(values_.data()),
        values_.size() * (half_ ? 2 : 4), "copying inputs");
  }
  bool half_ = false;
  std::vector<float> values_;
  Buffer device_{Buffer::Kind::kDevice};
};

/// A random problem of gemm() and the memory it needs.
struct GemmCase {
  Math math = Math::kFp16;
  GemmArguments g;
  Values a, a2, b, bias, row_bias, scale, residual, out;
  std::vector<int32_t> index;
  Buffer device_index{Buffer::Kind::kDevice};
  std::string name;
};

struct GemmParts {
  bool bias = false, row_bias = false, scale = false, residual = false, residual_float = true;
  bool out_float = false, index = false, in_place = false;
  bool positive = false;  ///< A and B: sums that are cut, not rounded, are off to one side
  int split = 0, batch = 1, out_group = 0, residual_period = 0;
  Activation activation = Activation::kNone;
  int pad_a = 0, pad_out = 0;
};

/// `pictures`, rows, cols, stride: of kConv3x3 (m and k follow from them).
struct Map {
  int pictures = 1, rows = 0, cols = 0, stride = 1, channels = 0;
};

void make_gemm(GemmCase& c, Math math, RowSource source, int m, int n, int k,
               const GemmParts& parts, uint64_t seed, const Map& map = {});

/// The sums of row m by a loop in double, and in float for comparison.
struct Row {
  std::vector<double> exact;
  std::vector<float> plain;
};
Row product_row(const GemmCase& c, int batch, int m);

/// Compares what is in c.out with the answer, for every `stride`-th row.
void expect_gemm(const GemmCase& c, int stride = 1);

struct NormCase {
  GemmCase product;
  GemmNormArguments g;
  Values gamma, beta, plus, out_float, out, out_plus, sum, scratch;
};
void make_norm(NormCase& c, Math math, RowSource source, int m, int n, int k, uint64_t seed,
               bool residual, Activation activation, const Map& map = {}, int room = 1);
void expect_norm(const NormCase& c, int stride = 1);

struct AttentionCase {
  Math math = Math::kFp16;
  AttentionArguments g;
  Values qkv, out;
};
void make_attention(AttentionCase& c, Math math, int sequences, int length, int heads, int head_dim,
                    uint64_t seed);
void expect_attention(const AttentionCase& c, int stride = 1);

}  // namespace rfseg::cuda::test
