#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/held_pixels.h"
#include "rfseg/image.h"

namespace rfseg {

struct VideoInfo {
  int width = 0, height = 0;  ///< upright, after rotation metadata
  double frame_rate = 0;      ///< average, frames a second; 0 if unknown
  double duration_s = 0;      ///< 0 if unknown (live)
  int64_t frames = 0;         ///< estimate, 0 if unknown
  bool live = false;          ///< a device or network stream
  bool nvdec = false;         ///< decoded by the GPU, unless that refuses its first picture
  std::string codec;
};

/// Who decodes. The GPU's decoder (NVDEC) takes H.264, HEVC, VP8, VP9 and AV1, 4:2:0 of 8 or 10
/// bits, upright, and gives the very samples that the CPU gives; damage that the CPU would report
/// as a broken frame it may hide. Whatever it does not take is decoded on the CPU.
enum class VideoDecoder {
  kCpu,
  kAuto,         ///< the GPU where it can, in silence
  kWhereFaster,  ///< the GPU where it can and is faster than 16 processors: HEVC, and H.264 files
                 ///< that several of its decoders can share; in silence
  kNvdec         ///< the GPU where it can, and where it cannot a warning tells why
};

/// How far a live stream has come over all its connections, with the frames that were decoded but
/// not delivered.
struct VideoProgress {
  using Time = std::chrono::steady_clock::time_point;
  int64_t frames = 0;     ///< number of the next frame; 0: there was none yet
  double time_s = 0;      ///< of the last frame
  Time zero, last;        ///< at time_s = 0, and when the last frame was decoded
  bool past_end = false;  ///< the last frame is not before VideoOptions::end_s
};

/// How much of a file is missing: by its own account it lasts `stated_s` seconds, but it ended at
/// `ends_s`. Both 0 where it is not known to be cut.
struct VideoShortfall {
  double ends_s = 0;
  double stated_s = 0;
};

struct VideoOptions {
  int every = 1;       ///< deliver frames 0, every, 2*every, ...
  double start_s = 0;  ///< first frame with time >= start_s, of live ones over all connections
  double end_s = -1;   ///< last frame with time < end_s; negative = to the end
  int threads = 0;     ///< decoder threads on the CPU, 0 = all processors, at most 16
  VideoDecoder decoder = VideoDecoder::kCpu;
  int cuda_device = 0;  ///< for the GPU's decoder
  /// Decoders of the GPU that may share an H.264 or HEVC file that consists of closed groups of
  /// pictures; at most as many as there are units. 0: as many as pay.
  int gpu_decoders = 0;
  double timeout_s = 30;      ///< streams and devices: without a frame for so long is broken off
  double reconnect_s = 30;    ///< live inputs: connect again for as long without a frame; 0 = never
  int width = 0, height = 0;  ///< scale to this size, upright; 0 = that of the first frame
  VideoProgress so_far;       ///< of earlier connections to the same live stream
};

/// One decoded frame. The view is valid until the next call on the reader, or as long as
/// `held.owner` where there is one; that may outlive the reader. All frames have the size that
/// VideoInfo tells: where a stream changes its size, they are scaled to the first. The matrix and
/// range are the stream's; untagged video is limited-range BT.709 from 720 rows, else BT.601.
struct VideoFrame {
  ImageView image;    ///< kI420, kNv12, kP010 or kRgb8, upright; on a GPU kNv12 or kP010
  HeldPixels held;    ///< where they are
  int64_t index = 0;  ///< number of the frame in the stream, from 0, before --every
  /// Presentation time from the start of the stream, never negative, never less than the one
  /// before: frames that a file places before its start have the time 0, and where a file's clock
  /// jumps back the times go on after the frame before. Of live ones that tell none, or one that
  /// stands still or goes back, when the frame was decoded: what came while the stream was being
  /// opened has nearly the same time.
  double time_s = 0;
};

/// Decodes one video. Not thread-safe.
class VideoReader {
 public:
  virtual ~VideoReader() = default;
  virtual const VideoInfo& info() const = 0;
  /// False at the end of the stream. Broken frames are skipped and counted; an unreadable stream,
  /// or one of which no frame can be decoded, throws Error(kInput) naming it, and a request to stop
  /// Error(kCancelled).
  virtual bool read(VideoFrame& frame) = 0;
  virtual int64_t broken_frames() const = 0;
  virtual VideoProgress progress() const { return {}; }
  /// Known once `read` has given false. Not so where VideoOptions::end_s is before the cut.
  virtual VideoShortfall shortfall() const { return {}; }
  /// How often a live input was connected again.
  virtual int64_t reconnects() const { return 0; }
  /// Whether a live input ended because it could not be connected again.
  virtual bool given_up() const { return false; }
};

/// Writes H.264 (libx264) or, where that is missing, MPEG-4 Part 2 into an MP4. Complete or absent:
/// without `finish` nothing is left under the name. Not thread-safe.
class VideoWriter {
 public:
  virtual ~VideoWriter() = default;
  /// `rgb` has the size given at creation; an odd last row or column is padded by repetition.
  virtual void write(const ImageView& rgb, double time_s) = 0;
  /// Ends the file and gives it its name; a video without frames is not written. Throws
  /// Error(kOutput), as `write` does.
  virtual void finish() = 0;
};

/// FFmpeg is loaded when the first of these is called (the module rfseg_libav beside the program or
/// library). Throws Error(kInput) saying how to get it where it is missing. `path` is a file, a URL
/// or /dev/videoN; a live one is connected again when it breaks off. `cancelled` is polled during
/// blocking reads, possibly from FFmpeg's threads; may be empty.
std::unique_ptr<VideoReader> open_video(const std::string& path, const VideoOptions& options = {},
                                        std::function<bool()> cancelled = {});
std::unique_ptr<VideoWriter> create_video(const std::string& path, int width, int height,
                                          double frame_rate);
/// True when the name looks like a video, stream URL or capture device.
bool is_video_name(const std::string& path);
/// Version text of the libraries behind the module, for `rfseg info`; empty when not loadable.
std::string video_backend_version();

}  // namespace rfseg
