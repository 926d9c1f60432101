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

namespace rfseg::cuda {
namespace query {
namespace {

constexpr int kHidden = 2048, kSlice = kHidden / kBlocks;  // columns of a block
constexpr int kHalf = kSlice / 2, kHalfPitch = kHalf * 2 + 16;

// Places in shared memory. First the first product's weights; where they were: the second half of
// the second's, the next layer's, and what arrives.
constexpr int kLateAt = 0;
constexpr int kNextAt = kLateAt + kWidth * kHalfPitch;
constexpr int kArrivalsAt = kNextAt + kNextBytes;
constexpr int kRowsAt = kArrivalsAt + kBlocks * 4 * 512;
constexpr int kHiddenAt = kRowsAt + kRowBytes;
constexpr int kEarlyAt = kHiddenAt + kRowBytes;
constexpr int kSharesAt = kEarlyAt + kWidth * kHalfPitch;
constexpr int kForwardBoxesAt = kSharesAt + 3 * kStatBytes;
constexpr int kForwardBoxes = 4, kForwardBytes = kForwardBoxesAt + 64;
static_assert(kSlice * kPitch <= kRowsAt && kForwardBytes <= 227 * 1024);
static_assert(kNextSumBytes <= kWidth * kHalfPitch);

RFSEG_DEVICE void forward_body(const QueryForwardArguments& a, void* shared) {
  const int rank = cluster_rank(), warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  auto* base = static_cast<std::byte*>(shared);
  // For: the second product's sums, shares of rows, and what is told for the next layer's product
  // or more shares.
  auto* boxes = reinterpret_cast<MailBox*>(base + kForwardBoxesAt);
  if (thread_index() == 0) {
    const int more = a.next.weight != nullptr ? handed_bytes() : kShareMail;
    const int mail[kForwardBoxes] = {kBlocks * 4 * 512, kShareMail, more, more};
    RFSEG_UNROLL
    for (int i = 0; i < kForwardBoxes; ++i) open_box(boxes + i, mail[i]);
  }
  const SharedAddress start = shared_address(shared);
  std::byte* rows = base + kRowsAt;
  std::byte* hidden = base + kHiddenAt;
  auto* arrivals = reinterpret_cast<float*>(base + kArrivalsAt);
  const auto bytes_of = [](const void* p, int64_t elements) {
    return static_cast<const std::byte*>(p) + elements * 2;
  };
  copy_rows(start, kPitch, bytes_of(a.first.weight, int64_t{rank} * kSlice * kWidth), kWidth * 2,
            kSlice, 32);
  copy_async_commit();
  copy_rows(start + kEarlyAt, kHalfPitch, bytes_of(a.second.weight, rank * kSlice), kHidden * 2,
            kWidth, 16);
  copy_async_commit();
  Pair hidden_bias[4];
  RFSEG_UNROLL
  for (int t = 0; t < 4; ++t) {
    hidden_bias[t] = load_pair(a.first.bias + rank * kSlice + warp * 32 + t * 8 + lane % 4 * 2);
  }
  const int col = rank * kOwn + thread_index() % 16 * 2;
  const Pair bias = load_pair(a.second.bias + col);
  const Pair gamma = load_pair(a.norm.gamma + col), beta = load_pair(a.norm.beta + col);
  const int first_row = block_x() / kBlocks * kRows;
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
  uint32_t columns[kWidth / 32][4][4];
  copy_async_wait<1>();
  block_sync();
  load_columns(columns, start + static_cast<uint32_t>(warp * 32 * kPitch), kPitch);
  block_sync();
  // Sums may arrive where the weights were.
  greet_cluster();
  copy_rows(start + kLateAt, kHalfPitch, bytes_of(a.second.weight, rank * kSlice + kHalf),
            kHidden * 2, kWidth, 16);
  if (a.next.weight != nullptr) copy_next(start + kNextAt, a.next.weight);
  meet_cluster();
  await_previous_kernel();
  release_next_kernel();

  RFSEG_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int r = thread_index() / 32 + 8 * i, chunk = thread_index() % 32;
    copy_async_16(start + static_cast<uint32_t>(kRowsAt + r * kPitch + chunk * 16),
                  bytes_of(a.x_element, int64_t{known(r)} * kWidth + chunk * 8));
  }
  copy_async_commit();
  const Pair old = load_pair(a.x + int64_t{row} * kWidth + col);
  const Pair position = load_pair(a.position + int64_t{row} * kWidth + col);
  copy_async_wait<0>();
  block_sync();

  float sums[4][4];
  clear(sums);
  multiply(sums, start + kRowsAt, kPitch, columns);
  RFSEG_UNROLL
  for (int t = 0; t < 4; ++t) {
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      *reinterpret_cast<uint32_t*>(hidden + (lane / 4 + 8 * h) * kPitch +
                                   (warp * 32 + t * 8 + lane % 4 * 2) * 2) =
          pack_halves(relu(sums[t][2 * h] + hidden_bias[t].x),
                      relu(sums[t][2 * h + 1] + hidden_bias[t].y));
    }
  }
  block_sync();
  clear(sums);
  RFSEG_ROLLED
  for (int half = 0; half < 2; ++half) {
    multiply(
        sums, start + static_cast<uint32_t>(kHiddenAt + half * kHalf * 2), kPitch,
        start + static_cast<uint32_t>((half == 0 ? kEarlyAt : kLateAt) + warp * 32 * kHalfPitch),
        kHalfPitch, kHalf / 32);
  }
  RFSEG_UNROLL
  for (int t = 0; t < 4; ++t) {
    send(arrivals + (rank * 4 + t) * 128 + lane * 4, boxes, warp, quad_of(sums[t]));
  }
  await_mail(boxes);

  Pair x = own_sums(arrivals, 4, kBlocks);
  x = {x.x + bias.x + old.x, x.y + bias.y + old.y};
  auto* shares = reinterpret_cast<Pair*>(base + kSharesAt);
  normalise(x, shares, boxes + 1, a.eps, gamma, beta);
  const int64_t at = int64_t{row} * kWidth + col;
  if (active) {
    *reinterpret_cast<Pair*>(a.x + at) = x;
    static_cast<uint32_t*>(a.out_element)[at / 2] = pack_halves(x.x, x.y);
  }
  if (a.next.weight == nullptr) {
    if (a.last.gamma == nullptr) return;
    normalise(x, shares + kBlocks * kRows, boxes + 2, a.eps, gamma_after[0], beta_after[0]);
    if (active) static_cast<uint32_t*>(a.hs)[at / 2] = pack_halves(x.x, x.y);
    if (a.then.gamma == nullptr) return;
    normalise(x, shares + 2 * kBlocks * kRows, boxes + 3, a.eps, gamma_after[1], beta_after[1]);
    if (active) static_cast<uint32_t*>(a.hs_normed)[at / 2] = pack_halves(x.x, x.y);
    return;
  }
  hand_over(rows, boxes + 2, x);
  hand_over(hidden, boxes + 3, {x.x + position.x, x.y + position.y});
  await_mail(boxes + 2);
  await_mail(boxes + 3);

  project_next(start + kHiddenAt, start + kRowsAt, start + kNextAt, next_bias,
               reinterpret_cast<float*>(base + kEarlyAt), a.qkv, row, active);
}

}  // namespace
}  // namespace query

void query_forward(const Queue& queue, Math, const QueryForwardArguments& a) {
  launch_cluster<query::forward_body, query::kThreads>(
      queue, {(a.rows + query::kRows - 1) / query::kRows * query::kBlocks, 1}, query::kBlocks,
      query::kForwardBytes, a);
}

bool takes_query_layers(const Queue& queue, Math math, int batch, int queries, int width,
                        int hidden, int samples) {
  // More clusters than find room at a time would come in turns.
  constexpr int kMostTiles = 14;
  static const bool has_clusters = has_hopper_code();
  return math == Math::kFp16 && !queue.portable && queue.few_rows && width == query::kWidth &&
         hidden == query::kHidden && samples <= 8 && has_clusters &&
         batch * ((queries + query::kRows - 1) / query::kRows) <= kMostTiles;
}

}  // namespace rfseg::cuda
