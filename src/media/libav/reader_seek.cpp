// StreamReader: going to the first frame wanted.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <deque>
#include <iterator>
#include <new>
#include <utility>
#include <vector>

#include "media/libav/reader.h"
#include "media/libav/recovery_point.h"

namespace rfseg::libav {
namespace {

constexpr std::size_t kMostBytesAhead = std::size_t{256} << 20;
constexpr std::size_t kMostReordered = 16;  // pictures, of H.264 and HEVC
// Packets that have to follow the key frame at which decoding begins. FFmpeg's H.264 decoder gives
// nothing that it decoded before it gave a first frame and that it still holds at the end, if that
// frame begins an open group; and pictures that are shown before the key frame come in these.
constexpr std::size_t kFewestBehind = 2 * (kMostReordered + 1);

constexpr int kMostFailures = 1000;  // of a decoder at the beginning

/// Whether the times of a stream's packets have been in order so far, group of pictures after group
/// of pictures. From where they are not, a frame's number and time depend on what came before.
class TimesInOrder {
 public:
  bool operator()(const AVPacket& packet) {
    if ((packet.flags & AV_PKT_FLAG_KEY) != 0) latest_before_group_ = latest_;
    // AV_NOPTS_VALUE is less than every time.
    if (packet.dts != AV_NOPTS_VALUE) {
      in_order_ = in_order_ && packet.dts >= last_dts_;
      last_dts_ = packet.dts;
    }
    if (packet.pts == AV_NOPTS_VALUE) return in_order_;
    const bool repeats = std::find(recent_.begin(), recent_.end(), packet.pts) != recent_.end();
    in_order_ =
        in_order_ && !repeats && packet.pts >= packet.dts && packet.pts > latest_before_group_;
    latest_ = std::max(latest_, packet.pts);
    recent_.push_back(packet.pts);
    if (recent_.size() > kMostReordered) recent_.pop_front();
    return in_order_;
  }

 private:
  bool in_order_ = true;
  int64_t last_dts_ = AV_NOPTS_VALUE, latest_ = AV_NOPTS_VALUE;
  int64_t latest_before_group_ = AV_NOPTS_VALUE;
  std::deque<int64_t> recent_;
};

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
  if (!seek_by_index(target)) scan_to_start();
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
  if (codec_->id == AV_CODEC_ID_H264) {
    const auto few_behind = [&](int entry) {
      return static_cast<std::size_t>(entries - entry) <= kFewestBehind;
    };
    while (keys.size() > 1 && few_behind(keys.back().first)) keys.pop_back();
    if (keys.size() == 1) return true;
  }
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

/// Sets the time of the first frame from that frame itself, where FFmpeg did not come to know it
/// (H.264 in Matroska), and returns how many pictures at the beginning are never shown: those in
/// front of the first key frame, which a cut left without what they refer to, and which have no
/// times in Matroska. `packets` gets what was read.
int64_t StreamReader::decode_beginning(std::deque<AvPtr<AVPacket>>& packets) {
  const AvPtr<AVCodecContext> decoder = open_cpu_decoder(1);
  const AvPtr<AVFrame> frame(av_frame_alloc());
  if (!frame) throw std::bad_alloc();
  FrameCounter counter;
  int keys = 0, failures = 0;
  int64_t frames = 0;           // of the packets
  bool timeless = false;        // is one of the packets up to the second key frame
  std::vector<int64_t> behind;  // times of the packets behind those
  int64_t unshown = 0;
  std::size_t bytes = 0;
  for (bool ended = false, found = false; !found;) {
    int result = avcodec_receive_frame(decoder.get(), frame.get());
    if (result >= 0) {
      const int64_t pts = frame->pts;
      const int64_t index = counter.frame(pts);
      if (!is_damaged(*frame)) last_time_ = stream_time(frame->best_effort_timestamp);
      // The packets that are shown before a key frame follow it at once.
      found = zero_time_ != AV_NOPTS_VALUE && frames > 1 &&
              (!timeless || std::find(behind.begin(), behind.end(), pts) != behind.end());
      if (!found || !timeless) continue;
      const auto read = std::count_if(packets.begin(), packets.end(), [&](const auto& packet) {
        return holds_frame(*packet) && packet->pts < pts;  // AV_NOPTS_VALUE is less than every time
      });
      unshown = std::max<int64_t>(read - index, 0);
    } else if (result == AVERROR(EAGAIN)) {
      AvPtr<AVPacket> packet(av_packet_alloc());
      if (!packet) throw std::bad_alloc();
      arm();
      ended = bytes > kMostBytesAhead || !read_packet(*packet);
      if (!ended && holds_frame(*packet)) {
        const bool key = (packet->flags & AV_PKT_FLAG_KEY) != 0;
        keys += key;
        ++frames;
        counter.packet(packet->pts, packet->dts, key);
        if (packet->pts == AV_NOPTS_VALUE && packet->dts == AV_NOPTS_VALUE && keys < 2) {
          timeless = true;
          behind.clear();
        } else if (packet->pts != AV_NOPTS_VALUE) {
          behind.push_back(packet->pts);
        }
      }
      result = avcodec_send_packet(decoder.get(), ended ? nullptr : packet.get());
      if (result == AVERROR(ENOMEM)) throw std::bad_alloc();
      if (result < 0 && ended) break;
      if (result < 0) counter.broken();
      if (ended) continue;
      bytes += static_cast<std::size_t>(packet->size);
      packets.push_back(std::move(packet));
    } else if (result == AVERROR(ENOMEM)) {
      throw std::bad_alloc();
    } else if (ended || ++failures > kMostFailures) {
      break;
    } else {
      counter.broken();
    }
  }
  last_time_ = -1;
  return unshown;
}

// Where the clock jumps, or times are out of order, nothing behind that is a beginning.
void StreamReader::scan_to_start() {
  const int64_t offset = clock_offset_;
  std::deque<AvPtr<AVPacket>> read;  // already
  const bool matroska = std::strncmp(format_->iformat->name, "matroska", 8) == 0;
  const AVCodecDescriptor* codec = avcodec_descriptor_get(codec_->id);
  const bool reorders = codec == nullptr || (codec->props & AV_CODEC_PROP_INTRA_ONLY) == 0;
  const bool hard = zero_time_ == AV_NOPTS_VALUE || (matroska && reorders);
  const int64_t unshown = hard ? decode_beginning(read) : 0;
  const int64_t zero = zero_time_ == AV_NOPTS_VALUE ? 0 : zero_time_;
  const int64_t target = zero + static_cast<int64_t>(options_.start_s / av_q2d(stream_->time_base));
  int64_t before = 0;            // frames before the first packet kept
  std::deque<std::size_t> keys;  // of ahead_, at which decoding may begin
  const auto begin_at = [&](std::size_t key) {
    for (std::size_t i = 0; i < key; ++i) before += holds_frame(*ahead_[i]);
    ahead_.erase(ahead_.begin(), ahead_.begin() + static_cast<std::ptrdiff_t>(key));
    for (std::size_t& other : keys) other -= key;
  };
  const std::size_t behind = reorders ? kFewestBehind : 0;
  TimesInOrder in_order;
  bool ordered = true;
  std::size_t bytes = 0;
  for (;;) {
    AvPtr<AVPacket> packet;
    if (!read.empty()) {
      packet = std::move(read.front());
      read.pop_front();
    } else {
      packet.reset(av_packet_alloc());
      if (!packet) throw std::bad_alloc();
      arm();
      if (!read_packet(*packet)) {
        input_ended_ = true;
        break;
      }
    }
    if (holds_frame(*packet)) ordered = in_order(*packet) && clock_offset_ == offset;
    if (!ordered) {
      keys.clear();
    } else if (packet->pts != AV_NOPTS_VALUE && packet->pts <= target &&
               (packet->flags & AV_PKT_FLAG_KEY) != 0 &&
               !refreshes_gradually(*stream_->codecpar, *packet)) {
      keys.push_back(ahead_.size());
    }
    const int64_t decoded_at = packet->dts != AV_NOPTS_VALUE ? packet->dts : packet->pts;
    bytes += static_cast<std::size_t>(packet->size);
    ahead_.push_back(std::move(packet));
    while (!keys.empty() && ahead_.size() - keys.front() > behind) {
      const std::size_t key = keys.front();
      for (std::size_t i = 0; i < key; ++i) bytes -= static_cast<std::size_t>(ahead_[i]->size);
      keys.pop_front();
      begin_at(key);
    }
    const bool there = decoded_at == AV_NOPTS_VALUE || decoded_at >= target;
    if ((there && keys.empty()) || bytes > kMostBytesAhead) break;
  }
  std::move(read.begin(), read.end(), std::back_inserter(ahead_));
  if (input_ended_ && !keys.empty() && codec_->id != AV_CODEC_ID_H264) begin_at(keys.back());
  counter_.restart(before > 0 ? before - unshown : 0);
}

}  // namespace rfseg::libav
