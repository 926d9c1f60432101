// StreamReader: whether a file ended where it says that it does.

#include <algorithm>
#include <cstring>

#include "media/libav/reader.h"
#include "media/libav/whole_file.h"

namespace rfseg::libav {
namespace {

// Of a file's length: lengths are rounded, and streams of one file do not end together.
constexpr double kMostMissing = 0.05;

}  // namespace

/// AV_NOPTS_VALUE is less than every time.
void StreamReader::keep_end(const AVPacket& packet) {
  const int64_t time = packet.pts != AV_NOPTS_VALUE ? packet.pts : packet.dts;
  if (time == AV_NOPTS_VALUE || (packet.flags & AV_PKT_FLAG_CORRUPT) != 0) return;
  until_ = std::max(until_, time + std::max<int64_t>(packet.duration, 0));
  if (time <= latest_) return;
  if (latest_ != AV_NOPTS_VALUE) longest_gap_ = std::max(longest_gap_, time - latest_);
  latest_ = time;
}

/// Where the file says that it ends, by its own clock; AV_NOPTS_VALUE where FFmpeg has but looked
/// at the file's last packets, or guessed from its size.
int64_t StreamReader::stated_end() const {
  if (live_ || format_->duration_estimation_method != AVFMT_DURATION_FROM_STREAM) {
    return AV_NOPTS_VALUE;
  }
  const int64_t start = stream_->start_time != AV_NOPTS_VALUE ? stream_->start_time : 0;
  if (stream_->duration != AV_NOPTS_VALUE && stream_->duration > 0) {
    // Of an AVI without its index, which stands last, FFmpeg guesses how long it is; the header's
    // number of frames stays.
    const bool avi = std::strcmp(format_->iformat->name, "avi") == 0;
    return start + std::max(stream_->duration, avi ? stream_->nb_frames : 0);
  }
  if (format_->duration == AV_NOPTS_VALUE || format_->duration <= 0) return AV_NOPTS_VALUE;
  // Some count from time 0, as FFmpeg's own Matroska files, others from their first frame.
  const int64_t duration = av_rescale_q(format_->duration, AV_TIME_BASE_Q, stream_->time_base);
  return duration > start ? std::min<int64_t>(start, 0) + duration : start + duration;
}

/// At the end of the input. The length that a file states is no proof: it may be that of its sound,
/// or an edit list may leave out a part, or the last frame is shown for long. So a file is said to
/// be cut if bytes are missing too, or, of the kinds of files that do not tell their bytes, if none
/// of its streams comes to the end, which has to be further away than frames were apart.
void StreamReader::check_length() {
  const int64_t zero = zero_time_ != AV_NOPTS_VALUE            ? zero_time_
                       : stream_->start_time != AV_NOPTS_VALUE ? stream_->start_time
                                                               : 0;
  const int64_t whole_end = stated_end();
  const bool tells_end = whole_end != AV_NOPTS_VALUE && whole_end > zero;
  const double length = tells_end                  ? to_seconds(whole_end - zero)
                        : source_ == Source::kFile ? length_of_cut_asf(*format_)
                                                   : -1;
  if (!(length > 0)) return;
  const double stated = options_.end_s >= 0 ? std::min(length, options_.end_s) : length;
  double end = until_ != AV_NOPTS_VALUE ? std::max(to_seconds(until_ - zero), 0.0) : 0;
  // Black pictures that are stored as they are may be zeros.
  const AVCodecDescriptor* codec = avcodec_descriptor_get(codec_->id);
  const bool lossy = codec != nullptr && (codec->props & AV_CODEC_PROP_LOSSY) != 0;
  const bool may_lack = source_ == Source::kFile && (lossy || broken_ > 0);
  const int64_t lost = may_lack ? zeros_from(*format_, *stream_) : AV_NOPTS_VALUE;
  if (lost != AV_NOPTS_VALUE) end = std::min(end, std::max(to_seconds(lost - zero), 0.0));
  if (stated - end <= kMostMissing * stated) return;
  if (lost != AV_NOPTS_VALUE || !tells_end) {
    shortfall_ = {end, length};
    return;
  }
  const Wholeness wholeness = wholeness_of(*format_, *stream_);
  if (wholeness == Wholeness::kWhole) return;
  if (wholeness == Wholeness::kUnknown) {
    if (stated - end <= 2 * to_seconds(longest_gap_)) return;
    if (source_ == Source::kFile && format_->nb_streams > 1) {
      const double other =
          last_packet_end(name_, to_seconds(zero) + end, {Watch::on_interrupt, watch_.get()});
      if (to_seconds(whole_end) - other <= kMostMissing * length) return;
    }
  }
  shortfall_ = {end, length};
}

}  // namespace rfseg::libav
