#pragma once

#include <string>
#include <vector>

#include "rfseg/options.h"

namespace rfseg::cli {

/// `rfseg bench --kernels`: each kind of step of the network on a GPU, for each batch size, against
/// the device's peak and cuBLASLt, as a table or one JSON object on stdout. Throws Error(kDevice)
/// where the model does not run on a GPU.
void bench_kernels(const std::string& model, const ModelOptions& options,
                   const std::vector<int>& batches, bool json);

}  // namespace rfseg::cli
