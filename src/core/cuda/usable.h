#pragma once

#include <string>
#include <vector>

namespace rfseg::cuda {

/// Whether this build has the CUDA backends, and this machine a GPU that they can use; `why` tells
/// what is missing.
bool usable(std::string* why = nullptr);

/// The architectures that the kernels were compiled for, as CMake names them ("80", "90a"); none in
/// a build without CUDA.
std::vector<std::string> architectures();

/// What a build without CUDA says when it is asked for one.
inline constexpr const char* kAbsent =
    "this build of rfseg has no CUDA backend (configured without nvcc, or with RFSEG_CUDA=OFF)";

}  // namespace rfseg::cuda
