// Masks against what torch's CUDA resizers gave on a GPU, pixel by pixel (make_cuda_goldens.py).

#include <gtest/gtest.h>

#include <string>

#include "core/files.h"
#include "core/npy.h"
#include "postprocess/postprocess.h"
#include "torch_grid.h"

namespace rfseg {
namespace {

const std::string kStem =
    std::string(RFSEG_SOURCE_DIR) + "/tests/postprocess/data/torch_cuda_masks_";

class TorchCudaMasks
    : public testing::TestWithParam<std::tuple<int, std::pair<int, int>, Convention>> {};

TEST_P(TorchCudaMasks, EveryPixelIsOnTheSameSide) {
  const auto& [map, size, like] = GetParam();
  const auto& [height, width] = size;
  const Tensor logits = read_npy(kStem + std::to_string(map) + ".npy");
  const std::string mode = like == Convention::kInference ? "antialias" : "plain";
  const std::vector<uint8_t> file =
      read_file(kStem + std::to_string(map) + "_" + std::to_string(height) + "x" +
                std::to_string(width) + "_" + mode + "_bits.npy");
  const std::size_t pixels = static_cast<std::size_t>(height) * width;
  ASSERT_GT(file.size(), (pixels + 7) / 8);
  const uint8_t* bits = file.data() + file.size() - (pixels + 7) / 8;

  const float box[4] = {0.5f, 0.5f, 1, 1};
  const float logit = 3;
  NetworkOutputs outputs;
  outputs.boxes = box;
  outputs.logits = &logit;
  outputs.masks = logits.data.data();
  outputs.queries = outputs.classes = 1;
  outputs.mask_rows = static_cast<int>(logits.dim(0));
  outputs.mask_cols = static_cast<int>(logits.dim(1));
  PostprocessSpec spec;
  spec.like = like;
  spec.geometry =
      PreprocessGeometry::stretch(height, width, outputs.mask_rows * 4, outputs.mask_cols * 4);
  for (const Backend backend : {Backend::kReference, Backend::kCpu}) {
    spec.backend = backend;
    const Detections detections = postprocess(outputs, spec);
    ASSERT_EQ(detections.items.size(), 1u);
    const std::vector<uint8_t> mask = detections.items[0].mask->dense();
    ASSERT_EQ(mask.size(), pixels);
    for (std::size_t i = 0; i < pixels; ++i) {
      ASSERT_EQ(mask[i], bits[i / 8] >> (7 - i % 8) & 1)
          << "pixel " << i / width << ", " << i % width;
    }
  }
}

TEST(TorchCudaGrid, WholeCallsAreTheSame) {
  test::expect_torch_grid(Backend::kCpu);
  test::expect_torch_grid(Backend::kReference);
}

using MaskParam = std::tuple<int, std::pair<int, int>, Convention>;

std::string mask_test_name(const testing::TestParamInfo<MaskParam>& test) {
  const auto& [map, size, like] = test.param;
  return std::to_string(map) + "_" + std::to_string(size.first) + "x" +
         std::to_string(size.second) + (like == Convention::kInference ? "_inference" : "_rfdetr");
}

INSTANTIATE_TEST_SUITE_P(
    All, TorchCudaMasks,
    testing::Combine(testing::Range(0, 3),
                     testing::Values(std::pair{97, 131}, std::pair{233, 217}, std::pair{40, 50}),
                     testing::Values(Convention::kRfdetr, Convention::kInference)),
    mask_test_name);

}  // namespace
}  // namespace rfseg
