#pragma once

// Whole calls as PyTorch makes them on CUDA: COCO pictures' instances at four sizes
// (data/torch_cuda_grid*, written by torch_grid.py).

#include <gtest/gtest.h>

#include <bit>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "core/npy.h"
#include "postprocess/postprocess.h"

namespace rfseg::test {

/// Queries, classes, boxes and run-length bytes equal; scores, and the order of those that are
/// nearly equal, within 4 units in the last place.
inline void expect_torch_grid(Backend backend) {
  const auto bits = [](float v) { return static_cast<int>(std::bit_cast<uint32_t>(v)); };
  const std::string folder = RFSEG_SOURCE_DIR "/tests/postprocess/data/torch_cuda_grid";
  const nlohmann::json grid = nlohmann::json::parse(std::ifstream(folder + ".json"));
  std::size_t masks = 0;
  for (const auto& call : grid["cases"]) {
    const std::string stem = folder + "_" + std::to_string(call["inputs"].get<int>()) + "_";
    const Tensor boxes = read_npy(stem + "boxes.npy"), logits = read_npy(stem + "logits.npy"),
                 cells = read_npy(stem + "masks.npy");
    NetworkOutputs outputs;
    outputs.boxes = boxes.data.data();
    outputs.logits = logits.data.data();
    outputs.masks = cells.data.data();
    outputs.queries = static_cast<int>(logits.dim(1));
    outputs.classes = static_cast<int>(logits.dim(2));
    outputs.mask_rows = static_cast<int>(cells.dim(2));
    outputs.mask_cols = static_cast<int>(cells.dim(3));
    PostprocessSpec spec;
    spec.backend = backend;
    const bool inference = call["like"] == "inference";
    spec.like = inference ? Convention::kInference : Convention::kRfdetr;
    spec.num_select = outputs.queries;
    spec.geometry = PreprocessGeometry::stretch(call["height"].get<int>(), call["width"].get<int>(),
                                                outputs.mask_rows * 4, outputs.mask_cols * 4);
    const Detections found = postprocess(outputs, spec);
    const auto& items = call["items"];
    const std::string where = stem + ", " + call["like"].get<std::string>() + ", height " +
                              std::to_string(call["height"].get<int>());
    ASSERT_EQ(found.items.size(), items.size()) << where;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const Detection& item = found.items[i];
      const auto& other = items[i];
      EXPECT_EQ(item.query, other["query"].get<int>()) << where;
      EXPECT_EQ(item.class_id, other["class_id"].get<int>()) << where;
      EXPECT_LE(std::abs(bits(item.score) - bits(other["score"].get<float>())), 4) << where;
      for (std::size_t k = 0; k < 4; ++k) {
        EXPECT_EQ(item.box_xyxy[k], other["box"][k].get<float>()) << where;
      }
      EXPECT_EQ(item.mask->counts, other["counts"].get<std::string>()) << where;
      ++masks;
    }
  }
  EXPECT_EQ(masks, 64u);
}

}  // namespace rfseg::test
