// The public API, from a file to detections.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <thread>

#include "checkpoint/checkpoint.h"
#include "engine/hash_weights.h"
#include "pipeline/tiny_model.h"
#include "rfseg/rfseg.h"

namespace rfseg {
namespace {

class ApiTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::string name = (std::filesystem::temp_directory_path() / "rfseg-api-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder() = name;
    Checkpoint checkpoint;
    checkpoint.config = testing::tiny_config();
    checkpoint.weights = std::make_shared<testing::HashWeights>(checkpoint.config);
    write_safetensors(checkpoint, model_path(), false);
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder()); }

  static std::filesystem::path& folder() {
    static std::filesystem::path path;
    return path;
  }
  static std::string model_path() { return (folder() / "tiny.safetensors").string(); }

  static Model load() {
    ModelOptions options;
    options.threads = 1;
    options.backend = Backend::kReference;
    return Model::load(model_path(), options);
  }
  static PredictOptions keep_all() {
    PredictOptions options;
    options.threshold = 0.0f;
    return options;
  }
  static Image picture(unsigned seed, int width, int height) {
    std::mt19937 random(seed);
    Image image(width, height);
    for (uint8_t& value : image.pixels) value = static_cast<uint8_t>(random());
    return image;
  }
  static void expect_equal(const Detections& a, const Detections& b) {
    ASSERT_EQ(a.items.size(), b.items.size());
    EXPECT_EQ(a.width, b.width);
    for (std::size_t i = 0; i < a.items.size(); ++i) {
      EXPECT_EQ(a.items[i].class_id, b.items[i].class_id);
      EXPECT_EQ(a.items[i].score, b.items[i].score);
      EXPECT_EQ(a.items[i].mask->counts, b.items[i].mask->counts);
    }
  }
};

TEST_F(ApiTest, InfoDescribesTheModel) {
  const Model model = load();
  const ModelInfo& info = model.info();
  EXPECT_EQ(info.height, 48);
  EXPECT_EQ(info.queries, 7);
  EXPECT_EQ(info.classes, 5);
  EXPECT_TRUE(info.has_masks);
  EXPECT_EQ(info.class_names.at(1), "cat");
  EXPECT_EQ(info.backend, "reference");
  EXPECT_GT(info.parameters, 1000);
  EXPECT_GT(info.memory_bytes, 4000u);
}

TEST_F(ApiTest, OnePictureOrManyGiveTheSame) {
  const Predictor predictor(load(), keep_all());
  std::vector<Image> images;
  std::vector<ImageView> views;
  for (unsigned i = 0; i < 5; ++i) images.push_back(picture(i, 30 + static_cast<int>(i) * 7, 41));
  for (const Image& image : images) views.push_back(image.view());
  std::size_t calls = 0;
  RunControl control;
  control.progress = [&](std::size_t done, std::size_t total) {
    EXPECT_EQ(done, ++calls);
    EXPECT_EQ(total, 5u);
  };
  const std::vector<Detections> together = predictor.predict(views, 3, control);
  ASSERT_EQ(together.size(), 5u);
  EXPECT_EQ(calls, 5u);
  for (std::size_t i = 0; i < images.size(); ++i) {
    const Detections alone = predictor.predict(views[i]);
    ASSERT_FALSE(alone.items.empty());
    expect_equal(alone, together[i]);
    for (const Detection& object : alone.items) {
      EXPECT_EQ(object.mask->width, images[i].width);
      const std::vector<uint8_t> dense = object.mask->dense();
      EXPECT_EQ(static_cast<uint64_t>(std::count(dense.begin(), dense.end(), 1)),
                object.mask->area());
      EXPECT_EQ(object.mask->polygons().empty(), object.mask->area() == 0);
    }
  }
  EXPECT_TRUE(predictor.predict(std::span<const ImageView>()).empty());
}

TEST_F(ApiTest, ThreadsMayShareAModel) {
  const Model model = load();
  const Image image = picture(3, 64, 48);
  const Detections expected = Predictor(model, keep_all()).predict(image.view());
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      const Predictor predictor(model, keep_all());
      for (int round = 0; round < 3; ++round)
        expect_equal(predictor.predict(image.view()), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ApiTest, CancellingThrows) {
  const Predictor predictor(load(), keep_all());
  const Image image = picture(1, 20, 20);
  const std::vector<ImageView> views(4, image.view());
  int polls = 0;
  RunControl control;
  control.cancelled = [&] { return ++polls > 2; };
  try {
    predictor.predict(views, 1, control);
    FAIL() << "not cancelled";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
}

TEST_F(ApiTest, WhatCannotBeLoadedSaysWhy) {
  try {
    Model::load((folder() / "none.pth").string());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kModel);
    EXPECT_NE(std::string(error.what()).find("none.pth"), std::string::npos);
  }
  ModelOptions options;
  options.device = "cuda";
  try {
    Model::load(model_path(), options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDevice);
  }
  EXPECT_THROW(Predictor(load()).predict(ImageView()), Error);
}

}  // namespace
}  // namespace rfseg
