#pragma once

// What the tests of kernels in CUDA C++ share: arrays on the GPU that start as no numbers, and a
// comparison that also finds what was written beyond.

#include <gtest/gtest.h>

#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/cuda/device.h"

namespace rfseg::cuda {

template <class T>
class Array {
 public:
  explicit Array(int64_t size) : size_(size) {
    check(cudaMalloc(&data_, static_cast<std::size_t>(size) * sizeof(T)), "allocating");
    poison();
  }
  /// Even, from -scale to scale.
  Array(int64_t size, float scale, unsigned seed) : Array(size) { fill(size, scale, seed); }
  ~Array() { cudaFree(data_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  /// All bits one: not a number in every type here.
  void poison() {
    check(cudaMemset(data_, 0xff, static_cast<std::size_t>(size_) * sizeof(T)), "poisoning");
  }
  /// The first `size`, even, from -scale to scale.
  void fill(int64_t size, float scale, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<T> host(static_cast<std::size_t>(size));
    for (T& v : host) {
      v = static_cast<T>(scale * (static_cast<float>(random()) * 0x1p-31f - 1.0f));
    }
    write(host);
  }
  T* data() { return data_; }
  std::vector<T> read() const {
    std::vector<T> host(static_cast<std::size_t>(size_));
    check(cudaMemcpy(host.data(), data_, host.size() * sizeof(T), cudaMemcpyDeviceToHost),
          "reading");
    return host;
  }
  void write(const std::vector<T>& host) {
    upload(data_, host.data(), host.size() * sizeof(T), "writing");
  }

 private:
  T* data_ = nullptr;
  int64_t size_;
};

template <class T>
void fill(Array<T>& array, int64_t size, float scale, unsigned seed) {
  array.fill(size, scale, seed);
}

inline float to_float(float v) { return v; }
inline float to_float(__half v) { return __half2float(v); }

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
    std::memset(static_cast<void*>(&poison), 0xff, sizeof(T));
    if (!written[i] && std::memcmp(&got[i], &poison, sizeof(T)) != 0 && ++beyond <= 4) {
      std::printf("  %s: wrote beyond, place %zu\n", what.c_str(), i);
    }
  }
  EXPECT_EQ(beyond, 0) << what << ": elements written that are not the product's";
  if (wrong == 0) std::printf("  %s: worst %.2e\n", what.c_str(), worst);
}

}  // namespace rfseg::cuda
