#pragma once

#include <cuda_runtime_api.h>

#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

constexpr int kDenseBlocks = 2;  ///< of the dense kernel on a multiprocessor

/// Blocks of a cluster of the mask kernel as compiled for the current device: 1 where the code that
/// runs there has no clusters, and no early start of a kernel. Also lifts the kernels' shared
/// memory limits.
cudaError_t configure_kernels(int* cluster);
cudaError_t launch_select(const KernelArguments& arguments, cudaStream_t stream);
/// `blocks` is a multiple of `cluster`. May start before the select kernel's end.
cudaError_t launch_masks(const KernelArguments& arguments, int blocks, int cluster,
                         cudaStream_t stream);
/// Masks of `format`, kDense or kBits, by any number of blocks. With `early` as launch_masks.
cudaError_t launch_dense(const KernelArguments& arguments, MaskBytes format, int blocks, bool early,
                         cudaStream_t stream);

}  // namespace rfseg::cuda
