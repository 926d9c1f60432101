#pragma once

// What torch's CUDA resizers made of mask logits (data/torch_cuda_masks_*, make_cuda_goldens.py).

#include <gtest/gtest.h>

#include <string>

#include "core/files.h"
#include "core/npy.h"
#include "scenes.h"

namespace rfseg::test {

/// The elements of a .npy file of uint8, format 1.
inline std::vector<uint8_t> read_npy_bytes(const std::string& path) {
  std::vector<uint8_t> file = read_file(path, std::size_t{1} << 20);
  const std::size_t begin = 10u + file.at(8) + 256u * file.at(9);
  return {file.begin() + static_cast<std::ptrdiff_t>(begin), file.end()};
}

/// Every map, size and mode by `backend`: all pixels as torch has them.
inline void expect_torch_cuda_masks(Backend backend) {
  const std::string folder = RFSEG_SOURCE_DIR "/tests/postprocess/data/torch_cuda_masks_";
  std::size_t pixels = 0;
  for (int map = 0; map < 3; ++map) {
    const Tensor logits = read_npy(folder + std::to_string(map) + ".npy");
    const int rows = static_cast<int>(logits.dim(0)), columns = static_cast<int>(logits.dim(1));
    Scene scene(1, 1, rows, columns);
    scene.logits[0] = 3;
    scene.masks.assign(logits.data.begin(), logits.data.end());
    const int sizes[][2] = {{97, 131}, {233, 217}, {40, 50}};
    for (const auto& size : sizes) {
      for (const bool antialias : {false, true}) {
        const int height = size[0], width = size[1];
        const std::string name = std::to_string(map) + "_" + std::to_string(height) + "x" +
                                 std::to_string(width) + (antialias ? "_antialias" : "_plain");
        const std::vector<uint8_t> bits = read_npy_bytes(folder + name + "_bits.npy");
        PostprocessSpec spec;
        spec.backend = backend;
        spec.like = antialias ? Convention::kInference : Convention::kRfdetr;
        spec.geometry = PreprocessGeometry::stretch(height, width, rows * 4, columns * 4);
        const Detections found = postprocess(scene.view(), spec);
        ASSERT_EQ(found.items.size(), 1u);
        const std::vector<uint8_t> mask = found.items[0].mask->dense();
        ASSERT_EQ((mask.size() + 7) / 8, bits.size()) << name;
        std::size_t different = 0;
        for (std::size_t i = 0; i < mask.size(); ++i) {
          different += mask[i] != (bits[i / 8] >> (7 - i % 8) & 1) ? 1 : 0;
        }
        EXPECT_EQ(different, 0u) << name;
        pixels += mask.size();
      }
    }
  }
  EXPECT_EQ(pixels, 6u * (97 * 131 + 233 * 217 + 40 * 50));
}

}  // namespace rfseg::test
