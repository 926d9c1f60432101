#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/cuda/host_device.h"
#include "core/model_config.h"
#include "engine/cuda/weights.h"

// How decoder_kernel.h's kernel computes what comes between two self-attentions: the products in
// their order, how 8 blocks and their 8 warps share each, and how the weights lie in memory for
// that.

namespace rfseg::cuda {

constexpr int kDecoderBlocks = 8;  ///< of a cluster, which has
constexpr int kDecoderRows = 16;   ///< query rows
constexpr int kDecoderWarps = 8;   ///< of a block
constexpr int kMaxDecoderSteps = 14;
/// Weights come as steps of 8 columns by 32 of k: lane l has b[0], b[1] of the first 16 x 8 product
/// (core/cuda/tensor_core.h), then of the second.
constexpr int kStepBytes = 512;
constexpr int kChunkSteps = 4;  ///< fetched at once
constexpr int kChunkBytes = kChunkSteps * kStepBytes;

/// A product of the cluster's rows with the weights, of which a block has `columns` columns, and
/// what becomes of it.
struct DecoderStep {
  enum class Then : int {
    kAddNorm,       ///< queries = LayerNorm(queries + y), as operand `to`
    kSample,        ///< y are offsets and weights of the block's heads: sample the values
    kHidden,        ///< half(act(y)) stays in the block, whose next step has these as k
    kReduceNorm,    ///< y is summed over the blocks, then as kAddNorm
    kStore,         ///< to `out` as half
    kStoreFloat,    ///< to `out` as float
    kGather,        ///< half(act(y)) to all blocks
    kReduceGather,  ///< y is summed over the blocks; half(y + hs) to all, with ReLU half(relu(y))
    kBox,           ///< y refines the reference box
    // Of the decoder's start:
    kReference,  ///< y refines the proposal, and that the learned box; its sine embedding stays
    kPosition    ///< y is the position; with the learned query as kPositioned to all
  };
  enum Operand : int { kPositioned, kContent, kOwnHidden, kOne, kTwo };
  Then then = Then::kStore;
  Operand a = kPositioned, to = kOne;
  Activation activation = Activation::kNone;
  int columns = 0;  ///< column c of block b is row (c / width) * stride + b * width + c % width of
  int width = 0, stride = 0, limit = 0;  ///< the matrix, if that is below `limit`
  /// Warp w has part w % parts of k, `steps` steps of it, of the tiles of 8 columns from
  /// w / parts * per_warp on.
  int parts = 1, per_warp = 1, steps = 1;
  int bias = 0;  ///< in the constants
  int norm = 0;  ///< the same: gamma, then beta
  void* out = nullptr;
  int64_t ldo = 0;

  RFSEG_HOST_DEVICE int padded_columns() const { return kDecoderWarps / parts * per_warp * 8; }
};

struct DecoderPlan {
  int count = 0;
  DecoderStep step[kMaxDecoderSteps];
  int chunks = 0;     ///< a warp
  int constants = 0;  ///< floats a block, a multiple of 4: biases and norms
  int norms = 0;      ///< where the norms begin: of the layer, then decoder.norm, query_norm
  int norm_count = 0;
};

/// The plan and where its weights come from.
struct DecoderSource {
  const Matrix* matrix = nullptr;
  int first_row = 0;
  bool splits_k = false;    ///< block b has part b of k and all columns
  bool sampling = false;    ///< heads apart: offsets and weights of a head together
  bool everywhere = false;  ///< every block has all columns
};
struct DecoderLayerPlan {
  DecoderPlan plan;
  DecoderSource source[kMaxDecoderSteps];
  std::vector<const Norm*> norms;

  std::size_t stream_bytes() const {
    return static_cast<std::size_t>(plan.chunks) * kChunkBytes * kDecoderBlocks * kDecoderWarps;
  }
  std::size_t constant_bytes() const {
    return sizeof(float) * static_cast<std::size_t>(plan.constants) * kDecoderBlocks;
  }
};

/// Whether the kernel takes a decoder of this geometry (in fp16).
bool decoder_kernel_takes(const ModelConfig& config);

/// Layer `layer`; only Matrix::n and k of the weights are read. The last one has the heads.
DecoderLayerPlan plan_decoder_layer(const ModelConfig& config, const DecoderWeights& decoder,
                                    const SegmentationWeights& segmentation, int layer);

/// From the chosen cells to the first layer's queries, keys and values.
DecoderLayerPlan plan_decoder_start(const ModelConfig& config, const DecoderWeights& decoder);

/// Lays the weights of a plan out. `at` finds what device pointers of `source` point to.
void pack_decoder_layer(const ModelConfig& config, const DecoderLayerPlan& plan,
                        const std::function<const void*(const void*)>& at, std::byte* stream,
                        float* constants);

}  // namespace rfseg::cuda
