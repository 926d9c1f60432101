#pragma once

#include <vector>

#include "core/model_config.h"
#include "core/weights.h"
#include "engine/cpu/gemm.h"
#include "engine/position.h"
#include "engine/two_stage.h"

// The packed weights of a network, by part. Plain float pointers lie in the network's memory.

namespace rfseg::cpu {

struct Norm {
  float* weight = nullptr;
  float* bias = nullptr;
};

struct EncoderBlock {
  Norm norm1, norm2;
  PackedMatrix qkv, proj, fc1, fc2;
  float *scale1 = nullptr, *scale2 = nullptr;  ///< LayerScale, kept apart from the weights in fp32
};

struct EncoderWeights {
  PackedMatrix patch;
  PositionTable position;
  std::vector<EncoderBlock> blocks;
  Norm norm;  ///< of every tap
};

/// A convolution without bias, then LayerNorm over channels.
struct ConvNorm {
  PackedMatrix conv;  ///< inputs ordered (ky, kx, channel)
  Norm norm;
};

struct LevelWeights {
  std::vector<PackedMatrix> upsample;  ///< P3: per tap 4 matrices, (dy, dx) of the 2x2 outputs
  std::vector<ConvNorm> downsample;    ///< P5: per tap
  ConvNorm cv1, cv2, middle[6];
  Norm norm;
};

struct BoxMlp {
  PackedMatrix layers[3];
};

struct DecoderLayer {
  PackedMatrix query_key, value;  ///< self-attention: from content + position, from content
  PackedMatrix out_proj, sampling /* offsets, then attention weights */, output_proj;
  PackedMatrix linear1, linear2;
  Norm norm1, norm2, norm3;
};

struct DecoderWeights {
  PackedMatrix enc_output, enc_class;
  Norm enc_norm;
  BoxMlp enc_box;
  float* reference_points = nullptr;  ///< [Q, 4]
  float* content = nullptr;           ///< [Q, C]
  PackedMatrix position[2];           ///< ref_point_head
  PackedMatrix values;                ///< value_proj of all layers, [L * C, C]
  std::vector<DecoderLayer> layers;
  Norm norm;
  PackedMatrix classes;
  BoxMlp box;
};

struct SegmentationBlock {
  float *depthwise = nullptr /* [9, C] */, *depthwise_bias = nullptr;
  Norm norm;
  PackedMatrix pointwise;
};

struct SegmentationWeights {
  std::vector<SegmentationBlock> blocks;
  Norm query_norm;
  PackedMatrix query1, query2;
  /// query_features_proj and spatial_features_proj in one: [C + 1, C]. Its first C outputs are the
  /// query's weights over the features before spatial_features_proj, the last is the constant.
  PackedMatrix query_mask;
};

struct Network {
  ModelConfig config;
  WeightMemory memory;
  EncoderWeights encoder;
  std::vector<LevelWeights> levels;
  DecoderWeights decoder;
  SegmentationWeights segmentation;
  Proposals proposals;

  /// Reads and packs everything, with all threads of `team`. Throws Error(kModel).
  Network(const ModelConfig& config, const WeightSource& weights, ThreadTeam& team);
};

}  // namespace rfseg::cpu
