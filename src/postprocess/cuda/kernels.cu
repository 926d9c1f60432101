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
}

__global__ void __launch_bounds__(kMaskThreads, 3)
    rfseg_masks(const __grid_constant__ KernelArguments arguments) {
  mask_kernel(arguments, *reinterpret_cast<MaskShared*>(dynamic_shared));
}

template <MaskBytes format>
__global__ void __launch_bounds__(kDenseThreads, kDenseBlocks)
    rfseg_dense(const __grid_constant__ KernelArguments arguments) {
  dense_kernel<format>(arguments, *reinterpret_cast<DenseShared*>(dynamic_shared));
}

cudaLaunchAttribute started_early() {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

}  // namespace

cudaError_t configure_kernels(int* cluster) {
  cudaFuncAttributes attributes;
  cudaError_t status = cudaFuncGetAttributes(&attributes, rfseg_masks);
  if (status != cudaSuccess) return status;
  *cluster = attributes.ptxVersion >= 90 ? kMaxCluster : 1;
  status = cudaFuncSetAttribute(rfseg_select, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(sizeof(SelectShared)));
  if (status != cudaSuccess) return status;
  for (const auto dense : {rfseg_dense<MaskBytes::kDense>, rfseg_dense<MaskBytes::kBits>}) {
    status = cudaFuncSetAttribute(dense, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(sizeof(DenseShared)));
    if (status != cudaSuccess) return status;
  }
  return cudaFuncSetAttribute(rfseg_masks, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(sizeof(MaskShared)));
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

cudaError_t launch_masks(const KernelArguments& arguments, int blocks, int cluster,
                         cudaStream_t stream) {
  cudaLaunchAttribute attributes[2];
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1] = started_early();
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kMaskThreads);
  config.dynamicSmemBytes = sizeof(MaskShared);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 2 : 0;  // both came with the same generation
  return cudaLaunchKernelEx(&config, rfseg_masks, arguments);
}

cudaError_t launch_dense(const KernelArguments& arguments, MaskBytes format, int blocks, bool early,
                         cudaStream_t stream) {
  cudaLaunchAttribute attribute = started_early();
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kDenseThreads);
  config.dynamicSmemBytes = sizeof(DenseShared);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  return cudaLaunchKernelEx(
      &config,
      format == MaskBytes::kBits ? rfseg_dense<MaskBytes::kBits> : rfseg_dense<MaskBytes::kDense>,
      arguments);
}

}  // namespace rfseg::cuda
