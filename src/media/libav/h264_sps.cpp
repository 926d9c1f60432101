#include "media/libav/h264_sps.h"

#include <algorithm>
#include <array>

#include "media/libav/unit_bits.h"

namespace rfseg::libav {
namespace {

// 7.3.2.1.1.1
void skip_scaling_list(UnitBits& bits, int size) {
  int64_t last = 8, next = 8;
  for (int i = 0; i < size; ++i) {
    if (next != 0) next = (last + bits.se() + 256) % 256;
    if (next != 0) last = next;
  }
}

// E.1.2
void skip_hrd(UnitBits& bits) {
  const uint32_t schedules = bits.ue();
  bits.bits(8);
  for (uint32_t i = 0; i <= schedules && !bits.ended(); ++i) {
    bits.ue(), bits.ue(), bits.bit();
  }
  bits.bits(20);
}

// E.1.1, up to bitstream_restriction_flag, after which max_num_reorder_frames comes.
bool vui_tells(UnitBits& bits) {
  constexpr uint32_t kExtendedRatio = 255;
  if (bits.bit() != 0 && bits.bits(8) == kExtendedRatio) bits.bits(32);
  if (bits.bit() != 0) bits.bit();  // overscan
  if (bits.bit() != 0) {            // video signal
    bits.bits(4);
    if (bits.bit() != 0) bits.bits(24);
  }
  if (bits.bit() != 0) bits.ue(), bits.ue();                      // chroma's place
  if (bits.bit() != 0) bits.bits(32), bits.bits(32), bits.bit();  // timing
  const bool nal_hrd = bits.bit() != 0;
  if (nal_hrd) skip_hrd(bits);
  const bool vcl_hrd = bits.bit() != 0;
  if (vcl_hrd) skip_hrd(bits);
  if (nal_hrd || vcl_hrd) bits.bit();
  bits.bit();  // pic_struct
  return bits.bit() != 0;
}

}  // namespace

// 7.3.2.1.1
bool tells_reordering(const uint8_t* unit, std::size_t size) {
  constexpr uint32_t kBaseline = 66;
  constexpr std::array<uint32_t, 13> kWithChromaFormat{100, 110, 122, 244, 44,  83, 86,
                                                       118, 128, 138, 139, 134, 135};
  if (size < 4) return false;
  UnitBits bits(unit + 1, size - 1);
  const uint32_t profile = bits.bits(8);
  if (profile == kBaseline) return true;
  bits.bits(16);
  bits.ue();
  if (std::find(kWithChromaFormat.begin(), kWithChromaFormat.end(), profile) !=
      kWithChromaFormat.end()) {
    const uint32_t chroma = bits.ue();
    if (chroma == 3) bits.bit();
    bits.ue(), bits.ue(), bits.bit();
    if (bits.bit() != 0) {
      for (int i = 0; i < (chroma == 3 ? 12 : 8); ++i) {
        if (bits.bit() != 0) skip_scaling_list(bits, i < 6 ? 16 : 64);
      }
    }
  }
  bits.ue();
  const uint32_t order = bits.ue();
  if (order == 0) {
    bits.ue();
  } else if (order == 1) {
    bits.bit(), bits.se(), bits.se();
    const uint32_t cycle = bits.ue();
    for (uint32_t i = 0; i < cycle && !bits.ended(); ++i) bits.se();
  }
  bits.ue(), bits.bit(), bits.ue(), bits.ue();
  if (bits.bit() == 0) bits.bit();  // fields
  bits.bit();
  if (bits.bit() != 0) bits.ue(), bits.ue(), bits.ue(), bits.ue();  // cropping
  return bits.bit() != 0 && vui_tells(bits) && !bits.ended();
}

}  // namespace rfseg::libav
