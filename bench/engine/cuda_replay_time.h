#pragma once

#include <algorithm>
#include <vector>

#include "core/cuda/device.h"

namespace rfseg::cuda {

/// Median microseconds of `replays` launches of `graph`, each between two events and waited for.
/// Warming up is the caller's.
inline double median_replay_us(cudaStream_t stream, const Graph& graph, int replays) {
  std::vector<double> times;
  const Event from(true), to(true);
  for (int i = 0; i < replays; ++i) {
    check(cudaEventRecord(from, stream), "timing");
    graph.launch(stream);
    check(cudaEventRecord(to, stream), "timing");
    check(cudaStreamSynchronize(stream), "timing");
    times.push_back(1000.0 * elapsed_ms(from, to));
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace rfseg::cuda
