#include "media/libav/whole_file.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

namespace rfseg::libav {
namespace {

bool is_format(const AVFormatContext& input, const char* name) {
  return std::strncmp(input.iformat->name, name, std::strlen(name)) == 0;
}

/// Its bytes, read at a place of choice.
class Bytes {
 public:
  explicit Bytes(AVIOContext* io) : io_(io), size_(io != nullptr ? avio_size(io) : -1) {
    if (io_ != nullptr && (io_->seekable & AVIO_SEEKABLE_NORMAL) == 0) size_ = -1;
  }
  int64_t size() const { return size_; }
  /// False past the end.
  bool read(int64_t at, uint8_t* data, int size) {
    if (at < 0 || at > size_ - size || avio_seek(io_, at, SEEK_SET) < 0) return false;
    return avio_read(io_, data, size) == size;
  }

 private:
  AVIOContext* io_;
  int64_t size_;
};

/// The index of a file in fragments grows while that is read, and may end with any fragment.
Wholeness mov_wholeness(const AVStream& stream, int64_t size) {
  // FFmpeg's functions for the index take no const stream, and change nothing.
  auto* const s = const_cast<AVStream*>(&stream);
  const int entries = avformat_index_get_entries_count(s);
  for (int i = 0; i < entries; ++i) {
    const AVIndexEntry* entry = avformat_index_get_entry(s, i);
    if (entry->pos > size - entry->size) return Wholeness::kCut;
  }
  return stream.nb_frames > 0 && entries <= stream.nb_frames ? Wholeness::kWhole
                                                             : Wholeness::kUnknown;
}

/// Reads a number of EBML (RFC 8794, 4) and goes behind it; -1 where there is none or it stands for
/// "unknown".
int64_t ebml_number(Bytes& bytes, int64_t& at, bool keep_marker) {
  uint8_t first = 0, next[7];
  if (!bytes.read(at, &first, 1) || first == 0) return -1;
  int more = 0;
  while ((first & (0x80 >> more)) == 0) ++more;
  if (!bytes.read(at + 1, next, more)) return -1;
  at += 1 + more;
  const int marker = 0x80 >> more;
  int64_t value = keep_marker ? first : first & (marker - 1);
  bool all_set = (first & (marker - 1)) == marker - 1;
  for (int i = 0; i < more; ++i) {
    value = value << 8 | next[i];
    all_set = all_set && next[i] == 0xff;
  }
  return all_set && !keep_marker ? -1 : value;
}

Wholeness matroska_wholeness(Bytes& bytes) {
  constexpr int64_t kHead = 0x1a45dfa3, kSegment = 0x18538067;
  int64_t at = 0;
  if (ebml_number(bytes, at, true) != kHead) return Wholeness::kUnknown;
  const int64_t head = ebml_number(bytes, at, false);
  if (head < 0 || head > bytes.size()) return Wholeness::kUnknown;
  at += head;
  if (ebml_number(bytes, at, true) != kSegment) return Wholeness::kUnknown;
  const int64_t segment = ebml_number(bytes, at, false);
  if (segment < 0) return Wholeness::kUnknown;
  return segment > bytes.size() - at ? Wholeness::kCut : Wholeness::kWhole;
}

/// One RIFF chunk, and others behind it in files of more than 1 GB (OpenDML).
Wholeness avi_wholeness(Bytes& bytes) {
  constexpr int64_t kHead = 8, kUnset = 0xffffffff;
  constexpr int64_t kCareless = 16;  // bytes by which writers err
  Wholeness found = Wholeness::kUnknown;
  uint8_t head[kHead + 4];
  for (int64_t at = 0; bytes.read(at, head, sizeof head);) {
    if (std::memcmp(head, "RIFF", 4) != 0 || std::memcmp(head + 8, "AVI", 3) != 0) break;
    const int64_t length =
        head[4] | head[5] << 8 | head[6] << 16 | static_cast<int64_t>(head[7]) << 24;
    if (length == 0) return Wholeness::kUnknown;
    // Written to a pipe: the number of frames is made up as well.
    if (length == kUnset) return Wholeness::kWhole;
    at += kHead + length + length % 2;
    if (at > bytes.size() + kCareless) return Wholeness::kCut;
    found = Wholeness::kWhole;
  }
  return found;
}

/// Behind each tag stands how long it is.
Wholeness flv_wholeness(Bytes& bytes) {
  constexpr int64_t kHead = 11;
  uint8_t tail[4], tag[4];
  if (!bytes.read(bytes.size() - 4, tail, 4)) return Wholeness::kUnknown;
  const int64_t length =
      static_cast<int64_t>(tail[0]) << 24 | tail[1] << 16 | tail[2] << 8 | tail[3];
  if (!bytes.read(bytes.size() - 4 - length, tag, 4)) return Wholeness::kUnknown;
  const int64_t data = tag[1] << 16 | tag[2] << 8 | tag[3];
  return length > kHead && data == length - kHead ? Wholeness::kWhole : Wholeness::kUnknown;
}

bool ends_with_zeros(Bytes& bytes) {
  constexpr int64_t kMost = 4096;
  std::vector<uint8_t> tail(static_cast<std::size_t>(std::min(kMost, bytes.size() / 8)));
  if (tail.empty()) return false;
  const auto count = static_cast<int>(tail.size());
  return bytes.read(bytes.size() - count, tail.data(), count) &&
         std::all_of(tail.begin(), tail.end(), [](uint8_t byte) { return byte == 0; });
}

}  // namespace

Wholeness wholeness_of(AVFormatContext& input, const AVStream& stream) {
  Bytes bytes(input.pb);
  if (bytes.size() <= 0) return Wholeness::kUnknown;
  if (is_format(input, "mov")) return mov_wholeness(stream, bytes.size());
  Wholeness found = is_format(input, "matroska") ? matroska_wholeness(bytes)
                    : is_format(input, "avi")    ? avi_wholeness(bytes)
                    : is_format(input, "flv")    ? flv_wholeness(bytes)
                                                 : Wholeness::kUnknown;
  if (found == Wholeness::kWhole && ends_with_zeros(bytes)) found = Wholeness::kCut;
  return found;
}

int64_t zeros_from(AVFormatContext& input, const AVStream& stream) {
  Bytes bytes(input.pb);
  if (bytes.size() <= 0 || !is_format(input, "mov")) return AV_NOPTS_VALUE;
  auto* const s = const_cast<AVStream*>(&stream);
  const auto is_zeros = [&](int index) {
    uint8_t head[16];
    const AVIndexEntry* entry = avformat_index_get_entry(s, index);
    const int size = std::min(static_cast<int>(sizeof head), entry->size);
    return size > 0 && bytes.read(entry->pos, head, size) &&
           std::all_of(head, head + size, [](uint8_t byte) { return byte == 0; });
  };
  int zeros = avformat_index_get_entries_count(s) - 1, whole = -1;
  if (zeros < 0 || !is_zeros(zeros)) return AV_NOPTS_VALUE;
  while (zeros - whole > 1) {
    const int middle = whole + (zeros - whole) / 2;
    (is_zeros(middle) ? zeros : whole) = middle;
  }
  return avformat_index_get_entry(s, zeros)->timestamp;
}

double length_of_cut_asf(AVFormatContext& input) {
  constexpr uint8_t kHead[16] = {0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11,
                                 0xa6, 0xd9, 0x00, 0xaa, 0x00, 0x62, 0xce, 0x6c};
  constexpr uint8_t kFile[16] = {0xa1, 0xdc, 0xab, 0x8c, 0x47, 0xa9, 0xcf, 0x11,
                                 0x8e, 0xe4, 0x00, 0xc0, 0x0c, 0x20, 0x53, 0x65};
  constexpr int kName = 16, kMostObjects = 1000;
  Bytes bytes(input.pb);
  uint8_t object[92];
  const auto number = [&](int at, int size) {
    uint64_t value = 0;
    for (int i = size - 1; i >= 0; --i) value = value << 8 | object[at + i];
    return value;
  };
  if (!is_format(input, "asf") || !bytes.read(0, object, kName) ||
      std::memcmp(object, kHead, kName) != 0) {
    return -1;
  }
  int64_t at = 30;
  for (int i = 0; i < kMostObjects && bytes.read(at, object, sizeof object); ++i) {
    const uint64_t size = number(kName, 8);
    if (std::memcmp(object, kFile, kName) == 0) {
      const bool is_broadcast = (number(88, 4) & 1) != 0;  // and no number is valid
      if (is_broadcast || number(40, 8) <= static_cast<uint64_t>(bytes.size())) return -1;
      return static_cast<double>(number(64, 8)) * 1e-7 - static_cast<double>(number(80, 8)) * 1e-3;
    }
    if (size < 24 || size > static_cast<uint64_t>(bytes.size() - at)) break;
    at += static_cast<int64_t>(size);
  }
  return -1;
}

double last_packet_end(const std::string& name, double near_s, const AVIOInterruptCB& watch) {
  double end = -std::numeric_limits<double>::infinity();
  AVFormatContext* context = avformat_alloc_context();
  if (context == nullptr) return end;
  context->interrupt_callback = watch;
  AVDictionary* raw = nullptr;
  av_dict_set(&raw, "protocol_whitelist", "file,crypto,data", 0);
  const int result = avformat_open_input(&context, ("file:" + name).c_str(), nullptr, &raw);
  const AvPtr<AVDictionary> left(raw);
  if (result < 0) return end;  // and `context` is freed
  const AvPtr<AVFormatContext> input(context);
  // Where this fails it is read from its beginning.
  av_seek_frame(context, -1, static_cast<int64_t>(near_s * AV_TIME_BASE), AVSEEK_FLAG_BACKWARD);
  const AvPtr<AVPacket> packet(av_packet_alloc());
  while (packet && av_read_frame(context, packet.get()) >= 0) {
    const int64_t time = packet->pts != AV_NOPTS_VALUE ? packet->pts : packet->dts;
    if (time != AV_NOPTS_VALUE && (packet->flags & AV_PKT_FLAG_CORRUPT) == 0) {
      const AVRational base = context->streams[packet->stream_index]->time_base;
      end = std::max(end, static_cast<double>(time + packet->duration) * av_q2d(base));
    }
    av_packet_unref(packet.get());
  }
  return end;
}

}  // namespace rfseg::libav
