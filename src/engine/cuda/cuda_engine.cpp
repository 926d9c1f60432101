#include "engine/cuda/cuda_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda/network/network.h"
#include "engine/cuda/timing/peaks.h"
#include "engine/cuda/timing/step_times.h"
#include "engine/model_weights.h"
#include "rfseg/error.h"

namespace rfseg {
namespace cuda {
namespace {

Math math_of(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return Math::kFp32;
    case Precision::kTf32:
      return Math::kTf32;
    case Precision::kAuto:
    case Precision::kFp16:
      break;
  }
  return Math::kFp16;
}

/// Makes `device` current for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (before_ != device) check(cudaSetDevice(device), "choosing the device");
  }
  ~DeviceScope() { cudaSetDevice(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

class Implementation final : public CudaEngine {
 public:
  /// The device is current.
  Implementation(const ModelConfig& config, const WeightSource& source,
                 const CudaEngineOptions& options, const cudaDeviceProp& properties)
      : config_(checked(config)),
        properties_(properties),
        hopper_code_(has_hopper_code()),
        options_(options),
        proposals_(make_proposals(config)),
        math_(math_of(options.precision)),
        weights_(std::make_shared<const Weights>(config, source, proposals_, math_, options.threads,
                                                 options.weights_cache)) {}
  /// With the same weights.
  Implementation(const Implementation& other)
      : config_(other.config_),
        properties_(other.properties_),
        hopper_code_(other.hopper_code_),
        options_(other.options_),
        proposals_(other.proposals_),
        math_(other.math_),
        weights_(other.weights_) {}

  const ModelConfig& config() const override { return config_; }
  const char* backend_name() const override { return "cuda"; }
  std::size_t memory_bytes() const override {
    return weights_->memory.size() + workspace_.size() + downloads_.size();
  }
  std::unique_ptr<CudaEngine> share() const override {
    const DeviceScope scope(options_.device);
    return std::unique_ptr<CudaEngine>(new Implementation(*this));
  }
  int device() const override { return options_.device; }
  std::string device_name() const override { return properties_.name; }
  const char* precision() const override {
    return math_ == Math::kFp16 ? "fp16" : math_ == Math::kTf32 ? "tf32" : "fp32";
  }
  const char* kernels() const override {
    const DeviceScope scope(options_.device);
    return !options_.portable && hopper::usable() ? "hopper" : "portable";
  }
  const Counters& counters() const override { return counters_; }
  int launches(int batch) const override {
    const auto graph = graphs_.find(batch);
    return graph == graphs_.end() ? 0 : graph->second.kernels();
  }
  std::vector<StepTime> time_steps(int batch) override {
    const DeviceScope scope(options_.device);
    prepare(batch);
    begin(stream_);
    const auto pass = [&](const StepObserver& observer) {
      run(batch, stream_, false, nullptr, &observer);
    };
    return cuda::time_steps(pass, stream_, math_ == Math::kFp16);
  }
  DevicePeaks peaks() const override {
    return {product_peak(options_.device, properties_, math_), memory_peak(options_.device)};
  }

  void prepare(int batch) override {
    const DeviceScope scope(options_.device);
    if (batch < 1) throw Error(ErrorCode::kUsage, "the batch must hold at least one picture");
    if (batch > capacity_) {
      Buffer larger(Buffer::Kind::kDevice);
      Buffers unplaced;
      larger.reserve(carve(unplaced, config_, proposals_, math_, batch, nullptr));
      // Nothing may run in the old one.
      check(cudaDeviceSynchronize(), "finishing earlier passes");
      graphs_.clear();
      std::swap(workspace_, larger);
      // The first pass, which only loads the kernels, computes with zeros.
      // Passes run on streams that do not wait for it, nor for the upload of the weights.
      check(cudaMemset(workspace_.data(), 0, workspace_.size()), "clearing the workspace");
      check(cudaDeviceSynchronize(), "clearing the workspace");
      carve(buffers_, config_, proposals_, math_, batch, workspace_.data());
      capacity_ = batch;
      ++counters_.allocations;
    }
    if (!options_.graphs || graphs_.contains(batch)) return;
    // Kernels are loaded when they first run, which a capture does not allow.
    run(batch, stream_, false, nullptr);
    stream_.synchronize("running the network for the first time");
    Graph graph;
    graph.capture(stream_, [&] { run(batch, stream_, false, nullptr); });
    graphs_.emplace(batch, std::move(graph));
    ++counters_.captures;
  }

  float* input() override { return buffers_.pictures; }

  DeviceHeads enqueue(int batch, CUstream_st* stream) override {
    const auto graph = graphs_.find(batch);
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &capturing), "asking for a capture");
    if (graph != graphs_.end() && capturing == cudaStreamCaptureStatusNone) {
      graph->second.launch(stream);
    } else {
      run(batch, stream, false, nullptr);
    }
    return {buffers_.boxes, buffers_.logits, config_.seg ? buffers_.masks : nullptr,
            math_ == Math::kFp16};
  }

  void begin(CUstream_st* stream) override {
    if (used_) check(cudaStreamWaitEvent(stream, free_, 0), "waiting for the last pass");
  }
  void end(CUstream_st* stream) override {
    check(cudaEventRecord(free_, stream), "recording an event");
    used_ = true;
  }

  void forward(const float* input, int batch, EngineOutputs& out,
               const ForwardOptions& options) override {
    const DeviceScope scope(options_.device);
    prepare(batch);
    begin(stream_);
    const int64_t pixels = int64_t{3} * config_.height * config_.width;
    check(cudaMemcpyAsync(buffers_.pictures, input,
                          sizeof(float) * static_cast<std::size_t>(batch * pixels),
                          cudaMemcpyHostToDevice, stream_),
          "uploading pictures");
    const bool forced = options.forced_topk != nullptr;
    if (forced) upload_order(options.forced_topk, batch);
    if (options.trace) {
      const Probe probe = [&](const std::string& name, const Shape& shape, const void* data,
                              PointType type, int64_t pitch) {
        std::vector<float> values(static_cast<std::size_t>(batch * pitch));
        download(data, type, batch * pitch, values.data());
        Shape whole = shape;
        if (batch > 1) whole.insert(whole.begin(), batch);
        Tensor value(whole);
        const int64_t count = element_count(shape);
        for (int b = 0; b < batch; ++b) {
          std::copy_n(values.data() + b * pitch, count, value.data.data() + b * count);
        }
        options.trace(name, value);
      };
      run(batch, stream_, forced, &probe);
    } else if (forced) {
      run(batch, stream_, true, nullptr);
    } else {
      enqueue(batch, stream_);
    }
    const int64_t queries = int64_t{batch} * config_.queries;
    fetch(out.boxes, {batch, config_.queries, 4}, buffers_.boxes, queries * 4);
    fetch(out.logits, {batch, config_.queries, config_.logits}, buffers_.logits,
          queries * config_.logits);
    if (config_.seg) {
      const Shape shape{batch, config_.queries, config_.mask_rows(), config_.mask_cols()};
      if (out.masks.shape != shape) out.masks = Tensor(shape);
      download(buffers_.masks, PointType::kElement, out.masks.size(), out.masks.data.data());
    } else {
      out.masks = Tensor(Shape{0});
    }
    stream_.synchronize("running the network");
  }

 private:
  static const ModelConfig& checked(const ModelConfig& config) {
    check_supported(config);
    return config;
  }

  /// With a probe or an observer on one stream.
  void run(int batch, cudaStream_t stream, bool forced, const Probe* probe,
           const StepObserver* observer = nullptr) {
    const bool split = options_.two_streams && probe == nullptr && observer == nullptr;
    const Lanes lanes{stream,
                      split ? static_cast<cudaStream_t>(side_) : stream,
                      fork_,
                      values_,
                      spatial_,
                      decoded_,
                      heads_,
                      options_.overlap && probe == nullptr && hopper_code_,
                      options_.portable,
                      observer,
                      options_.few_rows};
    static const Probe kNone;
    run_network(config_, proposals_, *weights_, buffers_, math_, batch, forced, lanes,
                probe == nullptr ? kNone : *probe);
  }

  void upload_order(const int32_t* order, int batch) {
    const int64_t count = int64_t{batch} * config_.queries;
    for (int image = 0; image < batch; ++image) {  // checks the order
      choose_queries(config_, order, image, nullptr, proposals_.count);
    }
    check(cudaMemcpyAsync(buffers_.forced, order, sizeof(int32_t) * static_cast<std::size_t>(count),
                          cudaMemcpyHostToDevice, stream_),
          "uploading the order of queries");
  }

  /// Device values as float on the host; waits for them where they are converted.
  void download(const void* data, PointType type, int64_t count, float* to) {
    const void* from = data;
    if (type == PointType::kElement && math_ == Math::kFp16) {
      if (downloads_.reserve(sizeof(float) * static_cast<std::size_t>(count))) {
        ++counters_.allocations;
      }
      to_floats({stream_, false}, math_, data, downloads_.as<float>(), count);
      from = downloads_.data();
    }
    check(cudaMemcpyAsync(to, from, sizeof(float) * static_cast<std::size_t>(count),
                          cudaMemcpyDeviceToHost, stream_),
          "fetching results");
    stream_.synchronize("running the network");
    if (type == PointType::kInt32) {
      for (int64_t i = 0; i < count; ++i) {
        int32_t value;
        std::memcpy(&value, to + i, sizeof(value));
        to[i] = static_cast<float>(value);
      }
    }
  }

  void fetch(Tensor& to, const Shape& shape, const float* from, int64_t count) {
    if (to.shape != shape) to = Tensor(shape);
    check(cudaMemcpyAsync(to.data.data(), from, sizeof(float) * static_cast<std::size_t>(count),
                          cudaMemcpyDeviceToHost, stream_),
          "fetching results");
  }

  ModelConfig config_;
  cudaDeviceProp properties_;
  bool hopper_code_;  ///< the kernels wait for their predecessors, so that they may start early
  CudaEngineOptions options_;
  Proposals proposals_;
  Math math_;
  std::shared_ptr<const Weights> weights_;
  Stream stream_, side_;
  Event fork_, values_, spatial_, decoded_, heads_;  ///< between the two streams of a pass
  Event free_;                                       ///< recorded by end()
  bool used_ = false;
  Buffer workspace_{Buffer::Kind::kDevice}, downloads_{Buffer::Kind::kDevice};
  Buffers buffers_;
  int capacity_ = 0;
  std::map<int, Graph> graphs_;
  Counters counters_;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<CudaEngine> create_cuda_engine(const ModelConfig& config,
                                               const WeightSource& weights,
                                               const CudaEngineOptions& options) {
  const cudaDeviceProp properties = cuda::device_properties(options.device);
  const cuda::DeviceScope scope(options.device);
  return std::make_unique<cuda::Implementation>(config, weights, options, properties);
}

}  // namespace rfseg
