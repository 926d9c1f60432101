#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "media/video_io.h"
#include "rfseg/image.h"

namespace rfseg {

/// Encodes a video on its own thread, behind a queue of at most `capacity` frames.
///
/// `write` returns as soon as the frame is queued and blocks while the queue is full. An error of
/// the encoder is thrown by the next `write` or `finish`, and by every one after that. Without
/// `finish` the destructor drops the frames that wait and leaves nothing under the video's name.
/// One thread at a time may call `write`, `take_buffer` and `finish`; `stats` any.
class AsyncVideoWriter {
 public:
  struct Stats {
    int64_t frames = 0;         ///< encoded
    double encode_seconds = 0;  ///< spent in the encoder
    int max_queue_depth = 0;    ///< most frames that ever waited
  };

  explicit AsyncVideoWriter(std::unique_ptr<VideoWriter> writer, int capacity = 4);
  ~AsyncVideoWriter();
  AsyncVideoWriter(const AsyncVideoWriter&) = delete;
  AsyncVideoWriter& operator=(const AsyncVideoWriter&) = delete;

  /// `frame` has the video's size.
  void write(Image frame, double time_s);
  /// A frame that was encoded, for its memory; empty if there is none yet.
  Image take_buffer();
  /// Waits for the queue, ends the file and gives it its name.
  void finish();
  Stats stats() const;

 private:
  struct Frame {
    Image image;
    double time_s;
  };
  void run();

  std::unique_ptr<VideoWriter> writer_;
  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable not_full_, not_empty_;
  std::deque<Frame> queue_;  // guarded by mutex_, as all below
  std::vector<Image> used_;
  Stats stats_;
  std::exception_ptr error_;
  bool finishing_ = false;  // no more frames: encode what waits, then finish
  bool abandoned_ = false;  // drop what waits
  std::thread thread_;
};

}  // namespace rfseg
