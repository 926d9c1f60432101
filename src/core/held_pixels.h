#pragma once

#include <memory>

struct CUevent_st;  ///< what a cudaEvent_t points to

namespace rfseg {

/// Where the pixels of a view are, and who keeps them. Without an owner they are host memory that
/// its maker reuses with the next call; with one they stay until the last copy of the owner is
/// gone, which may be on another thread and much later.
///
/// Who reads pixels with a GPU keeps the owner until that GPU has read them, so that the maker may
/// reuse the memory at once when it gets it back: nobody needs an event for that direction.
struct HeldPixels {
  enum class Place {
    kHost,    ///< ordinary memory
    kPinned,  ///< host memory that a GPU copies from by itself (cudaHostAlloc)
    kDevice   ///< memory of GPU `device`; the view's planes are device pointers
  };
  Place place = Place::kHost;
  int device = 0;               ///< CUDA's number of the GPU, for kDevice
  CUevent_st* ready = nullptr;  ///< kDevice: pixels are there once this event has happened; valid
                                ///< as long as `owner`; null: they are there
  std::shared_ptr<const void> owner;  ///< always set for kPinned and kDevice

  bool on_device() const { return place == Place::kDevice; }
};

}  // namespace rfseg
