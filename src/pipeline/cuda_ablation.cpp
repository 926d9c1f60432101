#include <fmt/format.h>

#include <chrono>
#include <cstring>

#include "core/coco_rle.h"
#include "core/cuda/device.h"
#include "engine/cuda/cuda_engine.h"
#include "pipeline/ablation.h"
#include "pipeline/cuda_batch_runner.h"
#include "pipeline/cuda_uploaded_case.h"
#include "postprocess/cuda/cuda_postprocessor.h"
#include "postprocess/cuda/stepwise.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using cuda::check;
using cuda::Graph;
using cuda::Stream;
using Clock = std::chrono::steady_clock;
using Limits = CudaPostprocessor::Limits;
using Place = CudaPostprocessor::Place;
using cuda::MaskBytes;

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

/// One way of doing the work. run() is what is timed.
class Way {
 public:
  explicit Way(std::string name) { row.name = std::move(name); }
  virtual ~Way() = default;
  virtual void run() = 0;
  AblationRow row;
};

/// Calls of all ways in turn.
void measure(std::vector<std::unique_ptr<Way>>& ways, const AblationOptions& options) {
  const int64_t total = static_cast<int64_t>(ways.size()) * (options.warmup + options.rounds);
  int64_t done = 0;
  for (int round = -options.warmup; round < options.rounds; ++round) {
    for (const auto& way : ways) {
      const auto start = Clock::now();
      way->run();
      if (round >= 0) way->row.ms.push_back(milliseconds_since(start));
      if (options.progress) options.progress(++done, total);
    }
  }
}

std::vector<AblationRow> rows_of(std::vector<std::unique_ptr<Way>>& ways) {
  std::vector<AblationRow> rows;
  for (const auto& way : ways) rows.push_back(std::move(way->row));
  return rows;
}

/// Of run lengths.
uint64_t result_bytes(const Detections& detections) {
  uint64_t bytes = sizeof(cuda::ResultHeader) + sizeof(cuda::PictureRecord);
  const Mask* last = nullptr;
  for (const Detection& d : detections.items) {
    bytes += sizeof(cuda::DetectionRecord);
    if (d.mask == nullptr || d.mask.get() == last) continue;
    bytes += sizeof(cuda::MaskRecord) + d.mask->counts.size();
    last = d.mask.get();
  }
  return bytes;
}

// ---- Post-processing

/// What all ways read.
struct Uploaded {
  explicit Uploaded(const RecordedCase& recorded)
      : spec(recorded.entry.postprocess), outputs(memory.upload(recorded, stream)) {
    stream.synchronize("uploading a recorded case");
  }
  const PostprocessSpec& spec;
  Stream stream;
  UploadedCase memory;
  const DeviceOutputs& outputs;
};

class PostprocessWay : public Way {
 public:
  PostprocessWay(std::string name, const Uploaded& input) : Way(std::move(name)), input_(input) {}
  /// The answer of the last run.
  Detections answer;
  /// Makes `answer` whole, where run() leaves it on the device.
  virtual void complete() {}

 protected:
  const Uploaded& input_;
};

class Stepwise final : public PostprocessWay {
 public:
  Stepwise(std::string name, const Uploaded& input, int device, bool on_device)
      : PostprocessWay(std::move(name), input), processor_(device), on_device_(on_device) {}
  void run() override {
    answer = on_device_ ? processor_.run_on_device(input_.outputs, input_.spec, input_.stream)
                        : processor_.run(input_.outputs, input_.spec, input_.stream);
    row.kernels = row.launches = processor_.counters().kernels;
    row.synchronisations = processor_.counters().synchronisations;
    row.bytes_to_host = processor_.counters().bytes_to_host;
  }
  void complete() override {
    if (on_device_) answer = processor_.run(input_.outputs, input_.spec, input_.stream);
  }

 private:
  StepwisePostprocessor processor_;
  bool on_device_;
};

class Fused : public PostprocessWay {
 public:
  Fused(std::string name, const Uploaded& input, int device, MaskBytes format, Place place,
        bool graph)
      : PostprocessWay(std::move(name), input),
        limits_(make_limits(format, place)),
        processor_(device, limits_),
        in_graph_(graph) {}

  void run() override {
    const auto before = processor_.counters();
    processor_.prepare(input_.outputs, input_.spec, {&input_.spec.geometry, 1}, input_.stream);
    if (!in_graph_) {
      processor_.enqueue(input_.outputs, input_.stream);
      row.kernels = row.launches =
          static_cast<int>(processor_.counters().launches - before.launches);
    } else {
      if (graph_.empty() || generation_ != processor_.generation()) {
        graph_.capture(input_.stream, [&] { processor_.enqueue(input_.outputs, input_.stream); });
        generation_ = processor_.generation();
      }
      graph_.launch(input_.stream);
      row.kernels = graph_.kernels();
      row.launches = 1;
    }
    results_ = processor_.wait(input_.stream);
    row.synchronisations =
        static_cast<int>(processor_.counters().synchronisations - before.synchronisations);
    if (limits_.place == Place::kHost) collect();
  }

  /// Pixels of the masks on the host, where they are left on the device.
  void complete() override {
    if (limits_.place == Place::kHost) return;
    collect();
  }

 private:
  static Limits make_limits(MaskBytes format, Place place) {
    Limits limits;
    limits.mask_bytes = format;
    limits.place = place;
    return limits;
  }

  void collect() {
    answer = std::move(processor_.results().at(0));
    if (limits_.mask_bytes == MaskBytes::kRle) {
      row.bytes_to_host = result_bytes(answer);
      return;
    }
    row.bytes_to_host = sizeof(cuda::ResultHeader);
    encode();
  }

  /// Run lengths of masks of pixels.
  void encode() {
    const auto height = static_cast<std::size_t>(answer.height);
    const auto width = static_cast<std::size_t>(answer.width);
    const auto pitch = static_cast<std::size_t>(cuda::row_pitch(answer.width, MaskBytes::kDense));
    cuda::PictureRecord picture;
    std::vector<cuda::DetectionRecord> detections(answer.items.size());
    const cudaMemcpyKind kind = cudaMemcpyDefault;
    check(cudaMemcpy(&picture, results_.pictures, sizeof(picture), kind), "reading a picture");
    check(cudaMemcpy(detections.data(), results_.detections,
                     detections.size() * sizeof(detections[0]), kind),
          "reading detections");
    const std::size_t bytes = static_cast<std::size_t>(picture.masks) * height * pitch;
    const uint8_t* pixels = results_.bytes + picture.offset;
    if (limits_.place == Place::kDevice) {
      fetched_.resize(bytes);
      check(cudaMemcpy(fetched_.data(), pixels, bytes, kind), "reading masks");
      pixels = fetched_.data();
    } else {
      row.bytes_to_host += sizeof(picture) + detections.size() * sizeof(detections[0]) + bytes;
    }
    std::vector<std::shared_ptr<const Mask>> masks;
    std::vector<uint8_t> dense(height * width);
    for (int m = 0; m < picture.masks; ++m) {
      for (std::size_t y = 0; y < height; ++y) {
        std::memcpy(dense.data() + y * width,
                    pixels + (static_cast<std::size_t>(m) * height + y) * pitch, width);
      }
      Mask mask;
      mask.height = answer.height;
      mask.width = answer.width;
      mask.counts = rle_to_string(rle_encode(dense.data(), mask.height, mask.width));
      masks.push_back(std::make_shared<const Mask>(std::move(mask)));
    }
    for (std::size_t i = 0; i < detections.size(); ++i) {
      if (detections[i].mask >= 0) {
        answer.items[i].mask = masks.at(static_cast<std::size_t>(detections[i].mask));
      }
    }
  }

  Limits limits_;
  CudaPostprocessor processor_;
  CudaPostprocessor::Results results_;
  bool in_graph_;
  Graph graph_;
  uint64_t generation_ = 0;
  std::vector<uint8_t> fetched_;
};

// ---- Network

class NetworkWay final : public Way {
 public:
  NetworkWay(std::string name, const ModelConfig& config, const WeightSource& weights,
             const CudaEngineOptions& options, const float* input)
      : Way(std::move(name)), engine_(create_cuda_engine(config, weights, options)) {
    engine_->prepare(1);
    const std::size_t bytes =
        sizeof(float) * 3 * static_cast<std::size_t>(config.height) * config.width;
    cuda::upload(engine_->input(), input, bytes, "uploading a picture");
    run();  // kernels are loaded when they first run, which a capture does not allow
    // Which kernels a pass has does not depend on how they are launched.
    Graph counted;
    counted.capture(stream_, [&] { engine_->enqueue(1, stream_); });
    row.kernels = counted.kernels();
    row.launches = options.graphs ? 1 : row.kernels;
    row.synchronisations = 1;
    row.precision = engine_->precision();
  }
  void run() override {
    engine_->enqueue(1, stream_);
    stream_.synchronize("running the network");
  }
  void answer(const float* input, PostprocessSpec spec) {
    EngineOutputs outputs;
    engine_->forward(input, 1, outputs, {});
    const ModelConfig& config = engine_->config();
    NetworkOutputs view;
    view.boxes = outputs.boxes.data.data();
    view.logits = outputs.logits.data.data();
    view.queries = config.queries;
    view.classes = config.logits;
    if (config.seg) {
      view.masks = outputs.masks.data.data();
      view.mask_rows = config.mask_rows();
      view.mask_cols = config.mask_cols();
    }
    spec.backend = Backend::kCpu;
    row.answer = postprocess(view, spec);
  }

 private:
  std::unique_ptr<CudaEngine> engine_;
  Stream stream_;
};

// ---- Whole frames

/// What both ways of a frame need.
struct FrameInput {
  CudaEngine& engine;
  const ImageView picture;
  const ResolvedOptions& resolved;
};

class FrameByStages final : public Way {
 public:
  explicit FrameByStages(const FrameInput& input)
      : Way("stage by stage, a wait after each"),
        input_(input),
        preprocessor_(input.engine.device()),
        postprocessor_(input.engine.device()) {
    input_.engine.prepare(1);
    run();
    Graph counted;
    counted.capture(stream_, [&] {
      preprocessor_.enqueue(stream_);
      postprocessor_.enqueue(outputs_, stream_);
    });
    row.kernels = counted.kernels() + input_.engine.launches(1);
    row.launches = counted.kernels() + 1;
    row.synchronisations = 3;
    row.precision = input_.engine.precision();
  }
  void run() override {
    const CudaFrame frame{input_.picture, FrameMemory::kPageable};
    CudaEngine& engine = input_.engine;
    preprocessor_.prepare({&frame, 1}, input_.resolved.preprocess, engine.input(), false, stream_);
    preprocessor_.enqueue(stream_);
    stream_.synchronize("resizing a picture");
    const DeviceHeads heads = engine.enqueue(1, stream_);
    stream_.synchronize("running the network");
    const ModelConfig& config = engine.config();
    outputs_.batch = 1;
    outputs_.queries = config.queries;
    outputs_.classes = config.logits;
    outputs_.boxes = heads.boxes;
    outputs_.logits = heads.logits;
    if (config.seg && input_.resolved.postprocess.masks != MaskFormat::kNone) {
      outputs_.masks = heads.masks;
      outputs_.masks_type = heads.masks_half ? cuda::Number::kFloat16 : cuda::Number::kFloat32;
      outputs_.mask_rows = config.mask_rows();
      outputs_.mask_cols = config.mask_cols();
    }
    row.answer = std::move(
        postprocessor_
            .run(outputs_, input_.resolved.postprocess, preprocessor_.geometries(), stream_)
            .at(0));
    row.bytes_to_host = result_bytes(row.answer);
  }

 private:
  const FrameInput& input_;
  Stream stream_;
  CudaPreprocessor preprocessor_;
  CudaPostprocessor postprocessor_;
  DeviceOutputs outputs_;
};

class FrameInOneGraph final : public Way {
 public:
  FrameInOneGraph(const FrameInput& input, int kernels)
      : Way("one graph: upload, resize, network, masks, results"),
        input_(input),
        runner_(std::move(make_cuda_batch_runners(input.engine, input.resolved, {}).at(0))) {
    row.kernels = kernels;
    row.launches = row.synchronisations = 1;
    row.precision = input_.engine.precision();
  }
  void run() override {
    runner_->add(input_.picture, {});
    runner_->seal();
    runner_->infer();
    runner_->finish();
    row.answer = runner_->detections(0);
    runner_->clear();
    row.bytes_to_host = result_bytes(row.answer);
  }

 private:
  const FrameInput& input_;
  std::unique_ptr<CudaBatchRunner> runner_;
};

}  // namespace

std::vector<AblationRow> ablate_postprocess(const RecordedCase& recorded,
                                            const AblationOptions& options) {
  cuda::open_device(options.device);
  const Uploaded input(recorded);
  std::vector<std::unique_ptr<Way>> ways;
  const auto add = [&](auto way) { ways.push_back(std::move(way)); };
  const auto fused = [&](const char* name, MaskBytes format, Place place, bool graph) {
    add(std::make_unique<Fused>(name, input, options.device, format, place, graph));
  };
  const auto stepwise = [&](const char* name, bool on_device) {
    add(std::make_unique<Stepwise>(name, input, options.device, on_device));
  };
  stepwise("operation by operation, run lengths on the host", false);
  if (!recorded.masks.empty()) {
    stepwise("operation by operation, masks of pixels left on the GPU", true);
    fused("masks of pixels by one kernel, run lengths on the host", MaskBytes::kDense, Place::kHost,
          false);
    fused("masks of pixels by one kernel, left on the GPU", MaskBytes::kDense, Place::kDevice,
          false);
  }
  fused("run lengths by fused kernels", MaskBytes::kRle, Place::kHost, false);
  fused("run lengths by fused kernels, in a graph", MaskBytes::kRle, Place::kHost, true);
  measure(ways, options);
  for (const auto& way : ways) {
    auto& one = static_cast<PostprocessWay&>(*way);
    one.complete();
    one.row.difference = check_answer(recorded, one.answer, nullptr, {});
  }
  return rows_of(ways);
}

std::vector<AblationRow> ablate_network(const ModelConfig& config, const WeightSource& weights,
                                        const float* input, const PostprocessSpec& spec,
                                        const AblationOptions& options) {
  cuda::open_device(options.device);
  CudaEngineOptions level;
  level.device = options.device;
  level.graphs = level.overlap = level.two_streams = false;
  level.portable = true;
  std::vector<std::unique_ptr<Way>> ways;
  const auto add = [&](const char* name) {
    ways.push_back(std::make_unique<NetworkWay>(name, config, weights, level, input));
  };
  add("kernel by kernel, kernels for every GPU");
  level.two_streams = true;
  add("+ independent parts on a second stream");
  level.overlap = true;
  add("+ kernels launched before the one ahead has ended");
  level.graphs = true;
  add("+ one graph");
  level.portable = false;
  add("+ the GPU's own kernels");
  level.precision = Precision::kTf32;
  add("the same in tf32");
  level.precision = Precision::kFp32;
  add("the same in fp32");
  measure(ways, options);
  for (const auto& way : ways) static_cast<NetworkWay&>(*way).answer(input, spec);
  return rows_of(ways);
}

std::vector<AblationRow> ablate_frame(const ModelConfig& config, const WeightSource& weights,
                                      const ImageView& picture, const ResolvedOptions& resolved,
                                      const AblationOptions& options) {
  cuda::open_device(options.device);
  CudaEngineOptions engine_options;
  engine_options.device = options.device;
  const auto engine = create_cuda_engine(config, weights, engine_options);
  const FrameInput input{*engine, picture, resolved};
  std::vector<std::unique_ptr<Way>> ways;
  ways.push_back(std::make_unique<FrameByStages>(input));
  ways.push_back(std::make_unique<FrameInOneGraph>(input, ways[0]->row.kernels));
  measure(ways, options);
  return rows_of(ways);
}

}  // namespace rfseg
