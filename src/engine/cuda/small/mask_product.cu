#include "engine/cuda/small/mask_product.h"

#include <algorithm>

#include "engine/cuda/small/query_cluster.h"

// Masks of few queries that hopper/block_masks.cu does not take (several pictures, large maps, more
// than 256 queries): every query times every pixel's features. A block has 48 pixels and up to 112
// queries, each warp 16. All of k lies in shared memory: there is one wait. Each warp stages its
// own results, so that they leave in pieces of 96 bytes whatever the rows' alignment.

namespace rfseg::cuda {
namespace query {
namespace {

constexpr int kPixels = 48, kPixelTiles = kPixels / 8, kMostTiles = 7;  // of 16 queries
constexpr int kStagePitch = kPixels * 2 + 16;

struct MaskTask {
  const void* queries;
  const void* pixels;
  const float* bias;
  void* out;
  int64_t out_step, bias_step;  // of pictures
  int64_t ldo;
  int m, n;
  int tiles;   // of a block
  int groups;  // of `tiles` tiles in a picture
  bool early;  // the pixels are there before the previous kernel has ended
};

int mask_bytes(int tiles) { return (kPixels + tiles * 16) * kPitch + tiles * 16 * kStagePitch; }

RFSEG_DEVICE void mask_body(const MaskTask& task, void* shared) {
  release_next_kernel();
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  const int picture = block_y() / task.groups, first_pixel = block_x() * kPixels;
  const int first_row = block_y() % task.groups * task.tiles * 16;
  const SharedAddress pixels = shared_address(shared);
  const SharedAddress queries = pixels + static_cast<uint32_t>(kPixels * kPitch);
  auto* staged = static_cast<std::byte*>(shared) + (kPixels + task.tiles * 16) * kPitch +
                 warp * 16 * kStagePitch;
  const auto copy = [&](SharedAddress to, const void* from, int first, int count, int rows) {
    const std::byte* p = static_cast<const std::byte*>(from) + thread_index() % 32 * 16;
    to += static_cast<uint32_t>(thread_index() % 32 * 16);
    RFSEG_UNROLL_BY(4)
    for (int r = thread_index() / 32; r < rows; r += kThreads / 32) {
      const int row = first + r < count ? first + r : count - 1;
      copy_async_16(to + static_cast<uint32_t>(r * kPitch), p + int64_t{row} * kWidth * 2);
    }
  };
  const auto copy_pixels = [&] {
    copy(pixels,
         static_cast<const std::byte*>(task.pixels) + int64_t{picture} * task.n * kWidth * 2,
         first_pixel, task.n, kPixels);
  };
  if (task.early) copy_pixels();
  await_previous_kernel();
  if (!task.early) copy_pixels();
  copy(queries,
       static_cast<const std::byte*>(task.queries) + int64_t{picture} * task.m * kWidth * 2,
       first_row, task.m, task.tiles * 16);
  copy_async_commit();
  float bias[2] = {0, 0};
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + warp * 16 + lane / 4 + 8 * h;
    if (row < task.m) bias[h] = task.bias[picture * task.bias_step + row];
  }
  copy_async_wait<0>();
  block_sync();
  if (warp >= task.tiles) return;
  float sums[kPixelTiles][4];
  clear(sums);
  multiply(sums, queries + static_cast<uint32_t>(warp * 16 * kPitch), kPitch, pixels, kPitch,
           kWidth / 32);
  RFSEG_UNROLL
  for (int t = 0; t < kPixelTiles; ++t) {
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      *reinterpret_cast<uint32_t*>(staged + (lane / 4 + 8 * h) * kStagePitch + t * 16 +
                                   lane % 4 * 4) =
          pack_halves(sums[t][2 * h] + bias[h], sums[t][2 * h + 1] + bias[h]);
    }
  }
  warp_sync();
  auto* out = static_cast<uint16_t*>(task.out) + picture * task.out_step;
  constexpr int kPieces = kPixels / 4;
  RFSEG_UNROLL
  for (int i = 0; i < 16 * kPieces / kWarp; ++i) {
    const int at = i * kWarp + lane, r = at / kPieces, piece = at % kPieces;
    const int row = first_row + warp * 16 + r, pixel = first_pixel + piece * 4;
    if (row >= task.m || pixel >= task.n) continue;
    const auto* from = reinterpret_cast<const uint32_t*>(staged + r * kStagePitch + piece * 8);
    store_pair(out + row * task.ldo + pixel, from[0], from[1]);
  }
}

}  // namespace
}  // namespace query

bool mask_product(const Queue& queue, const GemmArguments& g) {
  using query::kWidth;
  if (g.source != RowSource::kRows || g.k != kWidth || g.lda != kWidth || g.ldb != kWidth ||
      g.index || g.split || !g.row_bias || g.bias || g.scale || g.residual ||
      g.activation != Activation::kNone || g.out_float || g.out_group || g.shares || g.norm_of) {
    return false;
  }
  const auto aligned = [](const void* p, unsigned bytes) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
  };
  if (!aligned(g.a, 16) || !aligned(g.b, 16) || !aligned(g.out, 8) || g.ldo % 4 || g.n % 4 ||
      g.out_step % 4) {
    return false;
  }
  if (g.batch > 1 && (g.a_step != int64_t{g.m} * kWidth || g.b_step != int64_t{g.n} * kWidth)) {
    return false;
  }
  constexpr int kMostRows = 400;  // beyond, tiles that read their operands less often are faster
  if (g.m * g.batch > kMostRows) return false;
  query::MaskTask task;
  task.queries = g.a;
  task.pixels = g.b;
  task.bias = g.row_bias;
  task.out = g.out;
  task.out_step = g.out_step;
  task.bias_step = g.row_bias_step;
  task.ldo = g.ldo;
  task.m = g.m;
  task.n = g.n;
  task.early = g.b_fixed;
  const int tiles = (g.m + 15) / 16;
  task.groups = (tiles + query::kMostTiles - 1) / query::kMostTiles;
  task.tiles = (tiles + task.groups - 1) / task.groups;
  launch<query::mask_body, query::kThreads, 2>(
      queue, {(g.n + query::kPixels - 1) / query::kPixels, task.groups * g.batch},
      static_cast<std::size_t>(query::mask_bytes(task.tiles)), task);
  return true;
}

}  // namespace rfseg::cuda
