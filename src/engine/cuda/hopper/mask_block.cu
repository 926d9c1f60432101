#include "engine/cuda/hopper/mask_block.h"

#include <algorithm>

#include "core/cuda/launch.h"
#include "core/cuda/tensor_core.h"
#include "engine/cuda/hopper/epilogue.h"
#include "engine/cuda/hopper/maps.h"
#include "engine/cuda/portable/portable.h"

// out[b, y, x, :] = in + GELU(W LN(conv3x3_depthwise(in)) + bias), 256 channels.
//
// Apart, the convolution with its norm and the product move the map five times; together twice. A
// warpgroup takes tiles of 8 x 8 cells, all 256 channels; a warp has 16 cells of it. The copy
// engine brings the 10 x 10 cells around a tile, 64 channels at a time, with zeros beyond the map.
//
// The convolution runs on the tensor cores: a product with diagonal 8 x 8 blocks, one for each tap
// and 8 channels, two taps a step of k = 16. That wastes seven eighths of the multiplications, of
// which there are plenty, and takes a fifth of the instructions of doing it channel by channel; a
// tap's rows are addressed one by one (ldmatrix), so that its shift costs nothing. The results, as
// halves, are at once the A operand of the product (a warp's 16 rows of wgmma's 64), and the middle
// tap's operand is the residual: neither leaves the registers. W stays in shared memory.
//
// LayerNorm is applied behind the product, W (v - mean) / deviation = (W v - mean * row_sum(W)) /
// deviation: so a warp needs its rows' statistics only then. Two warpgroups work on tiles of their
// own; while one exponentiates, the other has the tensor cores.

namespace rfseg::cuda::hopper {
namespace {

constexpr int kChannels = 256, kSide = 8, kHalo = kSide + 2;
constexpr int kThreads = 3 * 128;  // two warpgroups, and one of which two threads fetch
constexpr int kSlabChannels = 64, kSlabs = kChannels / kSlabChannels;
constexpr int kSlabBytes = kHalo * kHalo * kSlabChannels * 2, kSlabPitch = 13 * 1024;
constexpr int kSlots = 2;  // slabs of a warpgroup
constexpr int kWeightBytes = kChannels * kSlabChannels * 2;
constexpr int kBoxBytes = 2 * kSide * kSlabChannels * 2, kBoxes = 2;  // two rows of a tile

// Shared memory, from the first multiple of 1024 on.
[[maybe_unused]] constexpr int kDepthwiseBiasAt = 1024;  // float [256]
[[maybe_unused]] constexpr int kVectorsAt = 2048;        // float4 [128]: two biases, two row sums
[[maybe_unused]] constexpr int kTapsAt = 4096;           // half [256, 16]: 9 taps and zeros
constexpr int kStagingAt = kTapsAt + kChannels * 32;     // [warp][kBoxes]
constexpr int kWeightsAt = kStagingAt + 8 * kBoxes * kBoxBytes;
constexpr int kSlabsAt = kWeightsAt + kSlabs * kWeightBytes;
constexpr int kBytes = 1024 + kSlabsAt + 2 * kSlots * kSlabPitch;
static_assert(kSlabBytes <= kSlabPitch && kBytes <= kSharedBytes);
static_assert(kStagingAt % 1024 == 0 && kWeightsAt % 1024 == 0 && kSlabsAt % 1024 == 0);

struct MaskBlockTask {
  CUtensorMap in, out, weight;
  const float* depthwise;
  const float* depthwise_bias;
  const float* bias;
  const float* row_sums;
  float eps;
  int tile_cols, tile_rows, tiles;
};

#if RFSEG_HOPPER

struct Place {
  int x, y, picture;  ///< of a tile's first cell
};
RFSEG_DEVICE Place place_of(const MaskBlockTask& task, int tile) {
  const int row = tile / task.tile_cols;
  return {tile % task.tile_cols * kSide, row % task.tile_rows * kSide, row / task.tile_rows};
}

/// c += A * B with A 16 x 8 and B 8 x 8.
RFSEG_DEVICE void multiply_8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(b));
}
RFSEG_DEVICE void multiply_16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
RFSEG_DEVICE void load_two_matrices(uint32_t from, uint32_t& a, uint32_t& b) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(a), "=r"(b)
               : "r"(from)
               : "memory");
}

/// The convolution of one slab for the warp's 16 cells: halves in wgmma's A layout to `v`, the
/// cells themselves to `old`, and what the statistics need. `rows`: this lane's addresses for the
/// five pairs of taps. Eight channels' taps are a chain of sums, so four such chains run side by
/// side, and the next taps' cells are on their way meanwhile.
RFSEG_DEVICE void convolve(uint32_t slab, const uint32_t (&rows)[5], const char* taps,
                           const float* bias, const uint32_t (&diagonal)[2], uint32_t* v,
                           uint32_t* old, float (&sum)[2], float (&squares)[2]) {
  constexpr int kChains = 4;
  RFSEG_UNROLL
  for (int first = 0; first < kSlabChannels / 8; first += kChains) {
    uint32_t words[kChains][5], a[2][kChains][4];
    float c[kChains][4];
    const auto load = [&](int p) {
      RFSEG_UNROLL
      for (int i = 0; i < kChains; ++i) {
        const uint32_t from = (slab + rows[p]) ^ static_cast<uint32_t>((first + i) << 4);
        uint32_t(&to)[4] = a[p % 2][i];
        if (p < 4) {
          load_matrices(from, to[0], to[1], to[2], to[3]);
        } else {
          load_two_matrices(from, to[0], to[1]);
        }
      }
    };
    load(0);
    RFSEG_UNROLL
    for (int i = 0; i < kChains; ++i) {
      const char* at = taps + (first + i) * 8 * 32;
      const uint4 four = *reinterpret_cast<const uint4*>(at);
      words[i][0] = four.x, words[i][1] = four.y, words[i][2] = four.z, words[i][3] = four.w;
      words[i][4] = *reinterpret_cast<const uint32_t*>(at + 16);
      const float2 start = *reinterpret_cast<const float2*>(bias + (first + i) * 8);
      c[i][0] = c[i][2] = start.x;
      c[i][1] = c[i][3] = start.y;
    }
    RFSEG_UNROLL
    for (int p = 0; p < 5; ++p) {
      if (p < 4) load(p + 1);
      RFSEG_UNROLL
      for (int i = 0; i < kChains; ++i) {
        const uint32_t(&now)[4] = a[p % 2][i];
        const uint32_t b0 = __byte_perm(words[i][p], 0, diagonal[0]);
        if (p < 4) {
          multiply_16(c[i], now, b0, __byte_perm(words[i][p], 0, diagonal[1]));
        } else {
          multiply_8(c[i], now[0], now[1], b0);
        }
        if (p == 2) {  // the middle tap is the first of this pair
          old[2 * (first + i)] = now[0];
          old[2 * (first + i) + 1] = now[1];
        }
      }
    }
    RFSEG_UNROLL
    for (int i = 0; i < kChains; ++i) {
      RFSEG_UNROLL
      for (int h = 0; h < 2; ++h) {
        sum[h] += c[i][2 * h] + c[i][2 * h + 1];
        squares[h] = fused(c[i][2 * h], c[i][2 * h], squares[h]);
        squares[h] = fused(c[i][2 * h + 1], c[i][2 * h + 1], squares[h]);
        v[2 * (first + i) + h] = pack_halves(c[i][2 * h], c[i][2 * h + 1]);
      }
    }
  }
}

#endif

RFSEG_DEVICE void mask_block_body(const MaskBlockTask& task, void* shared) {
#if RFSEG_HOPPER
  const uint32_t start = shared_address(shared);
  const uint32_t base = (start + 1023) / 1024 * 1024;
  char* const memory = static_cast<char*>(shared) + (base - start);
  const uint32_t full = base, empty = base + 64, weight_full = base + 128;
  const int thread = thread_index(), warp = uniform(thread / 32);
  if (thread == 0) {
    for (int i = 0; i < 2 * kSlots; ++i) {
      barrier_init(full + 8 * i, 1);
      barrier_init(empty + 8 * i, 4);
    }
    for (int k = 0; k < kSlabs; ++k) barrier_init(weight_full + 8 * k, 1);
    barrier_init_fence();
  }
  block_sync();
  release_next_kernel();

  if (warp >= 8) {
    give_registers<24>();
    const int group = warp - 8;  // whose slabs it fetches
    if (group > 1 || thread % 32 != 0) return;
    map_prefetch(&task.in);
    if (group == 0) {
      for (int k = 0; k < kSlabs; ++k) {
        barrier_expect(weight_full + 8 * k, kWeightBytes);
        load_tile(base + kWeightsAt + k * kWeightBytes, &task.weight, weight_full + 8 * k,
                  k * kSlabChannels, 0, 0);
      }
    }
    await_previous_kernel();
    int slot = 0, parity = 1;  // a fresh barrier counts as having ended a phase of parity 1
    for (int tile = block_x() + group * grid_x(); tile < task.tiles; tile += 2 * grid_x()) {
      const Place place = place_of(task, tile);
      for (int s = 0; s < kSlabs; ++s) {
        const int at = group * kSlots + slot;
        barrier_wait(empty + 8 * at, parity);
        barrier_expect(full + 8 * at, kSlabBytes);
        load_box(base + kSlabsAt + at * kSlabPitch, &task.in, full + 8 * at, s * kSlabChannels,
                 place.x - 1, place.y - 1, place.picture);
        if (++slot == kSlots) slot = 0, parity ^= 1;
      }
    }
    return;
  }

  take_registers<240>();
  for (int i = thread; i < kChannels; i += 256) {
    reinterpret_cast<float*>(memory + kDepthwiseBiasAt)[i] = task.depthwise_bias[i];
    float* pair = reinterpret_cast<float*>(memory + kVectorsAt) + i / 2 * 4 + i % 2;
    pair[0] = task.bias[i];
    pair[2] = task.row_sums[i];
    __half* taps = reinterpret_cast<__half*>(memory + kTapsAt) + i * 16;
    for (int t = 0; t < 16; ++t) {
      taps[t] = __float2half_rn(t < 9 ? task.depthwise[t * kChannels + i] : 0.0f);
    }
  }
  named_sync(1, 256);

  const int group = warp / 4, lane = lane_index();
  const bool leader = lane == 0;
  if (leader) map_prefetch(&task.out);
  // Where this lane's rows of each pair of taps lie in a slab; 128-byte rows, swizzled.
  uint32_t rows[5];
  const int cell = (warp % 4 * 2 + lane % 16 / 8) * kHalo + lane % 8;
  RFSEG_UNROLL
  for (int p = 0; p < 5; ++p) {
    const int tap = p < 4 ? 2 * p + lane / 16 : 8;
    const int at = cell + tap / 3 * kHalo + tap % 3;
    rows[p] = static_cast<uint32_t>(at * 128 + at % 8 * 16);
  }
  // A lane's two elements of a diagonal block's column are rows 2 (lane % 4) and the next.
  const int column = lane / 4, below = lane % 4 * 2;
  const uint32_t diagonal[2] = {column == below       ? 0x4410u
                                : column == below + 1 ? 0x1044u
                                                      : 0x4444u,
                                column == below       ? 0x4432u
                                : column == below + 1 ? 0x3244u
                                                      : 0x4444u};
  const char* const taps = memory + kTapsAt + column * 32;
  const float* const start_at = reinterpret_cast<const float*>(memory + kDepthwiseBiasAt) + below;
  const float4* const vectors = reinterpret_cast<const float4*>(memory + kVectorsAt) + lane % 4;
  const uint32_t staging = base + kStagingAt + warp * kBoxes * kBoxBytes;
  const int row = lane % 16, second = lane / 16;
  const uint64_t weights = tile_descriptor(base + kWeightsAt);

  int slot = 0, parity = 0;
  bool weights_here = false;
  constexpr int kPart = kSlabChannels / 4, kLast = kChannels / 4 - kPart;
  uint32_t v[kChannels / 4] = {}, old[kChannels / 4] = {};
  for (int tile = block_x() + group * grid_x(); tile < task.tiles; tile += 2 * grid_x()) {
    float sum[2] = {0, 0}, squares[2] = {0, 0};
    // The loops stay loops: code that no warp runs twice would come in slower than it runs. So
    // that registers have fixed names, what belongs to the current slab or part is moved to a fixed
    // place.
    RFSEG_ROLLED
    for (int s = 0; s < kSlabs; ++s) {
      RFSEG_UNROLL
      for (int i = 0; i < kLast; ++i) v[i] = v[i + kPart], old[i] = old[i + kPart];
      const int at = group * kSlots + slot;
      barrier_wait(full + 8 * at, parity);
      convolve(base + kSlabsAt + at * kSlabPitch, rows, taps + s * kSlabChannels * 32,
               start_at + s * kSlabChannels, diagonal, v + kLast, old + kLast, sum, squares);
      fence_async();
      warp_sync();
      if (leader) barrier_arrive(empty + 8 * at);
      if (++slot == kSlots) slot = 0, parity ^= 1;
    }
    float scale[2], shift[2];
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      RFSEG_UNROLL
      for (int d = 1; d < 4; d *= 2) {
        sum[h] += __shfl_xor_sync(kAllLanes, sum[h], d);
        squares[h] += __shfl_xor_sync(kAllLanes, squares[h], d);
      }
      const float mean = sum[h] * (1.0f / kChannels);
      const float variance = fmaxf(fused(-mean, mean, squares[h] * (1.0f / kChannels)), 0.0f);
      scale[h] = rsqrtf(variance + task.eps);
      shift[h] = -mean * scale[h];
    }
    if (!weights_here) {
      for (int k = 0; k < kSlabs; ++k) barrier_wait(weight_full + 8 * k, 0);
      weights_here = true;
    }
    const Place place = place_of(task, tile);
    RFSEG_ROLLED
    for (int part = 0; part < kSlabs; ++part) {  // of the columns
      float d[32];
      wgmma_fence();
      RFSEG_UNROLL
      for (int k = 0; k < kChannels / 16; ++k) {
        WgmmaRegisters<64, false>::run(
            d, v + 4 * k,
            weights + k / 4 * (kWeightBytes / 16) + static_cast<uint32_t>(part * 512) + k % 4 * 2,
            k > 0);
      }
      wgmma_commit();
      // The last but one store has left this box.
      if (leader) store_wait_read<kBoxes - 1>();
      warp_sync();
      wgmma_wait<0>();
      fence_registers(d);
      const uint32_t to = staging + static_cast<uint32_t>(part % kBoxes * kBoxBytes);
      RFSEG_UNROLL
      for (int pair = 0; pair < 4; ++pair) {
        uint32_t halves[4];
        RFSEG_UNROLL
        for (int g = 0; g < 2; ++g) {
          const int j = pair * 2 + g;
          const float4 constants = vectors[(part * 8 + j) * 4];
          RFSEG_UNROLL
          for (int h = 0; h < 2; ++h) {
            const float2 plus = __half22float2(reinterpret_cast<const __half2&>(old[2 * j + h]));
            const float* sums = d + 4 * j + 2 * h;
            const float x = fused(sums[0], scale[h], fused(shift[h], constants.z, constants.x));
            const float y = fused(sums[1], scale[h], fused(shift[h], constants.w, constants.y));
            halves[2 * g + h] = pack_halves(gelu(x) + plus.x, gelu(y) + plus.y);
          }
        }
        store_matrices(to + static_cast<uint32_t>(row * 128 + ((pair * 2 + second) ^ row % 8) * 16),
                       halves[0], halves[1], halves[2], halves[3]);
      }
      RFSEG_UNROLL
      for (int i = 0; i < kLast; ++i) old[i] = old[i + kPart];
      fence_async();
      warp_sync();
      if (leader) {
        store_box(&task.out, to, part * 64, place.x, place.y + warp % 4 * 2, place.picture);
      }
    }
  }
  if (leader) store_wait_all();
#else
  static_cast<void>(task);
  static_cast<void>(shared);
#endif
}

}  // namespace

bool mask_block(const Queue& queue, const MaskBlockArguments& a) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (a.channels != kChannels || !aligned(a.map) || !aligned(a.out) || !aligned(a.weight)) {
    return false;
  }
  MaskBlockTask task = {};
  if (!cells_map(&task.in, a.map, kChannels, a.cols, a.rows, a.batch, kHalo, kHalo) ||
      !cells_map(&task.out, a.out, kChannels, a.cols, a.rows, a.batch, kSide, 2) ||
      !matrix_map(&task.weight, a.weight, kChannels, kChannels, kChannels, 1, 0, kSlabChannels,
                  kChannels)) {
    return false;
  }
  task.depthwise = a.depthwise;
  task.depthwise_bias = a.depthwise_bias;
  task.bias = a.bias;
  task.row_sums = a.row_sums;
  task.eps = a.eps;
  task.tile_cols = (a.cols + kSide - 1) / kSide;
  task.tile_rows = (a.rows + kSide - 1) / kSide;
  task.tiles = task.tile_cols * task.tile_rows * a.batch;
  // Other kernels run beside this one. Where it has all multiprocessors the decoder waits for them,
  // whose chain is what a pass of few pictures takes.
  const int all = portable::multiprocessors();
  const bool large = a.batch == 1 && task.tiles > 2 * all;  // and many queries: their chain is long
  const int share = task.tiles > 32 * all           ? 11
                    : task.tiles > 8 * all || large ? 8
                                                    : 6;  // elevenths
  const int blocks = std::min(task.tiles, std::max(1, all * share / 11));
  launch<&mask_block_body, kThreads>(queue, {blocks, 1}, kBytes, task);
  return true;
}

}  // namespace rfseg::cuda::hopper
