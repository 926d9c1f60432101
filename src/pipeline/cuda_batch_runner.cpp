#include "pipeline/cuda_batch_runner.h"

#include <algorithm>
#include <cstring>

#include "core/cuda/device.h"
#include "postprocess/cuda/cuda_postprocessor.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using cuda::Buffer;
using cuda::check;
using cuda::Event;
using cuda::Stream;

/// One plane of a picture as rows of bytes.
struct Plane {
  std::size_t row_bytes = 0;
  int rows = 0;
};

std::vector<Plane> planes_of(const ImageView& view) {
  const auto width = static_cast<std::size_t>(view.width);
  const std::size_t half = (width + 1) / 2;
  const int half_rows = (view.height + 1) / 2;
  switch (view.format) {
    case PixelFormat::kRgb8:
    case PixelFormat::kBgr8:
      return {{width * 3, view.height}};
    case PixelFormat::kRgba8:
      return {{width * 4, view.height}};
    case PixelFormat::kGray8:
      return {{width, view.height}};
    case PixelFormat::kNv12:
      return {{width, view.height}, {half * 2, half_rows}};
    case PixelFormat::kI420:
      return {{width, view.height}, {half, half_rows}, {half, half_rows}};
    case PixelFormat::kP010:
      return {{width * 2, view.height}, {half * 4, half_rows}};
  }
  throw Error(ErrorCode::kInternal, "a pixel format without planes");
}

/// A picture in pinned memory.
struct Staged {
  Buffer pixels{Buffer::Kind::kPinned};
  ImageView view;
};

class CudaBatchRunner final : public BatchRunner {
 public:
  CudaBatchRunner(CudaEngine& engine, const ResolvedOptions& resolved, int batch)
      : engine_(engine),
        resolved_(resolved),
        device_(engine.device()),
        preprocessor_(device_),
        postprocessor_(device_),
        staged_(static_cast<std::size_t>(batch)) {}
  ~CudaBatchRunner() override {
    cudaSetDevice(device_);
    cudaStreamSynchronize(stream_);  // a cancelled run may leave work behind
  }

  void add(const ImageView& picture) override {
    use_device();
    preprocess_geometry(picture.height, picture.width, resolved_.preprocess);  // refuses bad ones
    Staged& to = staged_.at(count_);
    const std::vector<Plane> planes = planes_of(picture);
    std::size_t bytes = 0;
    for (const Plane& plane : planes) bytes += pitch(plane) * static_cast<std::size_t>(plane.rows);
    to.pixels.reserve(bytes);
    to.view = picture;
    std::byte* at = to.pixels.data();
    for (std::size_t p = 0; p < planes.size(); ++p) {
      const Plane& plane = planes[p];
      to.view.planes[p] = reinterpret_cast<const uint8_t*>(at);
      to.view.strides[p] = static_cast<std::ptrdiff_t>(pitch(plane));
      const uint8_t* from = picture.planes[p];
      for (int y = 0; y < plane.rows; ++y, from += picture.strides[p], at += pitch(plane)) {
        std::memcpy(at, from, plane.row_bytes);
      }
    }
    ++count_;
  }
  std::size_t size() const override { return count_; }

  void seal() override {}

  void infer() override {
    use_device();
    const int batch = static_cast<int>(count_);
    engine_.prepare(batch);
    std::vector<CudaFrame> frames;
    for (std::size_t i = 0; i < count_; ++i) {
      frames.push_back({staged_[i].view, FrameMemory::kPinned});
    }
    // Uploads need no turn: they run beside the batch before.
    preprocessor_.prepare(frames, resolved_.preprocess, engine_.input(), false, stream_);
    engine_.begin(stream_);
    record(started_);
    preprocessor_.enqueue(stream_);
    record(resized_);
    const DeviceOutputs outputs = keep(engine_.enqueue(batch, stream_), batch);
    record(inferred_);
    engine_.end(stream_);
    postprocessor_.prepare(outputs, resolved_.postprocess, preprocessor_.geometries(), stream_);
    postprocessor_.enqueue(outputs, stream_);
    record(finished_);
  }

  void finish() override {
    use_device();
    postprocessor_.wait(stream_);
    results_ = postprocessor_.results();
    times_.preprocess_ms = cuda::elapsed_ms(started_, resized_);
    times_.network_ms = cuda::elapsed_ms(resized_, inferred_);
    times_.postprocess_ms = cuda::elapsed_ms(inferred_, finished_);
  }
  Detections detections(std::size_t picture) override { return std::move(results_.at(picture)); }
  Times times() const override { return times_; }
  void clear() override {
    count_ = 0;
    results_.clear();
  }

 private:
  static std::size_t pitch(const Plane& plane) { return (plane.row_bytes + 15) / 16 * 16; }
  void use_device() const { check(cudaSetDevice(device_), "choosing the device"); }
  void record(const Event& event) { check(cudaEventRecord(event, stream_), "recording an event"); }

  /// Copies the heads out of the engine's workspace, so that the next batch need not wait for the
  /// masks of this one, and a post-processing that has to run again finds them.
  DeviceOutputs keep(const DeviceHeads& heads, int batch) {
    const ModelConfig& config = engine_.config();
    DeviceOutputs o;
    o.batch = batch;
    o.queries = config.queries;
    o.classes = config.logits;
    const auto queries = static_cast<std::size_t>(batch) * config.queries;
    o.boxes = copy(boxes_, heads.boxes, queries * 4 * sizeof(float));
    o.logits = copy(logits_, heads.logits, queries * config.logits * sizeof(float));
    if (heads.masks != nullptr && resolved_.postprocess.masks != MaskFormat::kNone) {
      o.mask_rows = config.mask_rows();
      o.mask_cols = config.mask_cols();
      o.masks_type = heads.masks_half ? cuda::Number::kFloat16 : cuda::Number::kFloat32;
      o.masks = copy(masks_, heads.masks,
                     queries * o.mask_rows * o.mask_cols * (heads.masks_half ? 2 : 4));
    }
    return o;
  }
  const void* copy(Buffer& to, const void* from, std::size_t bytes) {
    to.reserve(bytes);
    check(cudaMemcpyAsync(to.data(), from, bytes, cudaMemcpyDeviceToDevice, stream_),
          "keeping network outputs");
    return to.data();
  }

  CudaEngine& engine_;
  const ResolvedOptions& resolved_;
  int device_;
  Stream stream_;
  CudaPreprocessor preprocessor_;
  CudaPostprocessor postprocessor_;
  Event started_{true}, resized_{true}, inferred_{true}, finished_{true};
  std::vector<Staged> staged_;
  std::size_t count_ = 0;
  Buffer boxes_{Buffer::Kind::kDevice}, logits_{Buffer::Kind::kDevice},
      masks_{Buffer::Kind::kDevice};
  std::vector<Detections> results_;
  Times times_;
};

}  // namespace

std::vector<std::unique_ptr<BatchRunner>> make_cuda_batch_runners(CudaEngine& engine,
                                                                  const ResolvedOptions& resolved,
                                                                  int batch, int count) {
  check(cudaSetDevice(engine.device()), "choosing the device");
  engine.prepare(batch);
  std::vector<std::unique_ptr<BatchRunner>> runners;
  for (int i = 0; i < count; ++i) {
    runners.push_back(std::make_unique<CudaBatchRunner>(engine, resolved, batch));
  }
  return runners;
}

}  // namespace rfseg
