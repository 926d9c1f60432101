#pragma once

#include <cuda_runtime_api.h>

#include "preprocess/cuda/records.h"

namespace rfseg::cuda {

/// Lifts the kernels' shared memory limit on the current device; `row_bytes` is what one block can
/// have for source rows; `early`: a kernel may start before the end of the one before.
cudaError_t configure_preprocess(int* row_bytes, bool* early);
/// One kernel for the whole batch, on at most `processors` times what fits on a multiprocessor.
/// With `early` it reads its parameters while a kernel just before it still runs.
cudaError_t launch_preprocess(const PreprocessArguments& arguments, int processors, bool early,
                              cudaStream_t stream);

}  // namespace rfseg::cuda
