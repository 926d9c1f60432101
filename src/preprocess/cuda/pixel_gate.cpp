#include "preprocess/cuda/pixel_gate.h"

#include <cuda.h>

#include "rfseg/error.h"

namespace rfseg::cuda {
namespace {

constexpr std::size_t kBytes = 256;

CUresult write(void* function, cudaStream_t stream, const uint32_t* word, uint32_t value) {
  return reinterpret_cast<decltype(&cuStreamWriteValue32)>(function)(
      stream, reinterpret_cast<CUdeviceptr>(word), value, CU_STREAM_WRITE_VALUE_DEFAULT);
}

}  // namespace

PixelGate::PixelGate() {
  const Stream stream;
  words_.reserve(kBytes);
  close(stream);
  // The driver's function is asked of the runtime, so that nothing links against the driver.
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuStreamWriteValue32", &found, 12000, cudaEnableDefault,
                                       &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    cudaGetLastError();
    return;
  }
  if (write(found, stream, words(), 0) != CUDA_SUCCESS) return;
  stream.synchronize("writing a word");
  write_ = found;
}

void PixelGate::open(cudaStream_t stream) const {
  if (write_ == nullptr || write(write_, stream, words(), 1) != CUDA_SUCCESS) {
    throw Error(ErrorCode::kDevice, "CUDA: writing a word behind a copy was refused");
  }
}

void PixelGate::close(const Stream& stream) const {
  check(cudaMemsetAsync(words_.data(), 0, kBytes, stream), "closing a gate");
  stream.synchronize("closing a gate");
}

}  // namespace rfseg::cuda
