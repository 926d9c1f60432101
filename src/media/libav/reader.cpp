#include "media/libav/reader.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>
#include <thread>
#include <utility>

#include "media/libav/gpu_decoding.h"
#include "media/libav/support.h"

namespace rfseg::libav {
namespace {

// Packets and errors that give no frame before a stream is given up.
constexpr int kMostFailuresInARow = 10000;
// A step back of a file's times by more seconds is another clock, not disorder.
constexpr double kClockJump = 0.5;
// Between the times at which a picture is decoded and shown.
constexpr double kMostDisorder = 1;
// A decoder asks where to decode with the first picture that it reads the head of.
constexpr std::size_t kMostGiven = 64;

int64_t now_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", seconds);
  return text;
}

}  // namespace

StreamReader::StreamReader(const char* path, const ReaderOptions& options)
    : name_(path), options_(options), progress_(options.so_far) {
  watch_ = std::make_unique<Watch>(options.cancelled, options.cancelled_context);
  packet_.reset(av_packet_alloc());
  frame_.reset(av_frame_alloc());
  if (!packet_ || !frame_) throw std::bad_alloc();
  open_input();
  open_stream();
  if (progress_.frames > 0) {
    counter_.restart(progress_.frames);
  } else {
    go_to_start();
  }
  if (options_.only_where_faster && !is_faster_on_gpu()) options_.keeper.stream = nullptr;
  open_decoder();
}

double StreamReader::to_seconds(int64_t timestamp) const {
  // One rounding, so that frame 12 at 25 frames a second has the time that 0.48 reads as.
  return static_cast<double>(timestamp) * stream_->time_base.num / stream_->time_base.den;
}

void StreamReader::fail_read(const std::string& what, int error) {
  if (watch_->cancelled()) throw Error(ErrorCode::kCancelled, name_ + ": cancelled");
  // An interrupted connection stays so, even where the probe could do with what had come.
  if (watch_->expired() || error == AVERROR_EXIT) {
    throw Error(ErrorCode::kInput, name_ + ": no picture came within " +
                                       seconds_text(options_.timeout_s) + " seconds");
  }
  fail(ErrorCode::kInput, name_, what, error);
}

/// What begins now may take so long.
void StreamReader::arm() { watch_->arm(source_ == Source::kFile ? 0 : options_.timeout_s); }

/// Recordings that were put one behind the other, or of a sender that began again: where the clock
/// jumps back the times go on after those of the packet before, as in the ffmpeg program. FFmpeg
/// takes a jump back of MPEG's clock by more than a minute for its overflow.
void StreamReader::keep_clock(AVPacket& packet) {
  if (packet.dts == AV_NOPTS_VALUE) return;
  const int64_t dts = packet.dts + clock_offset_;
  const bool first = last_dts_ == AV_NOPTS_VALUE;
  const int bits = stream_->pts_wrap_bits;
  const bool overflows =
      !first && bits > 1 && bits < 63 && dts - last_dts_ > int64_t{1} << (bits - 1);
  if (!first && (to_seconds(last_dts_ - dts) > kClockJump || overflows)) {
    const int64_t duration = packet.duration > 0 ? packet.duration
                             : frame_rate_ > 0
                                 ? std::llround(1 / (frame_rate_ * av_q2d(stream_->time_base)))
                                 : 0;
    clock_offset_ += last_dts_ + duration - dts;
    // And after those that were shown before it, of which some may be missing at the cut.
    const int64_t late = packet.pts == AV_NOPTS_VALUE || latest_ == AV_NOPTS_VALUE
                             ? 0
                             : latest_ + duration - (packet.pts + clock_offset_);
    if (late > 0 && to_seconds(late) < kMostDisorder) clock_offset_ += late;
  }
  packet.dts += clock_offset_;
  if (packet.pts != AV_NOPTS_VALUE) packet.pts += clock_offset_;
  last_dts_ = packet.dts;
}

/// Reads the next packet of the stream; false at its end.
bool StreamReader::read_packet(AVPacket& packet) {
  for (;;) {
    av_packet_unref(&packet);
    int result = av_read_frame(format_.get(), &packet);
    while (result == AVERROR(EAGAIN)) {  // a device without a picture yet
      if (Watch::on_interrupt(watch_.get()) != 0) fail_read("cannot be read", AVERROR_EXIT);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      result = av_read_frame(format_.get(), &packet);
    }
    if (result >= 0) {
      if (packet.stream_index != stream_->index) continue;
      if (!live_) keep_clock(packet);
      if (!live_) keep_end(packet);
      return true;
    }
    if (result == AVERROR_EOF) return false;
    if (result == AVERROR_INVALIDDATA && ++failures_in_a_row_ < kMostFailuresInARow) {
      cut_short_ = true;
      continue;
    }
    if (result == AVERROR_INVALIDDATA) return false;
    // A reply without a length ends with its connection; FFmpeg misses the rest of 2^64 bytes.
    const bool sized = format_->pb != nullptr && avio_size(format_->pb) > 0;
    if (source_ == Source::kNetwork && result == AVERROR(EIO) && !sized && !watch_->expired() &&
        !watch_->cancelled()) {
      return false;
    }
    try {
      fail_read("cannot be read any further", result);
    } catch (const Error& error) {
      if (source_ == Source::kFile || error.code() == ErrorCode::kCancelled) throw;
      broken_off_ = std::current_exception();  // once the decoder has given what it holds
      return false;
    }
  }
}

/// True for packets that hold one frame of the presentation.
bool StreamReader::holds_frame(const AVPacket& packet) const {
  if ((packet.flags & AV_PKT_FLAG_DISCARD) != 0) return false;  // outside the edit list
  // VP8 has packets of their own for frames that are only referred to (RFC 6386, 9.1: show_frame).
  return codec_->id != AV_CODEC_ID_VP8 || packet.size < 1 || (packet.data[0] & 0x10) != 0;
}

void StreamReader::count_broken() {
  ++broken_;
  counter_.broken();
}

/// The next packet for a decoder; false when there is none.
bool StreamReader::next_packet(AVPacket& packet) {
  if (ahead_.empty()) return !input_ended_ && (lanes_ ? read_ahead(packet) : read_packet(packet));
  av_packet_unref(&packet);
  av_packet_move_ref(&packet, ahead_.front().get());
  ahead_.pop_front();
  return true;
}

/// Gives the decoder one packet, or tells it that there are no more. False when it was told before.
bool StreamReader::feed_decoder() {
  if (ended_) return false;
  if (!next_packet(*packet_)) {
    ended_ = true;
    return avcodec_send_packet(decoder_.get(), nullptr) >= 0;
  }
  if ((packet_->flags & AV_PKT_FLAG_CORRUPT) != 0) cut_short_ = true;
  if (group_starts_) (*group_starts_)(*packet_);
  if (gpu_ && decoded_ == 0 && !gpu_refused_ && given_.size() < kMostGiven) {
    if (given_.empty()) counter_at_start_ = counter_;
    given_.emplace_back(av_packet_clone(packet_.get()));
    if (!given_.back()) throw std::bad_alloc();
  }
  if (holds_frame(*packet_)) {
    counter_.packet(packet_->pts, packet_->dts, (packet_->flags & AV_PKT_FLAG_KEY) != 0);
  }
  settle();
  const int result = avcodec_send_packet(decoder_.get(), packet_.get());
  av_packet_unref(packet_.get());
  if (result == AVERROR(ENOMEM)) throw std::bad_alloc();
  if (result < 0) {
    count_broken();
    ++failures_in_a_row_;
  }
  return true;
}

void StreamReader::check_failures() const {
  if (failures_in_a_row_ >= kMostFailuresInARow) {
    throw Error(ErrorCode::kInput, name_ + ": given up after " +
                                       std::to_string(failures_in_a_row_) +
                                       " broken frames in a row");
  }
}

/// Brings the next decoded frame into frame_; false at the end. A peer has the patience for one
/// silence for it: sound, or bytes that make no picture, are no sign of life.
bool StreamReader::decode() {
  arm();
  for (;;) {
    check_failures();
    settle();
    const int result = avcodec_receive_frame(decoder_.get(), frame_.get());
    if (gpu_ && gpu_refused_ && decoded_ == 0 && given_.size() < kMostGiven) {
      av_frame_unref(frame_.get());
      decode_on_cpu_instead();
      continue;
    }
    if (result >= 0) {
      if (!is_damaged(*frame_)) {
        failures_in_a_row_ = 0;
        return true;
      }
      ++broken_;
      ++failures_in_a_row_;
      counter_.frame(frame_->pts);
    } else if (result == AVERROR(EAGAIN)) {
      if (!feed_decoder()) return false;
    } else if (result == AVERROR_EOF) {
      return false;
    } else if (result == AVERROR(ENOMEM)) {
      throw std::bad_alloc();
    } else {
      count_broken();
      ++failures_in_a_row_;
    }
  }
}

double StreamReader::stream_time(int64_t timestamp) {
  const double after_last =
      last_time_ < 0 ? 0 : last_time_ + (frame_rate_ > 0 ? 1 / frame_rate_ : 0);
  if (timestamp == AV_NOPTS_VALUE) return after_last;
  const bool jumps_back =  // those before it had no time, but there were more than it tells
      !live_ && zero_time_ != AV_NOPTS_VALUE && last_time_ >= 0 &&
      to_seconds(timestamp - zero_time_) < last_time_ - kClockJump;
  if (zero_time_ == AV_NOPTS_VALUE || jumps_back) {  // those before it had no time
    zero_time_ = timestamp - std::llround(after_last / av_q2d(stream_->time_base));
  }
  return to_seconds(timestamp - zero_time_);
}

/// Of live streams that tell no times, or whose times stand still or go back, it is the time since
/// the first frame came. One without a time alone is none of those: RTSP's first one is so.
double StreamReader::frame_time(int64_t timestamp) {
  const int64_t now = now_us();
  if (last_time_ < 0) {
    first_seen_us_ = now;
  } else if (live_ && timestamp <= last_timestamp_) {
    by_clock_ = by_clock_ || timestamp != AV_NOPTS_VALUE || last_timestamp_ == AV_NOPTS_VALUE;
  }
  last_timestamp_ = timestamp;
  if (!by_clock_) return stream_time(timestamp);
  return std::max(last_time_, static_cast<double>(now - first_seen_us_) * 1e-6);
}

/// The time over all connections of the frame that has `time` in this one: after a break, times go
/// on with the clock on the wall, or after the last frame where that is later: a peer may send
/// faster than in real time.
double StreamReader::place(int64_t index, double time) {
  const int64_t now = now_us();
  if (decoded_ == 1 && progress_.frames == 0) {
    progress_.zero_us = now - std::llround(time * 1e6);
  } else if (decoded_ == 1) {
    const double clock = static_cast<double>(now - progress_.zero_us) * 1e-6;
    const double next = progress_.time_s + (frame_rate_ > 0 ? 1 / frame_rate_ : 0);
    connected_at_ = std::max(clock, next) - time;
  }
  progress_.frames = index + 1;
  progress_.last_us = now;
  progress_.time_s = std::max(progress_.time_s, connected_at_ + time);
  return progress_.time_s;
}

/// The next frame that is whole: in frame_, or, where several decoders share the work, in `shown`.
/// False at the end.
bool StreamReader::next_frame(LaneEvent& shown) {
  if (!lanes_ && decoded_ == 1 && group_starts_) {
    const bool on_gpu = gpu_ && !gpu_refused_ && frame_->format == AV_PIX_FMT_CUDA;
    if (!on_gpu || ended_ || !share_among_decoders()) group_starts_.reset();
  }
  if (lanes_) return next_of_lanes(shown);
  if (!decode()) return false;
  shown.pts = frame_->pts;
  shown.best_effort = frame_->best_effort_timestamp;
  return true;
}

/// Valid until the next call.
FrameView StreamReader::view_of(LaneEvent& shown) {
  if (shown.view.kept != nullptr) return shown.view;
  if (shown.host) host_frame_ = std::move(shown.host);
  FrameView view = converter_->convert(host_frame_ ? *host_frame_ : *frame_);
  if (!view.on_gpu) return view;
  copying_ = true;
  keep(options_.keeper, view);
  return view;
}

void StreamReader::drop(const LaneEvent& shown) const {
  if (shown.view.kept != nullptr) options_.keeper.drop(shown.view.kept);
}

bool StreamReader::read(FrameView& view) {
  for (LaneEvent shown; next_frame(shown); shown = {}) {
    if (watch_->cancelled()) {
      drop(shown);
      throw Error(ErrorCode::kCancelled, name_ + ": cancelled");
    }
    ++decoded_;
    given_.clear();
    const int64_t index = counter_.frame(shown.pts);
    // What a file places before its start has the time of the start.
    last_time_ = std::max({frame_time(shown.best_effort), last_time_, 0.0});
    const double time = place(index, last_time_);
    const bool past_end = options_.end_s >= 0 && time >= options_.end_s;
    progress_.past_end = past_end;
    if (past_end || time < options_.start_s || index % options_.every != 0) {
      drop(shown);
      if (past_end) return false;
      continue;
    }
    view = view_of(shown);
    view.index = index;
    view.time_s = time;
    return true;
  }
  if (broken_off_) std::rethrow_exception(broken_off_);
  if (decoded_ == 0 && options_.start_s <= 0) {
    throw Error(ErrorCode::kInput,
                name_ + ": no frame could be decoded" +
                    (broken_ > 0 ? " (" + std::to_string(broken_) + " are broken)" : ""));
  }
  check_length();
  if (cut_short_ && shortfall_.stated_s <= 0) {  // else the caller says more
    cut_short_ = false;
    log(kLogWarning,
        name_ + (live_ ? ": the stream is damaged" : ": the file is damaged or ends too early"));
  }
  return false;
}

}  // namespace rfseg::libav
