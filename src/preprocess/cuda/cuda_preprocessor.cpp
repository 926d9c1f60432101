#include "preprocess/cuda/cuda_preprocessor.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <optional>

#include "core/cuda/device.h"
#include "preprocess/cuda/kernels.h"
#include "preprocess/cuda/plan.h"
#include "rfseg/error.h"

namespace rfseg {
using cuda::Buffer;
using cuda::check;

namespace {

constexpr std::size_t kAlignment = 256;
std::size_t align(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

/// The rows of a plane that are copied, in ascending addresses.
struct PlaneCopy {
  const uint8_t* from = nullptr;
  std::size_t row_bytes = 0, pitch = 0;  ///< in the source
  std::size_t rows = 0;
  std::ptrdiff_t to_pitch = 0;  ///< with the view's sign
  bool by_rows = false;         ///< not as one span
  std::size_t to = 0;           ///< offset in the pixel buffer
  std::size_t bytes() const {
    return by_rows ? static_cast<std::size_t>(std::abs(to_pitch)) * rows
                   : pitch * (rows - 1) + row_bytes;
  }
};

}  // namespace

struct CudaPreprocessor::Impl {
  /// Pinned memory that copies read; `done` tells when they have.
  struct Slot {
    Buffer parameters{Buffer::Kind::kPinned}, pixels{Buffer::Kind::kPinned};
    cuda::Event done;
    bool used = false;
  };

  int device = 0;
  bool early = false;  ///< a kernel may start before the end of the one before
  cuda::PlanLimits limits;
  Counters counters;
  uint64_t generation = 0;
  std::string name;
  std::optional<cuda::Stream> own_stream;

  cuda::LaunchShape shape;
  cuda::PreprocessArguments arguments;
  cuda::Planner planner;
  Buffer parameters{Buffer::Kind::kDevice}, pixels{Buffer::Kind::kDevice};
  Buffer output{Buffer::Kind::kDevice};
  std::vector<std::byte> in_force;  ///< the records on the device
  bool tables_in_force = false;
  std::array<Slot, 4> slots;
  std::size_t next_slot = 0;
  std::vector<ImageView> views;
  std::vector<PlaneCopy> copies;
  std::vector<PreprocessGeometry> geometries;

  void use_device() const { check(cudaSetDevice(device), "choosing the device"); }

  Slot& take_slot() {
    Slot& slot = slots[next_slot];
    next_slot = (next_slot + 1) % slots.size();
    if (slot.used && cudaEventQuery(slot.done) != cudaSuccess) {
      cudaGetLastError();
      ++counters.synchronisations;
      check(cudaEventSynchronize(slot.done), "waiting for pinned memory");
    }
    slot.used = true;
    return slot;
  }

  /// Plans the copy of a host frame's used rows; `view` becomes its place on the device, relative
  /// to the pixel buffer's start.
  void plan_copies(ImageView& view, const PreprocessSpec& spec, bool staged, std::size_t& end) {
    const cuda::UsedRows used = cuda::used_rows(view, spec);
    for (int i = 0; i < cuda::plane_count(cuda::frame_format(view.format)); ++i) {
      const int first = i == 0 ? used.first : used.first / 2;
      const int last = i == 0 ? used.end - 1 : (used.end - 1) / 2;
      const std::ptrdiff_t stride = view.strides[i];
      PlaneCopy copy;
      copy.row_bytes = cuda::plane_row_bytes(view, i);
      copy.rows = static_cast<std::size_t>(last) - static_cast<std::size_t>(first) + 1;
      copy.pitch = static_cast<std::size_t>(std::abs(stride));
      copy.from = view.planes[i] + (stride < 0 ? last : first) * stride;
      copy.to_pitch = stride;
      copy.by_rows = staged || copy.pitch < copy.row_bytes || copy.pitch > 2 * copy.row_bytes;
      if (copy.by_rows) {
        copy.to_pitch = static_cast<std::ptrdiff_t>(align(copy.row_bytes, 16));
        if (stride < 0) copy.to_pitch = -copy.to_pitch;
      }
      copy.to = end;
      end = align(end + copy.bytes(), kAlignment);
      // Plane 0 of the view is row 0 of the picture, also where that is not copied.
      view.strides[i] = copy.to_pitch;
      view.planes[i] = reinterpret_cast<const uint8_t*>(static_cast<uintptr_t>(copy.to)) -
                       (stride < 0 ? last : first) * copy.to_pitch;
      copies.push_back(copy);
    }
  }

  void bring_frames(std::span<const CudaFrame> frames, const PreprocessSpec& spec,
                    cudaStream_t stream) {
    views.clear();
    copies.clear();
    std::size_t end = 0, staged_end = 0;
    // Pageable frames first: they go to the device in one copy.
    for (const CudaFrame& frame : frames) views.push_back(frame.view);
    for (const FrameMemory memory : {FrameMemory::kPageable, FrameMemory::kPinned}) {
      for (std::size_t i = 0; i < frames.size(); ++i) {
        if (frames[i].memory != memory) continue;
        plan_copies(views[i], spec, memory == FrameMemory::kPageable, end);
      }
      if (memory == FrameMemory::kPageable) staged_end = end;
    }
    if (end == 0) return;
    counters.allocations += pixels.reserve(end) ? 1 : 0;
    for (std::size_t i = 0; i < frames.size(); ++i) {
      if (frames[i].memory == FrameMemory::kDevice) continue;
      for (int p = 0; p < cuda::plane_count(cuda::frame_format(views[i].format)); ++p) {
        views[i].planes[p] =
            reinterpret_cast<const uint8_t*>(reinterpret_cast<uintptr_t>(pixels.data()) +
                                             reinterpret_cast<uintptr_t>(views[i].planes[p]));
      }
    }
    if (staged_end > 0) {
      Slot& slot = take_slot();
      counters.allocations += slot.pixels.reserve(staged_end) ? 1 : 0;
      for (const PlaneCopy& copy : copies) {
        if (copy.to >= staged_end) break;
        const std::size_t to_pitch = static_cast<std::size_t>(std::abs(copy.to_pitch));
        for (std::size_t r = 0; r < copy.rows; ++r) {
          std::memcpy(slot.pixels.data() + copy.to + r * to_pitch, copy.from + r * copy.pitch,
                      copy.row_bytes);
        }
      }
      check(cudaMemcpyAsync(pixels.data(), slot.pixels.data(), staged_end, cudaMemcpyHostToDevice,
                            stream),
            "copying frames");
      check(cudaEventRecord(slot.done, stream), "recording an event");
      ++counters.copies;
    }
    for (const PlaneCopy& copy : copies) {
      if (copy.to < staged_end) continue;
      ++counters.copies;
      if (copy.by_rows) {
        check(cudaMemcpy2DAsync(
                  pixels.data() + copy.to, static_cast<std::size_t>(std::abs(copy.to_pitch)),
                  copy.from, copy.pitch, copy.row_bytes, copy.rows, cudaMemcpyHostToDevice, stream),
              "copying a frame");
      } else {
        check(cudaMemcpyAsync(pixels.data() + copy.to, copy.from, copy.bytes(),
                              cudaMemcpyHostToDevice, stream),
              "copying a frame");
      }
    }
  }

  void bring_parameters(const PreprocessSpec& spec, void* tensor, cudaStream_t stream) {
    const cuda::Planner::Block block = planner.build(arguments, views, spec, tensor);
    if (!block.direct && arguments.direct) {  // for good, so that graphs are captured anew but once
      arguments.direct = false;
      ++generation;
    }
    const std::size_t bytes = block.bytes.size();
    if (bytes > parameters.size()) {
      constexpr std::size_t kForTables = std::size_t{1} << 20, kOfFrame = std::size_t{1} << 19;
      const std::size_t batch = static_cast<std::size_t>(shape.batch);
      in_force.clear();
      tables_in_force = false;
      parameters.reserve(std::max(bytes + bytes / 2, kForTables + batch * kOfFrame));
      ++counters.allocations;
      ++generation;
    }
    const bool all = block.tables_changed || !tables_in_force;
    const bool same = block.fixed == in_force.size() &&
                      std::memcmp(block.bytes.data(), in_force.data(), block.fixed) == 0;
    if (!all && same) return;
    tables_in_force = false;
    const std::size_t sent = all ? bytes : block.fixed;
    Slot& slot = take_slot();
    counters.allocations += slot.parameters.reserve(parameters.size()) ? 1 : 0;
    std::memcpy(slot.parameters.data(), block.bytes.data(), sent);
    check(cudaMemcpyAsync(parameters.data(), slot.parameters.data(), sent, cudaMemcpyHostToDevice,
                          stream),
          "copying the parameters");
    check(cudaEventRecord(slot.done, stream), "recording an event");
    ++counters.uploads;
    in_force.assign(block.bytes.begin(), block.bytes.begin() + block.fixed);
    tables_in_force = true;
  }
};

CudaPreprocessor::CudaPreprocessor(int device) : CudaPreprocessor(device, Limits{}) {}

CudaPreprocessor::CudaPreprocessor(int device, const Limits& limits) {
  const cudaDeviceProp properties = cuda::open_device(device);
  impl_ = std::make_unique<Impl>();
  impl_->device = device;
  impl_->name = properties.name;
  impl_->limits.processors = properties.multiProcessorCount;
  impl_->limits.tile_rows = std::clamp(limits.tile_rows, 0, cuda::kMaxTileRows);
  check(cuda::configure_preprocess(&impl_->limits.row_bytes, &impl_->early),
        "loading the resize kernels");
  impl_->own_stream.emplace();
}

CudaPreprocessor::~CudaPreprocessor() {
  if (impl_ == nullptr) return;
  // Copies of the last call may still read pinned memory, and its kernel device memory.
  for (const Impl::Slot& slot : impl_->slots) {
    if (slot.used) cudaEventSynchronize(slot.done);
  }
}

void CudaPreprocessor::prepare(std::span<const CudaFrame> frames, const PreprocessSpec& spec,
                               void* tensor, bool half, CUstream_st* stream) {
  Impl& impl = *impl_;
  const cuda::LaunchShape shape = cuda::launch_shape(frames.size(), spec, half);
  for (const CudaFrame& frame : frames) cuda::check_frame(frame.view, spec);
  if (tensor == nullptr || reinterpret_cast<uintptr_t>(tensor) % 16 != 0) {
    throw Error(ErrorCode::kInternal, "the tensor's address must be a multiple of 16");
  }
  impl.use_device();
  if (!(shape == impl.shape)) {
    impl.shape = shape;
    uint32_t* const gate = impl.arguments.gate;
    impl.arguments = cuda::launch_arguments(shape, impl.limits);
    impl.arguments.gate = gate;
    impl.arguments.direct = shape.kernel == cuda::ResizeKernel::kPil;
    impl.in_force.clear();
    ++impl.generation;
  }
  impl.bring_frames(frames, spec, stream);
  impl.bring_parameters(spec, tensor, stream);
  impl.geometries.clear();
  for (const CudaFrame& frame : frames) {
    impl.geometries.push_back(preprocess_geometry(frame.view.height, frame.view.width, spec));
  }
}

void CudaPreprocessor::enqueue(CUstream_st* stream) {
  Impl& impl = *impl_;
  impl.arguments.parameters = impl.parameters.data();
  check(cuda::launch_preprocess(impl.arguments, impl.limits.processors, impl.early, stream),
        "launching the resize kernel");
  ++impl.counters.launches;
}

void CudaPreprocessor::wait_for(uint32_t* gate) {
  if (gate == impl_->arguments.gate) return;
  impl_->arguments.gate = gate;
  ++impl_->generation;
}

std::span<const PreprocessGeometry> CudaPreprocessor::geometries() const {
  return impl_->geometries;
}

void CudaPreprocessor::run_to_host(std::span<const CudaFrame> frames, const PreprocessSpec& spec,
                                   float* out) {
  Impl& impl = *impl_;
  cuda::launch_shape(frames.size(), spec, false);
  for (const CudaFrame& frame : frames) cuda::check_frame(frame.view, spec);
  impl.use_device();
  const std::size_t bytes = frames.size() * 3 * sizeof(float) *
                            static_cast<std::size_t>(spec.network_height) *
                            static_cast<std::size_t>(spec.network_width);
  impl.counters.allocations += impl.output.reserve(bytes) ? 1 : 0;
  const cudaStream_t stream = *impl.own_stream;
  prepare(frames, spec, impl.output.data(), false, stream);
  enqueue(stream);
  check(cudaMemcpyAsync(out, impl.output.data(), bytes, cudaMemcpyDeviceToHost, stream),
        "copying the tensor");
  ++impl.counters.synchronisations;
  impl.own_stream->synchronize("running the resize kernel");
}

uint64_t CudaPreprocessor::generation() const { return impl_->generation; }
const CudaPreprocessor::Counters& CudaPreprocessor::counters() const { return impl_->counters; }
std::string CudaPreprocessor::device_name() const { return impl_->name; }

PreprocessGeometry preprocess_cuda(const ImageView& image, const PreprocessSpec& spec, float* out) {
  static std::mutex mutex;
  static std::unique_ptr<CudaPreprocessor> processor;
  static int device = -1;
  const std::lock_guard lock(mutex);
  if (processor == nullptr || device != spec.cuda_device) {
    processor = std::make_unique<CudaPreprocessor>(spec.cuda_device);
    device = spec.cuda_device;
  }
  const CudaFrame frame{image, FrameMemory::kPageable};
  processor->run_to_host({&frame, 1}, spec, out);
  return processor->geometries()[0];
}

}  // namespace rfseg
