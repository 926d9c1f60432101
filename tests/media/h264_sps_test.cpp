// Sequence parameter sets written bit by bit (Rec. ITU-T H.264, 7.3.2.1.1 and E.1.1) and those of
// the fixtures, which x264 made.

#include "media/libav/h264_sps.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "media/libav_test_support.h"

namespace rfseg::libav {
namespace {

class Writer {
 public:
  Writer& u(int count, uint64_t value) {
    for (int i = count - 1; i >= 0; --i) bits_.push_back(value >> i & 1);
    return *this;
  }
  Writer& ue(uint64_t value) {
    int length = 0;
    while ((value + 1) >> (length + 1) != 0) ++length;
    return u(length, 0).u(length + 1, value + 1);
  }
  Writer& se(int value) {
    return ue(value > 0 ? 2 * static_cast<uint64_t>(value) - 1 : 2 * static_cast<uint64_t>(-value));
  }
  /// With the stop bit and emulation prevention.
  std::vector<uint8_t> unit() {
    u(1, 1);
    while (bits_.size() % 8 != 0) bits_.push_back(false);
    std::vector<uint8_t> out{0x67};
    for (std::size_t i = 0; i < bits_.size(); i += 8) {
      int byte = 0;
      for (std::size_t k = 0; k < 8; ++k) byte = byte << 1 | (bits_[i + k] ? 1 : 0);
      const std::size_t n = out.size();
      if (n >= 2 && out[n - 1] == 0 && out[n - 2] == 0 && byte <= 3) out.push_back(3);
      out.push_back(static_cast<uint8_t>(byte));
    }
    return out;
  }

 private:
  std::vector<bool> bits_;
};

struct Options {
  int profile = 100;
  bool tells = true, vui = true;
  int chroma = 1;
  bool scaling = false, fields = false, crop = false, hrd = false, all_of_vui = false;
  int order = 0;
};

std::vector<uint8_t> sps(const Options& o) {
  Writer w;
  w.u(8, static_cast<uint64_t>(o.profile)).u(8, 0).u(8, 40).ue(0);
  if (o.profile >= 100) {
    w.ue(static_cast<uint64_t>(o.chroma));
    if (o.chroma == 3) w.u(1, 0);
    w.ue(0).ue(0).u(1, 0).u(1, o.scaling);
    for (int i = 0; o.scaling && i < (o.chroma == 3 ? 12 : 8); ++i) {
      const bool present = i % 2 == 0;
      w.u(1, present);
      if (!present) continue;
      if (i == 2) {
        w.se(-8);  // the default list: nothing follows
        continue;
      }
      for (int k = 0; k < (i < 6 ? 16 : 64); ++k) w.se(k % 3 - 1 + (k == 0 ? 4 : 0));
    }
  }
  w.ue(4).ue(static_cast<uint64_t>(o.order));
  if (o.order == 0) w.ue(2);
  if (o.order == 1) w.u(1, 0).se(-3).se(5).ue(2).se(1).se(-1);
  w.ue(4).u(1, 0).ue(119).ue(67).u(1, !o.fields);
  if (o.fields) w.u(1, 1);
  w.u(1, 1).u(1, o.crop);
  if (o.crop) w.ue(0).ue(3).ue(0).ue(4);
  w.u(1, o.vui);
  if (!o.vui) return w.unit();
  const bool all = o.all_of_vui;
  w.u(1, all);
  if (all) w.u(8, 255).u(16, 0).u(16, 1);
  w.u(1, all);
  if (all) w.u(1, 1);
  w.u(1, all);
  if (all) w.u(3, 5).u(1, 1).u(1, 1).u(24, 0x010101);
  w.u(1, all);
  if (all) w.ue(1).ue(2);
  w.u(1, all);
  if (all) w.u(32, 1).u(32, 50).u(1, 1);
  for (int i = 0; i < 2; ++i) {
    w.u(1, o.hrd);
    if (o.hrd) w.ue(1).u(8, 0x12).ue(1000).ue(70000).u(1, 0).ue(3).ue(4).u(1, 1).u(20, 0xabcde);
  }
  if (o.hrd) w.u(1, 0);
  w.u(1, 1).u(1, o.tells);
  if (o.tells) w.u(1, 1).ue(0).ue(0).ue(11).ue(11).ue(2).ue(4);
  return w.unit();
}

TEST(H264Sps, TellsReordering) {
  for (const int profile : {77, 88, 100, 110}) {
    for (const int chroma : {1, 3}) {
      for (int bits = 0; bits < 32; ++bits) {
        for (const int order : {0, 1, 2}) {
          Options o;
          o.profile = profile;
          o.chroma = chroma;
          o.order = order;
          o.scaling = (bits & 1) != 0;
          o.fields = (bits & 2) != 0;
          o.crop = (bits & 4) != 0;
          o.hrd = (bits & 8) != 0;
          o.all_of_vui = (bits & 16) != 0;
          SCOPED_TRACE(std::to_string(profile) + " " + std::to_string(chroma) + " " +
                       std::to_string(bits) + " " + std::to_string(order));
          for (const bool tells : {true, false}) {
            o.tells = tells;
            const std::vector<uint8_t> unit = sps(o);
            EXPECT_EQ(tells_reordering(unit.data(), unit.size()), tells);
          }
        }
      }
    }
  }
  Options o;
  o.vui = false;
  std::vector<uint8_t> unit = sps(o);
  EXPECT_FALSE(tells_reordering(unit.data(), unit.size()));
  o.profile = 66;
  unit = sps(o);
  EXPECT_TRUE(tells_reordering(unit.data(), unit.size())) << "no B pictures in this profile";
}

TEST(H264Sps, OfTheFixtures) {
  for (const char* name : {"plain.mp4", "large_h264.mp4", "open_gop.mp4"}) {
    const TestInput input(kFixtures + name);
    ASSERT_NE(input.stream, nullptr) << name;
    const AVCodecParameters& p = *input.stream->codecpar;
    ASSERT_GT(p.extradata_size, 8) << name;
    const std::size_t length = static_cast<std::size_t>(p.extradata[6]) << 8 | p.extradata[7];
    EXPECT_TRUE(tells_reordering(p.extradata + 8, length)) << name;
    EXPECT_FALSE(tells_reordering(p.extradata + 8, length / 2)) << name << ", cut";
  }
}

}  // namespace
}  // namespace rfseg::libav
