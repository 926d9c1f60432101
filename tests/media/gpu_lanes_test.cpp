// Several decoders that share a stream give what one decoder gives, in its order. The lanes do not
// know what decodes: here the CPU's decoders do, with frames kept as hashes.

#include "media/libav/gpu_lanes.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "media/video_test_support.h"

namespace rfseg::libav {
namespace {

struct Input {
  AvPtr<AVFormatContext> format;
  AVStream* stream = nullptr;

  explicit Input(const std::string& path) {
    AVFormatContext* context = nullptr;
    EXPECT_GE(avformat_open_input(&context, path.c_str(), nullptr, nullptr), 0) << path;
    format.reset(context);
    EXPECT_GE(avformat_find_stream_info(context, nullptr), 0);
    stream = context->streams[av_find_best_stream(context, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0)];
  }
  bool read(AVPacket& packet) {
    for (;;) {
      av_packet_unref(&packet);
      if (av_read_frame(format.get(), &packet) < 0) return false;
      if (packet.stream_index == stream->index) return true;
    }
  }
  AvPtr<AVCodecContext> decoder() const {
    const AVCodec* codec = avcodec_find_decoder(stream->codecpar->codec_id);
    AvPtr<AVCodecContext> result(avcodec_alloc_context3(codec));
    avcodec_parameters_to_context(result.get(), stream->codecpar);
    result->thread_count = 1;
    EXPECT_GE(avcodec_open2(result.get(), codec, nullptr), 0);
    return result;
  }
};

struct Shown {
  int64_t pts = 0;
  uint64_t hash = 0;
  bool operator==(const Shown& other) const = default;
};

uint64_t hash_of(const AVFrame& frame) {
  std::vector<uint8_t> bytes;
  for (int p = 0; p < 3; ++p) {
    const int rows = p == 0 ? frame.height : (frame.height + 1) / 2;
    const int row = p == 0 ? frame.width : (frame.width + 1) / 2;
    for (int y = 0; y < rows; ++y) {
      const uint8_t* from = frame.data[p] + y * frame.linesize[p];
      bytes.insert(bytes.end(), from, from + row);
    }
  }
  return fnv(bytes);
}

std::vector<Shown> with_one_decoder(const std::string& path) {
  Input input(path);
  const AvPtr<AVCodecContext> decoder = input.decoder();
  const AvPtr<AVPacket> packet(av_packet_alloc());
  const AvPtr<AVFrame> frame(av_frame_alloc());
  std::vector<Shown> shown;
  for (bool more = true; more;) {
    more = input.read(*packet);
    EXPECT_GE(avcodec_send_packet(decoder.get(), more ? packet.get() : nullptr), 0);
    while (avcodec_receive_frame(decoder.get(), frame.get()) >= 0) {
      shown.push_back({frame->pts, hash_of(*frame)});
    }
  }
  return shown;
}

struct Shared {
  std::vector<Shown> shown;
  int decoders = 1, groups = 1;
  std::size_t most_kept = 0;
  int64_t dropped = 0;
};

/// `take` frames at most.
Shared with_lanes(const std::string& path, int decoders, std::size_t most_ahead,
                  std::size_t take = 1000) {
  Input input(path);
  Shared result;
  std::set<uint64_t*> kept;
  bool unsettled = false;
  GroupStarts starts(*input.stream->codecpar);
  GpuLanes::Hooks hooks;
  hooks.read = [&](AVPacket& packet) { return input.read(packet); };
  hooks.begins_group = [&](const AVPacket& packet) {
    const bool begins = starts(packet);
    // The very first packet begins a group beside the empty one that the first decoder has.
    result.groups += begins;
    return begins;
  };
  hooks.open_decoder = [&] {
    ++result.decoders;
    return input.decoder();
  };
  hooks.keep = [&](const AVFrame& frame) {
    EXPECT_FALSE(unsettled) << "the decoder may have overwritten a frame before it was copied";
    unsettled = true;
    FrameView view;
    auto* hash = new uint64_t(hash_of(frame));
    view.kept = hash;
    kept.insert(hash);
    result.most_kept = std::max(result.most_kept, kept.size());
    return view;
  };
  hooks.settle = [&] { unsettled = false; };
  const auto release = [&](const FrameView& view) {
    EXPECT_EQ(kept.erase(static_cast<uint64_t*>(view.kept)), 1u);
    delete static_cast<uint64_t*>(view.kept);
  };
  hooks.drop = [&](const FrameView& view) {
    ++result.dropped;
    release(view);
  };
  hooks.broken = [] { ADD_FAILURE() << "a broken packet"; };
  {
    GpuLanes lanes(input.decoder(), decoders, most_ahead, std::move(hooks));
    GpuLanes::Frame frame;
    while (result.shown.size() < take && lanes.next(frame)) {
      EXPECT_FALSE(frame.damaged);
      result.shown.push_back({frame.pts, *static_cast<uint64_t*>(frame.view.kept)});
      release(frame.view);
    }
  }
  EXPECT_TRUE(kept.empty()) << kept.size() << " frames are never freed";
  return result;
}

TEST(GpuLanes, GiveTheFramesOfOneDecoder) {
  for (const char* name :
       {"plain.mp4", "plain.mkv", "stream.ts", "open_gop.mp4", "variable_rate.mp4",
        "large_h264.mp4", "large_hevc.mp4", "hevc_open_gop.mkv"}) {
    const std::vector<Shown> expected = with_one_decoder(kFixtures + name);
    EXPECT_GE(expected.size(), 8u) << name;
    for (const int decoders : {1, 2, 3, 5}) {
      for (const std::size_t ahead : {1u, 5u, 100u}) {
        const Shared found = with_lanes(kFixtures + name, decoders, ahead);
        EXPECT_TRUE(found.shown == expected)
            << name << ", " << decoders << " decoders, " << ahead << " frames ahead";
        EXPECT_LE(found.decoders, decoders);
      }
    }
  }
}

// 24 frames with an IDR picture every 8 are shared; those of open groups are not.
TEST(GpuLanes, OnlyClosedGroupsAreShared) {
  EXPECT_EQ(with_lanes(kFixtures + "plain.mp4", 3, 100).groups, 4);
  EXPECT_EQ(with_lanes(kFixtures + "plain.mp4", 3, 100).decoders, 3);
  EXPECT_EQ(with_lanes(kFixtures + "stream.ts", 2, 100).groups, 4);
  EXPECT_EQ(with_lanes(kFixtures + "open_gop.mp4", 3, 100).groups, 2);
  EXPECT_EQ(with_lanes(kFixtures + "hevc_open_gop.mkv", 3, 100).groups, 2);
}

TEST(GpuLanes, FramesAheadAreBounded) {
  // Beside the bound: what a decoder gives in one go, when its group ends.
  EXPECT_LE(with_lanes(kFixtures + "plain.mp4", 3, 2).most_kept, 8u);
  EXPECT_GE(with_lanes(kFixtures + "plain.mp4", 3, 100).most_kept, 10u);
}

TEST(GpuLanes, WhatIsNotTakenIsFreed) {
  const Shared found = with_lanes(kFixtures + "plain.mp4", 3, 100, 5);
  EXPECT_EQ(found.shown.size(), 5u);
  EXPECT_GT(found.dropped, 0);
}

// Lengths beyond the packet, empty units, cut ones: no read outside.
TEST(GpuLanes, GroupStartsSurviveAnyBytes) {
  uint32_t state = 3;
  const auto random = [&state] { return (state = state * 1664525 + 1013904223) >> 8; };
  for (const AVCodecID codec : {AV_CODEC_ID_H264, AV_CODEC_ID_HEVC}) {
    for (int round = 0; round < 4000; ++round) {
      AVCodecParameters* parameters = avcodec_parameters_alloc();
      parameters->codec_id = codec;
      parameters->extradata_size = static_cast<int>(random() % 30);
      parameters->extradata = static_cast<uint8_t*>(av_mallocz(
          static_cast<std::size_t>(parameters->extradata_size) + AV_INPUT_BUFFER_PADDING_SIZE));
      for (int i = 0; i < parameters->extradata_size; ++i) {
        parameters->extradata[i] = static_cast<uint8_t>(i == 0 ? 1 : random());
      }
      GroupStarts starts(*parameters);
      avcodec_parameters_free(&parameters);
      // Exactly as large as it says, for the address sanitizer.
      std::vector<uint8_t> bytes(random() % 40);
      for (uint8_t& byte : bytes)
        byte = static_cast<uint8_t>(random() % 7 == 0 ? random() : random() % 3);
      AVPacket packet{};
      packet.data = bytes.data();
      packet.size = static_cast<int>(bytes.size());
      packet.flags = 0;
      EXPECT_FALSE(starts(packet)) << "no key frame";
    }
  }
}

}  // namespace
}  // namespace rfseg::libav
