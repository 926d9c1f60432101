// A camera on the loopback address that is quicker than who watches it.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "media/motion_jpeg.h"
#include "pipeline/multi_source.h"

namespace rfseg {
namespace {

// The camera sends 120 pictures, one each 5 ms, and a picture is looked at for 40 ms: the newest
// are seen, the others counted, and no more than the queue holds wait.
TEST(LiveInput, ASlowReaderSeesTheNewestFramesAndDropsAreCounted) {
  constexpr int kPictures = 120;
  const std::string jpeg = a_jpeg();
  Server server(
      [&](int client) { send_motion_jpeg(client, kPictures, std::chrono::milliseconds(5), jpeg); });
  InputOptions options;
  options.video.threads = 1;
  options.video.reconnect_s = 0;
  std::vector<std::unique_ptr<FrameSource>> sources;
  sources.push_back(std::make_unique<InputSource>(
      std::vector<Input>{{server.url("camera"), InputKind::kVideo, ""}}, options));
  PicturePool pool({HeldPixels::Place::kHost, [](std::size_t bytes) {
                      return std::shared_ptr<std::byte>(new std::byte[bytes],
                                                        std::default_delete<std::byte[]>());
                    }});
  MultiSource::Options settings;
  settings.queue = 2;
  MultiSource multi(std::move(sources), std::move(pool), settings);
  int64_t seen = 0, last = -1, skipped = 0;
  for (SourceFrame frame; multi.next(frame); ++seen) {
    ASSERT_EQ(frame.error, "");
    ASSERT_TRUE(frame.frame.has_value());
    EXPECT_GT(*frame.frame, last);
    skipped += *frame.frame - last - 1;
    last = *frame.frame;
    EXPECT_EQ(frame.view.width, 21);
    std::this_thread::sleep_for(std::chrono::milliseconds(40));
    frame = {};
  }
  const MultiSource::StreamStats stats = multi.stats().at(0);
  EXPECT_EQ(stats.frames, seen);
  EXPECT_EQ(stats.dropped, skipped + kPictures - 1 - last);
  EXPECT_EQ(stats.frames + stats.dropped, kPictures);
  EXPECT_GT(stats.dropped, kPictures / 2);
  EXPECT_LE(stats.max_queue, 2u);
  EXPECT_GE(last, kPictures - 3) << "the newest frames are the ones kept";
}

// The camera breaks off once; a run that is cancelled then tells that all the same.
TEST(LiveInput, CountsAreRightWhenTheRunIsCancelled) {
  const std::string jpeg = a_jpeg();
  std::atomic<bool> cancelled{false};
  Server server(
      [&](int client) { send_motion_jpeg(client, 8, std::chrono::milliseconds(0), jpeg); });
  InputOptions options;
  options.video.threads = 1;
  options.cancelled = [&] { return cancelled.load(); };
  InputSource source({{server.url("camera"), InputKind::kVideo, ""}}, options);
  SourceFrame frame;
  for (int i = 0; i < 60 && source.reconnects() == 0; ++i) {
    ASSERT_TRUE(source.next(frame));
    ASSERT_EQ(frame.error, "");
  }
  EXPECT_GE(source.reconnects(), 1) << "of the video under way";
  cancelled = true;
  EXPECT_FALSE(source.next(frame));
  EXPECT_GE(source.reconnects(), 1);
}

}  // namespace
}  // namespace rfseg
