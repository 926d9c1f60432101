#include "engine/cuda/portable/convolution.h"

#include <algorithm>

#include "core/cuda/cluster_mail.h"
#include "core/cuda/launch.h"
#include "core/cuda/teams.h"
#include "engine/cuda/portable/arithmetic.h"
#include "engine/cuda/portable/portable.h"

// A 3x3 convolution with LayerNorm over channels for few cells, fp16. What counts is one trip
// through a block, and that every instruction of it is executed once or twice: so the weights are
// in registers before the previous kernel has ended, the cells that a tile and its taps need are
// fetched once, not once a tap, to places known before, and no tap asks where the map ends: its
// cells lie in shared memory with a border of zeros.
//
// A cluster of 4 blocks has a tile of 32 cells of a picture in row-major order, or of 64 by twice
// the threads where tiles of 32 were more than one block a multiprocessor; a block has 32 of the
// 128 columns. Warp w of eight sums up channels 16 w to 16 w + 15 of all nine taps. The eight sums
// meet in shared memory, where the weights came through, and warp w completes fragment w of the
// block's results. Warps tell all blocks mean and squared distances of their 8 columns of a cell
// (Chan et al. 1979).

namespace rfseg::cuda::portable {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;  // of 32 cells
constexpr int kPartCells = 32, kChannels = 128, kBlocks = 4, kOwn = kChannels / kBlocks;
constexpr int kTaps = 9, kWeightBytes = kTaps * kChannels * 2;  // of a column
constexpr int kWeightPitch = kWeightBytes + 16, kCellPitch = kChannels * 2 + 16;
constexpr int kTiles = kOwn / 8, kParts = kBlocks * kTiles;  // of 8 columns: of a block, of a cell
constexpr int kMostCols = 80;                                // of a map

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
};

/// Of a picture, of so many times 32 cells.
int tiles_of(const ConvolutionTask& task, int parts) {
  return (task.rows * task.cols + parts * kPartCells - 1) / (parts * kPartCells);
}

/// Where a block's shared memory has what, with a tile of so many times 32 cells.
template <int kTileParts>
struct Layout {
  static constexpr int kCells = kTileParts * kPartCells;
  static constexpr int kBox = 0, kShares = 16, kShareBytes = kParts * kCells * 8;
  static constexpr int kWeights = kShares + kShareBytes;
  // Where the weights came through: sums, then cells.
  static constexpr int kMap = kWeights + kTileParts * kWarps * 8 * 512;
  /// Rows of the map that a tile and its taps touch at most.
  RFSEG_HOST_DEVICE static constexpr int rows(int cols) { return (kCells - 2) / cols + 2 + 2; }
  static int bytes(int cols) {
    return std::max(kWeights + kOwn * kWeightPitch, kMap + rows(cols) * (cols + 2) * kCellPitch);
  }
};
static_assert(kWarps == 2 * kTiles && kWarps * 16 == kChannels);

template <Activation kActivation, int kTileParts>
RFSEG_DEVICE void convolve(const ConvolutionTask& task, void* shared) {
  using At = Layout<kTileParts>;
  constexpr int kCells = At::kCells, kHalves = 2;  // fragments of 16 cells
  constexpr int kAllThreads = kTileParts * kThreads;
  // Turns of the block's threads for which places are computed early.
  constexpr int kKnown = kTileParts == 1 ? 6 : 5;
  const int thread = thread_index(), lane = thread % kWarp;
  const int part = team_index<kTileParts, kThreads>();  // of the tile
  const int warp = (thread - part * kThreads) / kWarp;
  const int group = lane / 4, t = lane % 4, rank = cluster_rank();
  auto* base = static_cast<std::byte*>(shared);
  auto* box = reinterpret_cast<MailBox*>(base + At::kBox);
  if (thread == 0) open_box(box, At::kShareBytes);
  warp_sync();
  greet_cluster();
  release_next_kernel();
  const SharedAddress start = shared_address(shared);
  {
    const std::byte* from = static_cast<const std::byte*>(task.weight) + rank * kOwn * kWeightBytes;
    constexpr int kChunks = kWeightBytes / 16;
    RFSEG_UNROLL_BY(6)
    for (int i = thread; i < kOwn * kChunks; i += kAllThreads) {
      copy_async_16(start + static_cast<uint32_t>(At::kWeights + i / kChunks * kWeightPitch +
                                                  i % kChunks * 16),
                    from + i * 16);
    }
    copy_async_commit();
  }
  const int tile = block_x() / kBlocks % task.tiles, picture = block_x() / kBlocks / task.tiles;
  const int cols = task.cols, cells = task.rows * cols, first = tile * kCells;
  const int first_row = first / cols - 1;  // in shared memory
  const auto place_of = [&](int cell) {
    const int y = cell / cols;
    return ((y - first_row) * (cols + 2) + cell - y * cols + 1) * kCellPitch;
  };
  // Of the rows that the tile's cells and their neighbours are in, what the taps need.
  const auto at_least = [](int v, int low) { return v > low ? v : low; };
  const auto at_most = [](int v, int high) { return v < high ? v : high; };
  const int last_row = (first + kCells - 1) / cols + 1;
  const int begin = at_least(at_least(first - cols - 1, first_row * cols), 0);
  const int end = at_most(at_most(first + kCells + cols + 1, (last_row + 1) * cols), cells);
  const std::byte* from = static_cast<const std::byte*>(task.map) +
                          (int64_t{picture} * cells + begin + thread / 16) * task.ld * 2 +
                          thread % 16 * 16;
  const SharedAddress to = start + static_cast<uint32_t>(At::kMap + thread % 16 * 16);
  const int64_t step = kAllThreads / 16 * task.ld * 2;
  int known[kKnown];
  RFSEG_UNROLL
  for (int i = 0; i < kKnown; ++i) {
    known[i] = opaque(place_of(begin + thread / 16 + i * (kAllThreads / 16)));
  }
  // Of this lane's rows of fragments, the corner of the first tap.
  int corner[kHalves];
  RFSEG_UNROLL
  for (int m = 0; m < kHalves; ++m) {
    const int cell = first + part * kPartCells + m * 16 + lane % 16;
    corner[m] = opaque(At::kMap + warp * 32 + lane / 16 * 16 - (cols + 3) * kCellPitch +
                       place_of(cell < cells ? cell : cells - 1));
  }
  const int next_row = opaque((cols + 2) * kCellPitch);
  copy_async_wait<0>();
  block_sync();
  uint32_t weights[kTaps][kTiles / 2][4];
  {
    const SharedAddress columns =
        start + static_cast<uint32_t>(At::kWeights + (lane / 16 * 8 + lane % 8) * kWeightPitch +
                                      lane / 8 % 2 * 16 + warp * 32);
    RFSEG_UNROLL
    for (int tap = 0; tap < kTaps; ++tap) {
      RFSEG_UNROLL
      for (int pair = 0; pair < kTiles / 2; ++pair) {
        load_matrices(weights[tap][pair], columns + static_cast<uint32_t>(pair * 16 * kWeightPitch +
                                                                          tap * kChannels * 2));
      }
    }
  }
  block_sync();
  {
    // Whatever does not arrive is outside of the map.
    const int quads = At::rows(cols) * (cols + 2) * (kCellPitch / 16);
    for (int i = thread; i < quads; i += kAllThreads) {
      store_quad(base + At::kMap + i * 16, {{0, 0, 0, 0}});
    }
  }
  block_sync();
  await_previous_kernel();

  {
    int cell = begin + thread / 16;
    RFSEG_UNROLL
    for (int i = 0; i < kKnown; ++i, cell += kAllThreads / 16, from += step) {
      if (cell < end) copy_async_16(to + static_cast<uint32_t>(known[i]), from);
    }
    RFSEG_ROLLED
    for (; cell < end; cell += kAllThreads / 16, from += step) {
      copy_async_16(to + static_cast<uint32_t>(place_of(cell)), from);
    }
  }
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();

  float d[kHalves][kTiles][4];
  RFSEG_UNROLL
  for (int i = 0; i < kHalves * kTiles; ++i) {
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) d[i / kTiles][i % kTiles][e] = 0;
  }
  RFSEG_UNROLL
  for (int tap = 0; tap < kTaps; ++tap) {
    const int at = tap / 3 * next_row + tap % 3 * kCellPitch;
    uint32_t a[kHalves][4];
    RFSEG_UNROLL
    for (int m = 0; m < kHalves; ++m)
      load_matrices(a[m], start + static_cast<uint32_t>(corner[m] + at));
    RFSEG_UNROLL
    for (int n = 0; n < kTiles; ++n) {
      const uint32_t(&both)[4] = weights[tap][n / 2];
      const uint32_t column[2] = {both[n % 2 * 2], both[n % 2 * 2 + 1]};
      RFSEG_UNROLL
      for (int m = 0; m < kHalves; ++m) mma_f16(d[m][n], a[m], column);
    }
  }
  // [part of the tile][warp][fragment]
  auto* sums = reinterpret_cast<float*>(base + At::kWeights) + part * (kWarps * 8 * 128);
  RFSEG_UNROLL
  for (int i = 0; i < kHalves * kTiles; ++i) {
    const float(&v)[4] = d[i / kTiles][i % kTiles];
    store_quad(sums + (warp * 8 + i) * 128 + lane * 4,
               {{float_bits(v[0]), float_bits(v[1]), float_bits(v[2]), float_bits(v[3])}});
  }
  block_sync();
  // What this thread completes: two columns of cells `local` and `local` + 8 of its part.
  const int local = warp / kTiles * 16 + group, column = rank * kOwn + warp % kTiles * 8 + t * 2;
  const Pair gamma = *reinterpret_cast<const Pair*>(task.gamma + column);
  const Pair beta = *reinterpret_cast<const Pair*>(task.beta + column);
  float v[2][2] = {}, mean[2], squares[2];
  RFSEG_UNROLL
  for (int w = 0; w < kWarps; ++w) {
    const Quad one = load_quad(sums + (w * 8 + warp) * 128 + lane * 4);
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) v[e / 2][e % 2] += float_of_bits(one.word[e]);
  }
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    mean[h] = v[h][0] + v[h][1];
    RFSEG_UNROLL
    for (int i = 1; i < 4; i *= 2) mean[h] += warp_read(mean[h], lane ^ i);
    mean[h] *= 1.0f / 8;
    const float off[2] = {v[h][0] - mean[h], v[h][1] - mean[h]};
    squares[h] = fused(off[0], off[0], off[1] * off[1]);
    RFSEG_UNROLL
    for (int i = 1; i < 4; i *= 2) squares[h] += warp_read(squares[h], lane ^ i);
  }
  // [columns][part of the tile][two halves of that][group]: of a cell and the eighth after it.
  constexpr int kPartBytes = kPartCells * 8, kColumnBytes = kTileParts * kPartBytes;
  std::byte* shares = base + At::kShares + part * kPartBytes + (warp / kTiles * 8 + group) * 16;
  meet_cluster();
  static_assert(kBlocks == 4);  // each of the lanes that share a cell tells a block
  send(shares + (rank * kTiles + warp % kTiles) * kColumnBytes, box, t,
       Quad{{float_bits(mean[0]), float_bits(squares[0]), float_bits(mean[1]),
             float_bits(squares[1])}});
  await_mail(box);
  float part_mean[kParts / 4][2], whole[2] = {0, 0}, all[2] = {0, 0};
  RFSEG_UNROLL
  for (int i = 0; i < kParts / 4; ++i) {
    const Quad one = load_quad(shares + (t + 4 * i) * kColumnBytes);
    RFSEG_UNROLL
    for (int e = 0; e < 2; ++e) {
      part_mean[i][e] = float_of_bits(one.word[2 * e]);
      whole[e] += part_mean[i][e];
      all[e] += float_of_bits(one.word[2 * e + 1]);
    }
  }
  RFSEG_UNROLL
  for (int e = 0; e < 2; ++e) {
    RFSEG_UNROLL
    for (int i = 1; i < 4; i *= 2) whole[e] += warp_read(whole[e], lane ^ i);
    whole[e] *= 1.0f / kParts;
    RFSEG_UNROLL
    for (int i = 0; i < kParts / 4; ++i) {
      const float off = part_mean[i][e] - whole[e];
      all[e] = fused(off * off, 8.0f, all[e]);
    }
    RFSEG_UNROLL
    for (int i = 1; i < 4; i *= 2) all[e] += warp_read(all[e], lane ^ i);
    const float scale = 1.0f / exact_sqrt(all[e] * (1.0f / kChannels) + task.eps);
    const int cell = first + part * kPartCells + local + 8 * e;
    if (cell >= cells) continue;
    const float x = fused((v[e][0] - whole[e]) * scale, gamma.x, beta.x);
    const float y = fused((v[e][1] - whole[e]) * scale, gamma.y, beta.y);
    *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(task.out) +
                                 (int64_t{picture} * cells + cell) * task.ldo + column) =
        pack_halves(activate(x, kActivation), activate(y, kActivation));
  }
}

template <int kTileParts>
void launch_convolution(const Queue& queue, int pictures, Activation activation,
                        ConvolutionTask& task) {
  task.tiles = tiles_of(task, kTileParts);
  const int blocks = pictures * task.tiles * kBlocks;
  const auto bytes = static_cast<std::size_t>(Layout<kTileParts>::bytes(task.cols));
  constexpr int kBlocksEach = kTileParts == 1 ? 2 : 1;  // on a multiprocessor
  if (activation == Activation::kSilu) {
    launch_cluster<convolve<Activation::kSilu, kTileParts>, kTileParts * kThreads, kBlocksEach>(
        queue, {blocks, 1}, kBlocks, bytes, task);
  } else {
    launch_cluster<convolve<Activation::kNone, kTileParts>, kTileParts * kThreads, kBlocksEach>(
        queue, {blocks, 1}, kBlocks, bytes, task);
  }
}

}  // namespace

bool convolution_norm(const Queue& queue, const GemmNormArguments& a) {
  const GemmArguments& g = a.product;
  if (g.source != RowSource::kConv3x3 || g.channels != kChannels || g.n != kChannels ||
      g.stride != 1 || g.map_rows != g.out_rows || g.map_cols != g.out_cols ||
      g.map_cols > kMostCols || !g.b_fixed || g.ldb != kTaps * kChannels) {
    return false;
  }
  if (a.activation != Activation::kSilu && a.activation != Activation::kNone) return false;
  if (g.bias || g.scale || g.residual || !a.gamma || !a.beta || !a.out || a.out_float ||
      a.out_plus || a.sum) {
    return false;
  }
  const auto aligned = [](const void* p, int bytes) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<unsigned>(bytes) == 0;
  };
  if (!aligned(g.a, 16) || g.lda % 8 || !aligned(g.b, 16) || !aligned(a.out, 4) || a.ldo % 2 ||
      !aligned(a.gamma, 8) || !aligned(a.beta, 8)) {
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
  task.eps = a.eps;
  const int pictures = g.m / (g.map_rows * g.map_cols);
  const auto blocks = [&](int parts) { return pictures * tiles_of(task, parts) * kBlocks; };
  if (blocks(1) > multiprocessors() && blocks(2) <= multiprocessors()) {
    launch_convolution<2>(queue, pictures, a.activation, task);
    return true;
  }
  if (blocks(1) > 2 * multiprocessors()) return false;  // a second round
  launch_convolution<1>(queue, pictures, a.activation, task);
  return true;
}

}  // namespace rfseg::cuda::portable
