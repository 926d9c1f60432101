#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <utility>

#include "media/libav/compat.h"

namespace rfseg::libav {

/// Finds the packets of an H.264 or HEVC stream at which a decoder that has seen nothing but the
/// stream's parameters may begin and give the same pictures as one that comes from the beginning:
/// the packet's first picture is an IDR picture, which ends everything before it (a recovery point
/// or the key frame of an open group does not), the packet has all parameter sets that may be in
/// force beside those of the container, and the order of pictures is told (tells_reordering). Once
/// a packet tells no time, or times repeat or go back to a group before, no group begins any more:
/// a decoder guesses such times from what it was given before and after. All packets are given, in
/// their order; in MP4's form (lengths) or with start codes.
class GroupStarts {
 public:
  explicit GroupStarts(const AVCodecParameters& stream);
  bool operator()(const AVPacket& packet);
  static bool knows(AVCodecID codec) {
    return codec == AV_CODEC_ID_H264 || codec == AV_CODEC_ID_HEVC;
  }

 private:
  /// Parameter sets: the unit's type and the set's id, of which the last one counts.
  using Sets = std::set<std::pair<int, uint32_t>>;
  struct Found {
    bool picture = false;  // any slice; the first decides
    bool idr = false;
    Sets sets;
  };
  void look_at(const uint8_t* unit, std::size_t size, Found& found);
  void find_units(const uint8_t* data, std::size_t size, Found& found);
  void read_container(const uint8_t* data, std::size_t size);
  void look_at_times(const AVPacket& packet, bool idr);

  bool hevc_;
  int length_bytes_ = 0;  // of a unit in MP4's form; 0: start codes
  bool parameters_changed_ = false;
  bool order_told_ = false, order_untold_ = false;  // by the H.264 parameter sets so far
  bool times_told_ = true;
  int64_t latest_ = AV_NOPTS_VALUE;             // of all packets
  int64_t latest_before_idr_ = AV_NOPTS_VALUE;  // of those before the last IDR picture
  int64_t last_dts_ = AV_NOPTS_VALUE;
  std::deque<int64_t> recent_;  // of the last packets
  Sets in_force_;               // of those that came in packets
};

}  // namespace rfseg::libav
