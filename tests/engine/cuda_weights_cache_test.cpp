// The network's weights from the cache and without it, in host memory that stands for the device's.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "engine/cuda/weights.h"
#include "engine/golden.h"

namespace rfseg::testing {
namespace {

/// Counts what is read, and has a name for its content.
class CountedWeights final : public WeightSource {
 public:
  CountedWeights(const WeightSource& source, std::string fingerprint)
      : source_(source), fingerprint_(std::move(fingerprint)) {}
  const std::vector<TensorInfo>& tensors() const override { return source_.tensors(); }
  const TensorInfo* find(const std::string& name) const override { return source_.find(name); }
  Tensor read(const std::string& name) const override {
    ++reads;
    return source_.read(name);
  }
  std::string fingerprint() const override { return fingerprint_; }
  const std::string& origin() const override { return source_.origin(); }

  mutable std::atomic<int> reads{0};

 private:
  const WeightSource& source_;
  std::string fingerprint_;
};

class CudaWeightsCache : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("rfseg_cuda_weights_cache_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  cuda::Weights load(const CountedWeights& source, cuda::Math math) const {
    return cuda::Weights(golden_.config, source, make_proposals(golden_.config), math, 2,
                         folder_.string());
  }
  static bool same(const cuda::Weights& a, const cuda::Weights& b) {
    return a.memory.size() == b.memory.size() &&
           std::memcmp(a.memory.data(), b.memory.data(), a.memory.size()) == 0;
  }
  std::size_t files() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  Golden golden_ = load_golden("custom-rectangle");
  HashWeights weights_ = golden_.weights();
  std::filesystem::path folder_;
};

TEST_F(CudaWeightsCache, TheSecondLoadReadsNoTensorAndHasTheSameBytes) {
  const CountedWeights source(weights_, "one");
  const cuda::Weights packed = load(source, cuda::Math::kFp16);
  EXPECT_GT(source.reads, 100);
  EXPECT_EQ(files(), 1u);
  source.reads = 0;
  const cuda::Weights cached = load(source, cuda::Math::kFp16);
  EXPECT_EQ(source.reads, 0);
  EXPECT_TRUE(same(packed, cached));
}

TEST_F(CudaWeightsCache, AnotherFileOrPrecisionHasItsOwn) {
  const CountedWeights one(weights_, "one"), two(weights_, "two");
  load(one, cuda::Math::kFp16);
  load(two, cuda::Math::kFp16);
  EXPECT_GT(two.reads, 100);
  one.reads = 0;
  load(one, cuda::Math::kFp32);
  EXPECT_GT(one.reads, 100);
  EXPECT_EQ(files(), 3u);
}

TEST_F(CudaWeightsCache, ASpoiltFileIsMadeAnew) {
  const CountedWeights source(weights_, "one");
  const cuda::Weights packed = load(source, cuda::Math::kFp16);
  const auto path = std::filesystem::directory_iterator(folder_)->path();
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(100000);
    file.put('x').put('y');
  }
  source.reads = 0;
  const cuda::Weights again = load(source, cuda::Math::kFp16);
  EXPECT_GT(source.reads, 100);
  EXPECT_TRUE(same(packed, again));
  source.reads = 0;
  EXPECT_TRUE(same(packed, load(source, cuda::Math::kFp16)));
  EXPECT_EQ(source.reads, 0);
}

TEST_F(CudaWeightsCache, WithoutAFingerprintOrAFolderThereIsNone) {
  const CountedWeights nameless(weights_, "");
  load(nameless, cuda::Math::kFp16);
  EXPECT_EQ(files(), 0u);
  std::filesystem::remove_all(folder_);
  const CountedWeights source(weights_, "one");
  load(source, cuda::Math::kFp16);  // a warning, no failure
  EXPECT_GT(source.reads, 100);
}

}  // namespace
}  // namespace rfseg::testing
