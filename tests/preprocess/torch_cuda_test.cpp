// Against what torch's CUDA resizers gave on a GPU (make_cuda_goldens.py).

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>

#include "core/files.h"
#include "core/npy.h"
#include "preprocess/preprocess.h"

namespace rfseg {
namespace {

const std::string kStem =
    std::string(RFSEG_SOURCE_DIR) + "/tests/preprocess/data/torch_cuda_resize_";

struct Case {
  int height, width;
};
// The sizes of the pictures, as the script has them; targets are the shapes of the answers.
constexpr Case kCases[] = {{61, 83}, {33, 41}, {60, 17},  {13, 13},
                           {48, 64}, {7, 1},   {2, 1280}, {9, 9}};

class TorchCudaResize : public testing::TestWithParam<int> {
 protected:
  // The resized picture before normalising, [3, H', W'].
  Tensor resize(ResizeMode mode, Backend backend, const Tensor& expected) {
    const Case& size = kCases[GetParam()];
    const std::vector<uint8_t> file = read_file(kStem + std::to_string(GetParam()) + "_input.npy");
    const std::size_t bytes = static_cast<std::size_t>(size.height) * size.width * 3;
    EXPECT_GT(file.size(), bytes);
    PreprocessSpec spec;
    spec.resize = mode;
    spec.backend = backend;
    spec.network_height = static_cast<int>(expected.dim(0));
    spec.network_width = static_cast<int>(expected.dim(1));
    spec.mean = {0, 0, 0};
    spec.std = {1, 1, 1};
    Tensor out({3, expected.dim(0), expected.dim(1)});
    preprocess(ImageView::packed(file.data() + file.size() - bytes, size.width, size.height), spec,
               out.data.data());
    return out;
  }
  Tensor expected(const char* mode) {
    return read_npy(kStem + std::to_string(GetParam()) + "_" + mode + ".npy");
  }
};

TEST_P(TorchCudaResize, BilinearBitForBit) {
  const Tensor want = expected("plain");
  const std::size_t pixels = static_cast<std::size_t>(want.dim(0) * want.dim(1));
  for (const Backend backend : {Backend::kReference, Backend::kCpu}) {
    const Tensor got = resize(ResizeMode::kBilinear, backend, want);
    for (std::size_t i = 0; i < pixels; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        ASSERT_EQ(std::memcmp(&got.data[c * pixels + i], &want.data[i * 3 + c], sizeof(float)), 0)
            << "pixel " << i << ", channel " << c << ": " << got.data[c * pixels + i] << " and "
            << want.data[i * 3 + c];
      }
    }
  }
}

TEST_P(TorchCudaResize, AntialiasWithinOneMillionth) {
  const Tensor want = expected("antialias");
  const std::size_t pixels = static_cast<std::size_t>(want.dim(0) * want.dim(1));
  for (const Backend backend : {Backend::kReference, Backend::kCpu}) {
    const Tensor got = resize(ResizeMode::kAntialias, backend, want);
    for (std::size_t i = 0; i < pixels; ++i) {
      for (std::size_t c = 0; c < 3; ++c) {
        ASSERT_LE(std::abs(got.data[c * pixels + i] - want.data[i * 3 + c]), 1e-6f)
            << "pixel " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllSizes, TorchCudaResize, testing::Range(0, 8));

}  // namespace
}  // namespace rfseg
