#include "pipeline/cuda_batch_runner.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <utility>

#include "core/cuda/device.h"
#include "core/cuda/range.h"
#include "pipeline/cuda_clock.h"
#include "pipeline/picture_planes.h"
#include "postprocess/cuda/cuda_postprocessor.h"
#include "preprocess/cuda/cuda_preprocessor.h"
#include "preprocess/cuda/pixel_gate.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using cuda::Buffer;
using cuda::check;
using cuda::Stream;
using Place = HeldPixels::Place;

constexpr std::size_t kRowAlignment = 16;  ///< of rows in device memory
constexpr std::size_t kPlaneAlignment = 256;
constexpr std::size_t kUnits = 4;  ///< batch sizes that a runner keeps graphs of

/// While one thread captures, no other may wait for the whole device, as allocating stages do: that
/// would break the capture and be refused. Captures hold it alone, everybody else shares it.
std::shared_mutex& capture_mutex() {
  static std::shared_mutex mutex;
  return mutex;
}

std::size_t align(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

bool same_view(const ImageView& a, const ImageView& b) {
  return std::equal(std::begin(a.planes), std::end(a.planes), std::begin(b.planes)) &&
         std::equal(std::begin(a.strides), std::end(a.strides), std::begin(b.strides)) &&
         a.width == b.width && a.height == b.height && a.format == b.format &&
         a.matrix == b.matrix && a.range == b.range;
}

/// Waiting for it leaves the processor to others.
class BlockingEvent {
 public:
  BlockingEvent() {
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming | cudaEventBlockingSync),
          "creating an event");
  }
  ~BlockingEvent() { cudaEventDestroy(event_); }
  BlockingEvent(const BlockingEvent&) = delete;
  BlockingEvent& operator=(const BlockingEvent&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A place in the batch, with the memory of whatever picture takes it.
struct Seat {
  Buffer staging{Buffer::Kind::kPinned}, pixels{Buffer::Kind::kDevice};
  ImageView view;  ///< planes on the device
  HeldPixels held;
};

/// What depends on the size of the batch: graphs, and the stages' parameters and results that the
/// graphs point to.
struct Unit {
  Unit(int device, int b, const CudaPostprocessor::Limits& limits)
      : batch(b), preprocessor(device), postprocessor(device, limits) {}
  int batch;
  CudaPreprocessor preprocessor;
  CudaPostprocessor postprocessor;
  DeviceOutputs outputs;
  std::vector<ImageView> prepared;  ///< the preprocessor's parameters are these pictures'
  bool warm = false;                ///< has run once: its kernels are loaded, `outputs` is set
  uint64_t preprocessor_generation = 0, postprocessor_generation = 0, engine_generation = 0;
  cuda::Graph graph;
};

class Runner final : public CudaBatchRunner {
 public:
  Runner(std::unique_ptr<CudaEngine> engine, const ResolvedOptions& resolved,
         const RunnerOptions& options)
      : engine_(std::move(engine)),
        resolved_(resolved),
        device_(engine_->device()),
        spinning_(options.spin),
        seats_(static_cast<std::size_t>(options.batch)) {
    engine_->prepare(options.batch);
    if (options.stage_times || options.frame_times) clock_.emplace();
    every_stage_ = options.stage_times;
    // The clock's readings begin where the kernels do, not where they begin to wait.
    if (spinning_ && !clock_) {
      gate_.emplace();
      if (!gate_->usable()) gate_.reset();
    }
  }
  ~Runner() override {
    cudaSetDevice(device_);
    cudaStreamSynchronize(copies_);  // a cancelled run may leave work behind
    cudaStreamSynchronize(stream_);
  }

  void add(const ImageView& picture, const HeldPixels& held) override {
    use_device();
    preprocess_geometry(picture.height, picture.width, resolved_.preprocess);  // refuses bad ones
    Seat& seat = seats_.at(taken_);
    if (held.on_device()) {
      if (held.device != device_) {
        throw Error(ErrorCode::kInput, "a frame lies on another GPU than the network");
      }
      seat.view = picture;
      seat.held = held;
    } else {
      upload(seat, picture, held);
    }
    ++taken_;
  }
  std::size_t size() const override { return taken_; }
  void seal() override {}

  void infer() override {
    const cuda::Range range("launch of a batch");
    use_device();
    busy_ = true;
    Unit& unit = unit_of(static_cast<int>(taken_));
    // What the last batch left may be somewhere else by now.
    if (unit.engine_generation != engine_->counters().allocations) unit.warm = false;
    std::vector<CudaFrame> frames;
    bool uploaded = false;
    for (std::size_t i = 0; i < taken_; ++i) {
      uploaded = uploaded || !seats_[i].held.on_device();
      frames.push_back({seats_[i].view, FrameMemory::kDevice});
      if (seats_[i].held.ready != nullptr) {
        check(cudaStreamWaitEvent(stream_, seats_[i].held.ready, 0), "waiting for a frame");
      }
    }
    bool launched = true;
    {
      const std::shared_lock others_wait(capture_mutex());
      prepare_resizing(unit, frames);
      if (!uploaded) gate_.reset();  // frames come otherwise: no graph for each of two ways
      unit.preprocessor.wait_for(gate_ ? gate_->words() : nullptr);
      if (gate_) gate_->open(copies_);
      if (!unit.warm) {
        run_alone(unit);
      } else {
        prepare_results(unit);
        drop_stale_graph(unit);
        launched = !unit.graph.empty();
        if (launched) launch(unit);
      }
    }
    if (!launched) capture_and_launch(unit);
    if (!spinning_) check(cudaEventRecord(done_, stream_), "recording an event");
    current_ = &unit;
  }

  void finish() override {
    const cuda::Range range("wait for a batch");
    use_device();
    Unit& unit = *current_;
    // A processor is worth more than some microseconds where other batches are in flight.
    if (!spinning_) check(cudaEventSynchronize(done_), "waiting for a batch");
    const std::shared_lock others_wait(capture_mutex());
    unit.postprocessor.wait(stream_);
    busy_ = false;
    for (Seat& seat : seats_) seat.held = {};  // their makers may go on with them
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
    if (busy_) {  // an error came on the way: pixels may still be read
      cudaSetDevice(device_);
      cudaStreamSynchronize(copies_);
      cudaStreamSynchronize(stream_);
      if (gate_) reset_gate();
      busy_ = false;
    }
    for (Seat& seat : seats_) seat.held = {};
    results_.clear();
    taken_ = 0;
    current_ = nullptr;
  }

  const Counters& counters() const override { return counters_; }

  void enqueue_replay() override {
    if (current_ == nullptr || current_->graph.empty()) {
      throw Error(ErrorCode::kInternal, "CUDA: no graph to replay");
    }
    current_->graph.launch(stream_);
    ++rounds_;
  }
  void wait() override { stream_.synchronize("replaying a frame"); }

 private:
  void use_device() const { check(cudaSetDevice(device_), "choosing the device"); }

  GpuInterval interval(uint32_t round) const {
    return {clock_->at(round, 0), clock_->at(round, cuda::Clock::kPoints - 1)};
  }

  /// Brings a picture to the GPU, at once: while the rest of the batch is decoded, and while the
  /// host prepares its launch. Pinned planes are copied from where they are, each as one span,
  /// others through pinned memory.
  void upload(Seat& seat, const ImageView& picture, const HeldPixels& held) {
    const cuda::Range range("upload of a picture");
    const std::vector<Plane> planes = planes_of(picture);
    const bool in_place =
        held.place == Place::kPinned && held.owner != nullptr && few_gaps(picture, planes);
    seat.view = picture;
    std::size_t offsets[4] = {};
    for (std::size_t p = 0; p < planes.size(); ++p) {
      if (!in_place) {
        seat.view.strides[p] =
            static_cast<std::ptrdiff_t>(align(planes[p].row_bytes, kRowAlignment));
      }
      offsets[p + 1] = align(offsets[p] + span(planes[p], seat.view.strides[p]), kPlaneAlignment);
    }
    const std::size_t bytes = offsets[planes.size()];
    // The batch before this one has been waited for: nothing reads what is freed here.
    if (seat.pixels.size() < bytes)
      seat.pixels.reserve(std::max(bytes, seat.pixels.size() * 3 / 2));
    if (!in_place && seat.staging.size() < bytes) {
      seat.staging.reserve(std::max(bytes, seat.staging.size() * 3 / 2));
    }
    busy_ = true;
    for (std::size_t p = 0; p < planes.size(); ++p) {
      std::byte* const to = seat.pixels.data() + offsets[p];
      seat.view.planes[p] = reinterpret_cast<const uint8_t*>(to);
      if (in_place) {
        copy(to, picture.planes[p], span(planes[p], picture.strides[p]));
      } else {
        copy_plane(seat.staging.data() + offsets[p], seat.view.strides[p], picture.planes[p],
                   picture.strides[p], planes[p]);
      }
    }
    if (in_place) {
      seat.held = held;
    } else {
      copy(seat.pixels.data(), seat.staging.data(), bytes);
    }
  }
  static std::size_t span(const Plane& plane, std::ptrdiff_t stride) {
    return static_cast<std::size_t>(stride) * static_cast<std::size_t>(plane.rows - 1) +
           plane.row_bytes;
  }
  static bool few_gaps(const ImageView& picture, const std::vector<Plane>& planes) {
    for (std::size_t p = 0; p < planes.size(); ++p) {
      const auto row = static_cast<std::ptrdiff_t>(planes[p].row_bytes);
      if (picture.strides[p] < row || picture.strides[p] > 2 * row) return false;
    }
    return true;
  }
  void copy(void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, gate_ ? copies_ : stream_),
          "copying a frame");
  }
  /// It may be open, with no kernel that has closed it.
  void reset_gate() {
    try {
      gate_->close(copies_);
    } catch (const Error&) {
      gate_.reset();  // what is wrong with the device, the next batch tells
    }
  }

  Unit& unit_of(int batch) {
    const auto found = std::find_if(units_.begin(), units_.end(),
                                    [batch](const Unit& unit) { return unit.batch == batch; });
    if (found != units_.end()) {
      units_.splice(units_.begin(), units_, found);
    } else {
      const std::unique_lock alone(capture_mutex());
      if (units_.size() == kUnits) {
        stream_.synchronize("running a frame");  // its results may be there before its end
        units_.pop_back();
      }
      engine_->prepare(batch);
      // The clock's last reading comes after the results: with one, the stream is waited for.
      CudaPostprocessor::Limits limits;
      limits.spin = spinning_ && !clock_;
      units_.emplace_front(device_, batch, limits);
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

  void drop_stale_graph(Unit& unit) {
    if (unit.preprocessor.generation() == unit.preprocessor_generation &&
        unit.postprocessor.generation() == unit.postprocessor_generation) {
      return;
    }
    if (!unit.graph.empty()) stream_.synchronize("running a frame");
    unit.graph.reset();
    unit.preprocessor_generation = unit.preprocessor.generation();
    unit.postprocessor_generation = unit.postprocessor.generation();
  }

  void launch(Unit& unit) {
    unit.graph.launch(stream_);
    ++counters_.launches;
    ++rounds_;
  }

  void capture_and_launch(Unit& unit) {
    const std::unique_lock alone(capture_mutex());
    try {
      unit.graph.capture(stream_, [&] { enqueue_kernels(unit); });
      ++counters_.captures;
    } catch (const Error&) {
      // Somebody else's code waited for the device meanwhile. The next batch tries again.
      enqueue_kernels(unit);
      ++counters_.alone;
      ++rounds_;
      return;
    }
    launch(unit);
  }

  /// The first batch of its size: kernels are loaded when they first run, which a capture does not
  /// allow, and where the network leaves its outputs is known after it.
  void run_alone(Unit& unit) {
    unit.graph.reset();
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
  /// One batch at a time, and pictures are uploaded: they come by a stream of their own, and the
  /// resize, launched meanwhile, waits for the gate.
  Stream copies_;
  std::optional<cuda::PixelGate> gate_;
  std::optional<cuda::Clock> clock_;
  bool every_stage_ = false;
  uint32_t rounds_ = 0;  ///< of the clock
  bool spinning_;
  BlockingEvent done_;
  std::vector<Seat> seats_;
  std::size_t taken_ = 0;  ///< of the seats
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
  const std::unique_lock alone(capture_mutex());
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
