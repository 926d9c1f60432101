// --start gives what a run from the beginning gives, also where the file makes that hard; and a
// clock that jumps leaves no holes.

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "media/video_test_support.h"

namespace rfseg {
namespace {

/// Starts at every frame, or each so many, and between them.
void expect_every_start(const std::string& path, const Decoded& all, std::size_t step = 1) {
  for (std::size_t from = 0; from < all.times.size(); from += step) {
    for (const double before : {0.0, 0.005}) {
      VideoOptions options;
      options.start_s = all.times[from] - before;
      if (options.start_s <= 0) continue;
      std::size_t first = 0;
      while (all.times[first] < options.start_s) ++first;
      const auto skip = static_cast<std::ptrdiff_t>(first);
      const Decoded part = decode(path, options);
      SCOPED_TRACE(path + " from second " + std::to_string(options.start_s));
      EXPECT_EQ(part.indices, std::vector<int64_t>(all.indices.begin() + skip, all.indices.end()));
      EXPECT_EQ(part.hashes, std::vector<uint64_t>(all.hashes.begin() + skip, all.hashes.end()));
      ASSERT_EQ(part.times.size(), all.times.size() - first);
      for (std::size_t i = 0; i < part.times.size(); ++i) {
        EXPECT_NEAR(part.times[i], all.times[first + i], 1e-6);
      }
      if (testing::Test::HasFailure()) return;
    }
  }
}

void expect_numbers(const Decoded& all, std::size_t frames) {
  ASSERT_EQ(all.indices.size(), frames);
  for (std::size_t i = 0; i < frames; ++i) EXPECT_EQ(all.indices[i], static_cast<int64_t>(i));
}

// Some packets of a program stream tell no time, and the pictures of an open group that are shown
// first cannot be decoded from its beginning: they count all the same.
TEST(VideoStart, CountsPicturesOfAProgramStream) {
  const std::string path = kFixtures + "starts/mpeg2.mpg";
  const Decoded all = decode(path);
  expect_numbers(all, 50);
  expect_every_start(path, all);
}

// A decoder that begins with an open group gives none of its pictures that it still holds at the
// end.
TEST(VideoStart, GivesTheLastPicturesOfAShortOpenGroup) {
  for (const char* name : {"starts/short_open_group.mp4", "starts/short_open_group.mkv"}) {
    const Decoded all = decode(kFixtures + name);
    expect_numbers(all, 19);
    expect_every_start(kFixtures + name, all);
  }
}

// FFmpeg does not know when such a stream begins: its first frame tells.
TEST(VideoStart, GoesToATimeAmongFramesThatAreSecondsApart) {
  const std::string path = kFixtures + "starts/seconds_apart.mkv";
  const Decoded all = decode(path);
  expect_numbers(all, 60);
  EXPECT_EQ(all.times.back(), 295);
  expect_every_start(path, all);
}

// Pictures without a time that the decoder drops have no number.
TEST(VideoStart, CountsNoPicturesThatACutMadeUseless) {
  const std::string path = kFixtures + "starts/cut_open_group.mkv";
  const Decoded all = decode(path);
  ASSERT_GT(all.times.size(), 50u);
  expect_numbers(all, all.times.size());
  expect_every_start(path, all);
}

constexpr std::size_t kPacket = 188;

/// Where the pictures of a transport stream begin, each with a packet.
std::vector<std::size_t> pictures_of(const std::vector<char>& stream) {
  std::vector<std::size_t> found;
  for (std::size_t at = 0; at + kPacket <= stream.size(); at += kPacket) {
    const auto* packet = reinterpret_cast<const uint8_t*>(stream.data()) + at;
    const uint8_t* pes = packet + 4 + ((packet[3] & 0x20) != 0 ? 1 + packet[4] : 0);
    const bool starts = (packet[1] & 0x40) != 0;
    if (starts && pes + 19 <= packet + kPacket && pes[0] == 0 && pes[1] == 0 && pes[2] == 1) {
      found.push_back(at);
    }
  }
  return found;
}

/// A recording of 20 pictures, 0.8 s from 1.4 s of its clock on; `later` in seconds.
std::vector<char> recording(double later, std::size_t pictures = 20) {
  std::vector<char> stream = read_bytes(kFixtures + "stream.ts");
  const std::vector<std::size_t> starts = pictures_of(stream);
  EXPECT_EQ(starts.size(), 20u);
  for (const std::size_t at : starts) {
    auto* packet = reinterpret_cast<uint8_t*>(stream.data()) + at;
    uint8_t* pes = packet + 4 + ((packet[3] & 0x20) != 0 ? 1 + packet[4] : 0);
    const auto ticks = static_cast<int64_t>(later * 90000);
    if ((pes[7] & 0x80) != 0) add_to_time(pes + 9, ticks);
    if ((pes[7] & 0x40) != 0) add_to_time(pes + 14, ticks);
  }
  if (pictures < starts.size()) stream.resize(starts[pictures]);
  return stream;
}

std::vector<char> join(std::vector<char> first, const std::vector<char>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// Two recordings in one file, the first one whole or cut between a picture and those that are shown
// before it; the second one's clock goes back by a little, by seconds, or by more than a minute,
// which FFmpeg takes for an overflow.
TEST(VideoStart, JoinedRecordingsHaveEveryFrameOnce) {
  const Folder folder;
  const std::string path = folder / "joined.ts";
  const Decoded once = decode(kFixtures + "stream.ts");
  for (const std::size_t pictures : {20, 18, 15}) {
    for (const double first : {0.0, 100.0}) {
      for (const double second : {0.0, 0.35, 0.6}) {
        SCOPED_TRACE(std::to_string(pictures) + " pictures, clocks " + std::to_string(first) +
                     " and " + std::to_string(second));
        write_bytes(path, recording(first, pictures));
        const std::size_t frames = decode(path).times.size();
        write_bytes(path, join(recording(first, pictures), recording(second)));
        const Decoded all = decode(path);
        expect_numbers(all, frames + 20);
        if (HasFailure()) return;
        for (std::size_t i = 0; i < 20; ++i) EXPECT_EQ(all.hashes[frames + i], once.hashes[i]);
        EXPECT_LT(all.times.back(), 2);
        expect_every_start(path, all, 3);
        if (HasFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace rfseg
