// The CUDA engine of a build without CUDA: it says so.

#include "core/cuda/usable.h"
#include "engine/cuda/cuda_engine.h"
#include "rfseg/error.h"

namespace rfseg {

std::unique_ptr<CudaEngine> create_cuda_engine(const ModelConfig&, const WeightSource&,
                                               const CudaEngineOptions&) {
  throw Error(ErrorCode::kDevice, cuda::kAbsent);
}

}  // namespace rfseg
