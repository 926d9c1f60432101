#include "engine/cuda/portable/arithmetic.h"
#include "engine/cuda/small/query_cluster.h"
#include "engine/cuda/small/query_layer.h"

// What each query wants of the masks' features. Block i of a cluster has 128 of the 1,024 hidden
// columns, which never leave it, and 32 columns of the rows beside them: so an eighth of k of the
// second product, whose 256 columns are summed up by the block that has them, the constant by
// block 0. The weights are in the block before the previous kernel has ended, the first product's
// in registers; sums arrive where those came through shared memory.

namespace rfseg::cuda {
namespace query {
namespace {

constexpr int kMaskHidden = kMaskTailHidden, kMaskK = kMaskHidden + kMaskTailOwn;
constexpr int kMaskPitch = kMaskK * 2 + 16;  // eight rows touch all banks
constexpr int kMaskFirstAt = 0, kMaskSumsAt = 0, kMaskConstantsAt = kBlocks * 4 * 512;
constexpr int kMaskSecondAt = kMaskHidden * kPitch;
constexpr int kMaskRowsAt = kMaskSecondAt + kMaskTailRows * kMaskPitch;
constexpr int kMaskHiddenAt = kMaskRowsAt + kRowBytes;
constexpr int kMaskBoxAt = kMaskHiddenAt + kRows * kMaskPitch;
constexpr int kMaskBytes = kMaskBoxAt + 16;
static_assert(kMaskConstantsAt + kBlocks * 64 <= kMaskSecondAt && kMaskBytes <= 227 * 1024);
static_assert(kMaskTailSlices == kBlocks && kMaskTailOwn == kOwn);

RFSEG_DEVICE void masks_body(const QueryMasksArguments& a, void* shared) {
  const int rank = cluster_rank(), warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  auto* base = static_cast<std::byte*>(shared);
  auto* box = reinterpret_cast<MailBox*>(base + kMaskBoxAt);
  if (thread_index() == 0) open_box(box, kBlocks * 4 * 512 + (rank == 0 ? kBlocks * 64 : 0));
  const SharedAddress start = shared_address(shared);
  copy_rows(
      start + kMaskFirstAt, kPitch,
      static_cast<const std::byte*>(a.first.weight) + int64_t{rank} * kMaskHidden * kWidth * 2,
      kWidth * 2, kMaskHidden, 32);
  copy_async_commit();
  {
    constexpr int kChunks = kMaskK * 2 / 16;
    const std::byte* from =
        static_cast<const std::byte*>(a.second.weight) + int64_t{rank} * kMaskTailRows * kMaskK * 2;
    RFSEG_UNROLL_BY(4)
    for (int i = thread_index(); i < kMaskTailRows * kChunks; i += kThreads) {
      copy_async_16(start + static_cast<uint32_t>(kMaskSecondAt + i / kChunks * kMaskPitch +
                                                  i % kChunks * 16),
                    from + i * 16);
    }
  }
  copy_async_commit();
  const int hidden_col = warp * 16 + lane % 4 * 2;  // and 8 further on
  const float* hidden_bias = a.first.bias + rank * kMaskHidden + hidden_col;
  const Pair bias0 = load_pair(hidden_bias), bias1 = load_pair(hidden_bias + 8);
  const int col = rank * kOwn + thread_index() % 16 * 2;
  const Pair bias = load_pair(a.second.bias + col);
  const float constant_bias = a.second.bias[kWidth];
  const int first_row = block_x() / kBlocks * kRows;
  const auto known = [&](int r) { return first_row + r < a.rows ? first_row + r : a.rows - 1; };
  const int row = first_row + thread_index() / 16;  // of the thread
  copy_async_wait<1>();
  block_sync();
  uint32_t columns[kWidth / 32][2][4];
  load_columns(columns, start + static_cast<uint32_t>(kMaskFirstAt + warp * 16 * kPitch), kPitch);
  block_sync();
  // Sums may arrive where the weights were.
  greet_cluster();
  await_previous_kernel();

  RFSEG_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int r = thread_index() / 32 + 8 * i, chunk = thread_index() % 32;
    copy_async_16(
        start + static_cast<uint32_t>(kMaskRowsAt + r * kPitch + chunk * 16),
        static_cast<const std::byte*>(a.normed) + int64_t{known(r)} * kWidth * 2 + chunk * 16);
  }
  if (thread_index() < 4 * kRows) {
    const int r = thread_index() / 4, chunk = thread_index() % 4;
    copy_async_16(start + static_cast<uint32_t>(kMaskHiddenAt + r * kMaskPitch + kMaskHidden * 2 +
                                                chunk * 16),
                  static_cast<const std::byte*>(a.hs) +
                      (int64_t{known(r)} * kWidth + rank * kOwn) * 2 + chunk * 16);
  }
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();
  // Only now: what runs beside this kernel shall have found room before the next one's blocks.
  release_next_kernel();

  float first[2][4];
  clear(first);
  multiply(first, start + kMaskRowsAt, kPitch, columns);
  RFSEG_UNROLL
  for (int t = 0; t < 2; ++t) {
    const Pair shift = t == 0 ? bias0 : bias1;
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      *reinterpret_cast<uint32_t*>(base + kMaskHiddenAt + (lane / 4 + 8 * h) * kMaskPitch +
                                   (hidden_col + 8 * t) * 2) =
          pack_halves(activate<Math::kFp16>(first[t][2 * h] + shift.x, Activation::kGelu),
                      activate<Math::kFp16>(first[t][2 * h + 1] + shift.y, Activation::kGelu));
    }
  }
  block_sync();
  float sums[4][4];
  clear(sums);
  multiply(sums, start + kMaskHiddenAt, kMaskPitch,
           start + static_cast<uint32_t>(kMaskSecondAt + warp * 32 * kMaskPitch), kMaskPitch,
           kMaskK / 32);
  meet_cluster();
  RFSEG_UNROLL
  for (int t = 0; t < 4; ++t) {
    send(reinterpret_cast<float*>(base + kMaskSumsAt) + (rank * 4 + t) * 128 + lane * 4, box, warp,
         quad_of(sums[t]));
  }
  auto* constants = reinterpret_cast<Pair*>(base + kMaskConstantsAt);  // [block][row, row + 8]
  if (warp == 0) {
    float constant[1][4];
    clear(constant);
    multiply(constant, start + kMaskHiddenAt, kMaskPitch,
             start + static_cast<uint32_t>(kMaskSecondAt + kWidth * kMaskPitch), kMaskPitch,
             kMaskK / 32);
    if (lane % 4 == 0) {
      send(constants + rank * 8 + lane / 4, box, 0, Pair{constant[0][0], constant[0][2]});
    }
  }
  await_mail(box);
  if (row >= a.rows) return;
  const Pair v = own_sums(reinterpret_cast<const float*>(base + kMaskSumsAt), 4, kBlocks);
  static_cast<uint32_t*>(a.out)[(int64_t{row} * kWidth + col) / 2] =
      pack_halves(v.x + bias.x, v.y + bias.y);
  if (rank != 0 || thread_index() % 16 != 0) return;
  float constant = constant_bias;
  RFSEG_UNROLL
  for (int block = 0; block < kBlocks; ++block) {
    const Pair part = constants[block * 8 + thread_index() / 16 % 8];
    constant += thread_index() / 16 < 8 ? part.x : part.y;
  }
  a.constants[row] = constant;
}

}  // namespace
}  // namespace query

void query_masks(const Queue& queue, Math, const QueryMasksArguments& a) {
  launch_cluster<query::masks_body, query::kThreads>(
      queue, {(a.rows + query::kRows - 1) / query::kRows * query::kBlocks, 1}, query::kBlocks,
      query::kMaskBytes, a);
}

}  // namespace rfseg::cuda
