#pragma once

#include <functional>
#include <vector>

#include "core/cuda/device.h"
#include "engine/cuda/cuda_engine.h"
#include "engine/cuda/network/steps.h"

namespace rfseg::cuda {

/// Times every kind of step of a pass. `pass` enqueues the whole network on `stream` alone, with
/// the observer that it is given. A step is timed on the values that a pass brings it, many times
/// in a row in a captured graph. With `library`, products are multiplied by cuBLASLt too.
std::vector<StepTime> time_steps(const std::function<void(const StepObserver& observer)>& pass,
                                 cudaStream_t stream, bool library);

}  // namespace rfseg::cuda
