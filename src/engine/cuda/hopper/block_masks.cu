#include <type_traits>

#include "core/cuda/launch.h"
#include "engine/cuda/hopper/block.h"
#include "engine/cuda/hopper/block_device.h"
#include "engine/cuda/hopper/maps.h"
#include "engine/cuda/portable/portable.h"

// Masks of a picture: every query times every pixel's 256 features. A block has 128 pixels and all
// queries, a warpgroup 64 of them, so that the pixels' features are read once and all blocks are
// resident at once. All of k lies in shared memory, asked for by one thread; each warp stages its
// results where its warpgroup's queries were and writes them in pieces of 8 bytes, since rows of
// pixels may begin anywhere.

namespace rfseg::cuda::hopper {
namespace {

struct MasksTask {
  CUtensorMap queries, pixels;  // [rows, 256], boxes of 64 and kPixels rows x 64
  const float* bias;            // of a query
  __half* out;
  int64_t ldo;
  int m, n;
  bool early;  // the pixels are there before the previous kernel has ended
};

constexpr int kPixels = 128, kDepth = 256, kSteps = kDepth / 64;
constexpr int kQueryBytes = 64 * 128, kPixelBytes = kPixels * 128;
constexpr int kQueriesAt = 1024;  // behind the transaction barriers
constexpr int kStagePitch = kPixels * 2 + 16;
static_assert(4 * 16 * kStagePitch <= kSteps * kQueryBytes);

RFSEG_HOST_DEVICE constexpr int shared_bytes_of(int tiles) {
  return 1024 + kQueriesAt + kSteps * (tiles * kQueryBytes + kPixelBytes);
}
static_assert(shared_bytes_of(4) <= 227 * 1024);

template <int kTiles>
RFSEG_DEVICE void multiply_masks(const MasksTask& task, void* shared) {
#if RFSEG_HOPPER
  const uint32_t base = (shared_address(shared) + 1023) / 1024 * 1024;
  const uint32_t queries = base + kQueriesAt;
  const uint32_t pixels = queries + kTiles * kSteps * kQueryBytes;
  const int thread = thread_index(), warp = uniform(thread / 32), lane = lane_index();
  const int tile = warp / 4, first_pixel = block_x() * kPixels;
  if (thread == 0) {
    for (int k = 0; k < kSteps; ++k) barrier_init(base + 8 * k, 1);
    barrier_init_fence();
    const auto load_pixels = [&] {
      for (int k = 0; k < kSteps; ++k) {
        barrier_expect(base + 8 * k, kTiles * kQueryBytes + kPixelBytes);
        load_tile(pixels + k * kPixelBytes, &task.pixels, base + 8 * k, k * 64, first_pixel, 0);
      }
    };
    if (task.early) load_pixels();
    await_previous_kernel();
    if (!task.early) load_pixels();
    for (int k = 0; k < kSteps; ++k) {
      for (int t = 0; t < kTiles; ++t) {
        load_tile(queries + (t * kSteps + k) * kQueryBytes, &task.queries, base + 8 * k, k * 64,
                  t * 64, 0);
      }
    }
  }
  block_sync();
  await_previous_kernel();
  release_next_kernel();
  const int first_row = tile * 64 + warp % 4 * 16;  // of the warp
  float bias[2];
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int row = first_row + lane / 4 + 8 * h;
    bias[h] = row < task.m ? task.bias[row] : 0;
  }
  float d[kPixels / 2];
  const uint32_t own = queries + tile * kSteps * kQueryBytes;
  {
    const uint64_t a = tile_descriptor(own), b = tile_descriptor(pixels);
    for (int k = 0; k < kSteps; ++k) {
      barrier_wait(base + 8 * k, 0);
      wgmma_fence();
      RFSEG_UNROLL
      for (int step = 0; step < 4; ++step) {
        Wgmma<kPixels>::run(d, a + static_cast<uint32_t>(k * kQueryBytes / 16 + 2 * step),
                            b + static_cast<uint32_t>(k * kPixelBytes / 16 + 2 * step),
                            k + step > 0);
      }
      wgmma_commit();
    }
    wgmma_wait<0>();
    fence_registers(d);
  }
  named_sync(1 + tile, 128);  // the queries are done with
  const uint32_t staging = own + static_cast<uint32_t>(warp % 4 * 16 * kStagePitch);
  const uint32_t to = staging + static_cast<uint32_t>(lane % 16 * kStagePitch + lane / 16 * 16);
  RFSEG_UNROLL
  for (int pair = 0; pair < kPixels / 16; ++pair) {
    uint32_t halves[4];
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int at = pair * 8 + i * 2;
      halves[i] = pack_halves(d[at] + bias[i % 2], d[at + 1] + bias[i % 2]);
    }
    store_matrices(to + pair * 32, halves[0], halves[1], halves[2], halves[3]);
  }
  warp_sync();
  const int pixel = first_pixel + lane * 4;
  if (pixel >= task.n) return;
  __half* out = task.out + first_row * task.ldo + pixel;
  RFSEG_UNROLL_BY(4)
  for (int r = 0; r < 16; ++r) {
    if (first_row + r >= task.m) break;
    const float2 v = load_shared2(staging + static_cast<uint32_t>(r * kStagePitch + lane * 8));
    *reinterpret_cast<float2*>(out + r * task.ldo) = v;
  }
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

bool aligned(const void* p, unsigned bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

}  // namespace

bool block_masks(const Queue& queue, const GemmArguments& g) {
  if (g.source != RowSource::kRows || g.k != kDepth || g.index || g.split || g.batch != 1 ||
      !g.row_bias || g.bias || g.scale || g.residual || g.activation != Activation::kNone ||
      g.out_float || g.out_group || g.shares || g.norm_of || g.halves) {
    return false;
  }
  const int blocks = (g.n + kPixels - 1) / kPixels;
  if (blocks > portable::multiprocessors() || g.m < 1 || g.m > 256) return false;
  if (!aligned(g.a, 16) || !aligned(g.b, 16) || !aligned(g.out, 8) || g.lda % 8 || g.ldb % 8 ||
      g.ldo % 4 || g.n % 4) {
    return false;
  }
  MasksTask task = {};
  if (!matrix_map(&task.queries, g.a, g.k, g.m, g.lda, 1, 0, 64, 64) ||
      !matrix_map(&task.pixels, g.b, g.k, g.n, g.ldb, 1, 0, 64, kPixels)) {
    return false;
  }
  task.bias = g.row_bias;
  task.out = static_cast<__half*>(g.out);
  task.ldo = g.ldo;
  task.m = g.m;
  task.n = g.n;
  task.early = g.b_fixed;
  const auto run = [&](auto tiles) {
    constexpr int kTiles = tiles.value;
    launch<&multiply_masks<kTiles>, kTiles * 128>(queue, {blocks, 1}, shared_bytes_of(kTiles),
                                                  task);
  };
  if (g.m <= 128) {
    run(std::integral_constant<int, 2>());
  } else {
    run(std::integral_constant<int, 4>());
  }
  return true;
}

}  // namespace rfseg::cuda::hopper
