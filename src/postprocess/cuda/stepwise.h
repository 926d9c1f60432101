#pragma once

#include <cstdint>
#include <memory>

#include "postprocess/cuda/cuda_postprocessor.h"

namespace rfseg {

/// Post-processing of one picture as an eager framework runs it: one kernel an operation, every
/// intermediate value in device memory, a wait for the number of survivors, masks of whole pixels
/// to the host, run lengths there. The same answer as postprocess(); what the fused kernels save is
/// measured against it (`rfseg ablate`). Not thread-safe.
class StepwisePostprocessor {
 public:
  /// Throws Error(kDevice) without a usable GPU, or in a build without CUDA.
  explicit StepwisePostprocessor(int device);
  ~StepwisePostprocessor();
  StepwisePostprocessor(const StepwisePostprocessor&) = delete;
  StepwisePostprocessor& operator=(const StepwisePostprocessor&) = delete;

  /// Of the last run.
  struct Counters {
    int kernels = 0;  ///< launches, those of CUB included
    int synchronisations = 0;
    uint64_t bytes_to_host = 0;
  };
  /// `outputs`: one picture, float32. Throws Error(kUsage) for what it does not take: other types,
  /// batches, and conventions with antialiased masks.
  Detections run(const DeviceOutputs& outputs, const PostprocessSpec& spec, CUstream_st* stream);
  /// The same up to masks of pixels on the GPU: detections without masks.
  Detections run_on_device(const DeviceOutputs& outputs, const PostprocessSpec& spec,
                           CUstream_st* stream);
  const Counters& counters() const;

 private:
  void begin(const DeviceOutputs& outputs, const PostprocessSpec& spec, CUstream_st* stream);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rfseg
