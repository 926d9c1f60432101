#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdlib>
#include <thread>

#include "media/video_io.h"
#include "media/video_test_support.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

Image picture(int width, int height, int shift) {
  Image image(width, height);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      uint8_t* p = &image.pixels[(static_cast<std::size_t>(y) * width + x) * 3];
      p[0] = static_cast<uint8_t>(40 + 2 * ((x + shift) % 80));
      p[1] = static_cast<uint8_t>(60 + y);
      p[2] = static_cast<uint8_t>(200 - y);
    }
  }
  return image;
}

TEST(VideoWriter, WritesWhatItIsGiven) {
  const Folder folder;
  const std::string path = folder / "out.mp4";
  const std::vector<double> times = {0, 0.04, 0.08, 0.25, 0.25, 0.1, 1.5};  // two out of order
  {
    const std::unique_ptr<VideoWriter> writer = create_video(path, 96, 64, 25);
    for (std::size_t i = 0; i < times.size(); ++i) {
      writer->write(picture(96, 64, static_cast<int>(i)).view(), times[i]);
    }
    EXPECT_FALSE(fs::exists(path)) << "the name appears before the file is whole";
    writer->finish();
  }
  EXPECT_TRUE(fs::exists(path));
  EXPECT_EQ(folder.entries(), 1u);
  const std::unique_ptr<VideoReader> reader = open_video(path);
  EXPECT_TRUE(reader->info().codec == "h264" || reader->info().codec == "mpeg4");
  EXPECT_EQ(reader->info().frames, 7);
  VideoFrame frame;
  double last = -1;
  for (std::size_t i = 0; i < times.size(); ++i) {
    ASSERT_TRUE(reader->read(frame));
    EXPECT_EQ(frame.image.width, 96);
    EXPECT_EQ(frame.image.height, 64);
    EXPECT_EQ(frame.image.format, PixelFormat::kI420);
    EXPECT_EQ(frame.image.matrix, YuvMatrix::kBt601);
    EXPECT_EQ(frame.image.range, YuvRange::kLimited);
    EXPECT_GT(frame.time_s, last);
    const double expected = times[i] >= last ? times[i] : last;
    EXPECT_NEAR(frame.time_s, expected, 1.1 / 60000);
    last = frame.time_s;
    const Image given = picture(96, 64, static_cast<int>(i));
    double error = 0;
    for (int y = 0; y < 64; ++y) {
      for (int x = 0; x < 96; ++x) {
        const uint8_t* p = &given.pixels[(static_cast<std::size_t>(y) * 96 + x) * 3];
        const double luma = 16 + 219 * (0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]) / 255;
        error += std::abs(luma - frame.image.planes[0][y * frame.image.strides[0] + x]);
      }
    }
    EXPECT_LT(error / (96 * 64), 4) << "mean luma error of frame " << i;
  }
  EXPECT_FALSE(reader->read(frame));
  // The index stands before the pictures, so that a browser can start at once.
  const std::vector<char> bytes = read_bytes(path);
  const std::string text(bytes.begin(), bytes.end());
  EXPECT_LT(text.find("moov"), text.find("mdat"));
}

TEST(VideoWriter, PadsOddSizesByRepetition) {
  const Folder folder;
  const std::string path = folder / "odd.mp4";
  const std::unique_ptr<VideoWriter> writer = create_video(path, 31, 17, 10);
  for (int i = 0; i < 3; ++i) writer->write(picture(31, 17, 0).view(), i * 0.1);
  writer->finish();
  const std::unique_ptr<VideoReader> reader = open_video(path);
  EXPECT_EQ(reader->info().width, 32);
  EXPECT_EQ(reader->info().height, 18);
  VideoFrame frame;
  ASSERT_TRUE(reader->read(frame));
  const ImageView& image = frame.image;
  double difference = 0;
  for (int y = 0; y < 17; ++y) {
    const uint8_t* row = image.planes[0] + y * image.strides[0];
    difference += std::abs(row[31] - row[30]);
  }
  EXPECT_LT(difference / 17, 6) << "the added column is unlike its neighbour";
}

TEST(VideoWriter, LeavesNothingWithoutFinish) {
  const Folder folder;
  {
    const std::unique_ptr<VideoWriter> writer = create_video(folder / "a.mp4", 32, 32, 25);
    for (int i = 0; i < 60; ++i) writer->write(picture(32, 32, i).view(), i * 0.04);
  }
  EXPECT_EQ(folder.entries(), 0u);
  {
    const std::unique_ptr<VideoWriter> writer = create_video(folder / "b.mp4", 32, 32, 25);
    writer->finish();
    writer->finish();
  }
  EXPECT_EQ(folder.entries(), 0u) << "a video without frames";
}

TEST(VideoWriter, RefusesOtherFrames) {
  const Folder folder;
  const std::unique_ptr<VideoWriter> writer = create_video(folder / "a.mp4", 32, 32, 25);
  EXPECT_THROW(writer->write(picture(32, 34, 0).view(), 0), Error);
  EXPECT_THROW(create_video(folder / "b.mp4", 0, 32, 25), Error);
  EXPECT_THROW(create_video(folder / "c.mp4", 32, 1 << 20, 25), Error);
}

TEST(VideoWriter, ReportsWhereItCannotWrite) {
  const Folder folder;
  try {
    create_video(folder / "no/such/folder.mp4", 32, 32, 25);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutput);
    EXPECT_NE(std::string(error.what()).find("no/such/folder.mp4"), std::string::npos);
  }
  // A full disk.
  try {
    const std::unique_ptr<VideoWriter> writer = create_video("/dev/full", 256, 256, 25);
    for (int i = 0; i < 300; ++i) writer->write(picture(256, 256, 7 * i).view(), i * 0.04);
    writer->finish();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutput);
    EXPECT_NE(std::string(error.what()).find("/dev/full"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
  }
}

TEST(VideoWriter, WritesIntoAPipe) {
  const Folder folder;
  const std::string pipe = folder / "pipe.mp4";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::vector<char> bytes;
  std::thread drain([&] { bytes = read_bytes(pipe); });
  const std::unique_ptr<VideoWriter> writer = create_video(pipe, 64, 48, 25);
  for (int i = 0; i < 10; ++i) writer->write(picture(64, 48, i).view(), i * 0.04);
  writer->finish();
  drain.join();
  write_bytes(folder / "copy.mp4", bytes);
  EXPECT_EQ(decode(folder / "copy.mp4").times.size(), 10u);
}

TEST(VideoModule, SaysWhatToInstallWhereItIsMissing) {
  // A fresh process: this one has loaded the module for good.
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        setenv("RFSEG_LIBAV_MODULE", "/no/such/module.so", 1);
        try {
          open_video(kFixtures + "plain.mp4");
        } catch (const Error& error) {
          const std::string message = error.what();
          const bool good = error.code() == ErrorCode::kInput &&
                            message.find("/no/such/module.so") != std::string::npos &&
                            message.find("apt-get install") != std::string::npos &&
                            video_backend_version().empty();
          std::_Exit(good ? 7 : 1);
        }
        std::_Exit(2);
      },
      testing::ExitedWithCode(7), "");
}

TEST(VideoModule, TellsItsVersion) {
  EXPECT_NE(video_backend_version().find("libavcodec"), std::string::npos);
}

TEST(VideoName, KnowsVideosStreamsAndDevices) {
  for (const char* name : {"a.mp4", "/x/B.MOV", "c.tar.mkv", "http://host/a", "https://h/v.mp4",
                           "rtsp://camera:554/live", "/dev/video0", "x.webm", "clip.gif"}) {
    EXPECT_TRUE(is_video_name(name)) << name;
  }
  for (const char* name : {"a.jpg", "mp4", "/a.mp4/b", ".mp4", "dir/.mkv", "/dev/video",
                           "/dev/videoX", "a.mp4.png", "ftp://host/a.mp4", "-", ""}) {
    EXPECT_FALSE(is_video_name(name)) << name;
  }
}

}  // namespace
}  // namespace rfseg
