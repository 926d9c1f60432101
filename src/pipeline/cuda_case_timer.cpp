#include "pipeline/cuda_case_timer.h"

#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "postprocess/cuda/cuda_postprocessor.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "rfseg/error.h"

namespace rfseg {

using cuda::Buffer;
using cuda::check;
using cuda::Event;
using cuda::Stream;

struct CudaCaseTimer::Impl {
  explicit Impl(int d) : device(d), preprocessor(d), postprocessor(d) {}

  const void* upload(Buffer& to, const Tensor& tensor) {
    if (tensor.empty()) return nullptr;
    const std::size_t bytes = tensor.data.size() * sizeof(float);
    to.reserve(bytes);
    check(cudaMemcpyAsync(to.data(), tensor.data.data(), bytes, cudaMemcpyHostToDevice, stream),
          "uploading a recorded case");
    return to.data();
  }

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
  Buffer boxes{Buffer::Kind::kDevice}, logits{Buffer::Kind::kDevice}, masks{Buffer::Kind::kDevice},
      tensor{Buffer::Kind::kDevice};
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
    const NetworkOutputs host = recorded.outputs();
    DeviceOutputs outputs;
    outputs.batch = 1;
    outputs.queries = host.queries;
    outputs.classes = host.classes;
    outputs.mask_rows = host.mask_rows;
    outputs.mask_cols = host.mask_cols;
    outputs.boxes = gpu.upload(gpu.boxes, recorded.boxes);
    outputs.logits = gpu.upload(gpu.logits, recorded.logits);
    outputs.masks = gpu.upload(gpu.masks, recorded.masks);
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
