#pragma once

#include <cstdint>
#include <string_view>

namespace rfseg::cpu {

/// Columns of a packed weight panel. A matrix [n, k] (rows are output channels) is stored as
/// ceil(n / 16) panels of [k][16], the last one padded with zeros, whatever the instruction set.
inline constexpr int kPanel = 16;

/// What happens to a finished sum before it is stored.
enum class Epilogue {
  kBias,      ///< y = sum + bias
  kRelu,      ///< y = max(sum + bias, 0)
  kGelu,      ///< y = gelu(sum + bias), exact erf form
  kAdd,       ///< y = residual + (sum + bias)
  kScaleAdd,  ///< y = residual + scale * (sum + bias)
  kGeluAdd    ///< y = residual + gelu(sum + bias)
};

enum class Activation { kNone, kRelu, kSilu };

/// A few rows of a matrix product with all its columns (or a run of panels of them).
/// The inner dimension is split into `taps` pieces of `depth` floats, each with its own row
/// pointers: one piece for a plain product, nine for a 3x3 convolution over channels-last pixels,
/// one per source for concatenated inputs. Nothing is gathered or transposed.
struct GemmRows {
  const float* const* a;  ///< [taps][gemm_rows] row starts; rows past `rows` must still be readable
  int taps;
  int depth;
  const float* b;  ///< first panel
  /// Weights of later products, asked into the second-level cache: one cache line for each input of
  /// this product. May lie past any array.
  const float* ahead;
  int columns;                   ///< outputs, from the first panel's first column
  const float* bias;             ///< [columns] padded to whole panels
  const float* scale;            ///< [columns], kScaleAdd
  int rows;                      ///< 1 .. gemm_rows
  const float* const* residual;  ///< [rows] pointers at the first column; may equal `out`
  float* const* out;             ///< [rows] pointers at the first column
  Epilogue epilogue;
};

/// Softmax attention of one head over one block of queries: never more than a block of scores is
/// held. Works with queries along the vector lanes, so that neither scores nor values are
/// transposed and the softmax needs no sum across lanes.
struct AttentionBlock {
  const float* q;  ///< first query's row of this head
  const float* k;  ///< first key's row of this head
  const float* v;  ///< first value's row of this head
  int64_t ld;      ///< floats between rows of q, k and v
  int queries;     ///< 1 .. attention_queries
  int keys;
  int dim;     ///< of a head, a multiple of 8
  float* out;  ///< may be `q`
  int64_t ld_out;
  float* scratch;  ///< attention_scratch(dim) floats
};

/// Bilinear sampling of one query for all heads of deformable attention.
struct DeformableQuery {
  const float* values;  ///< [cells of all levels][ld], this layer's first channel
  int64_t ld;
  int heads, levels, points, head_dim;
  const int* rows;            ///< [levels]
  const int* cols;            ///< [levels]
  const int64_t* first_cell;  ///< [levels]
  const float* reference;     ///< cx, cy, w, h
  const float* projected;     ///< [heads][levels][points][2] offsets, then [heads][levels][points]
  float* out;                 ///< [heads * head_dim]
};

/// The inner loops of the engine for one instruction set. None allocates or is aware of threads.
struct Kernels {
  const char* name;       ///< "avx512", "avx2" or "plain"
  int gemm_rows;          ///< rows of a register tile
  int gemm_columns;       ///< columns of a register tile
  int attention_queries;  ///< queries of an attention block
  int64_t (*attention_scratch)(int dim);
  void (*gemm)(const GemmRows&);
  void (*attention)(const AttentionBlock&);
  /// y[r] = activation(layer_norm(x[r]) * weight + bias) over n channels; y may be x.
  void (*layer_norm)(const float* x, int64_t ld_x, float* y, int64_t ld_y, int rows, int n,
                     const float* weight, const float* bias, float eps, Activation activation);
  /// 3x3 depthwise convolution of four pixels side by side in a channels-last map: `x` holds 3 x 6
  /// pixel pointers (rows of zeros outside the map), weight is [9][n], out four pixels.
  void (*depthwise4)(const float* const* x, const float* weight, const float* bias, int n,
                     float* const* out);
  /// out = (1-fy) * ((1-fx) a + fx b) + fy * ((1-fx) c + fx d) over n channels.
  void (*interpolate)(const float* a, const float* b, const float* c, const float* d, float fx,
                      float fy, int n, float* out);
  void (*deformable)(const DeformableQuery&);
  /// out = a + b.
  void (*add)(const float* a, const float* b, int n, float* out);
};

/// Always available.
const Kernels& plain_kernels();
/// nullptr where this build or this processor lacks the instructions.
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
/// The widest that this processor runs, or the one named by the environment variable
/// RFSEG_CPU_ISA. Throws Error(kUsage) if that one is unknown or cannot run here.
const Kernels& best_kernels();
/// By name; nullptr if unknown or it cannot run here.
const Kernels* find_kernels(std::string_view name);

}  // namespace rfseg::cpu
