#pragma once

#include <cstddef>
#include <memory>

#include "media/video_io.h"

namespace rfseg {

/// Memory for the frames that a decoder leaves on a GPU. A decoder's own surfaces are few and bound
/// to it; a copy within the GPU (3 MB at 1080p) lets a frame stay as long as its reader wants, and
/// outlive the decoder.
class GpuFrames {
 public:
  virtual ~GpuFrames() = default;
  /// Another one for a decoder on another thread: with a stream of its own, and the same memory.
  virtual std::unique_ptr<GpuFrames> sibling() = 0;
  /// What the GPU has left now.
  virtual std::size_t free_bytes() const = 0;
  /// The stream for the decoder to write on; lives as long as this and every frame.
  virtual void* stream() const = 0;
  /// `frame.image` becomes a copy of what it shows, enqueued on the stream, and `frame.held` tells
  /// when it is there. `frame.image` has device pointers, kNv12 or kP010. The frame may go before
  /// it is there, but not while it is read.
  virtual void take(VideoFrame& frame) = 0;
  /// Waits until the last copy is done and its origin may go.
  virtual void wait() = 0;
};

/// On GPU `device`, whose context is current on this thread afterwards. nullptr where there is no
/// usable one or the build has no CUDA; `why` tells.
std::unique_ptr<GpuFrames> open_gpu_frames(int device, std::string& why);

}  // namespace rfseg
