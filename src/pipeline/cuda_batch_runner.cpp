#include "pipeline/cuda_batch_runner.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <map>
#include <optional>
#include <utility>

#include "core/cuda/device.h"
#include "pipeline/cuda_clock.h"
#include "pipeline/cuda_frame_graph.h"
#include "pipeline/picture_planes.h"
#include "postprocess/cuda/cuda_postprocessor.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using cuda::Buffer;
using cuda::check;
using cuda::Event;
using cuda::Stream;
using Place = HeldPixels::Place;

constexpr std::size_t kRowAlignment = 16;  ///< of rows in device memory
constexpr std::size_t kPictureAlignment = 256;
constexpr std::size_t kUnits = 4;   ///< batch sizes that a runner keeps graphs of
constexpr std::size_t kGraphs = 4;  ///< of a batch size, by the number of uploads

std::size_t align(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

bool same_view(const ImageView& a, const ImageView& b) {
  return std::equal(std::begin(a.planes), std::end(a.planes), std::begin(b.planes)) &&
         std::equal(std::begin(a.strides), std::end(a.strides), std::begin(b.strides)) &&
         a.width == b.width && a.height == b.height && a.format == b.format &&
         a.matrix == b.matrix && a.range == b.range;
}

/// A picture of the batch under way, and where its planes will be.
struct Picture {
  ImageView view;  ///< planes: on the device, or offsets in the device's pixel buffer
  HeldPixels held;
  bool uploaded = false;
};

/// What depends on the size of the batch: graphs, and the stages' parameters and results that the
/// graphs point to.
struct Unit {
  Unit(int device, int b) : batch(b), preprocessor(device), postprocessor(device) {}
  int batch;
  CudaPreprocessor preprocessor;
  CudaPostprocessor postprocessor;
  DeviceOutputs outputs;
  std::vector<ImageView> prepared;  ///< the preprocessor's parameters are these pictures'
  bool warm = false;                ///< has run once: its kernels are loaded, `outputs` is set
  uint64_t preprocessor_generation = 0, postprocessor_generation = 0, engine_generation = 0;
  std::map<std::size_t, FrameGraph> graphs;  ///< by number of uploads
};

class Runner final : public CudaBatchRunner {
 public:
  Runner(std::unique_ptr<CudaEngine> engine, const ResolvedOptions& resolved,
         const RunnerOptions& options)
      : engine_(std::move(engine)), resolved_(resolved), device_(engine_->device()) {
    engine_->prepare(options.batch);
    if (options.stage_times || options.frame_times) clock_.emplace();
    every_stage_ = options.stage_times;
  }
  ~Runner() override {
    cudaSetDevice(device_);
    cudaStreamSynchronize(stream_);  // a cancelled run may leave work behind
  }

  void add(const ImageView& picture, const HeldPixels& held) override {
    use_device();
    preprocess_geometry(picture.height, picture.width, resolved_.preprocess);  // refuses bad ones
    if (held.on_device()) {
      if (held.device != device_) {
        throw Error(ErrorCode::kInput, "a frame lies on another GPU than the network");
      }
      pictures_.push_back({picture, held, false});
      return;
    }
    if (held.place == Place::kPinned && held.owner != nullptr && add_in_place(picture, held))
      return;
    const std::vector<Plane> planes = planes_of(picture);
    std::size_t bytes = 0;
    for (const Plane& plane : planes) bytes += pitch(plane) * static_cast<std::size_t>(plane.rows);
    const std::size_t begin = staged_;
    staged_ = align(begin + bytes, kPictureAlignment);
    grow_staging(begin);
    ImageView view = picture;
    std::size_t at = begin;
    for (std::size_t p = 0; p < planes.size(); ++p) {
      const auto rows = static_cast<std::size_t>(planes[p].rows);
      view.planes[p] = offset(at);
      view.strides[p] = static_cast<std::ptrdiff_t>(pitch(planes[p]));
      copy_plane(staging_.data() + at, view.strides[p], picture.planes[p], picture.strides[p],
                 planes[p]);
      at += pitch(planes[p]) * rows;
    }
    pictures_.push_back({view, {}, true});
  }
  std::size_t size() const override { return pictures_.size(); }
  void seal() override {}

  void infer() override {
    use_device();
    busy_ = true;
    Unit& unit = unit_of(static_cast<int>(pictures_.size()));
    place_uploads();
    // What the last batch left may be somewhere else by now.
    if (unit.engine_generation != engine_->counters().allocations) unit.warm = false;
    std::vector<CudaFrame> frames;
    for (const Picture& picture : pictures_) {
      frames.push_back({picture.view, FrameMemory::kDevice});
      if (picture.held.ready != nullptr) {
        check(cudaStreamWaitEvent(stream_, picture.held.ready, 0), "waiting for a frame");
      }
    }
    prepare_resizing(unit, frames);
    if (unit.warm) {
      prepare_results(unit);
      drop_stale_graphs(unit);
      launch(unit);
    } else {
      run_alone(unit);
    }
    current_ = &unit;
  }

  void finish() override {
    use_device();
    Unit& unit = *current_;
    unit.postprocessor.wait(stream_);
    busy_ = false;
    for (Picture& picture : pictures_) picture.held = {};  // their makers may go on with them
    results_ = unit.postprocessor.results();
  }
  Detections detections(std::size_t picture) override { return std::move(results_.at(picture)); }
  Times times() const override {
    if (!clock_ || !every_stage_ || rounds_ == 0) return {};
    const auto between = [&](int from, int to) {
      return static_cast<double>(clock_->at(rounds_ - 1, to) - clock_->at(rounds_ - 1, from)) / 1e6;
    };
    return {between(0, 1), between(1, 2), between(2, 3)};
  }
  GpuInterval gpu_interval() const override {
    return clock_ && rounds_ > 0 ? interval(rounds_ - 1) : GpuInterval{};
  }
  void clear() override {
    if (busy_) {  // an error came between infer and finish: pixels may still be read
      cudaSetDevice(device_);
      cudaStreamSynchronize(stream_);
      busy_ = false;
    }
    pictures_.clear();
    results_.clear();
    pinned_copies_.clear();
    staged_ = pinned_ = 0;
    current_ = nullptr;
  }

  const Counters& counters() const override { return counters_; }

  void enqueue_replay() override {
    if (current_ == nullptr || !current_->graphs.contains(0)) {
      throw Error(ErrorCode::kInternal, "CUDA: no graph without uploads to replay");
    }
    current_->graphs.at(0).launch(stream_, {});
    ++rounds_;
  }
  void wait() override { stream_.synchronize("replaying a frame"); }

 private:
  static std::size_t pitch(const Plane& plane) { return align(plane.row_bytes, kRowAlignment); }
  static const uint8_t* offset(std::size_t at) {
    return reinterpret_cast<const uint8_t*>(static_cast<uintptr_t>(at));
  }
  void use_device() const { check(cudaSetDevice(device_), "choosing the device"); }

  GpuInterval interval(uint32_t round) const {
    return {clock_->at(round, 0), clock_->at(round, cuda::Clock::kPoints - 1)};
  }

  /// The GPU copies pinned planes by itself, each as one span. False where that would copy much
  /// else.
  bool add_in_place(const ImageView& picture, const HeldPixels& held) {
    const std::vector<Plane> planes = planes_of(picture);
    for (std::size_t p = 0; p < planes.size(); ++p) {
      const std::ptrdiff_t stride = picture.strides[p];
      if (stride < static_cast<std::ptrdiff_t>(planes[p].row_bytes) ||
          stride > static_cast<std::ptrdiff_t>(2 * planes[p].row_bytes)) {
        return false;
      }
    }
    ImageView view = picture;
    for (std::size_t p = 0; p < planes.size(); ++p) {
      const std::size_t bytes = static_cast<std::size_t>(picture.strides[p]) *
                                    static_cast<std::size_t>(planes[p].rows - 1) +
                                planes[p].row_bytes;
      // Behind the staged pictures, whose end is known when the batch is complete.
      view.planes[p] = offset(pinned_);
      pinned_copies_.push_back({const_cast<uint8_t*>(offset(pinned_)), picture.planes[p], bytes});
      pinned_ = align(pinned_ + bytes, kPictureAlignment);
    }
    pictures_.push_back({view, held, true});
    return true;
  }

  void grow_staging(std::size_t used) {
    if (staging_.size() >= staged_) return;
    Buffer larger(Buffer::Kind::kPinned);
    larger.reserve(std::max(staged_, 2 * staging_.size()));
    if (used > 0) std::memcpy(larger.data(), staging_.data(), used);
    std::swap(staging_, larger);
  }

  /// Gives uploads and views their addresses on the device.
  void place_uploads() {
    copies_.clear();
    const std::size_t bytes = staged_ + pinned_;
    // The batch before this one has been waited for: nothing reads what is freed here.
    if (pixels_.size() < bytes) pixels_.reserve(std::max(bytes, pixels_.size() * 3 / 2));
    std::byte* const base = pixels_.data();
    if (staged_ > 0) copies_.push_back({base, staging_.data(), staged_});
    for (const FrameGraph::Copy& copy : pinned_copies_) {
      copies_.push_back(
          {base + staged_ + reinterpret_cast<uintptr_t>(copy.to), copy.from, copy.bytes});
    }
    for (Picture& picture : pictures_) {
      if (!picture.uploaded) continue;
      const std::size_t from = picture.held.owner != nullptr ? staged_ : 0;
      for (std::size_t p = 0; p < planes_of(picture.view).size(); ++p) {
        picture.view.planes[p] = reinterpret_cast<const uint8_t*>(base) + from +
                                 reinterpret_cast<uintptr_t>(picture.view.planes[p]);
      }
    }
  }

  Unit& unit_of(int batch) {
    const auto found = std::find_if(units_.begin(), units_.end(),
                                    [batch](const Unit& unit) { return unit.batch == batch; });
    if (found != units_.end()) {
      units_.splice(units_.begin(), units_, found);
    } else {
      if (units_.size() == kUnits) units_.pop_back();
      engine_->prepare(batch);
      units_.emplace_front(device_, batch);
    }
    return units_.front();
  }

  void prepare_resizing(Unit& unit, const std::vector<CudaFrame>& frames) {
    const bool repeated =
        std::equal(frames.begin(), frames.end(), unit.prepared.begin(), unit.prepared.end(),
                   [](const CudaFrame& a, const ImageView& b) { return same_view(a.view, b); });
    if (repeated && unit.warm) return;
    unit.prepared.clear();
    unit.preprocessor.prepare(frames, resolved_.preprocess, engine_->input(), false, stream_);
    for (const CudaFrame& frame : frames) unit.prepared.push_back(frame.view);
    counters_.uploads = unit.preprocessor.counters().uploads;
  }
  void prepare_results(Unit& unit) {
    unit.postprocessor.prepare(unit.outputs, resolved_.postprocess, unit.preprocessor.geometries(),
                               stream_);
  }

  void drop_stale_graphs(Unit& unit) {
    if (unit.preprocessor.generation() == unit.preprocessor_generation &&
        unit.postprocessor.generation() == unit.postprocessor_generation) {
      return;
    }
    unit.graphs.clear();
    unit.preprocessor_generation = unit.preprocessor.generation();
    unit.postprocessor_generation = unit.postprocessor.generation();
  }

  void launch(Unit& unit) {
    if (!unit.graphs.contains(copies_.size()) && unit.graphs.size() == kGraphs) unit.graphs.clear();
    FrameGraph& graph = unit.graphs[copies_.size()];
    if (graph.empty()) {
      graph.capture(stream_, copies_, [&] { enqueue_kernels(unit); });
      ++counters_.captures;
    }
    graph.launch(stream_, copies_);
    ++counters_.launches;
    ++rounds_;
  }

  /// The first batch of its size: kernels are loaded when they first run, which a capture does not
  /// allow, and where the network leaves its outputs is known after it.
  void run_alone(Unit& unit) {
    unit.graphs.clear();
    FrameGraph::enqueue(stream_, copies_);
    note(0);
    unit.preprocessor.enqueue(stream_);
    if (every_stage_) note(1);
    unit.outputs = outputs_of(engine_->enqueue(unit.batch, stream_), unit.batch);
    if (every_stage_) note(2);
    prepare_results(unit);
    unit.postprocessor.enqueue(unit.outputs, stream_);
    note(3);
    unit.warm = true;
    unit.engine_generation = engine_->counters().allocations;
    ++counters_.alone;
    ++rounds_;
  }

  void enqueue_kernels(Unit& unit) {
    note(0);
    unit.preprocessor.enqueue(stream_);
    if (every_stage_) note(1);
    engine_->enqueue(unit.batch, stream_);
    if (every_stage_) note(2);
    unit.postprocessor.enqueue(unit.outputs, stream_);
    note(3);
  }
  void note(int point) {
    if (clock_) clock_->enqueue(point, stream_);
  }

  DeviceOutputs outputs_of(const DeviceHeads& heads, int batch) const {
    const ModelConfig& config = engine_->config();
    DeviceOutputs o;
    o.batch = batch;
    o.queries = config.queries;
    o.classes = config.logits;
    o.boxes = heads.boxes;
    o.logits = heads.logits;
    if (heads.masks != nullptr && resolved_.postprocess.masks != MaskFormat::kNone) {
      o.mask_rows = config.mask_rows();
      o.mask_cols = config.mask_cols();
      o.masks_type = heads.masks_half ? cuda::Number::kFloat16 : cuda::Number::kFloat32;
      o.masks = heads.masks;
    }
    return o;
  }

  std::unique_ptr<CudaEngine> engine_;  ///< nobody else's
  const ResolvedOptions& resolved_;
  int device_;
  Stream stream_;
  std::optional<cuda::Clock> clock_;
  bool every_stage_ = false;
  uint32_t rounds_ = 0;  ///< of the clock
  Buffer staging_{Buffer::Kind::kPinned}, pixels_{Buffer::Kind::kDevice};
  std::size_t staged_ = 0, pinned_ = 0;          ///< bytes of the batch so far
  std::vector<FrameGraph::Copy> pinned_copies_;  ///< `to` counts from the end of the staged ones
  std::vector<FrameGraph::Copy> copies_;
  std::vector<Picture> pictures_;
  std::list<Unit> units_;  ///< last used first
  Unit* current_ = nullptr;
  bool busy_ = false;
  std::vector<Detections> results_;
  Counters counters_;
};

}  // namespace

std::vector<std::unique_ptr<CudaBatchRunner>> make_cuda_batch_runners(
    CudaEngine& engine, const ResolvedOptions& resolved, const RunnerOptions& options) {
  check(cudaSetDevice(engine.device()), "choosing the device");
  std::vector<std::unique_ptr<CudaBatchRunner>> runners;
  while (runners.size() < static_cast<std::size_t>(options.count)) {
    try {
      runners.push_back(std::make_unique<Runner>(engine.share(), resolved, options));
    } catch (const Error& error) {
      // Fewer do the same, slower.
      if (error.code() != ErrorCode::kDevice || runners.empty()) throw;
      break;
    }
  }
  return runners;
}

std::function<std::shared_ptr<std::byte>(std::size_t)> pinned_allocator(int device) {
  return [device](std::size_t bytes) {
    check(cudaSetDevice(device), "choosing the device");
    auto buffer = std::make_shared<Buffer>(Buffer::Kind::kPinned);
    buffer->reserve(bytes);
    return std::shared_ptr<std::byte>(buffer, buffer->data());
  };
}

std::size_t device_memory_used(int device) {
  check(cudaSetDevice(device), "choosing the device");
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for free memory");
  return total - free;
}

uint64_t gpu_clock_step_ns(int device) {
  check(cudaSetDevice(device), "choosing the device");
  return cuda::Clock::resolution();
}

Image fetch_rgb(const ImageView& picture, const HeldPixels& held) {
  check(cudaSetDevice(held.device), "choosing the device");
  const Stream stream;
  if (held.ready != nullptr) {
    check(cudaStreamWaitEvent(stream, held.ready, 0), "waiting for a frame");
  }
  const std::vector<Plane> planes = planes_of(picture);
  std::vector<std::vector<uint8_t>> rows(planes.size());
  ImageView view = picture;
  for (std::size_t p = 0; p < planes.size(); ++p) {
    rows[p].resize(planes[p].row_bytes * static_cast<std::size_t>(planes[p].rows));
    check(
        cudaMemcpy2DAsync(rows[p].data(), planes[p].row_bytes, picture.planes[p],
                          static_cast<std::size_t>(picture.strides[p]), planes[p].row_bytes,
                          static_cast<std::size_t>(planes[p].rows), cudaMemcpyDeviceToHost, stream),
        "fetching a frame");
    view.planes[p] = rows[p].data();
    view.strides[p] = static_cast<std::ptrdiff_t>(planes[p].row_bytes);
  }
  stream.synchronize("fetching a frame");
  return to_rgb(view, {});
}

}  // namespace rfseg
