#include "media/video_encoder_thread.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/thread.h"
#include "rfseg/error.h"

namespace rfseg {

AsyncVideoWriter::AsyncVideoWriter(std::unique_ptr<VideoWriter> writer, int capacity)
    : writer_(std::move(writer)),
      capacity_(static_cast<std::size_t>(std::max(capacity, 1))),
      thread_(start_thread([this] { run(); })) {}

AsyncVideoWriter::~AsyncVideoWriter() {
  {
    const std::lock_guard lock(mutex_);
    abandoned_ = true;
  }
  not_empty_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void AsyncVideoWriter::write(Image frame, double time_s) {
  {
    std::unique_lock lock(mutex_);
    not_full_.wait(lock, [&] { return queue_.size() < capacity_ || error_; });
    if (error_) std::rethrow_exception(error_);
    if (finishing_) throw Error(ErrorCode::kInternal, "a frame after the end of the video");
    queue_.push_back({std::move(frame), time_s});
    stats_.max_queue_depth = std::max(stats_.max_queue_depth, static_cast<int>(queue_.size()));
  }
  not_empty_.notify_one();
}

Image AsyncVideoWriter::take_buffer() {
  const std::lock_guard lock(mutex_);
  if (used_.empty()) return {};
  Image image = std::move(used_.back());
  used_.pop_back();
  return image;
}

void AsyncVideoWriter::finish() {
  {
    const std::lock_guard lock(mutex_);
    finishing_ = true;
  }
  not_empty_.notify_all();
  if (thread_.joinable()) thread_.join();
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
}

AsyncVideoWriter::Stats AsyncVideoWriter::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void AsyncVideoWriter::run() {
  using Clock = std::chrono::steady_clock;
  try {
    for (;;) {
      Frame frame;
      {
        std::unique_lock lock(mutex_);
        not_empty_.wait(lock, [&] { return !queue_.empty() || finishing_ || abandoned_; });
        if (abandoned_) return;
        if (queue_.empty()) break;
        frame = std::move(queue_.front());
        queue_.pop_front();
      }
      not_full_.notify_one();
      const Clock::time_point start = Clock::now();
      writer_->write(frame.image.view(), frame.time_s);
      const std::chrono::duration<double> seconds = Clock::now() - start;
      const std::lock_guard lock(mutex_);
      ++stats_.frames;
      stats_.encode_seconds += seconds.count();
      if (used_.size() < capacity_) used_.push_back(std::move(frame.image));
    }
    const Clock::time_point start = Clock::now();
    writer_->finish();
    const std::chrono::duration<double> seconds = Clock::now() - start;
    const std::lock_guard lock(mutex_);
    stats_.encode_seconds += seconds.count();
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    not_full_.notify_all();
  }
}

}  // namespace rfseg
