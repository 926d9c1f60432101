#include "postprocess/cuda/cuda_postprocessor.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <mutex>

#include "core/cuda/device.h"
#include "postprocess/backends.h"
#include "postprocess/cuda/kernels.h"
#include "postprocess/cuda/plan.h"
#include "rfseg/error.h"

namespace rfseg {
using cuda::Buffer;
using cuda::check;

namespace {

/// Whether two calls select the same from the same outputs.
bool same_call(const PostprocessSpec& a, const PostprocessSpec& b) {
  return a.like == b.like && a.threshold == b.threshold &&
         a.class_thresholds == b.class_thresholds && a.class_map == b.class_map &&
         a.num_select == b.num_select && a.max_detections == b.max_detections;
}

}  // namespace

struct CudaPostprocessor::Impl {
  /// Workspace and results of one set of capacities.
  struct Buffers {
    explicit Buffers(const Limits& limits)
        : place(limits.place),
          format(limits.mask_bytes),
          pixels(format != cuda::MaskBytes::kRle),
          results(place == Place::kHost ? Buffer::Kind::kPinned : Buffer::Kind::kDevice),
          masks(place == Place::kHost ? Buffer::Kind::kPinned : Buffer::Kind::kDevice) {}
    Place place;
    cuda::MaskBytes format;
    bool pixels;
    cuda::Capacity capacity;
    Buffer workspace{Buffer::Kind::kDevice}, results, header{Buffer::Kind::kPinned};
    /// Of pixels, apart from the other results: calls of any shapes leave them as the next needs
    /// them.
    Buffer masks, set_runs{Buffer::Kind::kDevice};
    bool masks_known = false;  ///< `set_runs` tells what is set in `masks`
    cuda::KernelArguments arguments;

    void arrange(const cuda::Shape& shape, const cuda::Capacity& wanted, Counters& counters) {
      capacity = wanted;
      const std::size_t bytes = cuda::carve_workspace(arguments, shape, wanted, nullptr);
      if (workspace.reserve(bytes)) {
        ++counters.allocations;
        check(cudaMemset(workspace.data(), 0, bytes), "clearing the workspace");
        check(cudaDeviceSynchronize(), "clearing the workspace");
      }
      counters.allocations +=
          results.reserve(cuda::carve_results(arguments, shape, in_results(), nullptr)) ? 1 : 0;
      cuda::carve_workspace(arguments, shape, wanted, workspace.data());
      cuda::carve_results(arguments, shape, in_results(), results.data());
      if (place == Place::kDevice) {  // results() copies what is between those in use, too
        check(cudaMemset(results.data(), 0, results.size()), "clearing the results");
        check(cudaDeviceSynchronize(), "clearing the results");
      }
      if (pixels) arrange_masks(counters);
      counters.allocations += header.reserve(sizeof(cuda::ResultHeader)) ? 1 : 0;
      arguments.header = header.as<cuda::ResultHeader>();
      *arguments.header = cuda::ResultHeader{};
    }

    /// What `results` has room for.
    cuda::Capacity in_results() const {
      cuda::Capacity some = capacity;
      if (pixels) some.bytes = 0;
      return some;
    }

    void arrange_masks(Counters& counters) {
      if (masks.size() < capacity.bytes) {
        masks_known = false;
        masks.reserve(capacity.bytes);
        ++counters.allocations;
      }
      const std::size_t words =
          masks.size() / static_cast<std::size_t>(cuda::run_bytes(format)) / 32 + 2;
      if (set_runs.size() < words * sizeof(uint32_t)) {
        masks_known = false;
        set_runs.reserve(words * sizeof(uint32_t));
        ++counters.allocations;
      }
      if (!masks_known) {
        if (masks.size() > 0) {
          check(cudaMemset(masks.data(), 0, masks.size()), "clearing the masks");
        }
        check(cudaMemset(set_runs.data(), 0, set_runs.size()), "clearing the masks");
        check(cudaDeviceSynchronize(), "clearing the masks");
        masks_known = true;
      }
      arguments.bytes = masks.as<uint8_t>();
      arguments.byte_capacity = capacity.bytes;
      arguments.set_runs = set_runs.as<uint32_t>();
    }
  };

  explicit Impl(const Limits& wanted) : limits(wanted), buffers(wanted) {}

  int device = 0;
  int cluster = 1;
  bool early = false;  ///< a kernel may start before the end of the one before
  int multiprocessors = 1;
  bool alone = false;            ///< the mask kernel selects, too
  bool plain = false;            ///< all axes are
  bool many_candidates = false;  ///< which was too much for it, with last_spec
  Limits limits;
  Counters counters;
  uint64_t generation = 0;
  std::string name;
  cudaStream_t own_stream = nullptr;

  cuda::Shape shape;
  Buffers buffers;
  std::unique_ptr<Buffers> recovery;  ///< of the last call, if it did not fit
  std::vector<std::byte> parameters;  ///< in force; also `staging` and `device_parameters`
  std::vector<std::byte> next_parameters;
  Buffer staging{Buffer::Kind::kPinned}, device_parameters{Buffer::Kind::kDevice};
  Buffer inputs{Buffer::Kind::kDevice};
  DeviceOutputs enqueued;
  bool in_flight = false;
  bool expected = false;  ///< prepared, and not waited for

  PostprocessSpec last_spec;  ///< of the last prepare, with last_pictures
  std::vector<PreprocessGeometry> last_pictures;

  /// Whether everything is in place for such a call, since the last one was the same.
  bool repeats(const cuda::Shape& next, const PostprocessSpec& spec,
               std::span<const PreprocessGeometry> pictures) const {
    return next == shape && pictures.size() == last_pictures.size() &&
           std::memcmp(pictures.data(), last_pictures.data(), pictures.size_bytes()) == 0 &&
           same_call(spec, last_spec);
  }

  /// Whether the mask kernel may select, too: see alone.h.
  bool may_select_alone(const cuda::Shape& next, const cuda::Capacity& wanted,
                        bool all_plain) const {
    const bool pixels = limits.mask_bytes != cuda::MaskBytes::kRle;
    if (limits.selection_apart || many_candidates || !next.masks || next.batch != 1 ||
        wanted.masks == 0 || wanted.side != 0 ||
        (!pixels && (!early || cluster < cuda::kMaxBlocksPerMask))) {
      return false;
    }
    constexpr int64_t kMostPairs = 1 << 16;  // every cluster or block reads them
    return all_plain && int64_t{next.queries} * next.classes <= kMostPairs;
  }

  void use_device() const { check(cudaSetDevice(device), "choosing the device"); }

  /// Until the last block's word is there. Nothing but the call that it belongs to may set it.
  void spin(cudaStream_t stream) {
    ++counters.synchronisations;
    using Clock = std::chrono::steady_clock;
    constexpr auto kBetweenLooks = std::chrono::microseconds(50);  // at the stream, for errors
    const std::atomic_ref<uint32_t> done(buffers.arguments.header->done);
    auto looked = Clock::now();
    while (done.load(std::memory_order_acquire) == 0) {
      if (Clock::now() - looked < kBetweenLooks) continue;
      const cudaError_t status = cudaStreamQuery(stream);
      if (status == cudaSuccess) break;  // a call without kernels, or the word has just come
      if (status != cudaErrorNotReady) check(status, "running the post-processing kernels");
      looked = Clock::now();
    }
    in_flight = false;
  }

  /// Before a call: its word is not there. `stream` is the call's.
  void expect_end(cudaStream_t stream) {
    if (!limits.spin) return;
    if (expected) synchronise(stream);  // the last call was never waited for
    std::atomic_ref<uint32_t>(buffers.arguments.header->done).store(0, std::memory_order_relaxed);
    expected = true;
  }

  void synchronise(cudaStream_t stream) {
    ++counters.synchronisations;
    check(cudaStreamSynchronize(stream), "running the post-processing kernels");
    in_flight = false;
  }

  cuda::KernelArguments arguments(const Buffers& to, const DeviceOutputs& outputs) const {
    cuda::KernelArguments a = to.arguments;
    a.boxes = outputs.boxes;
    a.logits = outputs.logits;
    a.masks = outputs.masks;
    a.boxes_type = outputs.boxes_type;
    a.logits_type = outputs.logits_type;
    a.masks_type = outputs.masks_type;
    a.batch = shape.batch;
    a.queries = shape.queries;
    a.classes = shape.classes;
    a.rows = shape.rows;
    a.columns = shape.columns;
    a.tell_end = limits.spin ? 1 : 0;
    cuda::point_to_parameters(a, shape, device_parameters.data());
    if (!shape.masks) a.masks = nullptr;
    return a;
  }

  void launch(const Buffers& to, const DeviceOutputs& outputs, cudaStream_t stream,
              bool by_itself) {
    const cuda::KernelArguments a = arguments(to, outputs);
    if (!by_itself) {
      check(cuda::launch_select(a, stream), "launching the selection kernel");
      ++counters.launches;
    }
    if (shape.masks && to.capacity.blocks > 0) {
      const cuda::MaskLaunch how{to.capacity.blocks, cluster, early, by_itself, plain};
      check(cuda::launch_masks(a, limits.mask_bytes, how, stream), "launching the mask kernel");
      ++counters.launches;
    }
  }

  const Buffers& current() const { return recovery != nullptr ? *recovery : buffers; }
};

CudaPostprocessor::CudaPostprocessor(int device) : CudaPostprocessor(device, Limits{}) {}

CudaPostprocessor::CudaPostprocessor(int device, const Limits& limits)
    : impl_(std::make_unique<Impl>(limits)) {
  const cudaDeviceProp properties = cuda::open_device(device);
  impl_->device = device;
  impl_->name = properties.name;
  check(cuda::configure_kernels(&impl_->cluster), "loading the post-processing kernels");
  impl_->early = impl_->cluster > 1;
  if (limits.blocks_per_mask > 0) {
    impl_->cluster = std::min(impl_->cluster, limits.blocks_per_mask);
  }
  impl_->multiprocessors = properties.multiProcessorCount;
  check(cudaStreamCreateWithFlags(&impl_->own_stream, cudaStreamNonBlocking), "making a stream");
}

CudaPostprocessor::~CudaPostprocessor() {
  if (impl_->own_stream == nullptr) return;
  cudaStreamSynchronize(impl_->own_stream);
  cudaStreamDestroy(impl_->own_stream);
}

void CudaPostprocessor::prepare(const DeviceOutputs& outputs, const PostprocessSpec& spec,
                                std::span<const PreprocessGeometry> pictures, CUstream_st* stream) {
  Impl& impl = *impl_;
  constexpr int kMaxBatch = 65535;
  if (outputs.batch < 1 || outputs.batch > kMaxBatch ||
      pictures.size() != static_cast<std::size_t>(outputs.batch)) {
    throw Error(ErrorCode::kInput,
                fmt::format("a batch of {} network outputs and {} pictures: both must be one "
                            "number in 1..{}",
                            outputs.batch, pictures.size(), kMaxBatch));
  }
  cuda::Shape shape{outputs.batch,     outputs.queries,   outputs.classes,
                    outputs.mask_rows, outputs.mask_cols, false};
  shape.masks = outputs.masks != nullptr && spec.masks != MaskFormat::kNone;
  if (!shape.masks) shape.rows = shape.columns = 0;
  impl.use_device();
  if (impl.repeats(shape, spec, pictures)) {
    if (impl.recovery != nullptr) impl.recovery.reset();
    impl.expect_end(stream);
    return;
  }
  impl.last_pictures.clear();  // until this call has been found good
  cuda::check_call(spec, pictures, shape);
  if (impl.in_flight) impl.synchronise(stream);
  impl.recovery.reset();

  impl.next_parameters.resize(cuda::parameter_bytes(shape));
  cuda::Capacity wanted =
      cuda::write_parameters(spec, pictures, shape, impl.next_parameters.data());
  if (wanted.detections <= impl.limits.detections) {  // thresholds may change without a new capture
    const int64_t pairs = int64_t{shape.queries} * shape.classes;
    wanted.detections = static_cast<int32_t>(std::min<int64_t>(impl.limits.detections, pairs));
    wanted.masks = shape.masks ? std::min(wanted.detections, shape.queries) : 0;
  }
  wanted.spill = impl.limits.toggles_per_block;
  const bool pixels = impl.limits.mask_bytes != cuda::MaskBytes::kRle;
  if (!same_call(spec, impl.last_spec)) impl.many_candidates = false;
  const bool plain = cuda::all_plain(shape, impl.next_parameters.data());
  const bool alone = impl.may_select_alone(shape, wanted, plain);
  if (!pixels) {
    wanted.bytes = std::max(impl.limits.bytes,
                            impl.limits.bytes_per_picture * static_cast<uint64_t>(shape.batch));
  } else {
    wanted.spill = 0;
    const uint64_t masks =
        static_cast<uint64_t>(std::clamp(impl.limits.dense_masks, 0, wanted.masks));
    for (const PreprocessGeometry& picture : pictures) {
      wanted.bytes += masks * cuda::mask_bytes(picture.original_height, picture.original_width,
                                               impl.limits.mask_bytes);
    }
    wanted.bytes = std::min(wanted.bytes, impl.limits.dense_bytes);
  }
  const int64_t most = pixels ? (wanted.masks > 0 ? INT64_MAX : 0)
                              : int64_t{shape.batch} * wanted.masks * impl.cluster;
  const int each = pixels ? cuda::kDenseBlocks : alone ? cuda::kAloneBlocks : cuda::kMaskBlocks;
  const int cluster = pixels ? 1 : impl.cluster;
  const int clusters = std::max(1, impl.multiprocessors * each / cluster);
  wanted.blocks = static_cast<int32_t>(std::min<int64_t>(most, clusters * cluster));
  if (shape != impl.shape || !impl.buffers.capacity.holds(wanted) || alone != impl.alone ||
      plain != impl.plain) {
    const bool same_shape = shape == impl.shape;
    impl.shape = shape;
    impl.buffers.arrange(shape, same_shape ? impl.buffers.capacity.grown_to(wanted) : wanted,
                         impl.counters);
    const std::size_t bytes = impl.next_parameters.size();
    impl.counters.allocations += impl.staging.reserve(bytes) ? 1 : 0;
    impl.counters.allocations += impl.device_parameters.reserve(bytes) ? 1 : 0;
    impl.parameters.clear();
    // A kernel alone finds it cleared, and leaves it so.
    check(cudaMemsetAsync(impl.buffers.arguments.usage, 0, sizeof(cuda::Usage), stream),
          "clearing the usage");
    impl.alone = alone;
    impl.plain = plain;
    ++impl.generation;
  }
  if (impl.parameters != impl.next_parameters) {
    std::swap(impl.parameters, impl.next_parameters);
    std::memcpy(impl.staging.data(), impl.parameters.data(), impl.parameters.size());
    check(cudaMemcpyAsync(impl.device_parameters.data(), impl.staging.data(),
                          impl.parameters.size(), cudaMemcpyHostToDevice, stream),
          "copying the parameters");
    ++impl.counters.uploads;
    impl.in_flight = true;
  }
  impl.expect_end(stream);
  impl.last_spec = spec;
  impl.last_pictures.assign(pictures.begin(), pictures.end());
}

void CudaPostprocessor::enqueue(const DeviceOutputs& outputs, CUstream_st* stream) {
  impl_->enqueued = outputs;
  impl_->in_flight = true;
  impl_->launch(impl_->buffers, outputs, stream, impl_->alone);
}

CudaPostprocessor::Results CudaPostprocessor::wait(CUstream_st* stream) {
  Impl& impl = *impl_;
  impl.recovery.reset();
  impl.limits.spin ? impl.spin(stream) : impl.synchronise(stream);
  impl.expected = false;
  cuda::ResultHeader& header = *impl.buffers.arguments.header;
  if (header.overflow == cuda::kTooManyCandidates) {
    header.overflow = 0;
    ++impl.counters.reruns;
    impl.many_candidates = true;
    impl.last_pictures.clear();  // so that the next prepare looks at it
    impl.launch(impl.buffers, impl.enqueued, stream, false);
    impl.synchronise(stream);
    if (header.overflow == 0) {  // for the next kernel alone
      check(cudaMemsetAsync(impl.buffers.arguments.usage, 0, sizeof(cuda::Usage), stream),
            "clearing the usage");
    }
  }
  if (header.overflow != 0) {
    header.overflow = 0;
    ++impl.counters.reruns;
    cuda::Usage usage;
    check(cudaMemcpyAsync(&usage, impl.buffers.arguments.usage, sizeof(usage),
                          cudaMemcpyDeviceToHost, stream),
          "reading what the masks need");
    impl.synchronise(stream);
    cuda::Capacity needed = impl.buffers.capacity;
    needed.spill = std::max(needed.spill, usage.toggles);
    needed.bytes = std::max(needed.bytes, usage.bytes);
    if (needed.bytes > UINT32_MAX && impl.limits.mask_bytes == cuda::MaskBytes::kRle) {
      throw Error(ErrorCode::kInput,
                  fmt::format("the masks of this batch take up to {} bytes; 2^32 are the limit",
                              needed.bytes));
    }
    auto larger = std::make_unique<Impl::Buffers>(impl.limits);
    larger->arrange(impl.shape, needed, impl.counters);
    impl.launch(*larger, impl.enqueued, stream, false);
    impl.synchronise(stream);
    if (larger->arguments.header->overflow != 0) {
      throw Error(ErrorCode::kInternal, "CUDA: a rerun with the exact capacities overflowed");
    }
    impl.recovery = std::move(larger);
  }
  const cuda::KernelArguments& a = impl.current().arguments;
  return {a.picture_records, a.detections,      a.mask_records,
          a.bytes,           a.detection_pitch, a.mask_pitch};
}

std::vector<Detections> CudaPostprocessor::results() const {
  const Impl& impl = *impl_;
  cuda::KernelArguments a = impl.current().arguments;
  const bool text = impl.limits.mask_bytes == cuda::MaskBytes::kRle;
  if (impl.limits.place == Place::kHost) {
    return cuda::read_results(a, impl.shape, impl.parameters.data(), text);
  }
  // All but the bytes is in one piece before them.
  const std::byte* const from = impl.current().results.data();
  const cuda::Capacity capacity = impl.current().in_results();
  const auto fetch = [](std::vector<std::byte>& to, const void* bytes) {
    check(cudaMemcpy(to.data(), bytes, to.size(), cudaMemcpyDeviceToHost), "reading the results");
  };
  const uint8_t* const device_bytes = a.bytes;
  cuda::Capacity without_bytes = capacity;
  without_bytes.bytes = 0;
  std::vector<std::byte> records(cuda::carve_results(a, impl.shape, without_bytes, nullptr));
  fetch(records, from);
  cuda::carve_results(a, impl.shape, capacity, records.data());
  std::vector<std::byte> bytes(text ? cuda::end_of_masks(a, impl.shape) : 0);
  if (!bytes.empty()) fetch(bytes, device_bytes);
  a.bytes = reinterpret_cast<uint8_t*>(bytes.data());
  return cuda::read_results(a, impl.shape, impl.parameters.data(), text);
}

std::vector<Detections> CudaPostprocessor::run(const DeviceOutputs& outputs,
                                               const PostprocessSpec& spec,
                                               std::span<const PreprocessGeometry> pictures,
                                               CUstream_st* stream) {
  if (stream == nullptr) stream = impl_->own_stream;
  prepare(outputs, spec, pictures, stream);
  enqueue(outputs, stream);
  wait(stream);
  return results();
}

std::vector<Detections> CudaPostprocessor::run_from_host(
    std::span<const NetworkOutputs> outputs, const PostprocessSpec& spec,
    std::span<const PreprocessGeometry> pictures) {
  Impl& impl = *impl_;
  if (outputs.empty()) return {};
  const NetworkOutputs& first = outputs[0];
  const bool masks = first.masks != nullptr && spec.masks != MaskFormat::kNone;
  for (const NetworkOutputs& one : outputs) {
    if (one.queries != first.queries || one.classes != first.classes ||
        one.mask_rows != first.mask_rows || one.mask_cols != first.mask_cols ||
        (one.masks != nullptr) != (first.masks != nullptr)) {
      throw Error(ErrorCode::kInput, "the network outputs of a batch must have one shape");
    }
  }
  for (const PreprocessGeometry& picture : pictures) check_postprocess(first, spec, picture, masks);
  impl.use_device();
  const std::size_t batch = outputs.size();
  const std::size_t queries = static_cast<std::size_t>(first.queries);
  const std::size_t boxes = queries * 4, logits = queries * static_cast<std::size_t>(first.classes);
  const std::size_t cells = masks ? queries * static_cast<std::size_t>(first.mask_rows) *
                                        static_cast<std::size_t>(first.mask_cols)
                                  : 0;
  const std::size_t total = batch * (boxes + logits + cells) + 16;
  if (impl.in_flight) impl.synchronise(impl.own_stream);
  impl.counters.allocations += impl.inputs.reserve(total * sizeof(float)) ? 1 : 0;
  float* const base = reinterpret_cast<float*>(impl.inputs.data());
  const auto put = [&](float* to, const float* from, std::size_t n) {
    if (n == 0) return;
    check(cudaMemcpyAsync(to, from, n * sizeof(float), cudaMemcpyHostToDevice, impl.own_stream),
          "copying network outputs");
  };
  DeviceOutputs device;
  device.boxes = base;
  device.logits = base + batch * boxes;
  device.masks = masks ? base + batch * (boxes + logits) : nullptr;
  for (std::size_t i = 0; i < batch; ++i) {
    put(base + i * boxes, outputs[i].boxes, boxes);
    put(base + batch * boxes + i * logits, outputs[i].logits, logits);
    if (masks) put(base + batch * (boxes + logits) + i * cells, outputs[i].masks, cells);
  }
  device.batch = static_cast<int>(batch);
  device.queries = first.queries;
  device.classes = first.classes;
  device.mask_rows = first.mask_rows;
  device.mask_cols = first.mask_cols;
  return run(device, spec, pictures, impl.own_stream);
}

uint64_t CudaPostprocessor::generation() const { return impl_->generation; }
const CudaPostprocessor::Counters& CudaPostprocessor::counters() const { return impl_->counters; }
std::string CudaPostprocessor::device_name() const { return impl_->name; }

Detections postprocess_cuda(const NetworkOutputs& outputs, const PostprocessSpec& spec) {
  static std::mutex mutex;
  static std::unique_ptr<CudaPostprocessor> processor;
  static int device = -1;
  const std::lock_guard lock(mutex);
  if (processor == nullptr || device != spec.cuda_device) {
    CudaPostprocessor::Limits limits;
    limits.spin = true;
    processor = std::make_unique<CudaPostprocessor>(spec.cuda_device, limits);
    device = spec.cuda_device;
  }
  if (outputs.queries == 0 || outputs.classes == 0) {
    Detections none;
    none.width = spec.geometry.original_width;
    none.height = spec.geometry.original_height;
    return none;
  }
  return std::move(processor->run_from_host({&outputs, 1}, spec, {&spec.geometry, 1})[0]);
}

}  // namespace rfseg
