#include "pipeline/pictures_ahead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "core/files.h"
#include "core/temporary_folder.h"
#include "media/image_decoders.h"
#include "media/image_io.h"
#include "pipeline/frame_source.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

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

/// Decodes "WxH" as the decoders do: the size is checked, then memory is taken. No pixel is made.
class SizedPictures {
 public:
  Image decode(const std::string& name) {
    const int width = std::stoi(name), height = std::stoi(name.substr(name.find('x') + 1));
    const std::size_t bytes = std::size_t{3} * width * height;
    check_image_size({nullptr, 0, name, uint64_t{1} << 28}, width, height);
    const std::size_t now = held += bytes;
    for (std::size_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (name.ends_with("broken")) {
      held -= bytes;
      throw Error(ErrorCode::kInput, name);
    }
    return Image(width, height);
  }
  std::atomic<std::size_t> held{0}, most{0};
};

// The bound holds from the first picture on, for any mixture of sizes, and all of them come.
TEST(PicturesAhead, WhatIsHeldIsBoundedFromTheFirstPictureOn) {
  const std::string large = "6000x5000";  // 90 MB: two at once are below the bound
  const std::string small = "300x200", huge = "10000x9000";  // 270 MB: only alone
  std::vector<std::vector<std::string>> rows(3);
  rows[0].assign(6, large);
  rows[1].assign(20, small);
  rows[1].insert(rows[1].end(), 5, large);
  for (int i = 0; i < 12; ++i) {
    rows[2].push_back(i % 6 == 4   ? huge
                      : i % 4 == 1 ? large + "broken"
                      : i % 2 == 0 ? large
                                   : small);
  }
  for (const auto& names : rows) {
    SizedPictures pictures;
    PicturesAhead ahead([&](const std::string& name) { return pictures.decode(name); }, 16);
    std::size_t asked = 0, largest = 0;
    for (const std::string& name : names) {
      while (asked < names.size() && ahead.has_room()) ahead.ask(names[asked++]);
      try {
        const std::size_t bytes = ahead.take().pixels.size();
        pictures.held -= bytes;
        largest = std::max(largest, bytes);
        EXPECT_FALSE(name.ends_with("broken"));
      } catch (const Error& error) {
        EXPECT_EQ(error.what(), name);
      }
      EXPECT_LE(ahead.waiting(), 32u);
    }
    // Beside what waits there is the one that was just taken.
    EXPECT_LE(pictures.most, std::max(PicturesAhead::kMostBytes, largest) + largest);
    EXPECT_GT(pictures.most, 90000000u) << "none was decoded ahead";
    EXPECT_EQ(pictures.held, 0u);
  }
}

// Whoever waits for memory does not keep the end waiting.
TEST(PicturesAhead, EndsWhilePicturesWaitForMemory) {
  SizedPictures pictures;
  {
    PicturesAhead ahead([&](const std::string& name) { return pictures.decode(name); }, 4);
    for (int i = 0; i < 4; ++i) ahead.ask("9000x9000");  // 243 MB
    pictures.held -= ahead.take().pixels.size();
    EXPECT_EQ(ahead.waiting(), 3u);
  }
  EXPECT_LE(pictures.most, std::size_t{2} * 243000000);
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
  const test::TemporaryFolder folder;
  std::vector<Input> inputs;
  for (int i = 0; i < 40; ++i) {
    const std::string path = folder / (std::to_string(i) + ".png");
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
}

}  // namespace
}  // namespace rfseg
