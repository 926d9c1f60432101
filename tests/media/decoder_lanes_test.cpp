// Several decoders that share a stream give what one gives, in its order. The lanes do not know
// what decodes: here the CPU's decoders do, with frames kept as hashes.

#include "media/libav/decoder_lanes.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "media/libav/group_starts.h"
#include "media/libav_test_support.h"

namespace rfseg::libav {
namespace {

struct Shown {
  int64_t pts = 0, best_effort = 0;
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

std::vector<Shown> with_one_decoder(const std::string& path, bool decoding_times = false) {
  TestInput input(path);
  const AvPtr<AVCodecContext> decoder = input.decoder();
  const AvPtr<AVPacket> packet(av_packet_alloc());
  const AvPtr<AVFrame> frame(av_frame_alloc());
  std::vector<Shown> shown;
  for (bool more = true; more;) {
    more = input.read(*packet);
    if (decoding_times) packet->pts = packet->dts;
    EXPECT_GE(avcodec_send_packet(decoder.get(), more ? packet.get() : nullptr), 0);
    while (avcodec_receive_frame(decoder.get(), frame.get()) >= 0) {
      shown.push_back({frame->pts, frame->best_effort_timestamp, hash_of(*frame)});
    }
  }
  return shown;
}

/// Frames that are kept and not yet freed.
class Kept {
 public:
  void* add(uint64_t hash) {
    const std::lock_guard lock(mutex_);
    auto* kept = new uint64_t(hash);
    all_.insert(kept);
    most_ = std::max(most_, all_.size());
    return kept;
  }
  void free(const FrameView& view) {
    const std::lock_guard lock(mutex_);
    auto* kept = static_cast<uint64_t*>(view.kept);
    EXPECT_EQ(all_.erase(kept), 1u);
    delete kept;
  }
  std::size_t size() const { return all_.size(); }
  std::size_t most() const { return most_; }

 private:
  std::mutex mutex_;
  std::set<uint64_t*> all_;
  std::size_t most_ = 0;
};

class HashLane final : public LaneDecoder {
 public:
  HashLane(AvPtr<AVCodecContext> decoder, Kept& kept, int fail_at, int delay_us)
      : kept_(kept), fail_at_(fail_at), delay_us_(delay_us) {
    context = std::move(decoder);
  }
  void take(AVFrame& frame, LaneEvent& event) override {
    EXPECT_FALSE(unsettled_) << "the decoder may have overwritten a frame before it was copied";
    if (--fail_at_ == 0) throw std::runtime_error("no more memory");
    if (delay_us_ > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay_us_));
    unsettled_ = true;
    event.view.kept = kept_.add(hash_of(frame));
  }
  void settle() override { unsettled_ = false; }

 private:
  Kept& kept_;
  int fail_at_, delay_us_;
  bool unsettled_ = false;
};

struct Asked {
  int decoders = 1;
  std::size_t ahead = 100;
  std::size_t packets = 1500;
  std::size_t take = 1000;  // frames at most
  int fail_at = 0;          // the second decoder's frame
  int most_open = 100;      // decoders that can be opened
  bool uneven = false;      // decoders of different speed
  bool damage = false;
  bool decoding_times = false;  // packets tell them as those of presentation
  bool any_times = false;       // groups begin whatever the times
};

struct Result {
  std::vector<Shown> shown;
  int decoders = 1, groups = 0, given = 0, broken = 0, refused = 0;
  std::size_t most_kept = 0;
  int dropped = 0;
  std::string failure;
};

Result with_lanes(const std::string& path, const Asked& asked) {
  TestInput input(path);
  Result result;
  Kept kept;
  std::atomic<int> dropped = 0;
  GroupStarts starts(*input.stream->codecpar);
  uint32_t state = 5;
  int64_t clock = 0;
  DecoderLanes::Hooks hooks;
  hooks.read = [&](AVPacket& packet) {
    if (!input.read(packet)) return false;
    if (asked.decoding_times) packet.pts = packet.dts;
    // A whole group and some of the others.
    if (asked.damage && av_packet_make_writable(&packet) == 0) {
      const bool all = result.groups == 2;
      for (int i = all ? 12 : 40; i < packet.size; ++i) {
        state = state * 1664525 + 1013904223;
        if (all || state >> 24 == 0) packet.data[i] = static_cast<uint8_t>(state >> 16);
      }
    }
    return true;
  };
  hooks.begins_group = [&](const AVPacket& packet) {
    const AvPtr<AVPacket> timed(av_packet_clone(&packet));
    if (asked.any_times) timed->pts = timed->dts = ++clock;
    const bool begins = starts(*timed);
    result.groups += begins;
    return begins;
  };
  const auto make = [&] {
    const int number = result.decoders;
    return std::make_unique<HashLane>(input.decoder(), kept, number == 2 ? asked.fail_at : 0,
                                      asked.uneven ? (number * 7 % 3) * 500 : 0);
  };
  hooks.open = [&]() -> std::unique_ptr<LaneDecoder> {
    if (result.decoders >= asked.most_open) {
      ++result.refused;
      return nullptr;
    }
    ++result.decoders;
    return make();
  };
  hooks.drop = [&](const FrameView& view) {
    ++dropped;
    kept.free(view);
  };
  DecoderLanes::Limits limits;
  limits.decoders = static_cast<std::size_t>(asked.decoders);
  limits.frames_ahead = asked.ahead;
  limits.packets = asked.packets;
  {
    DecoderLanes lanes(make(), limits, std::move(hooks));
    LaneEvent event;
    try {
      while (result.shown.size() < asked.take && lanes.next(event)) {
        result.given += event.kind == LaneEvent::Kind::kPacket;
        result.broken += event.kind == LaneEvent::Kind::kBroken;
        if (event.kind != LaneEvent::Kind::kFrame) continue;
        const uint64_t hash = *static_cast<uint64_t*>(event.view.kept);
        result.shown.push_back({event.pts, event.best_effort, hash});
        kept.free(event.view);
      }
    } catch (const std::exception& error) {
      result.failure = error.what();
    }
  }
  EXPECT_EQ(kept.size(), 0u) << "frames are never freed";
  result.most_kept = kept.most();
  result.dropped = dropped;
  return result;
}

TEST(DecoderLanes, GiveTheFramesOfOneDecoder) {
  for (const char* name : {"plain.mp4", "plain.mkv", "stream.ts", "open_gop.mp4",
                           "variable_rate.mp4", "large_h264.mp4", "large_hevc.mp4",
                           "hevc_open_gop.mkv", "hevc_groups.mp4", "size_change.h264"}) {
    const std::vector<Shown> expected = with_one_decoder(kFixtures + name);
    EXPECT_GE(expected.size(), 6u) << name;
    for (const int decoders : {1, 2, 3, 5}) {
      for (const std::size_t ahead : {1u, 5u, 100u}) {
        for (const std::size_t packets : {1u, 6u, 12u, 1500u}) {
          Asked asked;
          asked.decoders = decoders;
          asked.ahead = ahead;
          asked.packets = packets;
          asked.uneven = ahead == 5;
          const Result found = with_lanes(kFixtures + name, asked);
          EXPECT_TRUE(found.shown == expected) << name << ", " << decoders << " decoders, " << ahead
                                               << " frames and " << packets << " packets ahead";
          EXPECT_LE(found.decoders, decoders);
          EXPECT_EQ(found.given, static_cast<int>(expected.size())) << name;
          EXPECT_EQ(found.broken, 0) << name;
          EXPECT_EQ(found.failure, "") << name;
        }
      }
    }
  }
}

// AVI has no times of presentation: a decoder guesses them from what pushes a frame out.
TEST(DecoderLanes, GuessedTimesAreThoseOfOneDecoder) {
  const std::string path = kFixtures + "b_frames.avi";
  const std::vector<Shown> expected = with_one_decoder(path);
  ASSERT_EQ(expected.size(), 48u);
  EXPECT_EQ(expected[20].pts, AV_NOPTS_VALUE);
  EXPECT_EQ(expected[21].best_effort, expected[20].best_effort + 1);
  for (const int decoders : {1, 2, 4}) {
    Asked asked;
    asked.decoders = decoders;
    const Result found = with_lanes(path, asked);
    EXPECT_TRUE(found.shown == expected) << decoders;
    EXPECT_EQ(found.groups, 0) << "nothing is shared";
  }
}

// As for groups that were shared before such packets came: without times of presentation (AVI), or
// with those of decoding in their place.
TEST(DecoderLanes, TimesAreGuessedInTheOrderOfFrames) {
  for (const char* name : {"b_frames.avi", "plain.mp4", "stream.ts", "hevc_groups.mp4"}) {
    for (const bool decoding_times : {false, true}) {
      const std::vector<Shown> expected = with_one_decoder(kFixtures + name, decoding_times);
      for (const int decoders : {1, 2, 3, 4}) {
        Asked asked;
        asked.decoders = decoders;
        asked.decoding_times = decoding_times;
        asked.any_times = true;
        const Result found = with_lanes(kFixtures + name, asked);
        EXPECT_GE(found.groups, 3) << name;
        EXPECT_EQ(found.decoders, std::min(decoders, found.groups + 1)) << name;
        ASSERT_EQ(found.shown.size(), expected.size()) << name;
        for (std::size_t i = 0; i < expected.size(); ++i) {
          EXPECT_TRUE(found.shown[i] == expected[i])
              << name << ", " << decoders << " decoders, frame " << i << ": "
              << found.shown[i].best_effort << " instead of " << expected[i].best_effort;
        }
      }
    }
  }
}

TEST(DecoderLanes, OnlyClosedGroupsAreShared) {
  Asked asked;
  asked.decoders = 3;
  EXPECT_EQ(with_lanes(kFixtures + "plain.mp4", asked).decoders, 3);
  EXPECT_EQ(with_lanes(kFixtures + "stream.ts", asked).decoders, 3);
  // Its one group is the second, since the first is what was decoded before: nothing here.
  EXPECT_EQ(with_lanes(kFixtures + "open_gop.mp4", asked).decoders, 2);
  EXPECT_EQ(with_lanes(kFixtures + "hevc_open_gop.mkv", asked).decoders, 2);
}

TEST(DecoderLanes, GoOnWithoutThoseThatCannotBeOpened) {
  for (const char* name : {"plain.mp4", "stream.ts", "hevc_groups.mp4"}) {
    const std::vector<Shown> expected = with_one_decoder(kFixtures + name);
    for (const int most : {1, 2}) {
      for (const std::size_t packets : {1u, 12u, 1500u}) {
        Asked asked;
        asked.decoders = 3;
        asked.most_open = most;
        asked.packets = packets;
        const Result found = with_lanes(kFixtures + name, asked);
        EXPECT_EQ(found.failure, "") << name;
        EXPECT_TRUE(found.shown == expected) << name << ", " << most << " of three decoders";
        EXPECT_EQ(found.given, static_cast<int>(expected.size())) << name;
        EXPECT_EQ(found.decoders, most) << name;
        EXPECT_EQ(found.refused, 1) << name << ": asked for once";
      }
    }
  }
}

TEST(DecoderLanes, FramesAheadAreBounded) {
  const std::string clip = RFSEG_SOURCE_DIR "/assets/demo/clip.mp4";  // 5 groups of 50 frames
  Asked asked;
  asked.decoders = 3;
  asked.ahead = 2;
  // Beside the bound: the group that is shown, and what each decoder gives at its end.
  EXPECT_LE(with_lanes(clip, asked).most_kept, 2u + 8u + 3u * 4u);
  asked.ahead = 100;
  EXPECT_GT(with_lanes(clip, asked).most_kept, 30u) << "the others wait for nothing";
}

TEST(DecoderLanes, WhatIsNotTakenIsFreed) {
  for (const std::size_t take : {0u, 1u, 5u, 11u}) {
    Asked asked;
    asked.decoders = 3;
    asked.take = take;
    const Result found = with_lanes(kFixtures + "plain.mp4", asked);
    EXPECT_EQ(found.shown.size(), take);
  }
}

// The frames before the failure come first.
TEST(DecoderLanes, FailuresArePassedOnInTheirTurn) {
  const std::vector<Shown> expected = with_one_decoder(kFixtures + "plain.mp4");
  Asked asked;
  asked.decoders = 2;
  asked.fail_at = 10;  // of 16 frames in groups 1 and 3
  const Result found = with_lanes(kFixtures + "plain.mp4", asked);
  EXPECT_EQ(found.failure, "no more memory");
  ASSERT_EQ(found.shown.size(), 17u);
  EXPECT_TRUE(std::equal(found.shown.begin(), found.shown.end(), expected.begin()));
}

TEST(DecoderLanes, SurviveDamage) {
  av_log_set_level(AV_LOG_QUIET);
  for (const char* name : {"plain.mp4", "stream.ts", "large_h264.mp4", "hevc_groups.mp4"}) {
    for (const int decoders : {1, 2, 3}) {
      for (const std::size_t packets : {4u, 1500u}) {
        Asked asked;
        asked.decoders = decoders;
        asked.packets = packets;
        asked.damage = true;
        const Result found = with_lanes(kFixtures + name, asked);
        EXPECT_EQ(found.failure, "") << name;
        EXPECT_EQ(found.given, static_cast<int>(with_one_decoder(kFixtures + name).size())) << name;
        EXPECT_LE(static_cast<int>(found.shown.size()), found.given) << name;
      }
    }
  }
  av_log_set_level(AV_LOG_INFO);
}

}  // namespace
}  // namespace rfseg::libav
