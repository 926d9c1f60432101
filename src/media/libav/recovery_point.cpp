#include "media/libav/recovery_point.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "media/libav/unit_bits.h"

namespace rfseg::libav {
namespace {

// Rec. ITU-T H.264, table 7-1 and D.1.1.
constexpr int kFirstSlice = 1, kLastSlice = 5, kSei = 6;
constexpr uint32_t kRecoveryPoint = 6;

// 7.3.2.3.1: a number in bytes of 255, and one that is less.
uint32_t read_number(UnitBits& bits) {
  uint32_t value = 0, byte = 255;
  while (byte == 255 && !bits.ended()) value += byte = bits.bits(8);
  return value;
}

bool tells_frames_to_come(const uint8_t* unit, std::size_t size) {
  UnitBits bits(unit + 1, size - 1);
  while (!bits.ended()) {
    const uint32_t type = read_number(bits), bytes = read_number(bits);
    if (type == kRecoveryPoint) {
      const uint32_t frames = bits.ue();  // recovery_frame_cnt
      return frames > 0 && !bits.ended();
    }
    for (uint32_t i = 0; i < bytes && !bits.ended(); ++i) bits.bits(8);
  }
  return false;
}

}  // namespace

bool refreshes_gradually(const AVCodecParameters& stream, const AVPacket& packet) {
  if (stream.codec_id != AV_CODEC_ID_H264) return false;
  const uint8_t* const data = packet.data;
  const auto size = static_cast<std::size_t>(std::max(packet.size, 0));
  // SEI comes before the picture's first slice (7.4.1.2.3).
  const auto type_at = [&](std::size_t at) { return at < size ? data[at] & 31 : 0; };
  const auto is_slice = [](int type) { return type >= kFirstSlice && type <= kLastSlice; };
  if (stream.extradata_size > 4 && stream.extradata[0] == 1) {  // ISO/IEC 14496-15, 5.3.3.1
    const std::size_t width = (stream.extradata[4] & 3) + 1;
    for (std::size_t at = 0; size - at > width;) {
      std::size_t length = 0;
      for (std::size_t i = 0; i < width; ++i) length = length << 8 | data[at + i];
      at += width;
      if (length == 0 || length > size - at || is_slice(type_at(at))) return false;
      if (type_at(at) == kSei && tells_frames_to_come(data + at, length)) return true;
      at += length;
    }
    return false;
  }
  // Annex B: units between start codes.
  std::size_t sei = size;
  for (std::size_t at = 0; at + 3 <= size; ++at) {
    if (data[at] != 0 || data[at + 1] != 0 || data[at + 2] != 1) continue;
    if (sei < at && tells_frames_to_come(data + sei, at - sei)) return true;
    const int type = type_at(at + 3);
    if (is_slice(type)) return false;
    sei = type == kSei ? at + 3 : size;
    at += 2;
  }
  return sei < size && tells_frames_to_come(data + sei, size - sei);
}

}  // namespace rfseg::libav
