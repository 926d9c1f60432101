#include "engine/weight_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "core/files.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

std::vector<std::byte> image_of(std::size_t size) {
  std::vector<std::byte> image(size);
  for (std::size_t i = 0; i < size; ++i) image[i] = static_cast<std::byte>(i * 7 + i / 256);
  return image;
}

class WeightCache : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("rfseg_weight_cache_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    path_ = weight_cache_path(folder_.string(), kKey);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static constexpr std::string_view kKey = "a network and a file";
  std::filesystem::path folder_;
  std::string path_;
};

TEST_F(WeightCache, ComesBackAsItWasWritten) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{31}, std::size_t{100003}}) {
    const std::vector<std::byte> image = image_of(size);
    write_weight_cache(path_, kKey, image);
    std::vector<std::byte> found(size);
    std::string why;
    EXPECT_TRUE(read_weight_cache(path_, kKey, found, &why)) << why;
    EXPECT_EQ(found, image);
  }
}

TEST_F(WeightCache, OneThatIsNotThereIsNoFault) {
  std::vector<std::byte> image(10);
  std::string why = "before";
  EXPECT_FALSE(read_weight_cache(path_, kKey, image, &why));
  EXPECT_EQ(why, "");
}

TEST_F(WeightCache, TellsAnotherKeyAndAnotherSize) {
  write_weight_cache(path_, kKey, image_of(1000));
  std::vector<std::byte> image(1000);
  std::string why;
  EXPECT_FALSE(read_weight_cache(path_, "a network and a bile", image, &why));
  EXPECT_NE(why.find("another checkpoint"), std::string::npos);
  EXPECT_FALSE(read_weight_cache(path_, "short", image, &why));
  image.resize(999);
  EXPECT_FALSE(read_weight_cache(path_, kKey, image, &why));
  EXPECT_NE(weight_cache_path("x", "a"), weight_cache_path("x", "b"));
}

TEST_F(WeightCache, TellsEveryChangedByteAndEveryLength) {
  write_weight_cache(path_, kKey, image_of(300));
  const std::vector<uint8_t> good = read_file(path_);
  std::vector<std::byte> image(300);
  std::string why;
  ASSERT_TRUE(parse_weight_cache(good.data(), good.size(), kKey, image, &why)) << why;
  const std::size_t padding_from = 32 + kKey.size(), padding_to = 256;
  for (std::size_t at = 0; at < good.size(); ++at) {
    if (at >= padding_from && at < padding_to) continue;  // says nothing
    std::vector<uint8_t> bad = good;
    bad[at] ^= 0x10;
    EXPECT_FALSE(parse_weight_cache(bad.data(), bad.size(), kKey, image, &why)) << at;
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(parse_weight_cache(good.data(), size, kKey, image, &why)) << size;
  }
  std::vector<uint8_t> longer = good;
  longer.push_back(0);
  EXPECT_FALSE(parse_weight_cache(longer.data(), longer.size(), kKey, image, &why));
}

TEST_F(WeightCache, AFolderThatIsNotThereIsAnError) {
  EXPECT_THROW(write_weight_cache((folder_ / "no" / "such").string(), kKey, image_of(10)), Error);
}

}  // namespace
}  // namespace rfseg
