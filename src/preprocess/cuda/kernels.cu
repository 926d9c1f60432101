#include "preprocess/cuda/kernels.h"

#include <algorithm>

#include "preprocess/cuda/float_kernels.h"
#include "preprocess/cuda/pil_kernel.h"

namespace rfseg::cuda {
namespace {

extern __shared__ uint4 dynamic_shared[];

template <bool half, bool direct>
__global__ void __launch_bounds__(kPreprocessThreads, 1)
    rfseg_resize_pil(const __grid_constant__ PreprocessArguments arguments) {
  pil_kernel<half, direct>(arguments, *reinterpret_cast<PilShared*>(dynamic_shared));
}
template <bool half>
__global__ void __launch_bounds__(kPreprocessThreads, 2)
    rfseg_resize_bilinear(const __grid_constant__ PreprocessArguments arguments) {
  await_pixels(arguments);
  bilinear_kernel<half>(arguments);
}
template <bool half>
__global__ void __launch_bounds__(kPreprocessThreads, 2)
    rfseg_resize_antialias(const __grid_constant__ PreprocessArguments arguments) {
  await_pixels(arguments);
  antialias_kernel<half>(arguments, *reinterpret_cast<AntialiasShared*>(dynamic_shared));
}

using Kernel = void (*)(PreprocessArguments);

Kernel kernel_of(const PreprocessArguments& a) {
  switch (a.kernel) {
    case ResizeKernel::kPil:
      if (a.direct) return a.half ? rfseg_resize_pil<true, true> : rfseg_resize_pil<false, true>;
      return a.half ? rfseg_resize_pil<true, false> : rfseg_resize_pil<false, false>;
    case ResizeKernel::kBilinear:
      return a.half ? rfseg_resize_bilinear<true> : rfseg_resize_bilinear<false>;
    default:
      return a.half ? rfseg_resize_antialias<true> : rfseg_resize_antialias<false>;
  }
}

int shared_bytes(const PreprocessArguments& a) {
  if (a.kernel == ResizeKernel::kPil) return static_cast<int>(sizeof(PilShared)) + a.row_bytes;
  return a.kernel == ResizeKernel::kAntialias ? static_cast<int>(sizeof(AntialiasShared)) : 0;
}

int total_tiles(const PreprocessArguments& a) { return a.batch * a.tiles_per_frame; }

}  // namespace

cudaError_t configure_preprocess(int* row_bytes, bool* early) {
  int device = 0, most = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status != cudaSuccess) return status;
  cudaFuncAttributes attributes;
  status = cudaFuncGetAttributes(&attributes, rfseg_resize_pil<false, false>);
  if (status != cudaSuccess) return status;
  *early = attributes.ptxVersion >= 90;
  constexpr int kEnough = 192000;
  *row_bytes = std::min(kEnough, (most - static_cast<int>(sizeof(PilShared))) / 16 * 16);
  PreprocessArguments a;
  a.row_bytes = *row_bytes;
  for (const ResizeKernel kernel : {ResizeKernel::kPil, ResizeKernel::kAntialias}) {
    for (const int variant : {0, 1, 2, 3}) {
      a.kernel = kernel;
      a.half = variant % 2 != 0;
      a.direct = variant / 2 != 0;
      status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel_of(a)),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes(a));
      if (status != cudaSuccess) return status;
    }
  }
  return cudaSuccess;
}

cudaError_t launch_preprocess(const PreprocessArguments& a, int processors, bool early,
                              cudaStream_t stream) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  const int most = processors * (a.kernel == ResizeKernel::kPil ? 1 : 2);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(std::min(total_tiles(a), most)));
  config.blockDim = dim3(kPreprocessThreads);
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes(a));
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early && a.kernel == ResizeKernel::kPil ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel_of(a), a);
}

}  // namespace rfseg::cuda
