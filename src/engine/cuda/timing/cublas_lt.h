#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/cuda/device.h"

// cuBLASLt as the yardstick of the engine's matrix products, loaded at run time: the program builds
// and runs without it, and the network does not use it.

namespace rfseg::cuda {

class CublasLt {
 public:
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;
  /// Empty, or why it is not to be had.
  const std::string& missing() const { return missing_; }

  /// out[m, n] = a[m, k] b[n, k]^T in halves with fp32 sums, rows dense, `batch` of them one after
  /// the other; `algorithm`: of the library's own proposals, the best first. False if there is no
  /// such one.
  bool multiply(cudaStream_t stream, int m, int n, int k, const void* a, const void* b, void* out,
                int algorithm = 0, int batch = 1);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
  std::string missing_;
};

}  // namespace rfseg::cuda
