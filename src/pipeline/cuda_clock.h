#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/cuda/device.h"
#include "pipeline/batch_runner.h"

namespace rfseg::cuda {

/// Notes of a GPU's clock, taken by kernels of one thread: where a stage ends and the next begins,
/// for each of the last kRounds rounds. One stream at a time.
class Clock {
 public:
  static constexpr int kPoints = 4;
  static constexpr uint32_t kRounds = 4096;
  Clock();
  /// Notes the time as point `point` of the round; the last point begins the next round. May be
  /// captured.
  void enqueue(int point, cudaStream_t stream);
  /// Point `point` of round `round`, counted from 0, in nanoseconds; after the stream was waited
  /// for.
  uint64_t at(uint32_t round, int point) const;

  /// Smallest step of the clock seen in some milliseconds, in nanoseconds.
  static uint64_t resolution();

 private:
  Buffer notes_{Buffer::Kind::kPinned}, round_{Buffer::Kind::kDevice};
};

}  // namespace rfseg::cuda
