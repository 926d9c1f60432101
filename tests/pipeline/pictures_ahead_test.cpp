#include "pipeline/pictures_ahead.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>

#include "core/files.h"
#include "media/image_io.h"
#include "pipeline/frame_source.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

namespace fs = std::filesystem;

// "7" becomes a picture of 7 columns; the earlier ones take longest.
TEST(PicturesAhead, GivesThemInTheOrderOfAsking) {
  std::atomic<int> running{0}, most{0};
  PicturesAhead pictures(
      [&](const std::string& name) {
        const int now = ++running;
        for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        const int number = std::stoi(name);
        std::this_thread::sleep_for(std::chrono::milliseconds(number % 4 == 1 ? 30 : 1));
        --running;
        if (number % 10 == 5) throw Error(ErrorCode::kInput, name);
        return Image(number, 1);
      },
      4);
  int asked = 0;
  for (int number = 1; number <= 60; ++number) {
    while (asked < 60 && pictures.has_room()) pictures.ask(std::to_string(++asked));
    EXPECT_LE(pictures.waiting(), 8u);
    EXPECT_GE(asked, std::min(60, number + 7));
    if (number % 10 == 5) {
      try {
        pictures.take();
        ADD_FAILURE() << "no error of " << number;
      } catch (const Error& error) {
        EXPECT_EQ(error.what(), std::to_string(number));
      }
    } else {
      EXPECT_EQ(pictures.take().width, number);
    }
  }
  EXPECT_EQ(pictures.waiting(), 0u);
  EXPECT_GE(most, 2);
  EXPECT_LE(most, 4);
}

TEST(PicturesAhead, LargePicturesAreFewerAtOnce) {
  constexpr int kSide = 6000;  // 108 MB: two at once stay below the bound
  std::atomic<int> decoded{0};
  PicturesAhead pictures(
      [&](const std::string&) {
        ++decoded;
        return Image(kSide, kSide);
      },
      8);
  pictures.ask("a");
  EXPECT_EQ(pictures.take().width, kSide);
  EXPECT_TRUE(pictures.has_room());
  pictures.ask("b");
  EXPECT_TRUE(pictures.has_room());
  pictures.ask("c");
  EXPECT_FALSE(pictures.has_room());
  pictures.take();
  EXPECT_TRUE(pictures.has_room());
}

TEST(PicturesAhead, WhatHasNotBegunIsDroppedAtTheEnd) {
  std::atomic<int> decoded{0};
  {
    PicturesAhead pictures(
        [&](const std::string&) {
          ++decoded;
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
          return Image(1, 1);
        },
        1);
    pictures.ask("a");
    pictures.ask("b");
    while (decoded == 0) std::this_thread::yield();
  }
  EXPECT_EQ(decoded, 1);
}

// The same frames with any number of threads, broken files and missing ones in their places.
TEST(PicturesAhead, SourcesGiveTheSameWithAnyNumberOfThreads) {
  std::string name = (fs::temp_directory_path() / "rfseg-ahead-XXXXXX").string();
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  std::vector<Input> inputs;
  for (int i = 0; i < 40; ++i) {
    const std::string path = name + "/" + std::to_string(i) + ".png";
    if (i % 7 == 3) {
      write_file(path, "no picture");
    } else {
      const int width = 1 + i * 5 % 64, height = 1 + i;
      std::vector<uint8_t> pixels(static_cast<std::size_t>(width) * height * 3);
      for (std::size_t k = 0; k < pixels.size(); ++k) pixels[k] = static_cast<uint8_t>(k * (i + 1));
      const std::vector<uint8_t> png = encode_png(pixels.data(), width, height, 3);
      write_file(path, {reinterpret_cast<const char*>(png.data()), png.size()});
    }
    inputs.push_back({path, InputKind::kImage, i % 9 == 4 ? "unusable" : ""});
  }
  const auto read = [&](int threads) {
    InputOptions options;
    options.picture_threads = threads;
    InputSource source(inputs, options);
    std::string all;
    SourceFrame frame;
    while (source.next(frame)) {
      all += frame.file + " " + frame.error + " " + std::to_string(frame.view.width) + "\n";
      if (frame.error.empty()) {
        all.append(reinterpret_cast<const char*>(frame.view.planes[0]),
                   static_cast<std::size_t>(frame.view.height) * frame.view.strides[0]);
      }
    }
    return all;
  };
  const std::string one = read(1);
  EXPECT_GT(one.size(), 50000u);
  EXPECT_GE(std::count(one.begin(), one.end(), '\n'), 40);
  for (const int threads : {2, 3, 16}) EXPECT_TRUE(read(threads) == one) << threads;
  fs::remove_all(name);
}

}  // namespace
}  // namespace rfseg
