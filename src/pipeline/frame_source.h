#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/held_pixels.h"
#include "media/image_io.h"
#include "media/video_io.h"
#include "pipeline/pictures_ahead.h"
#include "rfseg/image.h"

namespace rfseg {

/// One decoded picture or video frame, or what went wrong with it.
struct SourceFrame {
  std::string file;
  std::optional<int64_t> frame;  ///< video only
  std::optional<double> time_s;  ///< video only
  ImageView view;     ///< empty on an error; valid until the next call of the source, or as `held`
  HeldPixels held;    ///< where the pixels of `view` are, and who keeps them
  Image storage;      ///< what `view` points to, for pictures
  std::string error;  ///< empty, or one line that names the input
  int stream = 0;     ///< which of the inputs that are read at once
};

/// Pictures one after another. Called from one thread.
class FrameSource {
 public:
  virtual ~FrameSource() = default;
  /// False when there is no more. A frame that cannot be read is delivered with `error` set, and
  /// the source goes on.
  virtual bool next(SourceFrame& frame) = 0;
  enum class Got { kFrame, kNothing, kEnd };
  /// As `next`, but kNothing when `deadline` passes first, by sources that can wait so.
  virtual Got next_until(SourceFrame& frame, std::chrono::steady_clock::time_point deadline) {
    static_cast<void>(deadline);
    return next(frame) ? Got::kFrame : Got::kEnd;
  }
  /// Frames in all as far as is known, 0 if it is not.
  /// May be called from any thread.
  virtual int64_t estimated_total() const { return 0; }
  /// True while frames come from a device or network stream.
  virtual bool live() const { return false; }
};

struct InputOptions {
  DecodeOptions image;
  VideoOptions video;
  int picture_threads =
      0;  ///< that decode pictures ahead of their turn; 0 = processors, at most 16
  std::function<bool()> cancelled;  ///< called from several threads
};

/// What an input argument is, decided by its name and, for files, by what the file system says.
enum class InputKind { kImage, kVideo };

struct Input {
  std::string path;
  InputKind kind = InputKind::kImage;
  std::string error;  ///< an input that cannot be used, reported in its place in the order
};

/// The paths of a list, one a line, or each ended by a NUL byte (find -print0) where the list has
/// one; names may hold anything else then. Throws Error(kInput) for text in UTF-16.
std::vector<std::string> read_path_list(std::istream& list);

/// Expands the user's arguments: files as they are, directories into their pictures sorted by name
/// (neither hidden ones nor those of folders in it; videos are left out with a warning), "-" into
/// the paths of read_path_list(`list`), URLs named as pictures as such, others and /dev/video* as
/// videos. What does not exist, holds no picture or is a pipe, socket or other
/// device becomes an Input with `error`.
std::vector<Input> expand_inputs(const std::vector<std::string>& arguments, std::istream& list);

/// Decodes `inputs` in order.
class InputSource : public FrameSource {
 public:
  InputSource(std::vector<Input> inputs, InputOptions options);
  bool next(SourceFrame& frame) override;
  int64_t estimated_total() const override { return estimated_total_; }
  bool live() const override;
  /// Video frames that could not be decoded so far. As those below, not while `next` runs.
  int64_t broken_frames() const {
    return broken_frames_ + (video_ != nullptr ? video_->broken_frames() : 0);
  }
  /// Times that live inputs were connected again so far.
  int64_t reconnects() const {
    return reconnects_ + (video_ != nullptr ? video_->reconnects() : 0);
  }
  /// Videos that ended long before the length that they state.
  int64_t cut_short() const { return cut_short_; }
  /// What reading and decoding pictures took so far, summed over the threads that do it, in us. May
  /// be called at any time.
  int64_t picture_work_us() const { return picture_work_us_; }

 private:
  bool next_video_frame(SourceFrame& frame);
  Image read_picture(const std::string& path);
  Image next_picture(std::size_t index);
  void estimate_total();
  void check_length(const std::string& file);
  void close_video();

  std::vector<Input> inputs_;
  InputOptions options_;
  std::size_t at_ = 0;
  std::size_t asked_ = 0;  // inputs before this one need not be asked of pictures_
  std::atomic<int64_t> picture_work_us_{0};  // counted by pictures_' threads
  std::unique_ptr<PicturesAhead> pictures_;
  std::unique_ptr<VideoReader> video_;
  int64_t broken_frames_ = 0;  // of videos that are closed, as all below
  int64_t cut_short_ = 0;
  int64_t reconnects_ = 0;
  int64_t delivered_ = 0;  // frames before the current video
  int64_t video_delivered_ = 0;
  std::atomic<int64_t> estimated_total_{0};
};

}  // namespace rfseg
