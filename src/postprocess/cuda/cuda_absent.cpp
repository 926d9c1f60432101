// The CUDA backend of a build without CUDA: it says so.

#include "core/cuda/usable.h"
#include "postprocess/cuda/cuda_postprocessor.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

[[noreturn]] void fail() { throw Error(ErrorCode::kDevice, cuda::kAbsent); }

}  // namespace

struct CudaPostprocessor::Impl {
  Counters counters;
};

CudaPostprocessor::CudaPostprocessor(int) { fail(); }
CudaPostprocessor::CudaPostprocessor(int, const Limits&) { fail(); }
CudaPostprocessor::~CudaPostprocessor() = default;
void CudaPostprocessor::prepare(const DeviceOutputs&, const PostprocessSpec&,
                                std::span<const PreprocessGeometry>, CUstream_st*) {
  fail();
}
void CudaPostprocessor::enqueue(const DeviceOutputs&, CUstream_st*) { fail(); }
CudaPostprocessor::Results CudaPostprocessor::wait(CUstream_st*) { fail(); }
std::vector<Detections> CudaPostprocessor::results() const { fail(); }
std::vector<Detections> CudaPostprocessor::run(const DeviceOutputs&, const PostprocessSpec&,
                                               std::span<const PreprocessGeometry>, CUstream_st*) {
  fail();
}
std::vector<Detections> CudaPostprocessor::run_from_host(std::span<const NetworkOutputs>,
                                                         const PostprocessSpec&,
                                                         std::span<const PreprocessGeometry>) {
  fail();
}
uint64_t CudaPostprocessor::generation() const { fail(); }
const CudaPostprocessor::Counters& CudaPostprocessor::counters() const { fail(); }
std::string CudaPostprocessor::device_name() const { fail(); }

Detections postprocess_cuda(const NetworkOutputs&, const PostprocessSpec&) { fail(); }

}  // namespace rfseg
