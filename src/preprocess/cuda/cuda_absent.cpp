// The CUDA backend of a build without CUDA: it says so.

#include "core/cuda/usable.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

[[noreturn]] void fail() { throw Error(ErrorCode::kDevice, cuda::kAbsent); }

}  // namespace

struct CudaPreprocessor::Impl {};

CudaPreprocessor::CudaPreprocessor(int) { fail(); }
CudaPreprocessor::CudaPreprocessor(int, const Limits&) { fail(); }
CudaPreprocessor::~CudaPreprocessor() = default;
void CudaPreprocessor::prepare(std::span<const CudaFrame>, const PreprocessSpec&, void*, bool,
                               CUstream_st*) {
  fail();
}
void CudaPreprocessor::enqueue(CUstream_st*) { fail(); }
void CudaPreprocessor::wait_for(uint32_t*) { fail(); }
std::span<const PreprocessGeometry> CudaPreprocessor::geometries() const { fail(); }
void CudaPreprocessor::run_to_host(std::span<const CudaFrame>, const PreprocessSpec&, float*) {
  fail();
}
uint64_t CudaPreprocessor::generation() const { fail(); }
const CudaPreprocessor::Counters& CudaPreprocessor::counters() const { fail(); }
std::string CudaPreprocessor::device_name() const { fail(); }

PreprocessGeometry preprocess_cuda(const ImageView&, const PreprocessSpec&, float*) { fail(); }

}  // namespace rfseg
