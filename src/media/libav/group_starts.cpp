#include "media/libav/group_starts.h"

#include <algorithm>
#include <utility>

#include "media/libav/h264_sps.h"
#include "media/libav/unit_bits.h"

namespace rfseg::libav {
namespace {

// Rec. ITU-T H.264, table 7-1; Rec. ITU-T H.265, table 7-1.
constexpr int kH264Slice = 1, kH264Idr = 5, kH264Sps = 7, kH264Pps = 8, kH264SpsExtension = 13,
              kH264SubsetSps = 15;
constexpr int kHevcLastSlice = 31, kHevcIdrWithLeading = 19, kHevcIdr = 20, kHevcVps = 32,
              kHevcPps = 34;
constexpr int kProfileBits = 88, kLevelBits = 8;
constexpr uint32_t kNoSetId = 256;          // all are less
constexpr std::size_t kMostReordered = 16;  // of either codec's pictures

// 7.3.2.1 and 7.3.2.2.
uint32_t h264_set_id(int type, const uint8_t* unit, std::size_t size) {
  UnitBits bits(unit + 1, size - 1);
  if (type == kH264Sps || type == kH264SubsetSps) bits.bits(24);  // profile and level
  return bits.ue();
}

// 7.3.2.1 to 7.3.2.3, 7.3.3.
uint32_t hevc_set_id(int type, const uint8_t* unit, std::size_t size) {
  UnitBits bits(unit + 2, size - 2);
  if (type == kHevcVps) return bits.bits(4);
  if (type == kHevcPps) return bits.ue();
  bits.bits(4);
  const uint32_t layers = bits.bits(3);  // below the highest
  bits.bit();
  const auto skip = [&](int count) {
    for (; count > 0; --count) bits.bit();
  };
  skip(kProfileBits + kLevelBits);
  uint32_t present = layers > 0 ? bits.bits(16) : 0;  // two bits a layer
  for (uint32_t i = 0; i < layers; ++i, present <<= 2) {
    if ((present & 0x8000) != 0) skip(kProfileBits);
    if ((present & 0x4000) != 0) skip(kLevelBits);
  }
  return bits.ue();
}

}  // namespace

GroupStarts::GroupStarts(const AVCodecParameters& stream)
    : hevc_(stream.codec_id == AV_CODEC_ID_HEVC) {
  // ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1: version 1, and where the length of a length is.
  const int at = hevc_ ? 21 : 4;
  const auto size = static_cast<std::size_t>(std::max(stream.extradata_size, 0));
  if (stream.extradata_size > at && stream.extradata[0] == 1) {
    if (!hevc_) read_container(stream.extradata, size);
    length_bytes_ = (stream.extradata[at] & 3) + 1;
  } else {
    Found found;
    find_units(stream.extradata, size, found);
  }
}

/// The sequence parameter sets, each after its length.
void GroupStarts::read_container(const uint8_t* data, std::size_t size) {
  constexpr std::size_t kCount = 5;
  Found found;
  std::size_t at = kCount + 1;
  for (int left = size > kCount ? data[kCount] & 31 : 0; left > 0 && at + 2 <= size; --left) {
    const std::size_t length = static_cast<std::size_t>(data[at]) << 8 | data[at + 1];
    at += 2;
    if (length > size - at) return;
    look_at(data + at, length, found);
    at += length;
  }
}

void GroupStarts::look_at(const uint8_t* unit, std::size_t size, Found& found) {
  if (size < (hevc_ ? 3 : 2)) return;
  const int type = hevc_ ? unit[0] >> 1 & 63 : unit[0] & 31;
  const bool slice = hevc_ ? type <= kHevcLastSlice : type >= kH264Slice && type <= kH264Idr;
  const bool set = hevc_ ? type >= kHevcVps && type <= kHevcPps
                         : type == kH264Sps || type == kH264Pps || type == kH264SpsExtension ||
                               type == kH264SubsetSps;
  if (set) {
    const uint32_t id = hevc_ ? hevc_set_id(type, unit, size) : h264_set_id(type, unit, size);
    found.sets.emplace(type, std::min(id, kNoSetId));
    if (!hevc_ && type == kH264Sps) {
      const bool told = tells_reordering(unit, size);
      order_told_ = order_told_ || told;
      order_untold_ = order_untold_ || !told;
    }
  }
  if (!slice || found.picture) return;
  found.picture = true;
  if (hevc_) {
    // An HEVC decoder drops the pictures before that wait if the flag after the slice's first one
    // is set (no_output_of_prior_pics_flag): those of another group, where groups are apart.
    found.idr = (type == kHevcIdrWithLeading || type == kHevcIdr) && (unit[2] & 0x40) == 0;
  } else {
    found.idr = type == kH264Idr;
  }
}

void GroupStarts::find_units(const uint8_t* data, std::size_t size, Found& found) {
  if (length_bytes_ > 0) {
    const auto width = static_cast<std::size_t>(length_bytes_);
    for (std::size_t at = 0; size - at > width;) {
      std::size_t length = 0;
      for (std::size_t i = 0; i < width; ++i) length = length << 8 | data[at + i];
      at += width;
      if (length > size - at) break;
      look_at(data + at, length, found);
      at += length;
    }
    return;
  }
  // Of the picture's units only the first few bytes are read: a start code further on would have to
  // be searched for in all of its bytes.
  std::size_t unit = size;  // where the one before begins
  for (std::size_t at = 0; at + 3 <= size && !found.picture; ++at) {
    if (data[at] != 0 || data[at + 1] != 0 || data[at + 2] != 1) continue;
    if (unit < at) look_at(data + unit, at - unit, found);
    unit = at + 3;
    const int type = unit < size ? (hevc_ ? data[unit] >> 1 & 63 : data[unit] & 31) : 0;
    const bool slice =
        unit < size && (hevc_ ? type <= kHevcLastSlice : type >= kH264Slice && type <= kH264Idr);
    if (slice) look_at(data + unit, size - unit, found);
    at += 2;
  }
  if (!found.picture && unit < size) look_at(data + unit, size - unit, found);
}

/// AV_NOPTS_VALUE is less than every time.
void GroupStarts::look_at_times(const AVPacket& packet, bool idr) {
  if (!times_told_) return;
  if (idr) latest_before_idr_ = latest_;
  const bool repeats = std::find(recent_.begin(), recent_.end(), packet.pts) != recent_.end();
  times_told_ = packet.pts > latest_before_idr_ && !repeats &&
                (packet.dts == AV_NOPTS_VALUE || packet.dts >= last_dts_);
  latest_ = std::max(latest_, packet.pts);
  last_dts_ = std::max(last_dts_, packet.dts);
  recent_.push_back(packet.pts);
  if (recent_.size() > kMostReordered) recent_.pop_front();
}

bool GroupStarts::operator()(const AVPacket& packet) {
  for (const AVPacketSideDataType type : {AV_PKT_DATA_NEW_EXTRADATA, AV_PKT_DATA_PARAM_CHANGE}) {
    std::size_t size = 0;
    const bool has = av_packet_get_side_data(&packet, type, &size) != nullptr;
    parameters_changed_ = parameters_changed_ || has;
  }
  Found found;
  find_units(packet.data, static_cast<std::size_t>(std::max(packet.size, 0)), found);
  look_at_times(packet, found.idr);
  const bool all_sets =
      std::includes(found.sets.begin(), found.sets.end(), in_force_.begin(), in_force_.end());
  const bool in_order = hevc_ || (order_told_ && !order_untold_);
  const bool begins = found.idr && all_sets && in_order && times_told_ && !parameters_changed_ &&
                      (packet.flags & AV_PKT_FLAG_KEY) != 0 &&
                      (packet.flags & (AV_PKT_FLAG_CORRUPT | AV_PKT_FLAG_DISCARD)) == 0;
  if (begins) {
    in_force_ = std::move(found.sets);
  } else {
    in_force_.merge(found.sets);
  }
  return begins;
}

}  // namespace rfseg::libav
