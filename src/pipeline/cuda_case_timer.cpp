#include "pipeline/cuda_case_timer.h"

#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "pipeline/cuda_uploaded_case.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "rfseg/error.h"

namespace rfseg {

using cuda::Buffer;
using cuda::check;
using cuda::Event;
using cuda::Stream;

struct CudaCaseTimer::Impl {
  explicit Impl(int d) : device(d), preprocessor(d), postprocessor(d) {}

  template <class Work>
  void timed(const Work& enqueue) {
    // What is waited for before the first event is no kernel's time.
    stream.synchronize("preparing a recorded case");
    check(cudaEventRecord(before, stream), "recording an event");
    enqueue();
    check(cudaEventRecord(after, stream), "recording an event");
  }

  int device;
  Stream stream;
  Event before{true}, after{true};
  CudaPreprocessor preprocessor;
  CudaPostprocessor postprocessor;
  UploadedCase uploaded;
  Buffer tensor{Buffer::Kind::kDevice};
};

CudaCaseTimer::CudaCaseTimer(int device) {
  std::string why;
  if (!cuda::usable(&why)) throw Error(ErrorCode::kDevice, why);
  check(cudaSetDevice(device), "choosing the device");
  impl_ = std::make_unique<Impl>(device);
}

CudaCaseTimer::~CudaCaseTimer() = default;

double CudaCaseTimer::run(const RecordedCase& recorded, Detections& detections, float* out) {
  Impl& gpu = *impl_;
  check(cudaSetDevice(gpu.device), "choosing the device");
  if (recorded.entry.stage == CaseEntry::Stage::kPostprocess) {
    const DeviceOutputs& outputs = gpu.uploaded.upload(recorded, gpu.stream);
    const PostprocessSpec& spec = recorded.entry.postprocess;
    gpu.postprocessor.prepare(outputs, spec, {&spec.geometry, 1}, gpu.stream);
    gpu.timed([&] { gpu.postprocessor.enqueue(outputs, gpu.stream); });
    gpu.postprocessor.wait(gpu.stream);
    detections = std::move(gpu.postprocessor.results().at(0));
    return cuda::elapsed_ms(gpu.before, gpu.after);
  }
  const std::size_t bytes = recorded.tensor.data.size() * sizeof(float);
  gpu.tensor.reserve(bytes);
  const CudaFrame frame{recorded.view(), FrameMemory::kPageable};
  gpu.preprocessor.prepare({&frame, 1}, recorded.entry.preprocess, gpu.tensor.data(), false,
                           gpu.stream);
  gpu.timed([&] { gpu.preprocessor.enqueue(gpu.stream); });
  check(cudaMemcpyAsync(out, gpu.tensor.data(), bytes, cudaMemcpyDeviceToHost, gpu.stream),
        "downloading a tensor");
  gpu.stream.synchronize("pre-processing a recorded case");
  return cuda::elapsed_ms(gpu.before, gpu.after);
}

}  // namespace rfseg
