#include "media/gpu_frames.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "core/cuda/device.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using cuda::check;

// Memory is taken for several frames at a time: each call of the driver costs as much as decoding.
constexpr std::size_t kMostAtOnce = std::size_t{64} << 20;

struct Slot {
  std::shared_ptr<const cuda::Buffer> memory;  // shared with others
  std::byte* pixels = nullptr;
  std::size_t bytes = 0;
  cuda::Event ready;  // its last copy; none yet counts as done
};

/// What frames of all siblings share, and may outlive them with.
struct Pool {
  int device = 0;
  std::mutex mutex;
  std::vector<std::unique_ptr<Slot>> free;

  std::size_t made = 0;

  std::unique_ptr<Slot> take(std::size_t bytes) {
    const std::lock_guard lock(mutex);
    while (!free.empty()) {
      std::unique_ptr<Slot> slot = std::move(free.back());
      free.pop_back();
      if (slot->bytes >= bytes) return slot;  // those of a smaller picture go
    }
    add(bytes);
    std::unique_ptr<Slot> slot = std::move(free.back());
    free.pop_back();
    return slot;
  }

  /// As many as there are.
  void add(std::size_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    const std::size_t count = std::clamp(made, std::size_t{1}, kMostAtOnce / bytes + 1);
    auto memory = std::make_shared<cuda::Buffer>(cuda::Buffer::Kind::kDevice);
    memory->reserve(count * bytes);
    for (std::size_t i = 0; i < count; ++i) {
      auto slot = std::make_unique<Slot>();
      slot->memory = memory;
      slot->pixels = memory->data() + i * bytes;
      slot->bytes = bytes;
      free.push_back(std::move(slot));
    }
    made += count;
  }
};

class CudaGpuFrames final : public GpuFrames {
 public:
  explicit CudaGpuFrames(std::shared_ptr<Pool> pool)
      : pool_(std::move(pool)), stream_(std::make_shared<cuda::Stream>()) {}

  std::unique_ptr<GpuFrames> sibling() override {
    check(cudaSetDevice(pool_->device), "choosing the device");
    return std::make_unique<CudaGpuFrames>(pool_);
  }

  std::size_t free_bytes() const override {
    check(cudaSetDevice(pool_->device), "choosing the device");
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for the memory");
    return free;
  }

  void* stream() const override { return static_cast<cudaStream_t>(*stream_); }

  void take(VideoFrame& frame) override {
    check(cudaSetDevice(pool_->device), "choosing the device");
    ImageView& image = frame.image;
    const std::size_t sample = image.format == PixelFormat::kP010 ? 2 : 1;
    const auto width = static_cast<std::size_t>(image.width);
    const auto rows = static_cast<std::size_t>(image.height);
    const std::size_t row_bytes[2] = {width * sample, (width + 1) / 2 * 2 * sample};
    const std::size_t plane_rows[2] = {rows, (rows + 1) / 2};
    const std::size_t pitch = (row_bytes[1] + 255) / 256 * 256;

    const std::size_t bytes = pitch * (plane_rows[0] + plane_rows[1]);
    std::shared_ptr<Slot> slot(pool_->take(bytes).release(),
                               [pool = pool_, stream = stream_](Slot* used) {
                                 const std::lock_guard lock(pool->mutex);
                                 pool->free.emplace_back(used);
                               });
    // Another decoder's copy may still be on its way here, of a frame that nobody wanted: `ready`
    // is of that one. Whoever reads a frame has done so when it gives it back.
    check(cudaStreamWaitEvent(*stream_, slot->ready, 0), "waiting for a frame before");
    std::byte* to = slot->pixels;
    for (int i = 0; i < 2; ++i) {
      check(
          cudaMemcpy2DAsync(to, pitch, image.planes[i], static_cast<std::size_t>(image.strides[i]),
                            row_bytes[i], plane_rows[i], cudaMemcpyDeviceToDevice, *stream_),
          "copying a decoded frame");
      image.planes[i] = reinterpret_cast<const uint8_t*>(to);
      image.strides[i] = static_cast<std::ptrdiff_t>(pitch);
      to += pitch * plane_rows[i];
    }
    check(cudaEventRecord(slot->ready, *stream_), "recording an event");
    frame.held.place = HeldPixels::Place::kDevice;
    frame.held.device = pool_->device;
    frame.held.ready = slot->ready;
    frame.held.owner = std::move(slot);
  }

  void wait() override { stream_->synchronize("decoding video"); }

 private:
  std::shared_ptr<Pool> pool_;
  std::shared_ptr<cuda::Stream> stream_;
};

}  // namespace

std::unique_ptr<GpuFrames> open_gpu_frames(int device, std::string& why) {
  try {
    cuda::open_device(device);
    auto pool = std::make_shared<Pool>();
    pool->device = device;
    return std::make_unique<CudaGpuFrames>(std::move(pool));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kDevice) throw;
    why = error.what();
    return nullptr;
  }
}

}  // namespace rfseg
