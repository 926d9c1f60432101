#pragma once

#include <string>
#include <vector>

namespace rfseg {

/// Resolution of a projector level relative to the patch grid.
enum class Level { kP3 /* twice */, kP4 /* equal */, kP5 /* half */ };

/// Geometry of one RF-DETR model: everything that the engine needs beside the weights.
struct ModelConfig {
  std::string variant;  ///< stock name such as "seg-nano", or "custom"
  int height = 0;       ///< network input rows, divisible by patch * windows
  int width = 0;        ///< network input columns, divisible by patch * windows
  int patch = 0;        ///< patch side, pixels
  int pos_grid = 0;     ///< side of the position table, after load-time resampling
  int windows = 1;      ///< attention windows per side
  int enc_dim = 0;      ///< encoder width D
  int enc_heads = 0;    ///< D / 64
  int enc_layers = 0;   ///< blocks to run: the last tap
  std::vector<int>
      taps;  ///< hidden states taken after that many blocks; block i attends in full iff i is here
  int dec_layers = 0;  ///< L
  int queries = 0;     ///< Q
  int num_select = 0;  ///< pairs that post-processing considers
  int dim = 0;         ///< decoder width C
  int sa_heads = 0;    ///< C / 32
  int ca_heads = 0;    ///< C / 16
  int points = 0;      ///< deformable sampling points per head and level
  int ffn_dim = 2048;  ///< decoder feed-forward width
  std::vector<Level> levels;
  bool seg = false;                      ///< has a segmentation head
  int logits = 0;                        ///< K, columns of the class head
  std::vector<std::string> class_names;  ///< by class id; "" where an id has no name; may be empty

  int grid_rows() const { return height / patch; }
  int grid_cols() const { return width / patch; }
  int mask_rows() const { return height / 4; }
  int mask_cols() const { return width / 4; }
};

}  // namespace rfseg
