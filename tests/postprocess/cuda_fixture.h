#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "core/cuda/usable.h"
#include "core/half.h"
#include "postprocess/cuda/cuda_postprocessor.h"
#include "random_calls.h"

namespace rfseg::test {

/// Tests that need a GPU; without one they are skipped.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (!cuda::usable(&why)) GTEST_SKIP() << why;
  }
};

inline void cuda_ok(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// Rounds to what float16 holds.
inline void round_to_half(std::vector<float>& values) {
  for (float& v : values) v = half_to_float(float_to_half(v));
}

/// A batch of scenes of one shape in device memory.
class DeviceScenes {
 public:
  explicit DeviceScenes(std::span<const Scene> scenes, bool half = false) : half_(half) {
    std::vector<float> boxes, logits, masks;
    for (const Scene& scene : scenes) {
      boxes.insert(boxes.end(), scene.boxes.begin(), scene.boxes.end());
      logits.insert(logits.end(), scene.logits.begin(), scene.logits.end());
      masks.insert(masks.end(), scene.masks.begin(), scene.masks.end());
    }
    outputs.boxes = put(boxes);
    outputs.logits = put(logits);
    outputs.masks = put(masks);
    outputs.boxes_type = outputs.logits_type = outputs.masks_type =
        half ? cuda::Number::kFloat16 : cuda::Number::kFloat32;
    outputs.batch = static_cast<int>(scenes.size());
    outputs.queries = scenes[0].queries;
    outputs.classes = scenes[0].classes;
    outputs.mask_rows = scenes[0].rows;
    outputs.mask_cols = scenes[0].columns;
  }
  DeviceScenes(const DeviceScenes&) = delete;
  DeviceScenes& operator=(const DeviceScenes&) = delete;
  ~DeviceScenes() {
    for (void* p : memory_) cudaFree(p);
  }
  DeviceOutputs outputs;

 private:
  void* put(const std::vector<float>& values) {
    std::vector<uint16_t> halves;
    const void* from = values.data();
    std::size_t bytes = values.size() * sizeof(float);
    if (half_) {
      for (const float v : values) halves.push_back(float_to_half(v));
      from = halves.data();
      bytes = halves.size() * sizeof(uint16_t);
    }
    void* p = nullptr;
    cuda_ok(cudaMalloc(&p, bytes));
    memory_.push_back(p);
    cuda_ok(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
  }
  bool half_;
  std::vector<void*> memory_;
};

}  // namespace rfseg::test
