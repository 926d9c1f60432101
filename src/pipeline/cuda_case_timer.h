#pragma once

#include <memory>

#include "pipeline/cases.h"

namespace rfseg {

/// Runs recorded cases on a GPU from device memory, so that the time of the kernels can be told
/// apart from that of a call.
class CudaCaseTimer {
 public:
  /// Throws Error(kDevice) without a usable GPU, or in a build without CUDA.
  explicit CudaCaseTimer(int device);
  ~CudaCaseTimer();
  CudaCaseTimer(const CudaCaseTimer&) = delete;
  CudaCaseTimer& operator=(const CudaCaseTimer&) = delete;

  /// Milliseconds on the GPU from before the first kernel to after the last, uploads and downloads
  /// left out. The answer goes to `detections` or to `out`, as the case's stage is.
  double run(const RecordedCase& recorded, Detections& detections, float* out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rfseg
