#pragma once

#include <string>

namespace rfseg::cuda {

/// Whether this build has the CUDA backends, and this machine a GPU that they can use; `why` tells
/// what is missing.
bool usable(std::string* why = nullptr);

/// What a build without CUDA says when it is asked for one.
inline constexpr const char* kAbsent =
    "this build of rfseg has no CUDA backend (configured without nvcc, or with RFSEG_CUDA=OFF)";

}  // namespace rfseg::cuda
