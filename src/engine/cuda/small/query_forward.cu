#include "engine/cuda/small/query_cluster.h"
#include "engine/cuda/small/query_layer.h"

// The second half of a decoder layer: the feed-forward part with its norm, and the next layer's
// queries, keys and values. Block i of a cluster has 256 of the 2,048 hidden columns, so that they
// never leave it, and an eighth of k of the second product: each warp's sums are those of one
// block's columns, which adds up what arrives.
//
// The weights of a block, 300 KB, are in it before the previous kernel has ended: the first
// product's in registers, where they came through shared memory, then the others in shared memory.
// After the last layer its rows are normalised once or twice more instead.
//
// With two teams all 16 warps have their columns of both products for the rows of both, and the
// next layer's weights come when the second product's are done with: there is no room before.

namespace rfseg::cuda {
namespace query {
namespace {

constexpr int kHidden = 2048, kSlice = kHidden / kBlocks;  // columns of a block
constexpr int kHalf = kSlice / 2, kHalfPitch = kHalf * 2 + 16;

// Places in shared memory. First the first product's weights; where they were: the second half of
// the second's, what arrives, and with one team the next layer's; with two those come to kEarly.
constexpr int kForwardBoxes = 4, kForwardBoxBytes = 32;
constexpr int kArrivalBytes = kBlocks * 4 * 512;
template <int kTeams>
struct ForwardLayout {
  static constexpr bool kNextLate = kTeams > 1;
  static constexpr int kHalfBytes = kWidth * kHalfPitch;
  static constexpr int kLate = 0;
  static constexpr int kArrivals = kLate + kHalfBytes + (kNextLate ? 0 : kNextBytes);
  static constexpr int kRowsOfAll = kArrivals + kTeams * kArrivalBytes;
  static constexpr int kHidden = kRowsOfAll + kTeams * kRowBytes;
  static constexpr int kEarly = kHidden + kTeams * kRowBytes;
  static constexpr int kShares = kEarly + kHalfBytes;
  static constexpr int kBoxes = kShares + kTeams * 3 * kStatBytes;
  static constexpr int kBytes = kBoxes + kTeams * kForwardBoxBytes;
  static constexpr int kNext = kNextLate ? kEarly : kLate + kHalfBytes;
  static constexpr int kNextSums = kNextLate ? kLate : kEarly;
  static_assert(kSlice * kPitch <= kEarly && kBytes <= kMostShared);
  static_assert(kTeams * kNextSumBytes <= kHalfBytes && kNextBytes <= kHalfBytes);
};

template <int kTeams>
RFSEG_DEVICE void forward_body(const QueryForwardArguments& a, void* shared) {
  using At = ForwardLayout<kTeams>;
  // Tiles of 8 columns that a warp has of each product.
  constexpr int kTiles = 4 / kTeams;
  const int rank = cluster_rank(), warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  const int team = team_index<kTeams>(), thread = team_thread<kTeams>();
  auto* base = static_cast<std::byte*>(shared);
  // For: the second product's sums, shares of rows, and what is told for the next layer's product
  // or more shares.
  const auto boxes_of = [&](int of) {
    return reinterpret_cast<MailBox*>(base + At::kBoxes + of * kForwardBoxBytes);
  };
  MailBox* boxes = boxes_of(team);
  if (thread == 0) {
    const int more = a.next.weight != nullptr ? handed_bytes() : kShareMail;
    const int mail[kForwardBoxes] = {kArrivalBytes, kShareMail, more, more};
    RFSEG_UNROLL
    for (int i = 0; i < kForwardBoxes; ++i) open_box(boxes + i, mail[i]);
  }
  const SharedAddress start = shared_address(shared);
  std::byte* rows = base + At::kRowsOfAll + team * kRowBytes;
  std::byte* hidden = base + At::kHidden + team * kRowBytes;
  const auto arrivals_of = [&](int of) {
    return reinterpret_cast<float*>(base + At::kArrivals + of * kArrivalBytes);
  };
  const auto bytes_of = [](const void* p, int64_t elements) {
    return static_cast<const std::byte*>(p) + elements * 2;
  };
  copy_rows<kTeams>(start, kPitch, bytes_of(a.first.weight, int64_t{rank} * kSlice * kWidth),
                    kWidth * 2, kSlice, 32);
  copy_async_commit();
  copy_rows<kTeams>(start + At::kEarly, kHalfPitch, bytes_of(a.second.weight, rank * kSlice),
                    kHidden * 2, kWidth, 16);
  copy_async_commit();
  const int first_col = warp * kTiles * 8;  // of the warp, in either product
  Pair hidden_bias[kTiles];
  RFSEG_UNROLL
  for (int t = 0; t < kTiles; ++t) {
    hidden_bias[t] = load_pair(a.first.bias + rank * kSlice + first_col + t * 8 + lane % 4 * 2);
  }
  const int col = rank * kOwn + thread_index() % 16 * 2;
  const Pair bias = load_pair(a.second.bias + col);
  const Pair gamma = load_pair(a.norm.gamma + col), beta = load_pair(a.norm.beta + col);
  const int first_row = block_x() / kBlocks * kTeams * kRows;
  const auto known = [&](int r) { return first_row + r < a.rows ? first_row + r : a.rows - 1; };
  const int row = known(thread_index() / 16);  // of the thread
  const bool active = first_row + thread_index() / 16 < a.rows;
  Pair gamma_after[2] = {}, beta_after[2] = {};
  if (a.last.gamma != nullptr) {
    gamma_after[0] = load_pair(a.last.gamma + col), beta_after[0] = load_pair(a.last.beta + col);
  }
  if (a.then.gamma != nullptr) {
    gamma_after[1] = load_pair(a.then.gamma + col), beta_after[1] = load_pair(a.then.beta + col);
  }
  Pair next_bias[3] = {};
  if (a.next.weight != nullptr) load_next_bias(next_bias, a.next.bias);
  uint32_t columns[kWidth / 32][kTiles][4];
  copy_async_wait<1>();
  block_sync();
  load_columns(columns, start + static_cast<uint32_t>(first_col * kPitch), kPitch);
  block_sync();
  // Sums may arrive where the weights were.
  greet_cluster();
  copy_rows<kTeams>(start + At::kLate, kHalfPitch, bytes_of(a.second.weight, rank * kSlice + kHalf),
                    kHidden * 2, kWidth, 16);
  if (!At::kNextLate && a.next.weight != nullptr) {
    copy_next<kTeams>(start + At::kNext, a.next.weight);
  }
  meet_cluster();
  await_previous_kernel();
  release_next_kernel();

  RFSEG_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int r = thread_index() / 32 + 8 * kTeams * i, chunk = thread_index() % 32;
    copy_async_16(start + static_cast<uint32_t>(At::kRowsOfAll + r * kPitch + chunk * 16),
                  bytes_of(a.x_element, int64_t{known(r)} * kWidth + chunk * 8));
  }
  copy_async_commit();
  const Pair old = load_pair(a.x + int64_t{row} * kWidth + col);
  const Pair position = load_pair(a.position + int64_t{row} * kWidth + col);
  copy_async_wait<0>();
  block_sync();

  float sums[kTeams][kTiles][4];
  RFSEG_UNROLL
  for (int of = 0; of < kTeams; ++of) {
    clear(sums[of]);
    multiply(sums[of], start + static_cast<uint32_t>(At::kRowsOfAll + of * kRowBytes), kPitch,
             columns);
    RFSEG_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        *reinterpret_cast<uint32_t*>(base + At::kHidden + of * kRowBytes +
                                     (lane / 4 + 8 * h) * kPitch +
                                     (first_col + t * 8 + lane % 4 * 2) * 2) =
            pack_halves(relu(sums[of][t][2 * h] + hidden_bias[t].x),
                        relu(sums[of][t][2 * h + 1] + hidden_bias[t].y));
      }
    }
  }
  block_sync();
  RFSEG_UNROLL
  for (int of = 0; of < kTeams; ++of) clear(sums[of]);
  RFSEG_ROLLED
  for (int half = 0; half < 2; ++half) {
    multiply_all(
        sums, start + static_cast<uint32_t>(At::kHidden + half * kHalf * 2), kPitch, kRowBytes,
        start +
            static_cast<uint32_t>((half == 0 ? At::kEarly : At::kLate) + first_col * kHalfPitch),
        kHalfPitch, kHalf / 32);
  }
  // A block's 32 columns are a warp's, or two warps'.
  RFSEG_UNROLL
  for (int of = 0; of < kTeams; ++of) {
    RFSEG_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      send(arrivals_of(of) + (rank * 4 + warp % kTeams * kTiles + t) * 128 + lane * 4, boxes_of(of),
           warp / kTeams, quad_of(sums[of][t]));
    }
  }
  if (At::kNextLate && a.next.weight != nullptr) {
    block_sync();  // all warps are done with the second product's weights
    copy_next<kTeams>(start + At::kNext, a.next.weight);
    copy_async_commit();
  }
  await_mail(boxes);

  Pair x = own_sums<kTeams>(arrivals_of(team), 4, kBlocks);
  x = {x.x + bias.x + old.x, x.y + bias.y + old.y};
  auto* shares = reinterpret_cast<Pair*>(base + At::kShares + team * 3 * kStatBytes);
  normalise<kTeams>(x, shares, boxes + 1, a.eps, gamma, beta);
  const int64_t at = int64_t{row} * kWidth + col;
  if (active) {
    *reinterpret_cast<Pair*>(a.x + at) = x;
    static_cast<uint32_t*>(a.out_element)[at / 2] = pack_halves(x.x, x.y);
  }
  if (a.next.weight == nullptr) {
    if (a.last.gamma == nullptr) return;
    normalise<kTeams>(x, shares + kBlocks * kRows, boxes + 2, a.eps, gamma_after[0], beta_after[0]);
    if (active) static_cast<uint32_t*>(a.hs)[at / 2] = pack_halves(x.x, x.y);
    if (a.then.gamma == nullptr) return;
    normalise<kTeams>(x, shares + 2 * kBlocks * kRows, boxes + 3, a.eps, gamma_after[1],
                      beta_after[1]);
    if (active) static_cast<uint32_t*>(a.hs_normed)[at / 2] = pack_halves(x.x, x.y);
    return;
  }
  copy_async_wait<0>();  // the next layer's weights, before hand_over()'s barrier
  hand_over<kTeams>(rows, boxes + 2, x);
  hand_over<kTeams>(hidden, boxes + 3, {x.x + position.x, x.y + position.y});
  await_mail(boxes + 2);
  await_mail(boxes + 3);

  project_next<kTeams>(shared_address(hidden), shared_address(rows), start + At::kNext, next_bias,
                       reinterpret_cast<float*>(base + At::kNextSums + team * kNextSumBytes), a.qkv,
                       row, active);
}

}  // namespace
}  // namespace query

void query_forward(const Queue& queue, Math, const QueryForwardArguments& a) {
  query::with_teams(a.rows, [&](auto teams) {
    constexpr int kTeams = teams.value;
    launch_cluster<query::forward_body<kTeams>, kTeams * query::kThreads>(
        queue, {query::blocks_for(a.rows, kTeams), 1}, query::kBlocks,
        query::ForwardLayout<kTeams>::kBytes, a);
  });
}

bool takes_query_layers(const Queue& queue, Math math, int batch, int queries, int width,
                        int hidden, int samples) {
  const int rows = query::teams_for(batch * queries) * query::kRows;
  // GPUs with clusters need not have that much (compute capability 12.0: 99 KB).
  static const bool has_room =
      has_hopper_code() && most_shared_memory() >= std::size_t{query::kMostShared};
  return math == Math::kFp16 && !queue.portable && queue.few_rows && width == query::kWidth &&
         hidden == query::kHidden && samples <= query::kMostSamples && has_room &&
         batch * ((queries + rows - 1) / rows) <= query::kMostClusters;
}

}  // namespace rfseg::cuda
