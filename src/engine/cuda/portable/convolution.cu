#include "engine/cuda/portable/convolution.h"

#include "core/cuda/cluster_mail.h"
#include "core/cuda/launch.h"
#include "engine/cuda/portable/arithmetic.h"
#include "engine/cuda/portable/portable.h"

// A 3x3 convolution with LayerNorm over channels for few cells, fp16. What counts is one trip
// through a block: so the weights are on their way before the previous kernel has ended, the cells
// that a tile and its taps need are fetched once, not once a tap, and no loop waits for memory.
//
// A cluster of 4 blocks has a tile of 32 cells of a picture in row-major order, a block 32 of the
// 128 columns. Warp w sums up channels 16 w to 16 w + 15 of all nine taps; the eight sums meet in
// shared memory, where the weights were. Blocks tell each other mean and squared distances of
// their columns of a cell (Chan et al. 1979).

namespace rfseg::cuda::portable {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kCells = 32, kChannels = 128, kBlocks = 4, kOwn = kChannels / kBlocks;
constexpr int kTaps = 9, kWeightBytes = kTaps * kChannels * 2;  // of a column
constexpr int kWeightPitch = kWeightBytes + 16, kCellPitch = kChannels * 2 + 16;
constexpr int kMostCols = 80;  // of a map

struct ConvolutionTask {
  const void* map;
  int64_t ld;  // of the map, elements
  const void* weight;
  const float* gamma;
  const float* beta;
  void* out;
  int64_t ldo;
  int rows, cols;  // of a picture
  int tiles;       // of a picture
  float eps;
  Activation activation;
};

constexpr int kBoxAt = 0, kSharesAt = 16, kShareBytes = kBlocks * kCells * 8;
constexpr int kWeightsAt = kSharesAt + kShareBytes;
constexpr int kNothingAt = kWeightsAt + kOwn * kWeightPitch;  // a cell of zeros
constexpr int kCellsAt = kNothingAt + kCellPitch;
int shared_bytes(int cols) { return kCellsAt + (kCells + 2 * cols + 2) * kCellPitch; }
static_assert(kWarps * 8 * 512 <= kOwn * kWeightPitch);

RFSEG_DEVICE void convolve(const ConvolutionTask& task, void* shared) {
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  const int rank = cluster_rank();
  auto* base = static_cast<std::byte*>(shared);
  auto* box = reinterpret_cast<MailBox*>(base + kBoxAt);
  // Mean and squared distances of each block's columns.
  auto* shares = reinterpret_cast<Pair*>(base + kSharesAt);
  if (thread == 0) {
    open_box(box, kShareBytes);
    boxes_are_open();
  }
  warp_sync();
  greet_cluster();
  release_next_kernel();
  auto* sums = reinterpret_cast<float*>(base + kWeightsAt);
  const SharedAddress start = shared_address(shared);
  {
    const std::byte* from = static_cast<const std::byte*>(task.weight) + rank * kOwn * kWeightBytes;
    constexpr int kChunks = kWeightBytes / 16;
    RFSEG_UNROLL_BY(6)
    for (int i = thread; i < kOwn * kChunks; i += kThreads) {
      copy_async_16(
          start + static_cast<uint32_t>(kWeightsAt + i / kChunks * kWeightPitch + i % kChunks * 16),
          from + i * 16);
    }
  }
  if (thread < kCellPitch / 16) store_quad(base + kNothingAt + thread * 16, {{0, 0, 0, 0}});
  const int tile = block_x() / kBlocks % task.tiles, picture = block_x() / kBlocks / task.tiles;
  const int cells = task.rows * task.cols, first = tile * kCells;
  // What this thread finishes: four columns of a cell.
  const int local = thread / 8, column = thread % 8 * 4;
  const Quad gamma = load_quad(task.gamma + rank * kOwn + column);
  const Quad beta = load_quad(task.beta + rank * kOwn + column);
  // The cells of this lane's fragment rows, and which taps of them are inside of the map.
  uint32_t inside[2];
  SharedAddress place[2];
  RFSEG_UNROLL
  for (int m = 0; m < 2; ++m) {
    const int at = m * 16 + lane % 16, cell = first + at, y = cell / task.cols;
    const int x = cell - y * task.cols;
    const uint32_t columns = (x > 0 ? 1u : 0u) | 2u | (x + 1 < task.cols ? 4u : 0u);
    inside[m] = (y > 0 ? columns : 0u) | columns << 3 | (y + 1 < task.rows ? columns << 6 : 0u);
    if (cell >= cells) inside[m] = 0;
    place[m] = start + static_cast<uint32_t>(kCellsAt + at * kCellPitch);
  }
  const auto in_cell = static_cast<uint32_t>(warp * 32 + lane / 16 * 16);
  await_previous_kernel();

  {
    const std::byte* map = static_cast<const std::byte*>(task.map) +
                           int64_t{picture} * cells * task.ld * 2 + thread % 16 * 16;
    const int count = kCells + 2 * task.cols + 2;
    for (int i = thread / 16; i < count; i += kThreads / 16) {
      int cell = first - task.cols - 1 + i;
      cell = cell < 0 ? 0 : cell < cells ? cell : cells - 1;
      copy_async_16(start + static_cast<uint32_t>(kCellsAt + i * kCellPitch + thread % 16 * 16),
                    map + cell * task.ld * 2);
    }
  }
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();

  float d[2][4][4];
  RFSEG_UNROLL
  for (int i = 0; i < 8; ++i) {
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) d[i / 4][i % 4][e] = 0;
  }
  const SharedAddress columns =
      start + static_cast<uint32_t>(kWeightsAt + (lane / 16 * 8 + lane % 8) * kWeightPitch +
                                    lane / 8 % 2 * 16 + warp * 32);
  RFSEG_UNROLL
  for (int tap = 0; tap < kTaps; ++tap) {
    const auto shift = static_cast<uint32_t>((tap / 3 * task.cols + tap % 3) * kCellPitch);
    uint32_t a[2][4], b[2][4];
    RFSEG_UNROLL
    for (int m = 0; m < 2; ++m) {
      const bool valid = (inside[m] >> tap & 1u) != 0;
      load_matrices(
          a[m], (valid ? place[m] + shift : start + static_cast<uint32_t>(kNothingAt)) + in_cell);
    }
    RFSEG_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      load_matrices(
          b[pair], columns + static_cast<uint32_t>(pair * 16 * kWeightPitch + tap * kChannels * 2));
    }
    RFSEG_UNROLL
    for (int n = 0; n < 4; ++n) {
      const uint32_t other[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
      RFSEG_UNROLL
      for (int m = 0; m < 2; ++m) mma_f16(d[m][n], a[m], other);
    }
  }
  block_sync();  // the weights are done with
  RFSEG_UNROLL
  for (int i = 0; i < 8; ++i) {
    const float(&v)[4] = d[i / 4][i % 4];
    store_quad(sums + (warp * 8 + i) * 128 + lane * 4,
               {{float_bits(v[0]), float_bits(v[1]), float_bits(v[2]), float_bits(v[3])}});
  }
  block_sync();
  float v[4] = {0, 0, 0, 0};
  {
    const float* from = sums + (local / 16 * 4 + column / 8) * 128 +
                        (local % 8 * 4 + column % 8 / 2) * 4 + local % 16 / 8 * 2;
    RFSEG_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      const Pair low = *reinterpret_cast<const Pair*>(from + w * 8 * 128);
      const Pair high = *reinterpret_cast<const Pair*>(from + w * 8 * 128 + 4);
      v[0] += low.x, v[1] += low.y, v[2] += high.x, v[3] += high.y;
    }
  }
  float mean = (v[0] + v[1]) + (v[2] + v[3]), squares = 0;
  RFSEG_UNROLL
  for (int i = 1; i < 8; i *= 2) mean += warp_read(mean, lane ^ i);
  mean *= 1.0f / kOwn;
  RFSEG_UNROLL
  for (int e = 0; e < 4; ++e) squares = fused(v[e] - mean, v[e] - mean, squares);
  RFSEG_UNROLL
  for (int i = 1; i < 8; i *= 2) squares += warp_read(squares, lane ^ i);
  meet_cluster();
  if (thread % 8 < kBlocks) {
    send(shares + rank * kCells + local, box, thread % 8, Pair{mean, squares});
  }
  await_mail(box);
  const Pair one = shares[thread % kBlocks * kCells + local];
  float whole = one.x;
  RFSEG_UNROLL
  for (int i = 1; i < kBlocks; i *= 2) whole += warp_read(whole, lane ^ i);
  whole *= 1.0f / kBlocks;
  const float off = one.x - whole;
  float all = fused(off * off, static_cast<float>(kOwn), one.y);
  RFSEG_UNROLL
  for (int i = 1; i < kBlocks; i *= 2) all += warp_read(all, lane ^ i);
  const float scale = 1.0f / exact_sqrt(all * (1.0f / kChannels) + task.eps);
  if (first + local >= cells) return;
  RFSEG_UNROLL
  for (int e = 0; e < 4; ++e) {
    v[e] = activate<Math::kFp16>(
        fused((v[e] - whole) * scale, float_of_bits(gamma.word[e]), float_of_bits(beta.word[e])),
        task.activation);
  }
  store_pair(static_cast<uint16_t*>(task.out) +
                 (int64_t{picture} * cells + first + local) * task.ldo + rank * kOwn + column,
             pack_halves(v[0], v[1]), pack_halves(v[2], v[3]));
}

}  // namespace

bool convolution_norm(const Queue& queue, const GemmNormArguments& a) {
  const GemmArguments& g = a.product;
  if (g.source != RowSource::kConv3x3 || g.channels != kChannels || g.n != kChannels ||
      g.stride != 1 || g.map_rows != g.out_rows || g.map_cols != g.out_cols ||
      g.map_cols > kMostCols || !g.b_fixed || g.ldb != kTaps * kChannels) {
    return false;
  }
  if (g.bias || g.scale || g.residual || !a.gamma || !a.beta || !a.out || a.out_float ||
      a.out_plus || a.sum) {
    return false;
  }
  const auto aligned = [](const void* p, int bytes) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<unsigned>(bytes) == 0;
  };
  if (!aligned(g.a, 16) || g.lda % 8 || !aligned(g.b, 16) || !aligned(a.out, 8) || a.ldo % 4 ||
      !aligned(a.gamma, 16) || !aligned(a.beta, 16)) {
    return false;
  }
  ConvolutionTask task;
  task.map = g.a;
  task.ld = g.lda;
  task.weight = g.b;
  task.gamma = a.gamma;
  task.beta = a.beta;
  task.out = a.out;
  task.ldo = a.ldo;
  task.rows = g.map_rows;
  task.cols = g.map_cols;
  task.tiles = (g.map_rows * g.map_cols + kCells - 1) / kCells;
  task.eps = a.eps;
  task.activation = a.activation;
  const int blocks = g.m / (g.map_rows * g.map_cols) * task.tiles * kBlocks;
  if (blocks > 2 * multiprocessors()) return false;  // a second round
  launch_cluster<convolve, kThreads, 2>(queue, {blocks, 1}, kBlocks,
                                        static_cast<std::size_t>(shared_bytes(task.cols)), task);
  return true;
}

}  // namespace rfseg::cuda::portable
