#include "engine/cuda/small/query_cluster.h"
#include "engine/cuda/small/query_layer.h"

// The class logits of the cells and their maxima in one kernel for few cells: logits do not leave
// the block. A block has 16 cells and all classes; warp w has every fourth tile of 8 classes from
// w % 4 on, and half of k.

namespace rfseg::cuda {
namespace query {
namespace {

constexpr int kMostClasses = 96, kClassTiles = kMostClasses / 8;
constexpr int kCellsAt = kMostClasses * kPitch;
constexpr int kLogitsAt = kCellsAt + kRowBytes;
constexpr int kScoresBytes = kLogitsAt + 2 * kClassTiles * 512;

RFSEG_DEVICE bool is_above(float v, float best) { return v > best || v != v; }

RFSEG_DEVICE void scores_body(const ClassScoresArguments& a, void* shared) {
  release_next_kernel();
  const SharedAddress start = shared_address(shared);
  auto* sums = reinterpret_cast<float*>(static_cast<std::byte*>(shared) + kLogitsAt);
  copy_rows<1>(start, kPitch, a.classes.weight, kWidth * 2, a.count, 32);
  const int first_row = block_x() * kRows;
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  float bias[3][2];
  RFSEG_UNROLL
  for (int i = 0; i < 6; ++i) {
    const int c = i / 2 * 32 + thread_index() % 16 * 2 + i % 2;
    bias[i / 2][i % 2] = c < a.count ? a.classes.bias[c] : 0.0f;
  }
  await_previous_kernel();
  RFSEG_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int r = thread_index() / 32 + 8 * i, chunk = thread_index() % 32;
    const int row = first_row + r < a.rows ? first_row + r : a.rows - 1;
    copy_async_16(start + static_cast<uint32_t>(kCellsAt + r * kPitch + chunk * 16),
                  static_cast<const std::byte*>(a.cells) + int64_t{row} * kWidth * 2 + chunk * 16);
  }
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();
  const int tile = warp % 4, part = warp / 4;
  const auto half_of_k = static_cast<uint32_t>(part * kWidth);  // bytes
  const SharedAddress cells =
      start + kCellsAt + half_of_k + static_cast<uint32_t>(lane % 16 * kPitch + lane / 16 * 16);
  const SharedAddress classes =
      start + half_of_k + static_cast<uint32_t>((tile * 8 + lane % 8) * kPitch + lane / 8 * 16);
  float logits[3][4];
  clear(logits);
  RFSEG_UNROLL_BY(2)
  for (int step = 0; step < kWidth / 64; ++step) {
    const auto at = static_cast<uint32_t>(step * 64);
    uint32_t rows[2][4];
    load_matrices(rows[0], cells + at);
    load_matrices(rows[1], cells + at + 32);
    RFSEG_UNROLL
    for (int i = 0; i < 3; ++i) {
      uint32_t columns[4];
      load_matrices(columns, classes + static_cast<uint32_t>(i * 32 * kPitch) + at);
      const uint32_t first[2] = {columns[0], columns[1]}, second[2] = {columns[2], columns[3]};
      mma_f16(logits[i], rows[0], first);
      mma_f16(logits[i], rows[1], second);
    }
  }
  RFSEG_UNROLL
  for (int i = 0; i < 3; ++i)
    store_sums(sums + (part * kClassTiles + i * 4 + tile) * 128, logits[i]);
  block_sync();
  float best = -INFINITY;
  RFSEG_UNROLL
  for (int i = 0; i < 3; ++i) {
    const int c = i * 32 + thread_index() % 16 * 2;
    const Pair v = own_sums<1>(sums + i * 4 * 128, kClassTiles, 2);
    const float pair[2] = {v.x + bias[i][0], v.y + bias[i][1]};
    RFSEG_UNROLL
    for (int e = 0; e < 2; ++e) {
      if (c + e < a.count && best == best && is_above(pair[e], best)) best = pair[e];
    }
  }
  RFSEG_UNROLL
  for (int d = 1; d < 16; d *= 2) {
    const float other = warp_read(best, lane ^ d);
    if (best == best && is_above(other, best)) best = other;
  }
  const int row = first_row + thread_index() / 16;
  if (thread_index() % 16 == 0 && row < a.rows) a.scores[row] = best;
}

}  // namespace
}  // namespace query

bool takes_class_scores(const Queue& queue, Math math, int rows, int width, int classes) {
  constexpr int kMostBlocks = 132;
  return math == Math::kFp16 && !queue.portable && queue.few_rows && width == query::kWidth &&
         classes <= query::kMostClasses && rows <= kMostBlocks * query::kRows;
}

void class_scores(const Queue& queue, Math, const ClassScoresArguments& a) {
  launch<query::scores_body, query::kThreads>(queue, {(a.rows + query::kRows - 1) / query::kRows},
                                              query::kScoresBytes, a);
}

}  // namespace rfseg::cuda
