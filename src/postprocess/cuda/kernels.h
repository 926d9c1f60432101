#pragma once

#include <cuda_runtime_api.h>

#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

/// Blocks of a cluster of the mask kernel as compiled for the current device: 1 where the code that
/// runs there has no clusters. Also lifts the kernels' shared memory limits.
cudaError_t configure_kernels(int* cluster);
cudaError_t launch_select(const KernelArguments& arguments, cudaStream_t stream);
/// `blocks` is a multiple of `cluster`. May start before the select kernel's end.
cudaError_t launch_masks(const KernelArguments& arguments, int blocks, int cluster,
                         cudaStream_t stream);

}  // namespace rfseg::cuda
