#include "media/live_reader.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

#include "core/log.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr double kFirstWait = 0.25, kLongestWait = 8;  // seconds
constexpr double kSteady = 2;                          // a connection that lasted is no retry
constexpr auto kPoll = std::chrono::milliseconds(20);

class LiveReader final : public VideoReader {
 public:
  LiveReader(const std::string& name, std::unique_ptr<VideoReader> first, OpenStream open,
             const VideoOptions& options, std::function<bool()> cancelled)
      : name_(name),
        reader_(std::move(first)),
        open_(std::move(open)),
        options_(options),
        cancelled_(std::move(cancelled)),
        info_(reader_->info()),
        last_frame_(Clock::now()) {
    options_.width = info_.width;
    options_.height = info_.height;
  }

  const VideoInfo& info() const override { return info_; }

  bool read(VideoFrame& frame) override {
    for (;;) {
      if (ended_ || (reader_ == nullptr && !connect())) return false;
      std::string why = "the stream ended";
      try {
        if (reader_->read(frame)) {
          place(frame);
          if (options_.end_s < 0 || frame.time_s < options_.end_s) return true;
          ended_ = true;
          return false;
        }
        if (options_.end_s >= 0 && reached_end()) return false;
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kInput) throw;
        why = without_name(error.what());
      }
      broken_ += reader_->broken_frames();
      reader_.reset();
      log_warning(name_ + ": " + why + "; connecting again");
    }
  }

  int64_t broken_frames() const override {
    return broken_ + (reader_ != nullptr ? reader_->broken_frames() : 0);
  }
  int64_t reconnects() const override { return reconnects_; }
  bool given_up() const override { return given_up_; }

 private:
  /// Numbers and times across connections.
  void place(VideoFrame& frame) {
    const Clock::time_point now = Clock::now();
    if (!started_) {
      started_ = true;
      start_ = now - std::chrono::duration_cast<Clock::duration>(Seconds(frame.time_s));
    }
    if (fresh_) {
      fresh_ = false;
      first_index_ = last_index_ < 0 ? 0 : next_index();
      first_time_ = last_index_ < 0 ? 0 : Seconds(now - start_).count() - frame.time_s;
    }
    frame.index += first_index_;
    frame.time_s = std::max(frame.time_s + first_time_, last_time_);
    last_index_ = frame.index;
    last_time_ = frame.time_s;
    last_frame_ = now;
    if (Seconds(now - connected_).count() > kSteady) wait_ = 0;
  }

  /// Of the frames that are delivered every `every`th: the next one of those.
  int64_t next_index() const { return (last_index_ / options_.every + 1) * options_.every; }

  bool reached_end() const {
    const double frame = info_.frame_rate > 0 ? 1 / info_.frame_rate : 0;
    return last_time_ + 1.5 * frame >= options_.end_s;
  }

  /// Seconds in which a frame before the end can still come: by the clock since the first frame, or
  /// where none has come yet since the stream was opened, with the patience for one silence.
  double time_left() const {
    if (options_.end_s < 0) return options_.timeout_s;
    const Clock::time_point now = Clock::now();
    if (started_) return options_.end_s - Seconds(now - start_).count();
    return options_.end_s + options_.timeout_s - Seconds(now - opened_).count();
  }

  /// "NAME: what": the name is told once.
  std::string without_name(std::string what) const {
    if (what.rfind(name_ + ": ", 0) == 0) what.erase(0, name_.size() + 2);
    return what;
  }

  bool stopped() const { return cancelled_ && cancelled_(); }

  /// False when the time for it has run out.
  bool connect() {
    std::string why;
    for (;;) {
      const Clock::time_point until =
          Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(wait_));
      while (Clock::now() < until) {
        if (stopped()) throw Error(ErrorCode::kCancelled, name_ + ": cancelled");
        std::this_thread::sleep_for(kPoll);
      }
      const double silent = Seconds(Clock::now() - last_frame_).count();
      if (silent > options_.reconnect_s) {
        log_message(LogLevel::kError,
                    name_ + ": given up after " + std::to_string(std::lround(silent)) +
                        " seconds without a picture" + (why.empty() ? "" : " (" + why + ")"));
        given_up_ = ended_ = true;
        return false;
      }
      wait_ = std::clamp(2 * wait_, kFirstWait, kLongestWait);
      wait_ = std::min(wait_, std::max(0.0, options_.reconnect_s - silent) + 0.001);
      try {
        VideoOptions options = options_;
        if (started_) {  // a connection has its own clock: the end is seen here
          options.start_s = 0;
          options.end_s = -1;
        }
        const double left = time_left();
        if (left <= 0) return false;
        options.timeout_s = std::clamp(left, std::min(0.1, options_.timeout_s), options_.timeout_s);
        reader_ = open_(options);
        connected_ = Clock::now();
        ++reconnects_;
        fresh_ = true;
        return true;
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kInput) throw;
        why = without_name(error.what());
        log_debug(name_ + ": " + why);
      }
    }
  }

  std::string name_;
  std::unique_ptr<VideoReader> reader_;
  OpenStream open_;
  VideoOptions options_;
  std::function<bool()> cancelled_;
  VideoInfo info_;
  Clock::time_point start_, last_frame_, opened_ = Clock::now(), connected_ = opened_;
  bool started_ = false, fresh_ = true, ended_ = false, given_up_ = false;
  int64_t first_index_ = 0, last_index_ = -1;
  double first_time_ = 0, last_time_ = 0, wait_ = 0;
  int64_t broken_ = 0, reconnects_ = 0;
};

}  // namespace

std::unique_ptr<VideoReader> keep_connected(const std::string& name,
                                            std::unique_ptr<VideoReader> first, OpenStream open,
                                            const VideoOptions& options,
                                            std::function<bool()> cancelled) {
  return std::make_unique<LiveReader>(name, std::move(first), std::move(open), options,
                                      std::move(cancelled));
}

}  // namespace rfseg
