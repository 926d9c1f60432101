// StreamReader: going to the first frame wanted.

#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "media/libav/reader.h"
#include "media/libav/recovery_point.h"

namespace rfseg::libav {
namespace {

constexpr std::size_t kMostBytesAhead = std::size_t{256} << 20;

}  // namespace

// --start: decoding must begin at a key frame before the first wanted frame, and the frames before
// that key frame must be counted although they are not decoded. MP4 has an index of all samples;
// other containers are read, not decoded, up to the time. A point where an intra refresh begins is
// no key frame: decoding from it gives torn pictures, for longer than it tells where motion crosses
// what is not refreshed yet.
void StreamReader::go_to_start() {
  if (options_.start_s <= 0 || source_ == Source::kDevice) return;
  if (format_->iformat->flags & AVFMT_NOTIMESTAMPS || stream_->time_base.num <= 0) return;
  if (source_ == Source::kNetwork && format_->duration <= 0) return;
  if (zero_time_ == AV_NOPTS_VALUE && stream_->start_time != AV_NOPTS_VALUE) {
    zero_time_ = stream_->start_time;
  }
  const double ticks = options_.start_s / av_q2d(stream_->time_base);
  if (!(ticks < 9e18)) return;
  const int64_t zero = zero_time_ == AV_NOPTS_VALUE ? 0 : zero_time_;
  const int64_t target = zero + static_cast<int64_t>(ticks);
  if (seek_by_index(target)) return;
  scan_to(target);
}

bool StreamReader::seek_by_index(int64_t target) {
  const int entries = avformat_index_get_entries_count(stream_);
  if (std::strncmp(format_->iformat->name, "mov", 3) != 0 || entries <= 0 ||
      entries != stream_->nb_frames) {
    return false;
  }
  std::vector<std::pair<int, int64_t>> keys;  // index entry, frames before it
  int64_t shown = 0;
  for (int i = 0; i < entries; ++i) {
    const AVIndexEntry* entry = avformat_index_get_entry(stream_, i);
    if (entry->timestamp > target) break;
    if ((entry->flags & AVINDEX_KEYFRAME) != 0) keys.emplace_back(i, shown);
    if ((entry->flags & AVINDEX_DISCARD_FRAME) == 0) ++shown;
  }
  if (keys.size() <= 1) return true;  // the beginning, where the reader is
  // The index has decoding times. A key frame that is decoded before the target may be shown after
  // it: then the one before is taken.
  for (; keys.size() > 1; keys.pop_back()) {
    const AVIndexEntry* entry = avformat_index_get_entry(stream_, keys.back().first);
    const int64_t timestamp = entry->timestamp;
    if (av_seek_frame(format_.get(), stream_->index, timestamp, AVSEEK_FLAG_BACKWARD) < 0) break;
    last_dts_ = until_ = latest_ = AV_NOPTS_VALUE;
    AvPtr<AVPacket> packet(av_packet_alloc());
    if (!packet) throw std::bad_alloc();
    arm();
    if (!read_packet(*packet)) break;
    if (packet->dts != timestamp || (packet->flags & AV_PKT_FLAG_KEY) == 0) break;
    if (packet->pts > target || refreshes_gradually(*stream_->codecpar, *packet)) continue;
    counter_.restart(keys.back().second);
    ahead_.push_back(std::move(packet));
    return true;
  }
  // Begin at the beginning: opened again, since a failed seek leaves the demuxer anywhere.
  format_.reset();
  open_input();
  open_stream();
  return keys.size() == 1;
}

void StreamReader::scan_to(int64_t target) {
  int64_t before = 0;  // frames before the first packet kept
  std::size_t bytes = 0;
  for (;;) {
    AvPtr<AVPacket> packet(av_packet_alloc());
    if (!packet) throw std::bad_alloc();
    arm();
    if (!read_packet(*packet)) {
      input_ended_ = true;
      break;
    }
    const bool has_time = packet->pts != AV_NOPTS_VALUE;
    if (has_time && packet->pts <= target && (packet->flags & AV_PKT_FLAG_KEY) != 0 &&
        !refreshes_gradually(*stream_->codecpar, *packet)) {
      for (const auto& dropped : ahead_) before += holds_frame(*dropped);
      ahead_.clear();
      bytes = 0;
    }
    const int64_t decoded_at = packet->dts != AV_NOPTS_VALUE ? packet->dts : packet->pts;
    bytes += static_cast<std::size_t>(packet->size);
    ahead_.push_back(std::move(packet));
    if (decoded_at == AV_NOPTS_VALUE || decoded_at >= target || bytes > kMostBytesAhead) break;
  }
  counter_.restart(before);
}

}  // namespace rfseg::libav
