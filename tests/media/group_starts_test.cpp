// Where another decoder may begin: packets made by hand, in MP4's form and with start codes, and
// the fixtures.

#include "media/libav/group_starts.h"

#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "media/libav_test_support.h"

namespace rfseg::libav {
namespace {

using Bytes = std::vector<uint8_t>;
struct FreeParameters {
  void operator()(AVCodecParameters* p) const { avcodec_parameters_free(&p); }
};
using Parameters = std::unique_ptr<AVCodecParameters, FreeParameters>;

Parameters parameters(AVCodecID codec, const Bytes& extradata = {}) {
  Parameters result(avcodec_parameters_alloc());
  result->codec_id = codec;
  result->extradata_size = static_cast<int>(extradata.size());
  result->extradata = static_cast<uint8_t*>(
      av_mallocz(extradata.size() + static_cast<std::size_t>(AV_INPUT_BUFFER_PADDING_SIZE)));
  if (!extradata.empty()) std::memcpy(result->extradata, extradata.data(), extradata.size());
  return result;
}

// Exactly as large as it says, for the address sanitizer. Without `pts` each is later than the one
// before.
bool begins(GroupStarts& starts, Bytes bytes, int flags = AV_PKT_FLAG_KEY,
            std::optional<int64_t> pts = {}, int64_t dts = AV_NOPTS_VALUE) {
  static int64_t clock = 0;
  AVPacket packet{};
  packet.pts = pts ? *pts : ++clock;
  packet.dts = dts;
  packet.data = bytes.data();
  packet.size = static_cast<int>(bytes.size());
  packet.flags = flags;
  return starts(packet);
}

Bytes with_start_codes(std::initializer_list<Bytes> units) {
  Bytes result;
  for (const Bytes& unit : units) {
    if (result.empty()) result.push_back(0);
    result.insert(result.end(), {0, 0, 1});
    result.insert(result.end(), unit.begin(), unit.end());
  }
  return result;
}

Bytes with_lengths(int width, std::initializer_list<Bytes> units) {
  Bytes result;
  for (const Bytes& unit : units) {
    for (int i = width - 1; i >= 0; --i) {
      result.push_back(static_cast<uint8_t>(i > 1 ? 0 : unit.size() >> 8 * i));
    }
    result.insert(result.end(), unit.begin(), unit.end());
  }
  return result;
}

// H.264 units: the type is in the lowest five bits.
// Baseline has no reordering; High would have to tell.
// Ids are the first bits after that of a picture's set: 1 is 0, 010 is 1, 011 is 2, 00100 is 3.
const Bytes kSps{0x67, 66, 9, 30, 0x80}, kOtherSps{0x67, 66, 8, 30, 0x80},
    kSilentSps{0x67, 100, 0, 31, 0x80}, kPps{0x68, 0x80}, kSecondPps{0x68, 0x40},
    kSei{0x06, 5, 1, 7}, kDelimiter{0x09, 0x10}, kIdr{0x65, 0x88, 3, 4}, kSlice{0x41, 0x9a, 3, 4};

TEST(GroupStarts, IdrPicturesOfH264) {
  GroupStarts starts(*parameters(AV_CODEC_ID_H264));
  EXPECT_TRUE(begins(starts, with_start_codes({kDelimiter, kSps, kPps, kSei, kIdr, kIdr})));
  EXPECT_FALSE(begins(starts, with_start_codes({kDelimiter, kSlice}), 0));
  // What a container calls a key frame: a recovery point, or the beginning of an open group.
  EXPECT_FALSE(begins(starts, with_start_codes({kDelimiter, kSps, kPps, kSei, kSlice})));
  EXPECT_FALSE(begins(starts, with_start_codes({kSps, kPps, kSlice, kIdr})));
  EXPECT_FALSE(begins(starts, with_start_codes({kSps, kPps, kSei})));
  EXPECT_TRUE(begins(starts, with_start_codes({kSps, kPps, kIdr})));
  // An IDR picture that the container does not vouch for, or that is damaged or not shown.
  EXPECT_FALSE(begins(starts, with_start_codes({kSps, kPps, kIdr}), 0));
  for (const int flag : {AV_PKT_FLAG_CORRUPT, AV_PKT_FLAG_DISCARD}) {
    EXPECT_FALSE(begins(starts, with_start_codes({kSps, kPps, kIdr}), AV_PKT_FLAG_KEY | flag));
  }
}

TEST(GroupStarts, ParameterSetsOfPacketsHaveToBeRepeated) {
  GroupStarts starts(*parameters(AV_CODEC_ID_H264, with_start_codes({kSps, kPps})));
  EXPECT_TRUE(begins(starts, with_start_codes({kIdr}))) << "none but the container's so far";
  EXPECT_TRUE(begins(starts, with_start_codes({kSps, kPps, kSecondPps, kIdr})));
  EXPECT_FALSE(begins(starts, with_start_codes({kIdr})));
  EXPECT_FALSE(begins(starts, with_start_codes({kSps, kPps, kIdr}))) << "one of two";
  EXPECT_FALSE(begins(starts, with_start_codes({kPps, kSecondPps, kIdr})));
  EXPECT_TRUE(begins(starts, with_start_codes({kOtherSps, kPps, kSecondPps, kIdr})));
  // One that comes between groups is in force in the next.
  EXPECT_FALSE(begins(starts, with_start_codes({Bytes{0x68, 0x60}, kSlice}), 0));
  EXPECT_FALSE(begins(starts, with_start_codes({kOtherSps, kPps, kSecondPps, kIdr})));
  EXPECT_TRUE(begins(starts, with_start_codes({kOtherSps, kPps, kSecondPps, {0x68, 0x60}, kIdr})));
}

// As many as there were are not enough.
TEST(GroupStarts, ParameterSetsAreKnownByTheirIds) {
  GroupStarts starts(*parameters(AV_CODEC_ID_H264));
  const Bytes first{0x68, 0x80}, first_changed{0x68, 0xff}, second{0x68, 0x40}, third{0x68, 0x60};
  EXPECT_TRUE(begins(starts, with_start_codes({kSps, first, second, kIdr})));
  EXPECT_FALSE(begins(starts, with_start_codes({kSps, first_changed, third, kIdr})));
  EXPECT_TRUE(begins(starts, with_start_codes({kSps, third, second, first, kIdr})));
  // Changed ones of the same ids, in two layers of time of HEVC: the id comes after their levels.
  GroupStarts hevc(*parameters(AV_CODEC_ID_HEVC));
  const auto sps = [](uint8_t level, uint8_t id_bits) {
    // Profile and level; that the lower layer tells a level alone; this.
    return Bytes{66, 1, 0x03, 0x60, 0,     0,    0x90, 0,  0,      0x90,
                 0,  0, 0x90, 0,    level, 0x40, 0,    60, id_bits};
  };
  const Bytes idr{40, 1, 0x80, 5};
  EXPECT_TRUE(begins(hevc, with_start_codes({sps(93, 0x80), sps(93, 0x40), idr})));
  EXPECT_FALSE(begins(hevc, with_start_codes({sps(90, 0x80), sps(93, 0x80), idr})));
  EXPECT_FALSE(begins(hevc, with_start_codes({sps(90, 0x80), sps(93, 0x60), idr})));
  EXPECT_TRUE(begins(hevc, with_start_codes({sps(90, 0x80), sps(93, 0x40), sps(93, 0x60), idr})));
}

TEST(GroupStarts, LengthsOfMp4) {
  for (const int width : {1, 2, 4}) {
    Bytes extradata{1, 66, 9, 30, static_cast<uint8_t>(0xfc | (width - 1)), 0xe1, 0, 5};
    extradata.insert(extradata.end(), kSps.begin(), kSps.end());
    GroupStarts starts(*parameters(AV_CODEC_ID_H264, extradata));
    EXPECT_TRUE(begins(starts, with_lengths(width, {kSei, kIdr}))) << width;
    EXPECT_FALSE(begins(starts, with_lengths(width, {kSei, kSlice}))) << width;
    EXPECT_FALSE(begins(starts, with_lengths(width, {kSlice, kIdr}))) << width;
    EXPECT_FALSE(begins(starts, with_start_codes({kIdr}))) << width;
    Bytes cut = with_lengths(width, {kSei, kIdr});
    cut.resize(cut.size() - 2);
    EXPECT_FALSE(begins(starts, cut)) << width;
    EXPECT_TRUE(begins(starts, with_lengths(width, {kIdr}))) << width;
  }
}

TEST(GroupStarts, TheOrderOfPicturesHasToBeTold) {
  GroupStarts starts(*parameters(AV_CODEC_ID_H264));
  EXPECT_FALSE(begins(starts, with_start_codes({kIdr}))) << "no parameter set at all";
  EXPECT_TRUE(begins(starts, with_start_codes({kSps, kPps, kIdr})));
  EXPECT_FALSE(begins(starts, with_start_codes({kSilentSps, kPps, kIdr})));
  EXPECT_FALSE(begins(starts, with_start_codes({kSps, kSilentSps, kPps, kIdr})));
  Bytes extradata{1, 100, 0, 31, 0xff, 0xe1, 0, 5};
  extradata.insert(extradata.end(), kSilentSps.begin(), kSilentSps.end());
  GroupStarts silent(*parameters(AV_CODEC_ID_H264, extradata));
  EXPECT_FALSE(begins(silent, with_lengths(4, {kIdr})));
}

TEST(GroupStarts, NewParametersOfTheContainerEndIt) {
  GroupStarts starts(*parameters(AV_CODEC_ID_H264));
  const Bytes bytes = with_start_codes({kSps, kPps, kIdr});
  const AvPtr<AVPacket> packet(av_packet_alloc());
  ASSERT_EQ(av_new_packet(packet.get(), static_cast<int>(bytes.size())), 0);
  std::memcpy(packet->data, bytes.data(), bytes.size());
  packet->flags = AV_PKT_FLAG_KEY;
  packet->pts = -2;
  EXPECT_TRUE(starts(*packet));
  packet->pts = -1;
  ASSERT_NE(av_packet_new_side_data(packet.get(), AV_PKT_DATA_NEW_EXTRADATA, 8), nullptr);
  EXPECT_FALSE(starts(*packet));
  EXPECT_FALSE(begins(starts, bytes));
}

TEST(GroupStarts, TimesHaveToBeToldAndNotGoBack) {
  const Bytes idr = with_start_codes({kSps, kPps, kIdr}), slice = with_start_codes({kSlice});
  const int key = AV_PKT_FLAG_KEY;
  const auto group = [&](GroupStarts& starts) {
    EXPECT_TRUE(begins(starts, idr, key, 10, 5));
    // Reordered within a group.
    EXPECT_FALSE(begins(starts, slice, 0, 40, 6));
    EXPECT_FALSE(begins(starts, slice, 0, 30, AV_NOPTS_VALUE));
    EXPECT_TRUE(begins(starts, idr, key, 50, 8));
  };
  struct Case {
    const char* what;
    int64_t pts, dts;
    bool good;
  };
  for (const Case& c : {Case{"as they should be", 45, 9, true},  // shown before the IDR picture
                        Case{"none", AV_NOPTS_VALUE, 9, false},
                        Case{"none at all", AV_NOPTS_VALUE, AV_NOPTS_VALUE, false},
                        Case{"of a group before", 40, 9, false}, Case{"twice", 50, 9, false},
                        Case{"decoding goes back", 51, 7, false}}) {
    GroupStarts starts(*parameters(AV_CODEC_ID_H264));
    group(starts);
    EXPECT_FALSE(begins(starts, slice, 0, c.pts, c.dts)) << c.what;
    EXPECT_EQ(begins(starts, idr, key, 100, 20), c.good) << c.what;
    EXPECT_EQ(begins(starts, idr, key, 110, 21), c.good) << c.what;
  }
  for (const int64_t pts : {AV_NOPTS_VALUE, int64_t{2}, int64_t{50}}) {
    GroupStarts starts(*parameters(AV_CODEC_ID_H264));
    group(starts);
    EXPECT_FALSE(begins(starts, idr, key, pts, 9)) << "a group that begins with such a time";
    EXPECT_FALSE(begins(starts, idr, key, 100, 20));
  }
}

// HEVC units: the type is in bits 1 to 6 of the first byte; the slice's first bits are
// first_slice_segment_in_pic_flag and no_output_of_prior_pics_flag.
TEST(GroupStarts, IdrPicturesOfHevc) {
  const auto unit = [](int type, uint8_t third = 0x80) {
    return Bytes{static_cast<uint8_t>(type << 1), 1, third, 5};
  };
  const Bytes vps = unit(32), sps = unit(33), pps = unit(34);
  GroupStarts starts(*parameters(AV_CODEC_ID_HEVC));
  EXPECT_TRUE(begins(starts, with_start_codes({vps, sps, pps, unit(39), unit(19)})));
  EXPECT_TRUE(begins(starts, with_start_codes({vps, sps, pps, unit(20)})));
  EXPECT_FALSE(begins(starts, with_start_codes({vps, sps, pps, unit(21)}))) << "CRA";
  EXPECT_FALSE(begins(starts, with_start_codes({vps, sps, pps, unit(16)}))) << "BLA";
  EXPECT_FALSE(begins(starts, with_start_codes({unit(1)}), 0));
  EXPECT_FALSE(begins(starts, with_start_codes({sps, pps, unit(20)}))) << "no VPS";
  EXPECT_FALSE(begins(starts, with_start_codes({vps, sps, pps, unit(20, 0xc0)})))
      << "would drop the pictures before that wait";
  Bytes extradata(23, 0);
  extradata[0] = 1, extradata[21] = 3;
  GroupStarts lengths(*parameters(AV_CODEC_ID_HEVC, extradata));
  EXPECT_TRUE(begins(lengths, with_lengths(4, {unit(39), unit(19)})));
  EXPECT_FALSE(begins(lengths, with_lengths(4, {unit(39), unit(21)})));
}

// 24 frames with an IDR picture every 8; open groups; lengths and start codes; the bundled clip.
TEST(GroupStarts, OfTheFixtures) {
  for (const auto& [name, expected] :
       std::initializer_list<std::pair<const char*, int>>{{"plain.mp4", 3},
                                                          {"plain.mkv", 3},
                                                          {"stream.ts", 3},
                                                          {"open_gop.mp4", 1},
                                                          {"hevc_open_gop.mkv", 1},
                                                          {"hevc_groups.mp4", 4},
                                                          {"b_frames.avi", 0},
                                                          {"../../../assets/demo/clip.mp4", 5}}) {
    TestInput input(kFixtures + name);
    ASSERT_NE(input.stream, nullptr) << name;
    GroupStarts starts(*input.stream->codecpar);
    const AvPtr<AVPacket> packet(av_packet_alloc());
    int found = 0;
    while (input.read(*packet)) found += starts(*packet);
    EXPECT_EQ(found, expected) << name;
  }
}

// Lengths beyond the packet, empty units, cut ones: no read outside.
TEST(GroupStarts, SurviveAnyBytes) {
  uint32_t state = 3;
  const auto random = [&state] { return (state = state * 1664525 + 1013904223) >> 8; };
  int found = 0;
  for (const AVCodecID codec : {AV_CODEC_ID_H264, AV_CODEC_ID_HEVC}) {
    for (int round = 0; round < 20000; ++round) {
      Bytes extradata(random() % 30);
      for (std::size_t i = 0; i < extradata.size(); ++i) {
        extradata[i] = static_cast<uint8_t>(i == 0 ? 1 : random());
      }
      GroupStarts starts(*parameters(codec, extradata));
      for (int packets = 0; packets < 2; ++packets) {
        Bytes bytes(random() % 40);
        for (uint8_t& byte : bytes) {
          byte = static_cast<uint8_t>(random() % 5 == 0 ? random() : random() % 3);
        }
        found += begins(starts, bytes);
      }
    }
  }
  EXPECT_GT(found, 0) << "the bytes are never like units";
}

}  // namespace
}  // namespace rfseg::libav
