// The 15 published sizes: names and shapes, identification from the tensors alone, large files.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "checkpoint/checkpoint.h"
#include "checkpoint/tensor_file.h"
#include "checkpoint/test_files.h"
#include "core/model_tensors.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

class Stock : public testing::TestWithParam<std::string> {};

void expect_same(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.variant, b.variant);
  EXPECT_EQ(a.height, b.height);
  EXPECT_EQ(a.width, b.width);
  EXPECT_EQ(a.patch, b.patch);
  EXPECT_EQ(a.pos_grid, b.pos_grid);
  EXPECT_EQ(a.windows, b.windows);
  EXPECT_EQ(a.enc_dim, b.enc_dim);
  EXPECT_EQ(a.enc_heads, b.enc_heads);
  EXPECT_EQ(a.enc_layers, b.enc_layers);
  EXPECT_EQ(a.taps, b.taps);
  EXPECT_EQ(a.dec_layers, b.dec_layers);
  EXPECT_EQ(a.queries, b.queries);
  EXPECT_EQ(a.num_select, b.num_select);
  EXPECT_EQ(a.dim, b.dim);
  EXPECT_EQ(a.sa_heads, b.sa_heads);
  EXPECT_EQ(a.ca_heads, b.ca_heads);
  EXPECT_EQ(a.points, b.points);
  EXPECT_EQ(a.ffn_dim, b.ffn_dim);
  EXPECT_EQ(a.levels, b.levels);
  EXPECT_EQ(a.seg, b.seg);
  EXPECT_EQ(a.logits, b.logits);
  EXPECT_EQ(a.class_names, b.class_names);
}

TEST_P(Stock, InferenceReadsExactlyTheTensorsOfTheReference) {
  std::set<std::pair<std::string, Shape>> expected, found;
  const ModelConfig config = stock_config(GetParam());
  for (auto& [name, shape] : test::stock_tensors(GetParam(), true)) {
    if (name == "refpoint_embed.weight" || name == "query_feat.weight") shape[0] = config.queries;
    expected.emplace(name, shape);
  }
  for (const TensorSpec& tensor : required_tensors(config))
    found.emplace(tensor.name, tensor.shape);
  EXPECT_EQ(found, expected);
}

TEST_P(Stock, IsFoundFromTheTensorsAlone) {
  const Checkpoint checkpoint = test::open_bytes(test::flat_model(test::stock_tensors(GetParam())));
  expect_same(checkpoint.config, stock_config(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(All, Stock, testing::ValuesIn(stock_variants()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(StockConfig, NamesWhatIsKnown) {
  EXPECT_EQ(stock_variants().size(), 15u);
  try {
    stock_config("seg-huge");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("seg-nano"), std::string::npos);
  }
}

TEST(CocoNames, EightyAtTheirCategoryIds) {
  const auto& names = coco_class_names();
  ASSERT_EQ(names.size(), 91u);
  EXPECT_EQ(std::count(names.begin(), names.end(), ""), 11);
  EXPECT_EQ(names[1], "person");
  EXPECT_EQ(names[13], "stop sign");
  EXPECT_EQ(names[17], "cat");
  EXPECT_EQ(names[27], "backpack");
  EXPECT_EQ(names[44], "bottle");
  EXPECT_EQ(names[62], "chair");
  EXPECT_EQ(names[67], "dining table");
  EXPECT_EQ(names[70], "toilet");
  EXPECT_EQ(names[72], "tv");
  EXPECT_EQ(names[84], "book");
  EXPECT_EQ(names[90], "toothbrush");
}

// A training checkpoint of nano at its true size: the model and twice as much optimizer state.
class SparseFile {
 public:
  explicit SparseFile(bool zip64) {
    std::string name = (std::filesystem::temp_directory_path() / "rfseg-sparse-XXXXXX").string();
    descriptor_ = mkstemp(name.data());
    path_ = name;
    std::vector<std::pair<std::string, std::string>> model;
    test::ZipBuilder zip;
    std::vector<test::ZipItem> storages;
    int next = 0;
    const auto add = [&](const Shape& shape) {
      const std::string key = std::to_string(next++);
      const int64_t count = element_count(shape);
      test::ZipItem item{"archive/data/" + key};
      item.hole = static_cast<uint64_t>(count) * 4;
      item.zip64 = zip64;
      storages.push_back(item);
      Shape stride(shape.size(), 1);
      for (std::size_t i = shape.size(); i-- > 1;) stride[i - 1] = stride[i] * shape[i];
      return test::pk::tensor("FloatStorage", key, count, 0, shape, stride);
    };
    std::vector<std::string> moments;
    for (const auto& [tensor, shape] : test::stock_tensors("nano")) {
      model.emplace_back(tensor, add(shape));
      moments.push_back(add(shape));
      moments.push_back(add(shape));
    }
    zip.add("archive/data.pkl",
            test::pk::whole(test::pk::dict({{"optimizer", test::pk::list(moments)},
                                            {"model", test::pk::dict(model)},
                                            {"epoch", test::pk::integer(3)}})));
    for (test::ZipItem& item : storages) zip.add(std::move(item));
    size_ = zip.build([&](uint64_t at, const std::string& bytes) {
      ASSERT_EQ(pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(at)),
                static_cast<ssize_t>(bytes.size()));
    });
  }
  ~SparseFile() {
    close(descriptor_);
    unlink(path_.c_str());
  }
  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

TEST(LargeFile, OnlyTheModelIsRead) {
  for (const bool zip64 : {false, true}) {
    const SparseFile file(zip64);
    EXPECT_GT(file.size(), 360'000'000u);
    const Checkpoint checkpoint = open_checkpoint(file.path());
    EXPECT_EQ(checkpoint.config.variant, "nano");
    EXPECT_EQ(checkpoint.metadata.at("epoch"), "3");
    const auto& source = dynamic_cast<const TensorFile&>(*checkpoint.weights).file();
    EXPECT_LT(source.bytes_read(), 2'000'000u);  // the directory, the pickle, local headers
    const uint64_t before = source.bytes_read();
    uint64_t needed = 0;
    for (const TensorSpec& expected : required_tensors(checkpoint.config)) {
      const Tensor tensor = checkpoint.weights->read(expected.name, expected.shape);
      needed +=
          static_cast<uint64_t>(element_count(checkpoint.weights->find(expected.name)->shape)) * 4;
      EXPECT_EQ(tensor.shape, expected.shape);
      EXPECT_EQ(tensor.data[0], 0.0f);
    }
    EXPECT_EQ(source.bytes_read() - before, needed);
    EXPECT_LT(needed, 115'000'000u);
  }
}

TEST(LargeFile, OpeningTakesLittleMemory) {
  const SparseFile file(false);
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  const Checkpoint checkpoint = open_checkpoint(file.path());
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 64 * 1024) << "KiB";
}

}  // namespace
}  // namespace rfseg
