#pragma once

#include <cstdint>

#include "core/cuda/host_device.h"
#include "core/cuda/queue.h"

// The matrix products and attention of the network on the GPU: what they compute and who owns the
// operands. Every pointer is device memory. All functions only enqueue.

namespace rfseg::cuda {

/// The arithmetic of a network. Accumulation, LayerNorm statistics, softmax, biases and LayerScale
/// are fp32 in all of them.
enum class Math : int {
  kFp16,  ///< activations and weights as __half, products by fp16 tensor cores
  kTf32,  ///< as float, products by TF32 tensor cores (10 bits of mantissa)
  kFp32   ///< as float, products with at most twice the error of plain fp32 (split TF32)
};
/// "Element" below is __half under kFp16 and float otherwise.
inline int element_bytes(Math math) { return math == Math::kFp16 ? 2 : 4; }

/// How the tokens of a picture lie: windows * windows windows in row-major order, each a CLS token
/// and then its cells row-major.
struct TokenLayout {
  int windows = 1;  ///< per side
  int window_rows = 0, window_cols = 0;

  RFSEG_HOST_DEVICE int window_tokens() const { return window_rows * window_cols + 1; }
  RFSEG_HOST_DEVICE int tokens() const { return windows * windows * window_tokens(); }
  RFSEG_HOST_DEVICE int cells() const { return windows * windows * window_rows * window_cols; }
  RFSEG_HOST_DEVICE int grid_cols() const { return windows * window_cols; }
  /// The token of grid cell `cell` (row-major).
  RFSEG_HOST_DEVICE int token_of(int cell) const {
    const int y = cell / grid_cols(), x = cell % grid_cols();
    const int window = (y / window_rows) * windows + x / window_cols;
    return window * window_tokens() + 1 + (y % window_rows) * window_cols + x % window_cols;
  }
  /// The grid cell of token `token`, -1 for a CLS token.
  RFSEG_HOST_DEVICE int cell_of(int token) const {
    const int window = token / window_tokens(), inside = token % window_tokens() - 1;
    if (inside < 0) return -1;
    const int y = window / windows * window_rows + inside / window_cols;
    return y * grid_cols() + window % windows * window_cols + inside % window_cols;
  }
};

/// kGelu: the exact one, by erf. With floats both curves are within 3e-7 of the result, or of 1.
enum class Activation : int { kNone, kRelu, kGelu, kSilu };

/// Where the rows of A come from.
enum class RowSource : int {
  kRows,    ///< Element a[row * lda + k]; with `index`: a[index[row] * lda + k]
  kNormed,  ///< float a[row * lda + k], brought to mean 0 and variance 1 over its k elements
            ///< (eps inside the root; no affine: it is folded into B)
  kConv3x3  ///< Element map [pictures, map_rows, map_cols, lda] of which `channels` are used; k =
            ///< (ky * 3 + kx) * channels + channel, zero padding 1; row = (picture, y, x) of the
            ///< output map of out_rows x out_cols cells
};

/// out = epilogue(A * B^T), fp32 accumulators:
///   v = act(sum_k A[m, k] * B[n, k] + bias[n] + row_bias[m]) * scale[n] + residual[m, n]
/// in this order; absent (null) parts are left out. Rows of `residual` and `out` are found as
///   to(m) = m + (m / out_group) * out_skip + out_first       (out_group 0: to(m) = m)
/// `batch` independent products share everything but the steps.
/// Requirements: k and lda multiples of 8, pointers of A and B 16-byte aligned, steps too;
/// any m >= 1 and n >= 1; ldo and ldr any (n odd too).
struct GemmArguments {
  RowSource source = RowSource::kRows;
  const void* a = nullptr;
  int64_t lda = 0;
  const int32_t* index = nullptr;
  /// Columns n >= split take their rows from `a2` (kRows, same lda) instead; 0 = none. A multiple
  /// of 64.
  const void* a2 = nullptr;
  int split = 0;
  float eps = 0;                                               ///< kNormed
  int map_rows = 0, map_cols = 0, out_rows = 0, out_cols = 0;  ///< kConv3x3
  int stride = 1, channels = 0;                                ///< kConv3x3

  const void* b = nullptr;  ///< Element [n, k], k contiguous
  int64_t ldb = 0;
  bool b_fixed = false;  ///< no kernel writes B: it may be read before the previous one has ended
  /// Last rows first, if the kernel can: those written last may still be in the cache.
  bool from_end = false;
  int m = 0, n = 0, k = 0;
  int batch = 1;
  int64_t a_step = 0, b_step = 0, out_step = 0;  ///< in elements
  int64_t row_bias_step = 0;

  const float* bias = nullptr;      ///< [n]
  const float* row_bias = nullptr;  ///< [m]
  Activation activation = Activation::kNone;
  const float* scale = nullptr;    ///< [n]
  const void* residual = nullptr;  ///< may be `out` itself; type as `residual_float` says
  bool residual_float = true;      ///< else Element
  int64_t ldr = 0;
  int residual_period = 0;  ///< not 0: to(m) modulo this is the residual's row (not gemm_norm)
  void* out = nullptr;
  bool out_float = false;  ///< else Element
  int64_t ldo = 0;
  int out_group = 0, out_skip = 0, out_first = 0;

  // LayerNorm (without affine) of whole rows between two products, without a kernel for it: the
  // first leaves its rows as halves, and of every 128 columns their mean and their squared
  // distances from it; the second multiplies the halves as they are, and its sums become those of
  // normalised rows. Only where gemm_hands_on_norms() says so.
  void* halves = nullptr;  ///< first: __half [m, n], the float `out` rounded
  /// first: __half [m, n], what rounding took from `halves`; then there is no `out`, these two are
  /// the stream. It has 22 bits then, and 4 bytes a value are written instead of 6.
  void* rest = nullptr;
  /// first: the stream as such a pair, instead of `residual`; may be `halves` and `rest`.
  const void* residual_halves = nullptr;
  const void* residual_rest = nullptr;
  float* shares = nullptr;          ///< first: [m, n / 128, 2]
  const float* norm_of = nullptr;   ///< second: `shares` of its rows, [m, k / 128, 2]; eps as above
  const float* row_sums = nullptr;  ///< second: [n], of B's rows
};

void gemm(const Queue& queue, Math math, const GemmArguments& arguments);

/// Whether kNormed is faster than a LayerNorm of its own followed by kRows.
bool gemm_prefers_normed(const Queue& queue, Math math, int m, int n, int k);

/// Whether products of `rows` rows that end in a float residual stream of `width` columns, and
/// those that follow, take the fields for it.
bool gemm_hands_on_norms(const Queue& queue, Math math, int rows, int width);

/// A product whose whole rows are normalised: with y = (A * B^T + bias) * scale + residual,
///   z = act(LayerNorm(y; eps) * gamma + beta)          (gamma and beta null: without)
/// written to any of: sum (float, y itself), out_float (float), out (Element), out_plus (Element,
/// z + plus). `sum` may be `residual`, if that is float.
/// Takes kRows (with `index`) and kConv3x3, n <= 1024 and a multiple of 8; no split,
/// row_bias, activation before the norm, batch or row map: those fields of `product` are not read.
struct GemmNormArguments {
  GemmArguments product;  ///< A, B, m, n, k, bias, scale, residual, ldr
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float eps = 0;
  Activation activation = Activation::kNone;
  float* out_float = nullptr;
  int64_t ldo_float = 0;
  void* out = nullptr;
  int64_t ldo = 0;
  const float* plus = nullptr;  ///< [m, n], ld = n
  void* out_plus = nullptr;     ///< ld = n
  float* sum = nullptr;
  int64_t ld_sum = 0;
  /// `out` is LayerNorm(z; eps) * then_gamma + then_beta, and `out_float` (given then) a place for
  /// z, which need not be written.
  const float* then_gamma = nullptr;
  const float* then_beta = nullptr;
  /// A second result of a residual stream of tokens: LayerNorm(y; eps) * tap_gamma + tap_beta, of
  /// the cells alone, in the order of the grid. Needs `sum`.
  void* tap = nullptr;  ///< Element [pictures * cells, n]
  int64_t ld_tap = 0;
  const float* tap_gamma = nullptr;
  const float* tap_beta = nullptr;
  TokenLayout tap_layout{0, 0, 0};
  /// Where the product does not fit one kernel: float [m, n], always given. Room for several of
  /// them (up to 8) lets blocks share a long k: many times faster for few rows.
  float* scratch = nullptr;
  int64_t scratch_size = 0;  ///< in floats; 0 = m * n
};

void gemm_norm(const Queue& queue, Math math, const GemmNormArguments& arguments);

/// Whether gemm_norm() adds a product over `k` to a residual stream of `rows` x `width` floats
/// (`sum` may be `residual`, LayerNorm without affine to `out`) faster than gemm() and a kernel for
/// the norm. `out` may be A then.
bool gemm_norm_takes_stream(const Queue& queue, Math math, int rows, int width, int k);
constexpr int kStreamWidth = 384;  ///< of the streams that it takes in fp16
/// Rows of those that it takes with floats, for which `scratch` should have room four times.
constexpr int kSharedStreamRows = 2048;

/// softmax(scale * q k^T) v for each head of each of `sequences` runs of `length` consecutive rows.
/// Head h has the elements [h * head_dim, (h + 1) * head_dim) of a row. All Element. Requirements:
/// pointers 16-byte aligned, `ldo` a multiple of 4, scale > 0, rows of fewer than 2^31 elements.
struct AttentionArguments {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t ldq = 0, ldk = 0, ldv = 0;  ///< elements from row to row, multiples of 8
  void* out = nullptr;                ///< [sequences * length, heads * head_dim]
  int64_t ldo = 0;
  int sequences = 0, length = 0, heads = 0;
  int head_dim = 0;  ///< 64 or 32
  float scale = 0;
  bool from_end = false;  ///< as in GemmArguments
};

void attention(const Queue& queue, Math math, const AttentionArguments& arguments);

/// out = x + GELU(W LN(conv(x)) + bias), conv: depthwise 3x3 with zero padding and a bias, LN:
/// LayerNorm over channels without affine (it is folded into W and its bias). Only where
/// takes_mask_block() says so; elsewhere it is depthwise_norm() and gemm().
struct MaskBlockArguments {
  const void* map = nullptr;              ///< x: Element [batch, rows, cols, channels]
  void* out = nullptr;                    ///< the same; not `map` itself
  const float* depthwise = nullptr;       ///< [9, channels]
  const float* depthwise_bias = nullptr;  ///< [channels]
  float eps = 0;
  const void* weight = nullptr;     ///< W: Element [channels, channels], k contiguous
  const float* bias = nullptr;      ///< [channels]
  const float* row_sums = nullptr;  ///< [channels] of W's rows
  int batch = 0, rows = 0, cols = 0, channels = 0;
};

bool takes_mask_block(const Queue& queue, Math math, int channels);
void mask_block(const Queue& queue, Math math, const MaskBlockArguments& arguments);

}  // namespace rfseg::cuda
