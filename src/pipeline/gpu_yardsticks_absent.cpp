// Times of a GPU in a build without CUDA.

#include "core/cuda/usable.h"
#include "pipeline/gpu_yardsticks.h"
#include "rfseg/error.h"

namespace rfseg {

double copy_us(int, std::size_t, int) { throw Error(ErrorCode::kDevice, cuda::kAbsent); }
double network_us(const CudaEngine&, int) { throw Error(ErrorCode::kDevice, cuda::kAbsent); }
void hold_on_device(ImageView&, HeldPixels&, int) {
  throw Error(ErrorCode::kDevice, cuda::kAbsent);
}

}  // namespace rfseg
