#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "media/libav/compat.h"
#include "media/libav/libav_api.h"

namespace rfseg::libav {

/// One of the eight ways to put a picture upright: first transposed (x and y change places), then
/// mirrored.
struct Turn {
  bool transpose = false;
  bool mirror_x = false;  ///< columns of the result run backwards
  bool mirror_y = false;  ///< rows of the result run backwards
  bool is_identity() const { return !transpose && !mirror_x && !mirror_y; }
};

/// The turn that a display matrix asks for, rounded to whole quarter turns; nullptr is upright.
Turn turn_of(const int32_t* display_matrix);

/// Turns decoded frames into views in one of the formats of VideoFrame, all of one size: planar and
/// semi-planar 8-bit 4:2:0 and P010 as they are (no copy), 10-bit planar 4:2:0 as P010, other YUV
/// through libswscale as I420, and 4:4:4, grey, palette and RGB as RGB. Frames in a GPU's memory
/// stay there if they are NV12 or P010, upright and of the first size; others are fetched.
class FrameConverter {
 public:
  /// `width` and `height`: of the stream, before the turn; frames of another size are scaled to it.
  FrameConverter(std::string name, int width, int height, Turn turn);

  /// The view is valid until the next call and as long as `frame` is.
  FrameView convert(const AVFrame& frame);

  /// What `convert` does with frames in a GPU's memory: view_on_gpu where they stay there, or else
  /// convert(fetch). These three may be called from several threads.
  bool stays_on_gpu(const AVFrame& frame) const;
  FrameView view_on_gpu(const AVFrame& frame) const;
  AvPtr<AVFrame> fetch(const AVFrame& frame) const;

 private:
  FrameView convert_host(const AVFrame& frame);
  FrameView direct(const AVFrame& frame) const;
  FrameView to_p010(const AVFrame& frame);
  FrameView through_swscale(const AVFrame& frame);
  FrameView turned(const FrameView& view);

  std::string name_;
  int width_, height_;
  Turn turn_;
  bool size_warned_ = false;
  AvPtr<SwsContext> scaler_;
  AvPtr<AVFrame> scaled_, fetched_;
  std::vector<uint8_t> buffer_, turned_;
};

}  // namespace rfseg::libav
