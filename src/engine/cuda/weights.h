#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/cuda/device.h"
#include "core/model_config.h"
#include "core/weights.h"
#include "engine/cuda/products.h"
#include "engine/two_stage.h"

// The network's weights on the GPU, converted, fused and laid out as the kernels read them. All
// pointers are device memory inside of Weights::memory.

namespace rfseg::cuda {

/// B of a product: Element [n, k], rows `ld` apart (k rounded up to 8, zeros), with its bias.
struct Matrix {
  const void* data = nullptr;
  const float* bias = nullptr;      ///< [n], null where there is none
  const float* row_sums = nullptr;  ///< [n] of `data` as stored, where a LayerNorm is folded in
  int n = 0, k = 0;                 ///< k as rounded up
};

struct Norm {
  const float* gamma = nullptr;
  const float* beta = nullptr;
};

struct EncoderBlock {
  Matrix qkv, fc1;  ///< with the affine of the LayerNorm before them
  Matrix proj, fc2;
  const float* scale1 = nullptr;  ///< LayerScale; apart from the weights, which it would underflow
  const float* scale2 = nullptr;
};

/// Columns of a patch (channel, y, x), with zeros behind them: as rows of gemm(), and of
/// gemm_norm() that begins the residual stream.
constexpr int patch_columns(int side) { return (3 * side * side + 7) / 8 * 8; }
constexpr int stream_columns(int side) { return (3 * side * side + 127) / 128 * 128; }

struct EncoderWeights {
  Matrix patch;  ///< k = stream_columns(); without bias if `start` has it
  /// [tokens, D], in token order: what is added to every token, with the patches' bias where D is
  /// kStreamWidth.
  const float* start = nullptr;
  std::vector<EncoderBlock> blocks;
  Norm norm;  ///< of every tap
};

/// A convolution, inputs ordered (ky, kx, channel), then LayerNorm over channels.
struct ConvNorm {
  Matrix conv;
  Norm norm;
};

struct LevelWeights {
  std::vector<Matrix> upsample;      ///< P3, per tap: rows (dy, dx, channel) of the 2x2 outputs
  std::vector<ConvNorm> downsample;  ///< P5, per tap
  ConvNorm cv1, cv2, middle[6];
  Norm norm;
};

struct Mlp3 {
  Matrix layers[3];
};

struct DecoderLayer {
  Matrix in_proj;  ///< rows q, k, v
  Matrix out_proj;
  Matrix sampling;  ///< offsets, then attention weights
  Matrix output_proj, linear1, linear2;
  Norm norm1, norm2, norm3;
};

struct DecoderWeights {
  const float* proposals = nullptr;  ///< [N, 4]
  const uint8_t* valid = nullptr;    ///< [N]; null where all are
  Matrix enc_output, enc_class;
  Norm enc_norm;
  Mlp3 enc_box;
  const float* reference_points = nullptr;  ///< [Q, 4]
  const float* content = nullptr;           ///< [Q, C]
  Matrix position[2];                       ///< ref_point_head
  Matrix values;                            ///< value_proj of all layers, [L * C, C]
  std::vector<DecoderLayer> layers;
  Norm norm;
  Matrix classes;
  Mlp3 box;
};

struct SegmentationBlock {
  const float* depthwise = nullptr;  ///< [9, C]
  const float* depthwise_bias = nullptr;
  Matrix pointwise;  ///< with the affine of the LayerNorm before it
};

struct SegmentationWeights {
  std::vector<SegmentationBlock> blocks;
  Norm query_norm;
  Matrix query1, query2;
  /// query_features_proj and spatial_features_proj in one: the query's weights [C, C] over the
  /// features before spatial_features_proj, and its constant [1, C].
  Matrix query_mask, query_constant;
  /// These two after query2 and what it is added to, in one, as QueryMasksArguments::second; null
  /// data where query_masks() does not take the model.
  Matrix query_tail;
};

struct Weights {
  Buffer memory{Buffer::Kind::kDevice};
  EncoderWeights encoder;
  std::vector<LevelWeights> levels;
  DecoderWeights decoder;
  SegmentationWeights segmentation;

  /// Reads, packs and uploads everything with `threads` host threads; what was packed is kept in
  /// the folder `cache`, and taken from there, if that is not empty. Throws Error(kModel) for
  /// weights that do not fit (also in fp16), Error(kDevice) for a GPU that is out of memory.
  Weights(const ModelConfig& config, const WeightSource& source, const Proposals& proposals,
          Math math, int threads, const std::string& cache = {});
};

}  // namespace rfseg::cuda
