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
constexpr int kMaskPitch = kMaskK * 2 + 16;       // eight rows touch all banks
constexpr int kMaskFirstAt = 0, kMaskSumsAt = 0;  // of a team: sums, then constants
constexpr int kMaskConstantsAt = kBlocks * 4 * 512, kMaskArrivalBytes = kMaskConstantsAt + 512;
constexpr int kMaskSecondAt = kMaskHidden * kPitch;
constexpr int kMaskTeamAt = kMaskSecondAt + kMaskTailRows * kMaskPitch;
// Of a team, from there on.
constexpr int kMaskRowsAt = 0, kMaskHiddenAt = kRowBytes;
constexpr int kMaskBoxAt = kMaskHiddenAt + kRows * kMaskPitch, kMaskTeamBytes = kMaskBoxAt + 16;
constexpr int mask_bytes(int teams) { return kMaskTeamAt + teams * kMaskTeamBytes; }
static_assert(2 * kMaskArrivalBytes <= kMaskSecondAt && mask_bytes(2) <= kMostShared);
static_assert(kMaskTailSlices == kBlocks && kMaskTailOwn == kOwn);

template <int kTeams>
RFSEG_DEVICE void masks_body(const QueryMasksArguments& a, void* shared) {
  const int thread = team_thread<kTeams>(), warp = thread / kWarp, lane = thread % kWarp;
  const int rank = cluster_rank();
  std::byte* own =
      static_cast<std::byte*>(shared) + kMaskTeamAt + team_index<kTeams>() * kMaskTeamBytes;
  std::byte* arrivals =
      static_cast<std::byte*>(shared) + kMaskSumsAt + team_index<kTeams>() * kMaskArrivalBytes;
  auto* box = reinterpret_cast<MailBox*>(own + kMaskBoxAt);
  if (thread == 0) open_box(box, kBlocks * 4 * 512 + (rank == 0 ? kBlocks * 64 : 0));
  const SharedAddress start = shared_address(shared);
  const SharedAddress of_team = shared_address(own);
  copy_rows<kTeams>(
      start + kMaskFirstAt, kPitch,
      static_cast<const std::byte*>(a.first.weight) + int64_t{rank} * kMaskHidden * kWidth * 2,
      kWidth * 2, kMaskHidden, 32);
  copy_async_commit();
  {
    constexpr int kChunks = kMaskK * 2 / 16;
    const std::byte* from =
        static_cast<const std::byte*>(a.second.weight) + int64_t{rank} * kMaskTailRows * kMaskK * 2;
    RFSEG_UNROLL_BY(4)
    for (int i = thread_index(); i < kMaskTailRows * kChunks; i += kTeams * kThreads) {
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
  const int first_row = (block_x() / kBlocks * kTeams + team_index<kTeams>()) * kRows;
  const auto known = [&](int r) { return first_row + r < a.rows ? first_row + r : a.rows - 1; };
  const int row = first_row + thread / 16;  // of the thread
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
    const int r = thread / 32 + 8 * i, chunk = thread % 32;
    copy_async_16(
        of_team + static_cast<uint32_t>(kMaskRowsAt + r * kPitch + chunk * 16),
        static_cast<const std::byte*>(a.normed) + int64_t{known(r)} * kWidth * 2 + chunk * 16);
  }
  if (thread < 4 * kRows) {
    const int r = thread / 4, chunk = thread % 4;
    copy_async_16(of_team + static_cast<uint32_t>(kMaskHiddenAt + r * kMaskPitch + kMaskHidden * 2 +
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
  multiply(first, of_team + kMaskRowsAt, kPitch, columns);
  RFSEG_UNROLL
  for (int t = 0; t < 2; ++t) {
    const Pair shift = t == 0 ? bias0 : bias1;
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      *reinterpret_cast<uint32_t*>(own + kMaskHiddenAt + (lane / 4 + 8 * h) * kMaskPitch +
                                   (hidden_col + 8 * t) * 2) =
          pack_halves(activate(first[t][2 * h] + shift.x, Activation::kGelu),
                      activate(first[t][2 * h + 1] + shift.y, Activation::kGelu));
    }
  }
  block_sync();
  float sums[4][4];
  clear(sums);
  multiply(sums, of_team + kMaskHiddenAt, kMaskPitch,
           start + static_cast<uint32_t>(kMaskSecondAt + warp * 32 * kMaskPitch), kMaskPitch,
           kMaskK / 32);
  meet_cluster();
  RFSEG_UNROLL
  for (int t = 0; t < 4; ++t) {
    send(reinterpret_cast<float*>(arrivals) + (rank * 4 + t) * 128 + lane * 4, box, warp,
         quad_of(sums[t]));
  }
  auto* constants = reinterpret_cast<Pair*>(arrivals + kMaskConstantsAt);  // [block][row, row + 8]
  if (warp == 0) {
    float constant[1][4];
    clear(constant);
    multiply(constant, of_team + kMaskHiddenAt, kMaskPitch,
             start + static_cast<uint32_t>(kMaskSecondAt + kWidth * kMaskPitch), kMaskPitch,
             kMaskK / 32);
    if (lane % 4 == 0) {
      send(constants + rank * 8 + lane / 4, box, 0, Pair{constant[0][0], constant[0][2]});
    }
  }
  await_mail(box);
  if (row >= a.rows) return;
  const Pair v = own_sums<kTeams>(reinterpret_cast<const float*>(arrivals), 4, kBlocks);
  static_cast<uint32_t*>(a.out)[(int64_t{row} * kWidth + col) / 2] =
      pack_halves(v.x + bias.x, v.y + bias.y);
  if (rank != 0 || thread_index() % 16 != 0) return;
  float constant = constant_bias;
  RFSEG_UNROLL
  for (int block = 0; block < kBlocks; ++block) {
    const Pair part = constants[block * 8 + thread / 16 % 8];
    constant += thread / 16 < 8 ? part.x : part.y;
  }
  a.constants[row] = constant;
}

}  // namespace
}  // namespace query

void query_masks(const Queue& queue, Math, const QueryMasksArguments& a) {
  query::with_teams(a.rows, [&](auto teams) {
    constexpr int kTeams = teams.value;
    launch_cluster<query::masks_body<kTeams>, kTeams * query::kThreads>(
        queue, {query::blocks_for(a.rows, kTeams), 1}, query::kBlocks, query::mask_bytes(kTeams),
        a);
  });
}

}  // namespace rfseg::cuda
