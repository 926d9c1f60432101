#pragma once

#include "core/cuda/launch.h"
#include "engine/cuda/portable/arithmetic.h"
#include "engine/cuda/portable/portable.h"

// Attention of products.h on mma.sync: softmax with a running maximum, scores never leave
// registers.
//
// A block takes kRows = kWarpsM * kTilesM * 16 queries of one head. Its kSplits groups of kWarpsM
// warps share the keys: group s takes the blocks of kKeys keys s, s + kSplits, ..., each through
// kStages places in shared memory of its own. With one warp a group only the warp itself waits;
// that is how few queries keep many warps busy. At the end the groups' unnormalised sums,
// maxima and weights meet in shared memory.
//
// Shared memory: rows of head_dim elements, 16-byte chunk c of row r at a place turned by r, so
// that eight rows' same chunk lies in all banks.
//
// Scores of query row g and keys 2 t, 2 t + 1 come out of the first product where the second wants
// its A: for halves as they are; for floats step i takes key 2 t as word t and key 2 t + 1 as word
// t + 4, for the order of keys does not matter as long as V is read in the same.

namespace rfseg::cuda::portable {

template <Math kMathT, int kHeadDimT, int kTilesMT, int kWarpsMT, int kSplitsT, int kKeysT,
          int kStagesT, int kMinBlocksT = 1>
struct AttentionTile {
  static constexpr Math kMath = kMathT;
  static constexpr int kHeadDim = kHeadDimT, kTilesM = kTilesMT, kWarpsM = kWarpsMT;
  static constexpr int kSplits = kSplitsT, kKeys = kKeysT, kStages = kStagesT;
  static constexpr int kMinBlocks = kMinBlocksT;
  static constexpr int kThreads = kWarpsM * kSplits * 32;
  static constexpr int kRows = kWarpsM * kTilesM * 16;
  static constexpr int kRowBytes = kHeadDim * Arithmetic<kMath>::kBytes;
  static constexpr int kChunks = kRowBytes / 16;
  static constexpr int kSteps = kRowBytes / 32;  ///< of the product with K^T
  static constexpr int kTileBytes = kKeys * kRowBytes;
  static constexpr int kQueryBytes = kRows * kRowBytes;
  static constexpr int kPitch = kHeadDim + 8;  ///< floats, of the sums at the end
  static constexpr int kSumBytes = kSplits * kRows * (kPitch + 2) * 4;
  /// Whether queries stay in registers, where they are halves and few threads share them.
  static constexpr bool kKeepsQueries = kMath == Math::kFp16 && kThreads * kMinBlocks < 512;
  /// Whether queries only pass through shared memory, where the first values will lie.
  static constexpr bool kPassesQueries = kKeepsQueries && kWarpsM == 1 && kQueryBytes <= kTileBytes;
  static constexpr int kStagedBytes =
      (kPassesQueries ? 0 : kQueryBytes) + kSplits * kStages * 2 * kTileBytes;
  static constexpr int kSharedBytes = kStagedBytes > kSumBytes ? kStagedBytes : kSumBytes;
  static_assert(kSharedBytes <= kMaxSharedBytes && kKeys % 16 == 0 && kRowBytes >= 64);
};

/// Where chunk `chunk` of row `row` lies in a tile of rows of kRowBytes.
template <int kRowBytes>
RFSEG_DEVICE uint32_t turned(int at_row, int at_chunk) {
  const uint32_t row = static_cast<uint32_t>(at_row), chunk = static_cast<uint32_t>(at_chunk);
  if constexpr (kRowBytes == 64) {  // two rows share the banks
    return row / 2 * 128 + ((row % 2 * 4 + chunk) ^ (row / 2 % 4)) * 16;
  } else {
    return row * kRowBytes + (chunk ^ (row % 8)) * 16;
  }
}

/// `threads` threads, of which this is `thread`, copy `count` rows from row `first` of `from` on;
/// rows from `length` on are copies of the last one.
template <int kRowBytes, int count, int threads>
RFSEG_DEVICE void copy_rows(SharedAddress to, const std::byte* from, int row_bytes, int first,
                            int length, int thread) {
  constexpr int kChunks = kRowBytes / 16, kRowsAtOnce = threads / kChunks;
  constexpr int kTurns = (count + kRowsAtOnce - 1) / kRowsAtOnce;
  const int row = thread / kChunks, chunk = thread % kChunks;
  from += chunk * 16;
  RFSEG_UNROLL
  for (int i = 0; i < kTurns; ++i) {
    const int at = row + i * kRowsAtOnce;
    if (count % kRowsAtOnce != 0 && at >= count) break;
    const int source = first + at < length ? first + at : length - 1;
    copy_async_16(to + turned<kRowBytes>(at, chunk),
                  from + static_cast<int64_t>(source) * row_bytes);
  }
}

/// o += p * V of one tile of keys.
template <class Tile>
RFSEG_DEVICE void add_values(float (&o)[Tile::kTilesM][Tile::kHeadDim / 8][4],
                             const float (&p)[Tile::kTilesM][Tile::kKeys / 8][4], SharedAddress v) {
  using Core = Arithmetic<Tile::kMath>;
  const int lane = thread_index() % kWarp;
  if constexpr (Tile::kMath == Math::kFp16) {
    RFSEG_UNROLL
    for (int step = 0; step < Tile::kKeys / 16; ++step) {
      uint32_t a[Tile::kTilesM][4];
      RFSEG_UNROLL
      for (int m = 0; m < Tile::kTilesM; ++m) {
        RFSEG_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float(&from)[4] = p[m][2 * step + i / 2];
          a[m][i] = pack_halves(from[i % 2 * 2], from[i % 2 * 2 + 1]);
        }
      }
      RFSEG_UNROLL
      for (int pair = 0; pair < Tile::kHeadDim / 16; ++pair) {
        uint32_t b[4];
        load_matrices_transposed(
            b, v + turned<Tile::kRowBytes>(step * 16 + lane % 16, pair * 2 + lane / 16));
        RFSEG_UNROLL
        for (int half = 0; half < 2; ++half) {
          const uint32_t other[2] = {b[2 * half], b[2 * half + 1]};
          RFSEG_UNROLL
          for (int m = 0; m < Tile::kTilesM; ++m) mma_f16(o[m][pair * 2 + half], a[m], other);
        }
      }
    }
  } else {
    const int g = lane / 4, t = lane % 4;
    RFSEG_UNROLL
    for (int step = 0; step < Tile::kKeys / 8; ++step) {
      typename Core::A a[Tile::kTilesM];
      RFSEG_UNROLL
      for (int m = 0; m < Tile::kTilesM; ++m) {
        const float(&from)[4] = p[m][step];
        const uint32_t raw[4] = {float_bits(from[0]), float_bits(from[2]), float_bits(from[1]),
                                 float_bits(from[3])};
        Core::take_a(a[m], raw);
      }
      RFSEG_UNROLL
      for (int n = 0; n < Tile::kHeadDim / 8; ++n) {
        const int chunk = n * 2 + g / 4, row = step * 8 + 2 * t;
        const uint32_t word = static_cast<uint32_t>(g % 4 * 4);
        typename Core::B b;
        Core::take_b(b, load_shared_word(v + turned<Tile::kRowBytes>(row, chunk) + word),
                     load_shared_word(v + turned<Tile::kRowBytes>(row + 1, chunk) + word));
        RFSEG_UNROLL
        for (int m = 0; m < Tile::kTilesM; ++m) Core::multiply(o[m][n], a[m], b);
      }
    }
  }
}

template <class Tile>
RFSEG_DEVICE void attention_body(const AttentionArguments& g, void* shared) {
  using Core = Arithmetic<Tile::kMath>;
  constexpr int kBytes = Core::kBytes, kTilesM = Tile::kTilesM, kHeadDim = Tile::kHeadDim;
  constexpr int kGroupThreads = Tile::kWarpsM * 32;
  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp;
  const int split = warp / Tile::kWarpsM, member = thread_index() % kGroupThreads;
  const int warp_row = warp % Tile::kWarpsM * kTilesM * 16;
  const int first_row = block_x() * Tile::kRows, head_of = block_y();
  const int head = head_of % g.heads, sequence = head_of / g.heads;
  const int64_t base = static_cast<int64_t>(sequence) * g.length;
  const auto at = [&](const void* p, int64_t ld) {
    return static_cast<const std::byte*>(p) + (base * ld + head * kHeadDim) * kBytes;
  };
  const std::byte* k = at(g.k, g.ldk);
  const std::byte* v = at(g.v, g.ldv);
  release_next_kernel();

  const SharedAddress start = shared_address(shared);
  const SharedAddress queries =
      start + static_cast<uint32_t>(Tile::kPassesQueries ? Tile::kTileBytes : 0);
  const SharedAddress staged =
      start + static_cast<uint32_t>((Tile::kPassesQueries ? 0 : Tile::kQueryBytes) +
                                    split * Tile::kStages * 2 * Tile::kTileBytes);
  const int blocks = (g.length + Tile::kKeys - 1) / Tile::kKeys;
  const int rounds = (blocks + Tile::kSplits - 1) / Tile::kSplits;
  const auto keys_at = [&](int round) {
    return staged + static_cast<uint32_t>(round % Tile::kStages * 2 * Tile::kTileBytes);
  };
  const auto values_at = [&](int round) {
    return keys_at(round) + static_cast<uint32_t>(Tile::kTileBytes);
  };
  const auto first_key = [&](int round) { return (round * Tile::kSplits + split) * Tile::kKeys; };
  const auto copy_keys = [&](int round) {
    if (first_key(round) >= g.length) return;
    copy_rows<Tile::kRowBytes, Tile::kKeys, kGroupThreads>(
        keys_at(round), k, static_cast<int>(g.ldk) * kBytes, first_key(round), g.length, member);
  };
  const auto copy_values = [&](int round) {
    if (first_key(round) >= g.length) return;
    copy_rows<Tile::kRowBytes, Tile::kKeys, kGroupThreads>(
        values_at(round), v, static_cast<int>(g.ldv) * kBytes, first_key(round), g.length, member);
  };
  constexpr bool kKeepsQueries = Tile::kKeepsQueries;
  const auto load_query = [&](uint32_t(&raw)[4], int step, int m) {
    load_matrices(raw, queries + turned<Tile::kRowBytes>(warp_row + m * 16 + lane % 16,
                                                         step * 2 + lane / 16));
  };
  uint32_t q[kKeepsQueries ? Tile::kSteps : 1][kTilesM][4];
  const auto keep_queries = [&] {
    if constexpr (kKeepsQueries) {
      RFSEG_UNROLL
      for (int step = 0; step < Tile::kSteps; ++step) {
        RFSEG_UNROLL
        for (int m = 0; m < kTilesM; ++m) load_query(q[step][m], step, m);
      }
    }
  };

  // In units of log2: weight = 2^(score * factor - maximum).
  const float factor = g.scale * 1.44269504f;
  constexpr float kLowest = -1e30f;
  float o[kTilesM][kHeadDim / 8][4];
  float maximum[kTilesM][2], weight[kTilesM][2];
  RFSEG_UNROLL
  for (int m = 0; m < kTilesM; ++m) {
    RFSEG_UNROLL
    for (int n = 0; n < kHeadDim / 8; ++n) {
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) o[m][n][e] = 0;
    }
    RFSEG_UNROLL
    for (int half = 0; half < 2; ++half) {
      maximum[m][half] = kLowest;
      weight[m][half] = 0;
    }
  }

  float p[kTilesM][Tile::kKeys / 8][4];
  // p = Q K^T of a tile of keys.
  const auto score = [&](SharedAddress keys) {
    RFSEG_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      RFSEG_UNROLL
      for (int n = 0; n < Tile::kKeys / 8; ++n) {
        RFSEG_UNROLL
        for (int e = 0; e < 4; ++e) p[m][n][e] = 0;
      }
    }
    RFSEG_UNROLL
    for (int step = 0; step < Tile::kSteps; ++step) {
      typename Core::A a[kTilesM];
      RFSEG_UNROLL
      for (int m = 0; m < kTilesM; ++m) {
        uint32_t query[4];
        if constexpr (!kKeepsQueries) load_query(query, step, m);
        Core::take_a(a[m], kKeepsQueries ? q[kKeepsQueries ? step : 0][m] : query);
      }
      RFSEG_UNROLL
      for (int pair = 0; pair < Tile::kKeys / 16; ++pair) {
        uint32_t raw[4];
        load_matrices(raw, keys + turned<Tile::kRowBytes>(pair * 16 + lane / 16 * 8 + lane % 8,
                                                          step * 2 + lane / 8 % 2));
        RFSEG_UNROLL
        for (int half = 0; half < 2; ++half) {
          typename Core::B b;
          Core::take_b(b, raw[2 * half], raw[2 * half + 1]);
          RFSEG_UNROLL
          for (int m = 0; m < kTilesM; ++m) Core::multiply(p[m][2 * pair + half], a[m], b);
        }
      }
    }
  };
  // Scores to weights; what was summed before shrinks to the new maximum.
  const auto weigh = [&](int first) {
    if (first + Tile::kKeys > g.length) {
      RFSEG_UNROLL
      for (int n = 0; n < Tile::kKeys / 8; ++n) {
        RFSEG_UNROLL
        for (int e = 0; e < 2; ++e) {
          if (first + n * 8 + lane % 4 * 2 + e < g.length) continue;
          RFSEG_UNROLL
          for (int m = 0; m < kTilesM; ++m) p[m][n][e] = p[m][n][e + 2] = -INFINITY;
        }
      }
    }
    float now[kTilesM][2];
    RFSEG_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      RFSEG_UNROLL
      for (int half = 0; half < 2; ++half) {
        float highest = p[m][0][2 * half];
        RFSEG_UNROLL
        for (int n = 0; n < Tile::kKeys / 8; ++n) {
          highest = fmaxf(highest, fmaxf(p[m][n][2 * half], p[m][n][2 * half + 1]));
        }
        now[m][half] = highest;
      }
    }
    RFSEG_UNROLL
    for (int d = 1; d <= 2; d *= 2) {
      RFSEG_UNROLL
      for (int m = 0; m < kTilesM; ++m) {
        RFSEG_UNROLL
        for (int half = 0; half < 2; ++half) {
          now[m][half] = fmaxf(now[m][half], warp_read(now[m][half], lane ^ d));
        }
      }
    }
    RFSEG_UNROLL
    for (int m = 0; m < kTilesM; ++m) {
      RFSEG_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float high = fmaxf(maximum[m][half], now[m][half] * factor);
        const float shrink = approximate_exp2(maximum[m][half] - high);
        maximum[m][half] = high;
        float sum = 0;
        RFSEG_UNROLL
        for (int n = 0; n < Tile::kKeys / 8; ++n) {
          RFSEG_UNROLL
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            p[m][n][e] = approximate_exp2(fused(p[m][n][e], factor, -high));
            sum += p[m][n][e];
          }
        }
        weight[m][half] = fused(weight[m][half], shrink, sum);
        RFSEG_UNROLL
        for (int n = 0; n < kHeadDim / 8; ++n) {
          o[m][n][2 * half] *= shrink;
          o[m][n][2 * half + 1] *= shrink;
        }
      }
    }
  };

  await_previous_kernel();
  copy_rows<Tile::kRowBytes, Tile::kRows, Tile::kThreads>(queries, at(g.q, g.ldq),
                                                          static_cast<int>(g.ldq) * kBytes,
                                                          first_row, g.length, thread_index());
  copy_async_commit();
  if constexpr (Tile::kWarpsM == 1) {
    // Keys and values come and go on their own, each as soon as its place is free.
    constexpr int kPending = 2 * Tile::kStages - 1;
    copy_keys(0);
    copy_async_commit();
    if constexpr (Tile::kPassesQueries) {
      copy_async_wait<1>();
      block_sync();
      keep_queries();
      block_sync();
    }
    copy_values(0);
    copy_async_commit();
    RFSEG_UNROLL
    for (int round = 1; round < Tile::kStages; ++round) {
      copy_keys(round);
      copy_async_commit();
      copy_values(round);
      copy_async_commit();
    }
    if constexpr (!Tile::kPassesQueries) {
      copy_async_wait<2 * Tile::kStages>();
      block_sync();
      keep_queries();
    }
    for (int round = 0; round < rounds; ++round) {
      const int first = first_key(round);
      const bool any = first < g.length;
      copy_async_wait<kPending>();
      warp_sync();
      if (any) score(keys_at(round));
      warp_sync();
      copy_keys(round + Tile::kStages);
      copy_async_commit();
      if (any) weigh(first);
      copy_async_wait<kPending>();
      warp_sync();
      if (any) add_values<Tile>(o, p, values_at(round));
      warp_sync();
      copy_values(round + Tile::kStages);
      copy_async_commit();
    }
  } else {
    RFSEG_UNROLL
    for (int round = 0; round < Tile::kStages - 1; ++round) {
      copy_keys(round);
      copy_values(round);
      copy_async_commit();
    }
    copy_async_wait<Tile::kStages - 1>();
    block_sync();
    keep_queries();
    for (int round = 0; round < rounds; ++round) {
      copy_async_wait<Tile::kStages - 2>();
      block_sync();
      copy_keys(round + Tile::kStages - 1);
      copy_values(round + Tile::kStages - 1);
      copy_async_commit();
      const int first = first_key(round);
      if (first >= g.length) continue;
      score(keys_at(round));
      weigh(first);
      add_values<Tile>(o, p, values_at(round));
    }
  }
  copy_async_wait<0>();
  block_sync();

  // The groups meet: sums [split][row][kPitch], then maxima and weights [split][row].
  float* sums = static_cast<float*>(shared);
  float* maxima = sums + Tile::kSplits * Tile::kRows * Tile::kPitch;
  float* weights = maxima + Tile::kSplits * Tile::kRows;
  RFSEG_UNROLL
  for (int m = 0; m < kTilesM; ++m) {
    RFSEG_UNROLL
    for (int half = 0; half < 2; ++half) {
      float w = weight[m][half];
      w += warp_read(w, lane ^ 1);
      w += warp_read(w, lane ^ 2);
      const int row = split * Tile::kRows + warp_row + m * 16 + half * 8 + lane / 4;
      if (lane % 4 == 0) {
        maxima[row] = maximum[m][half];
        weights[row] = w;
      }
      RFSEG_UNROLL
      for (int n = 0; n < kHeadDim / 8; ++n) {
        float* to = sums + row * Tile::kPitch + n * 8 + lane % 4 * 2;
        to[0] = o[m][n][2 * half];
        to[1] = o[m][n][2 * half + 1];
      }
    }
  }
  block_sync();
  constexpr int kParts = kHeadDim / 4;
  RFSEG_UNROLL
  for (int i = 0; i < (Tile::kRows * kParts + Tile::kThreads - 1) / Tile::kThreads; ++i) {
    const int item = i * Tile::kThreads + thread_index();
    const int row = item / kParts, col = item % kParts * 4;
    if (row >= Tile::kRows || first_row + row >= g.length) break;
    float highest = maxima[row];
    RFSEG_UNROLL
    for (int s = 1; s < Tile::kSplits; ++s) highest = fmaxf(highest, maxima[s * Tile::kRows + row]);
    float total = 0, values[4] = {};
    RFSEG_UNROLL
    for (int s = 0; s < Tile::kSplits; ++s) {
      const int from = s * Tile::kRows + row;
      const float share = approximate_exp2(maxima[from] - highest);
      total = fused(share, weights[from], total);
      const Quad part = load_quad(sums + from * Tile::kPitch + col);
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) values[e] = fused(share, float_of_bits(part.word[e]), values[e]);
    }
    const float divisor = 1.0f / total;
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) values[e] *= divisor;
    std::byte* to = static_cast<std::byte*>(g.out) +
                    ((base + first_row + row) * g.ldo + head * kHeadDim + col) * kBytes;
    if constexpr (Tile::kMath == Math::kFp16) {
      store_pair(to, pack_halves(values[0], values[1]), pack_halves(values[2], values[3]));
    } else {
      store_quad(to, {{float_bits(values[0]), float_bits(values[1]), float_bits(values[2]),
                       float_bits(values[3])}});
    }
  }
}

}  // namespace rfseg::cuda::portable
