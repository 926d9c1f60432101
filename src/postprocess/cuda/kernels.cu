#include "postprocess/cuda/kernels.h"

#include "postprocess/cuda/dense_kernel.h"
#include "postprocess/cuda/mask_kernel.h"
#include "postprocess/cuda/select_kernel.h"

namespace rfseg::cuda {
namespace {

extern __shared__ uint4 dynamic_shared[];

__global__ void __launch_bounds__(kSelectThreads, 1)
    rfseg_select(const __grid_constant__ KernelArguments arguments) {
  select_kernel(arguments, *reinterpret_cast<SelectShared*>(dynamic_shared));
  if (arguments.masks == nullptr) tell_end(arguments, static_cast<int>(gridDim.x * gridDim.y));
}

template <bool plain>
__global__ void __launch_bounds__(kMaskThreads, kMaskBlocks)
    rfseg_masks(const __grid_constant__ KernelArguments arguments) {
  mask_kernel<plain>(arguments, *reinterpret_cast<MaskShared*>(dynamic_shared));
  tell_end(arguments, grid_x());
}

__global__ void __launch_bounds__(kMaskThreads, kAloneBlocks)
    rfseg_masks_alone(const __grid_constant__ KernelArguments arguments) {
  mask_kernel_alone(arguments, *reinterpret_cast<MaskShared*>(dynamic_shared));
  tell_end(arguments, grid_x());
}

template <MaskBytes format, bool plain, bool alone>
__global__ void __launch_bounds__(kDenseThreads, kDenseBlocks)
    rfseg_dense(const __grid_constant__ KernelArguments arguments) {
  dense_kernel<format, plain, alone>(arguments, *reinterpret_cast<DenseShared*>(dynamic_shared));
  tell_end(arguments, grid_x());
}

using Kernel = void (*)(KernelArguments);

template <MaskBytes format>
Kernel dense_of(bool plain, bool alone) {
  if (alone) return rfseg_dense<format, true, true>;
  return plain ? rfseg_dense<format, true, false> : rfseg_dense<format, false, false>;
}

}  // namespace

cudaError_t configure_kernels(int* cluster) {
  cudaFuncAttributes attributes;
  cudaError_t status = cudaFuncGetAttributes(&attributes, rfseg_masks<true>);
  if (status != cudaSuccess) return status;
  *cluster = attributes.ptxVersion >= 90 ? kMaxBlocksPerMask : 1;
  const auto allow = [](auto kernel, std::size_t shared) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(shared));
  };
  const cudaError_t all[] = {
      allow(rfseg_select, sizeof(SelectShared)),
      allow(rfseg_masks<false>, sizeof(MaskShared)),
      allow(rfseg_masks<true>, sizeof(MaskShared)),
      allow(rfseg_masks_alone, sizeof(MaskShared)),
      allow(dense_of<MaskBytes::kDense>(false, false), sizeof(DenseShared)),
      allow(dense_of<MaskBytes::kDense>(true, false), sizeof(DenseShared)),
      allow(dense_of<MaskBytes::kDense>(true, true), sizeof(DenseShared)),
      allow(dense_of<MaskBytes::kBits>(false, false), sizeof(DenseShared)),
      allow(dense_of<MaskBytes::kBits>(true, false), sizeof(DenseShared)),
      allow(dense_of<MaskBytes::kBits>(true, true), sizeof(DenseShared)),
  };
  for (const cudaError_t one : all) {
    if (one != cudaSuccess) return one;
  }
  return cudaSuccess;
}

cudaError_t launch_select(const KernelArguments& arguments, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  // One block selects; the two others prepare the axes, which only masks need.
  config.gridDim = dim3(arguments.masks != nullptr ? 3 : 1, static_cast<unsigned>(arguments.batch));
  config.blockDim = dim3(kSelectThreads);
  config.dynamicSmemBytes = sizeof(SelectShared);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, rfseg_select, arguments);
}

namespace {

template <class Kernel>
cudaError_t launch(Kernel kernel, const KernelArguments& arguments, int blocks, int threads,
                   std::size_t shared, int cluster, bool early, cudaStream_t stream) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(cluster);
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  if (early) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count].val.programmaticStreamSerializationAllowed = 1;
    ++count;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, arguments);
}

}  // namespace

cudaError_t launch_masks(const KernelArguments& arguments, MaskBytes format, const MaskLaunch& how,
                         cudaStream_t stream) {
  if (format == MaskBytes::kRle) {
    const auto kernel = how.alone   ? rfseg_masks_alone
                        : how.plain ? rfseg_masks<true>
                                    : rfseg_masks<false>;
    return launch(kernel, arguments, how.blocks, kMaskThreads, sizeof(MaskShared), how.cluster,
                  how.early, stream);
  }
  const Kernel kernel = format == MaskBytes::kDense
                            ? dense_of<MaskBytes::kDense>(how.plain, how.alone)
                            : dense_of<MaskBytes::kBits>(how.plain, how.alone);
  return launch(kernel, arguments, how.blocks, kDenseThreads, sizeof(DenseShared), 1, how.early,
                stream);
}

}  // namespace rfseg::cuda
