#include "engine/cuda/network/buffers.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "engine/cuda/small/small_kernels.h"
#include "engine/cuda/weights.h"
#include "rfseg/error.h"

namespace rfseg::cuda {

int64_t scratch_size(const ModelConfig& c, const Proposals& proposals, Math math, int batch) {
  const int64_t n = batch, d = c.enc_dim, dim = c.dim, q = n * c.queries;
  const int64_t tokens = int64_t{c.grid_rows()} * c.grid_cols() + c.windows * c.windows;
  int64_t size = std::max(n * int64_t{proposals.count}, q) * dim;
  // A few rows may share a long product among up to 8 blocks.
  size = std::max(size, std::min(8 * q, int64_t{4096}) * dim);
  if (math != Math::kFp16) {
    size = std::max(size, 4 * std::min(n * tokens, int64_t{kSharedStreamRows}) * d);
  }
  for (std::size_t i = 0; i < c.levels.size(); ++i) {
    const int64_t level = proposals.levels[i].cells();
    size = std::max(size, n * level * (c.levels[i] == Level::kP5 ? std::max(dim, d) : dim));
  }
  return size;
}

std::size_t carve(Buffers& b, const ModelConfig& c, const Proposals& proposals, Math math,
                  int batch, std::byte* base) {
  constexpr std::size_t kAlignment = 256;
  std::size_t size = 0;
  const auto take = [&](auto*& p, int64_t count, int bytes) {
    p = base == nullptr ? nullptr
                        : reinterpret_cast<std::remove_reference_t<decltype(p)>>(base + size);
    size += (static_cast<std::size_t>(count) * static_cast<std::size_t>(bytes) + kAlignment - 1) /
            kAlignment * kAlignment;
  };
  const int e = element_bytes(math);
  const int64_t n = batch, d = c.enc_dim, dim = c.dim, cells = proposals.count;
  const int64_t grid = int64_t{c.grid_rows()} * c.grid_cols();
  const int64_t tokens = grid + c.windows * c.windows, q = n * c.queries;
  const int64_t taps = static_cast<int64_t>(c.taps.size());
  take(b.pictures, n * 3 * c.height * c.width, 4);
  take(b.forced, q, 4);
  take(b.patches, std::max(n * grid * patch_columns(c.patch), tokens * stream_columns(c.patch)), e);
  take(b.x, n * tokens * d, 4);
  b.stream = nullptr;
  b.rest = nullptr;
  b.shares = nullptr;
  if (math == Math::kFp16 && d % 128 == 0) {
    take(b.stream, n * tokens * d, e);
    take(b.rest, n * tokens * d, e);
    take(b.shares, n * tokens * (d / 64), 4);
  }
  take(b.rows, n * tokens * d, e);
  take(b.wide, n * tokens * 4 * d, e);
  take(b.taps, n * grid * taps * d, e);

  int64_t largest = 0, level_in = 0, spread = 0;
  for (std::size_t i = 0; i < c.levels.size(); ++i) {
    const int64_t level = proposals.levels[i].cells();
    largest = std::max(largest, level);
    if (c.levels[i] == Level::kP3) {
      level_in = std::max(level_in, n * level * taps * d / 2);
      spread = n * grid * 2 * d;
    }
    if (c.levels[i] == Level::kP5) level_in = std::max(level_in, n * level * taps * d);
  }
  take(b.level_in, level_in, e);
  take(b.spread, spread, e);
  take(b.parts, n * largest * 5 * dim / 2, e);
  take(b.middle, n * largest * dim / 2, e);
  take(b.projected, n * largest * dim, 4);
  take(b.scratch, scratch_size(c, proposals, math, batch), 4);
  take(b.memory, n * cells * dim, e);
  b.masked = b.memory;
  if (!proposals.all_valid) take(b.masked, n * cells * dim, e);
  take(b.cells, n * cells * dim, e);
  take(b.cell_logits, n * cells * c.logits, 4);
  take(b.scores, n * cells, 4);
  take(b.chosen, q, 4);
  take(b.chosen_rows, q, 4);
  for (void*& mlp : b.mlp) take(mlp, q * dim, e);
  take(b.delta, q * 4, 4);
  take(b.references, q * 4, 4);
  take(b.sine, q * 2 * dim, e);
  take(b.position, q * dim, 4);
  take(b.queries, q * dim, 4);
  take(b.content, q * dim, e);
  take(b.positioned, q * dim, e);
  take(b.query_qkv, q * 3 * dim, e);
  take(b.attended, q * dim, e);
  take(b.sampling, q * 3 * c.ca_heads * static_cast<int64_t>(c.levels.size()) * c.points, 4);
  take(b.ffn, q * c.ffn_dim, e);
  take(b.values, n * cells * c.dec_layers * dim, e);
  take(b.hs, q * dim, e);
  if (c.seg) {
    const int64_t pixels = int64_t{c.mask_rows()} * c.mask_cols();
    take(b.spatial, n * pixels * dim, e);
    take(b.depthwise, n * pixels * dim, e);
    take(b.query_normed, q * dim, e);
    take(b.query_hidden, q * 4 * dim, e);
    take(b.query_mask, q * dim, e);
    take(b.query_constant, q, 4);
    take(b.masks, q * pixels, e);
  }
  take(b.boxes, q * 4, 4);
  take(b.logits, q * c.logits, 4);
  return size;
}

void check_supported(const ModelConfig& c) {
  const auto need = [](const char* what, bool holds, int value) {
    if (holds) return;
    throw Error(ErrorCode::kModel,
                fmt::format("the cuda backend needs {}, this model has {}; --device cpu with "
                            "--backend reference takes any",
                            what, value));
  };
  need("an encoder head width of 64", c.enc_dim == 64 * c.enc_heads, c.enc_dim / c.enc_heads);
  need("an encoder width up to 1024", c.enc_dim <= 1024, c.enc_dim);
  need("a decoder width that is a multiple of 32, up to 512", c.dim % 32 == 0 && c.dim <= 512,
       c.dim);
  need("a decoder self-attention head width of 32", c.dim == 32 * c.sa_heads, c.dim / c.sa_heads);
  need("a cross-attention head width of 16", c.dim == 16 * c.ca_heads, c.dim / c.ca_heads);
  need("a feed-forward width that is a multiple of 8", c.ffn_dim % 8 == 0, c.ffn_dim);
  need("at most 3 projector levels", c.levels.size() <= kMaxLevels,
       static_cast<int>(c.levels.size()));
}

}  // namespace rfseg::cuda
