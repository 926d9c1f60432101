#pragma once

#include <cuda_runtime_api.h>

#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

/// Blocks on a multiprocessor that the kernels are compiled for.
constexpr int kMaskBlocks = 3, kAloneBlocks = 2, kDenseBlocks = 1;

/// Blocks of a cluster of the mask kernel as compiled for the current device: 1 where the code that
/// runs there has no clusters, and no early start of a kernel. Also lifts the kernels' shared
/// memory limits.
cudaError_t configure_kernels(int* cluster);
cudaError_t launch_select(const KernelArguments& arguments, cudaStream_t stream);
struct MaskLaunch {
  int blocks = 0;      ///< a multiple of `cluster`
  int cluster = 1;     ///< blocks that share masks, or a selection
  bool early = false;  ///< may start before the end of the kernel before it
  bool alone = false;  ///< selects, too: no selection kernel is before it; of plain axes only
  bool plain = false;  ///< all axes of all pictures are
};
cudaError_t launch_masks(const KernelArguments& arguments, MaskBytes format, const MaskLaunch& how,
                         cudaStream_t stream);

}  // namespace rfseg::cuda
