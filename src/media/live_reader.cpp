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
        info_(reader_->info()) {
    options_.width = info_.width;
    options_.height = info_.height;
  }

  const VideoInfo& info() const override { return info_; }

  bool read(VideoFrame& frame) override {
    for (;;) {
      if (ended_ || (reader_ == nullptr && !connect())) return false;
      std::string why = "the stream ended";
      bool got = false;
      try {
        got = reader_->read(frame);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kInput) throw;
        why = without_name(error.what());
      }
      options_.so_far = reader_->progress();
      if (Seconds(options_.so_far.last - connected_).count() > kSteady) wait_ = 0;
      if (got) return true;
      if (reached_end()) {
        ended_ = true;
        return false;
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
  bool started() const { return options_.so_far.frames > 0; }

  /// A frame after the end has come, or the next one would be.
  bool reached_end() const {
    if (options_.end_s < 0 || !started()) return false;
    const double frame = info_.frame_rate > 0 ? 1 / info_.frame_rate : 0;
    return options_.so_far.past_end || options_.so_far.time_s + 1.5 * frame >= options_.end_s;
  }

  /// Seconds in which a frame before the end can still come: by the clock since the first frame, or
  /// where none has come yet since the stream was opened, with the patience for one silence.
  double time_left() const {
    if (options_.end_s < 0) return options_.timeout_s;
    const Clock::time_point now = Clock::now();
    if (started()) return options_.end_s - Seconds(now - options_.so_far.zero).count();
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
      const double silent =
          Seconds(Clock::now() - (started() ? options_.so_far.last : opened_)).count();
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
        const double left = time_left();
        if (left <= 0) return false;
        options.timeout_s = std::clamp(left, std::min(0.1, options_.timeout_s), options_.timeout_s);
        reader_ = open_(options);
        connected_ = Clock::now();
        ++reconnects_;
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
  Clock::time_point opened_ = Clock::now(), connected_ = opened_;
  bool ended_ = false, given_up_ = false;
  double wait_ = 0;
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
