#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "core/half.h"
#include "pixel_results.h"
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
    cuda::upload(p, from, bytes, "copying a scene");
    return p;
  }
  bool half_;
  std::vector<void*> memory_;
};

/// What a call has left, wherever its results are, in host memory.
class FetchedResults {
 public:
  FetchedResults(const CudaPostprocessor::Results& results, std::size_t batch) {
    records_ = fetch(results.pictures, batch);
    detections_ = fetch(results.detections, batch * results.detection_pitch);
    masks_ = fetch(results.masks, batch * results.mask_pitch);
    for (std::size_t i = 0; i < batch; ++i) {
      pictures.push_back({records_[i], detections_.data() + i * results.detection_pitch, nullptr});
    }
    pitch_ = static_cast<std::size_t>(results.mask_pitch);
    device_bytes_ = results.bytes;
  }
  /// Masks of pixels; `expected` tells the pictures' sizes.
  void fetch_pixels(std::span<const Detections> expected, cuda::MaskBytes format) {
    uint64_t end = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const uint64_t size = cuda::mask_bytes(expected[i].height, expected[i].width, format);
      EXPECT_EQ(pictures[i].record.offset, end);  // one picture after the other
      end += size * static_cast<uint64_t>(pictures[i].record.masks);
    }
    take_bytes(end);
  }
  /// The run lengths of one mask.
  std::string text(std::size_t picture, int mask) {
    const cuda::MaskRecord record = masks_[picture * pitch_ + static_cast<std::size_t>(mask)];
    const auto bytes = fetch(device_bytes_ + record.offset, record.length);
    return {bytes.begin(), bytes.end()};
  }
  std::vector<PictureResults> pictures;

 private:
  template <class T>
  static std::vector<T> fetch(const T* from, std::size_t count) {
    std::vector<T> to(count);
    if (count > 0) cuda_ok(cudaMemcpy(to.data(), from, count * sizeof(T), cudaMemcpyDefault));
    return to;
  }
  void take_bytes(uint64_t end) {
    bytes_ = fetch(device_bytes_, end);
    for (PictureResults& picture : pictures) picture.bytes = bytes_.data();
  }
  std::vector<cuda::PictureRecord> records_;
  std::vector<cuda::DetectionRecord> detections_;
  std::vector<cuda::MaskRecord> masks_;
  std::vector<uint8_t> bytes_;
  const uint8_t* device_bytes_ = nullptr;
  std::size_t pitch_ = 0;
};

}  // namespace rfseg::test
