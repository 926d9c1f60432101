// Batches on a GPU in a build without CUDA: there is no engine that could ask for them.

#include "core/cuda/usable.h"
#include "pipeline/cuda_batch_runner.h"
#include "rfseg/error.h"

namespace rfseg {

std::vector<std::unique_ptr<BatchRunner>> make_cuda_batch_runners(CudaEngine&,
                                                                  const ResolvedOptions&, int,
                                                                  int) {
  throw Error(ErrorCode::kDevice, cuda::kAbsent);
}

}  // namespace rfseg
