#include "pipeline/picture_pool.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "pipeline/picture_planes.h"

namespace rfseg {
namespace {

constexpr std::size_t kRowAlignment = 16;

std::size_t pitch_of(const Plane& plane) {
  return (plane.row_bytes + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
}

}  // namespace

struct PicturePool::Shelf {
  struct Memory {
    std::shared_ptr<std::byte> bytes;
    std::size_t size = 0;
  };
  HostAllocator allocator;
  std::mutex mutex;
  std::vector<Memory> free;
  int buffers = 0;

  Memory take(std::size_t bytes) {
    {
      const std::lock_guard lock(mutex);
      const auto fits = std::find_if(
          free.begin(), free.end(), [bytes](const Memory& memory) { return memory.size >= bytes; });
      if (fits != free.end()) {
        Memory memory = std::move(*fits);
        free.erase(fits);
        return memory;
      }
      if (free.empty()) {
        ++buffers;
      } else {
        free.pop_back();  // too small for what comes now: a larger one takes its place
      }
    }
    return {allocator.allocate(bytes), bytes};
  }
};

PicturePool::PicturePool(HostAllocator allocator) : shelf_(std::make_shared<Shelf>()) {
  shelf_->allocator = std::move(allocator);
}

void PicturePool::keep(ImageView& view, HeldPixels& held) {
  if (held.owner != nullptr) return;
  const std::vector<Plane> planes = planes_of(view);
  std::size_t bytes = 0;
  for (const Plane& plane : planes) bytes += pitch_of(plane) * static_cast<std::size_t>(plane.rows);
  auto* memory = new Shelf::Memory(shelf_->take(bytes));
  held.place = shelf_->allocator.place;
  held.owner = std::shared_ptr<const void>(memory, [shelf = shelf_](Shelf::Memory* done) {
    const std::unique_ptr<Shelf::Memory> owned(done);
    const std::lock_guard lock(shelf->mutex);
    shelf->free.push_back(std::move(*owned));
  });
  std::byte* at = memory->bytes.get();
  for (std::size_t p = 0; p < planes.size(); ++p) {
    const auto stride = static_cast<std::ptrdiff_t>(pitch_of(planes[p]));
    copy_plane(at, stride, view.planes[p], view.strides[p], planes[p]);
    view.planes[p] = reinterpret_cast<const uint8_t*>(at);
    view.strides[p] = stride;
    at += pitch_of(planes[p]) * static_cast<std::size_t>(planes[p].rows);
  }
}

int PicturePool::buffers() const {
  const std::lock_guard lock(shelf_->mutex);
  return shelf_->buffers;
}

}  // namespace rfseg
