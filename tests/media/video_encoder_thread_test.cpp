#include "media/video_encoder_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "rfseg/error.h"

namespace rfseg {
namespace {

/// What a writer under test was asked to do. Outlives it.
struct Record {
  std::vector<double> times;
  std::vector<int> first_bytes;
  std::atomic<int> written{0};
  std::atomic<bool> finished{false};
  std::atomic<bool> destroyed{false};
  std::atomic<int> delay_ms{0};
  int fail_at = -1;
  bool fail_at_finish = false;
};

class FakeWriter final : public VideoWriter {
 public:
  explicit FakeWriter(Record& record) : record_(record) {}
  ~FakeWriter() override { record_.destroyed = true; }
  void write(const ImageView& rgb, double time_s) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(record_.delay_ms.load()));
    if (record_.written == record_.fail_at) throw Error(ErrorCode::kOutput, "disk full");
    record_.times.push_back(time_s);
    record_.first_bytes.push_back(rgb.planes[0][0]);
    ++record_.written;
  }
  void finish() override {
    if (record_.fail_at_finish) throw Error(ErrorCode::kOutput, "disk full at the end");
    record_.finished = true;
  }

 private:
  Record& record_;
};

Image frame_of(int value) {
  Image image(4, 2);
  std::fill(image.pixels.begin(), image.pixels.end(), static_cast<uint8_t>(value));
  return image;
}

TEST(AsyncVideoWriter, KeepsOrderAndCounts) {
  Record record;
  {
    AsyncVideoWriter writer(std::make_unique<FakeWriter>(record), 3);
    for (int i = 0; i < 100; ++i) {
      Image image = writer.take_buffer();
      if (image.empty()) image = Image(4, 2);
      std::fill(image.pixels.begin(), image.pixels.end(), static_cast<uint8_t>(i));
      writer.write(std::move(image), i * 0.5);
    }
    writer.finish();
    EXPECT_EQ(writer.stats().frames, 100);
    EXPECT_GE(writer.stats().encode_seconds, 0);
    EXPECT_LE(writer.stats().max_queue_depth, 3);
    EXPECT_GE(writer.stats().max_queue_depth, 1);
  }
  EXPECT_TRUE(record.finished);
  EXPECT_TRUE(record.destroyed);
  ASSERT_EQ(record.times.size(), 100u);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(record.times[i], i * 0.5);
    EXPECT_EQ(record.first_bytes[i], i);
  }
}

TEST(AsyncVideoWriter, BlocksWhileTheQueueIsFull) {
  Record record;
  record.delay_ms = 5;
  AsyncVideoWriter writer(std::make_unique<FakeWriter>(record), 2);
  for (int i = 0; i < 20; ++i) {
    writer.write(frame_of(i), i);
    // At most two wait and one is being encoded.
    EXPECT_GE(record.written.load() + 3, i + 1);
  }
  writer.finish();
  EXPECT_EQ(writer.stats().max_queue_depth, 2);
  EXPECT_GE(writer.stats().encode_seconds, 20 * 0.005);
}

TEST(AsyncVideoWriter, AnErrorComesWithTheNextCallAndStays) {
  Record record;
  record.fail_at = 2;
  AsyncVideoWriter writer(std::make_unique<FakeWriter>(record), 2);
  const auto write_until_error = [&] {
    for (int i = 0; i < 100; ++i) writer.write(frame_of(i), i);
  };
  EXPECT_THROW(write_until_error(), Error);
  EXPECT_THROW(writer.write(frame_of(0), 0), Error);
  try {
    writer.finish();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutput);
    EXPECT_EQ(std::string(error.what()), "disk full");
  }
  EXPECT_THROW(writer.finish(), Error);
  EXPECT_EQ(writer.stats().frames, 2);
  EXPECT_FALSE(record.finished);
}

TEST(AsyncVideoWriter, AnErrorOfTheLastFramesOrTheEndIsNotLost) {
  Record record;
  record.fail_at_finish = true;
  AsyncVideoWriter writer(std::make_unique<FakeWriter>(record), 8);
  writer.write(frame_of(1), 0);
  EXPECT_THROW(writer.finish(), Error);
}

TEST(AsyncVideoWriter, WithoutFinishNothingIsFinished) {
  Record record;
  record.delay_ms = 2;
  {
    AsyncVideoWriter writer(std::make_unique<FakeWriter>(record), 8);
    for (int i = 0; i < 8; ++i) writer.write(frame_of(i), i);
  }
  EXPECT_FALSE(record.finished);
  EXPECT_TRUE(record.destroyed);
}

TEST(AsyncVideoWriter, RefusesFramesAfterTheEnd) {
  Record record;
  AsyncVideoWriter writer(std::make_unique<FakeWriter>(record), 8);
  writer.finish();
  EXPECT_THROW(writer.write(frame_of(1), 0), Error);
  writer.finish();
}

TEST(AsyncVideoWriter, StatsMayBeReadFromAnotherThread) {
  Record record;
  record.delay_ms = 1;
  AsyncVideoWriter writer(std::make_unique<FakeWriter>(record), 2);
  std::atomic<bool> done{false};
  std::thread watcher([&] {
    int64_t last = 0;
    while (!done) {
      const int64_t frames = writer.stats().frames;
      EXPECT_GE(frames, last);
      last = frames;
    }
  });
  for (int i = 0; i < 30; ++i) writer.write(frame_of(i), i);
  writer.finish();
  done = true;
  watcher.join();
  EXPECT_EQ(writer.stats().frames, 30);
}

}  // namespace
}  // namespace rfseg
