#pragma once

#include <type_traits>

#include "core/cuda/cluster_mail.h"
#include "core/cuda/launch.h"
#include "core/cuda/teams.h"
#include "core/cuda/tensor_core.h"

// What the kernels of a decoder layer share: a cluster of 8 blocks has 16 rows of 256 columns for
// each of its teams, block i the columns from 32 i on. A team, 256 threads of every block, has all
// that concerns its rows, in shared memory of its own; weights are there once. With two teams a
// cluster takes the multiprocessors and the weights of one for twice the rows, in little more time:
// that pays where the clusters of one would leave none for what runs beside them, or not find room.
//
// Every block has the whole rows, as halves, in its own shared memory (`Rows`); results are told to
// the other blocks there.
//
// A product is shared by the eight warps as tiles of 8 columns and parts of k. Sums lie in shared
// memory as they lay in the registers of a tensor core's fragment: [part][tile][lane] quads.

namespace rfseg::cuda::query {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;  ///< of a team
constexpr int kRows = 16, kWidth = 256, kBlocks = 8, kOwn = kWidth / kBlocks;
constexpr int kPitch = kWidth * 2 + 16;  ///< bytes of a row, so that eight rows touch all banks
constexpr int kRowBytes = kRows * kPitch;
constexpr int kStatBytes = kBlocks * kRows * 8;

template <int kTeams>
RFSEG_DEVICE int team_index() {
  return cuda::team_index<kTeams, kThreads>();
}
template <int kTeams>
RFSEG_DEVICE int team_thread() {
  return cuda::team_thread<kTeams, kThreads>();
}

/// How many teams the clusters for so many rows have: more than 56 blocks of one, at work and next,
/// would leave nothing to what runs beside them.
inline int teams_for(int rows) { return rows <= 7 * kRows ? 1 : 2; }
/// Calls launch(std::integral_constant<int, teams_for(rows)>()).
template <class Launch>
void with_teams(int rows, Launch&& launch) {
  if (teams_for(rows) == 1) {
    launch(std::integral_constant<int, 1>());
  } else {
    launch(std::integral_constant<int, 2>());
  }
}
/// Blocks of all clusters for so many rows.
inline int blocks_for(int rows, int teams) {
  return (rows + teams * kRows - 1) / (teams * kRows) * kBlocks;
}

constexpr int kMostShared = 227 * 1024;  ///< bytes of shared memory that a block may ask for
/// More clusters than find room at a time would come in turns.
constexpr int kMostClusters = 16;
constexpr int kMostSamples = 8;  ///< of a head of cross-attention

/// Copies `rows` rows of `chunks` times 16 bytes, `from_step` bytes apart, by all threads.
template <int kTeams>
RFSEG_DEVICE void copy_rows(SharedAddress to, int pitch, const void* from, int64_t from_step,
                            int rows, int chunks) {
  const int turn = kTeams * kThreads / chunks, chunk = thread_index() % chunks;
  const std::byte* p = static_cast<const std::byte*>(from) + chunk * 16;
  to += static_cast<uint32_t>(chunk * 16);
  RFSEG_UNROLL_BY(4)
  for (int row = thread_index() / chunks; row < rows; row += turn) {
    copy_async_16(to + static_cast<uint32_t>(row * pitch), p + row * from_step);
  }
}

/// sums (+)= A B^T of this warp: A 16 rows at `a`, B 8 * kTiles rows at `b`, `steps` times 32
/// columns of both.
template <int kTiles>
RFSEG_DEVICE void multiply(float (&sums)[kTiles][4], SharedAddress a, int a_pitch, SharedAddress b,
                           int b_pitch, int steps) {
  const int lane = thread_index() % kWarp;
  a += static_cast<uint32_t>(lane % 16 * a_pitch + lane / 16 * 16);
  b += static_cast<uint32_t>(lane % 8 * b_pitch + lane / 8 * 16);
  RFSEG_UNROLL_BY(4)
  for (int step = 0; step < steps; ++step) {
    uint32_t rows[2][4];
    load_matrices(rows[0], a + static_cast<uint32_t>(step * 64));
    load_matrices(rows[1], a + static_cast<uint32_t>(step * 64 + 32));
    RFSEG_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      uint32_t columns[4];
      load_matrices(columns, b + static_cast<uint32_t>(tile * 8 * b_pitch + step * 64));
      const uint32_t first[2] = {columns[0], columns[1]}, second[2] = {columns[2], columns[3]};
      mma_f16(sums[tile], rows[0], first);
      mma_f16(sums[tile], rows[1], second);
    }
  }
}
/// multiply() for the rows of all teams, which lie `team_bytes` apart.
template <int kTeams, int kTiles>
RFSEG_DEVICE void multiply_all(float (&sums)[kTeams][kTiles][4], SharedAddress a, int a_pitch,
                               int team_bytes, SharedAddress b, int b_pitch, int steps) {
  const int lane = thread_index() % kWarp;
  a += static_cast<uint32_t>(lane % 16 * a_pitch + lane / 16 * 16);
  b += static_cast<uint32_t>(lane % 8 * b_pitch + lane / 8 * 16);
  RFSEG_UNROLL_BY(4)
  for (int step = 0; step < steps; ++step) {
    uint32_t rows[kTeams][2][4];
    RFSEG_UNROLL
    for (int i = 0; i < 2 * kTeams; ++i) {
      load_matrices(rows[i / 2][i % 2],
                    a + static_cast<uint32_t>(i / 2 * team_bytes + step * 64 + i % 2 * 32));
    }
    RFSEG_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      uint32_t columns[4];
      load_matrices(columns, b + static_cast<uint32_t>(tile * 8 * b_pitch + step * 64));
      const uint32_t first[2] = {columns[0], columns[1]}, second[2] = {columns[2], columns[3]};
      RFSEG_UNROLL
      for (int team = 0; team < kTeams; ++team) {
        mma_f16(sums[team][tile], rows[team][0], first);
        mma_f16(sums[team][tile], rows[team][1], second);
      }
    }
  }
}
/// multiply() with the weights in registers, so that they are read before the rows are there.
/// Behind the next barrier their places may be written by other blocks.
template <int kTiles, int kSteps>
RFSEG_DEVICE void load_columns(uint32_t (&columns)[kSteps][kTiles][4], SharedAddress b,
                               int b_pitch) {
  const int lane = thread_index() % kWarp;
  b += static_cast<uint32_t>(lane % 8 * b_pitch + lane / 8 * 16);
  RFSEG_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    RFSEG_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      load_matrices(columns[step][tile], b + static_cast<uint32_t>(tile * 8 * b_pitch + step * 64));
    }
  }
  uint32_t all = 0;
  RFSEG_UNROLL
  for (int i = 0; i < kSteps * kTiles * 4; ++i) {
    all |= columns[i / (kTiles * 4)][i / 4 % kTiles][i % 4];
  }
  await_loads(all);
}
template <int kTiles, int kSteps>
RFSEG_DEVICE void multiply(float (&sums)[kTiles][4], SharedAddress a, int a_pitch,
                           const uint32_t (&columns)[kSteps][kTiles][4]) {
  const int lane = thread_index() % kWarp;
  a += static_cast<uint32_t>(lane % 16 * a_pitch + lane / 16 * 16);
  RFSEG_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    RFSEG_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t rows[4];
      load_matrices(rows, a + static_cast<uint32_t>(step * 64 + half * 32));
      RFSEG_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        const uint32_t(&four)[4] = columns[step][tile];
        const uint32_t column[2] = {four[2 * half], four[2 * half + 1]};
        mma_f16(sums[tile], rows, column);
      }
    }
  }
}
template <int kTiles>
RFSEG_DEVICE void clear(float (&sums)[kTiles][4]) {
  RFSEG_UNROLL
  for (int i = 0; i < kTiles; ++i) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0;
}
RFSEG_DEVICE Quad quad_of(const float (&v)[4]) {
  return {{float_bits(v[0]), float_bits(v[1]), float_bits(v[2]), float_bits(v[3])}};
}
RFSEG_DEVICE void store_sums(float* to, const float (&sums)[4]) {
  store_quad(to + thread_index() % kWarp * 4, quad_of(sums));
}

/// One product of the team's rows at `rows` with `tiles` times 8 rows of weights: each warp has a
/// tile and a part of k. `tiles` times parts is at most 8. Ends with a barrier.
RFSEG_DEVICE int parts_of(int tiles) { return tiles > 4 ? 1 : tiles > 2 ? 2 : 4; }
template <int kTeams, int kColumns = kWidth>  // of the rows, kColumns * 2 + 16 bytes apart
RFSEG_DEVICE_CALL void multiply_tiles(SharedAddress rows, SharedAddress weights, int tiles,
                                      float* sums) {
  const int warp = team_thread<kTeams>() / kWarp, parts = parts_of(tiles);
  const int tile = warp % tiles, part = warp / tiles, steps = kColumns / 32 / parts;
  if (part < parts) {
    float own[1][4];
    clear(own);
    constexpr int kStep = kColumns * 2 + 16;
    const auto at = static_cast<uint32_t>(part * steps * 64);
    multiply(own, rows + at, kStep, weights + static_cast<uint32_t>(tile * 8 * kStep) + at, kStep,
             steps);
    store_sums(sums + (part * tiles + tile) * 128, own[0]);
  }
  block_sync();
}
/// Where columns `col` and `col + 1` (col even) of row `row` lie in a tile's sums.
RFSEG_DEVICE int place_in_tile(int row, int col) {
  return ((row % 8) * 4 + col % 8 / 2) * 4 + row / 8 * 2;
}
RFSEG_DEVICE Pair load_pair(const float* p) { return *reinterpret_cast<const Pair*>(p); }

/// The two columns that a thread has of the block's 32: the team's row thread / 16.
template <int kTeams>
RFSEG_DEVICE Pair own_sums(const float* sums, int tiles, int parts) {
  const int row = team_thread<kTeams>() / 16, col = thread_index() % 16 * 2;
  const float* from = sums + col / 8 * 128 + place_in_tile(row, col);
  Pair v = load_pair(from);
  for (int part = 1; part < parts; ++part) {
    const Pair more = load_pair(from + part * tiles * 128);
    v.x += more.x;
    v.y += more.y;
  }
  return v;
}

/// Mean of a row's columns, and squared distances from it, of a thread or of more of them.
constexpr int kShareMail = kBlocks * kRows * 8;
/// Merges what kLanes neighbours know of `columns` columns each.
template <int kLanes>
RFSEG_DEVICE void merge(Pair& share, float columns) {
  const int lane = thread_index() % kWarp;
  RFSEG_UNROLL
  for (int d = 1; d < kLanes; d *= 2, columns *= 2) {
    const Pair other = {warp_read(share.x, lane ^ d), warp_read(share.y, lane ^ d)};
    const float apart = share.x - other.x;
    share.y = fused(apart * apart, 0.5f * columns, share.y + other.y);
    share.x = 0.5f * (share.x + other.x);
  }
}
/// To 2 units in the last place, without the exact operations' questions about special numbers.
RFSEG_DEVICE float inverse_root(float v) {
#ifdef __CUDA_ARCH__
  return rsqrtf(v);
#else
  return 1.0f / exact_sqrt(v);
#endif
}
/// LayerNorm of rows whose columns all threads of the team have, two each as own_sums(). Each
/// block tells all its shares; every call needs `shares` [kBlocks][kRows] and a box of its own.
template <int kTeams>
RFSEG_DEVICE void normalise(Pair& v, Pair* shares, MailBox* box, float eps, const Pair& gamma,
                            const Pair& beta) {
  const int to = thread_index() % 16, row = team_thread<kTeams>() / 16;
  Pair share = {0.5f * (v.x + v.y), 0.5f * (v.x - v.y) * (v.x - v.y)};
  merge<16>(share, 2);
  if (to < kBlocks) send(shares + cluster_rank() * kRows + row, box, to, share);
  await_mail(box);
  share = shares[thread_index() % kBlocks * kRows + row];
  merge<kBlocks>(share, kOwn);
  const float scale = inverse_root(share.y * (1.0f / kWidth) + eps);
  v.x = fused((v.x - share.x) * scale, gamma.x, beta.x);
  v.y = fused((v.y - share.x) * scale, gamma.y, beta.y);
}

/// Bytes that hand_over_words() brings each block, of rows with `columns` columns.
RFSEG_HOST_DEVICE constexpr int handed_bytes(int columns = kWidth) { return kRows * columns * 2; }
/// Tells all blocks, this one too, this thread's kWords * 2 columns of its row as halves; rows of
/// kWords * 256 columns lie 16 bytes further apart than they are long. Whoever has got all of it
/// knows that every warp of the team has come this far. Ends with a barrier of the block, which
/// costs nothing while the mail is under way, so that what the block's warps have read may be
/// written again.
template <int kTeams, int kWords>
RFSEG_DEVICE void hand_over_words(std::byte* rows, MailBox* box, const uint32_t (&own)[kWords]) {
  constexpr int kLanes = 4 / kWords;  // have a quad together; each sends it to its share of blocks
  const int lane = thread_index() % kWarp;
  Quad q;
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) {
    q.word[i] = warp_read(own[i % kWords], lane / kLanes * kLanes + i / kWords);
  }
  std::byte* to = rows + team_thread<kTeams>() / 16 * (kWidth * kWords * 2 + 16) +
                  cluster_rank() * kOwn * kWords * 2 + thread_index() % 16 / kLanes * 16;
  RFSEG_UNROLL
  for (int i = 0; i < kBlocks / kLanes; ++i) send(to, box, lane % kLanes + i * kLanes, q);
  block_sync();
}
/// The same of rows of 256 columns.
template <int kTeams>
RFSEG_DEVICE void hand_over(std::byte* rows, MailBox* box, const Pair& v) {
  const uint32_t own[1] = {pack_halves(v.x, v.y)};
  hand_over_words<kTeams>(rows, box, own);
}

RFSEG_DEVICE float relu(float v) { return v > 0 ? v : (v <= 0 ? 0.0f : v); }

/// Requests the block's 96 rows of a layer's weights for queries, keys and values.
template <int kTeams>
RFSEG_DEVICE void copy_next(SharedAddress to, const void* weight) {
  for (int kind = 0; kind < 3; ++kind) {
    copy_rows<kTeams>(to + static_cast<uint32_t>(kind * kOwn * kPitch), kPitch,
                      static_cast<const std::byte*>(weight) +
                          int64_t{kind * kWidth + cluster_rank() * kOwn} * kWidth * 2,
                      kWidth * 2, kOwn, 32);
  }
}
constexpr int kNextBytes = 3 * kOwn * kPitch, kNextSumBytes = 2 * 3 * kOwn / 8 * 512;

/// What project_next() adds to this thread's columns.
RFSEG_DEVICE void load_next_bias(Pair (&shift)[3], const float* bias) {
  RFSEG_UNROLL
  for (int kind = 0; kind < 3; ++kind) {
    shift[kind] = load_pair(bias + kind * kWidth + cluster_rank() * kOwn + thread_index() % 16 * 2);
  }
}

/// A layer's queries and keys of the rows `positioned`, its values of `plain`, to row `row` of
/// `qkv` if `active`. A warp has a tile of 8 columns of each, and half of k.
template <int kTeams>
RFSEG_DEVICE void project_next(SharedAddress positioned, SharedAddress plain, SharedAddress weights,
                               const Pair (&shift)[3], float* sums, void* qkv, int row,
                               bool active) {
  constexpr int kTiles = 3 * kOwn / 8;
  const int lane = thread_index() % kWarp, warp = team_thread<kTeams>() / kWarp;
  const int tile = warp % 4, part = warp / 4;
  const auto half_of_k = static_cast<uint32_t>(part * kWidth);  // bytes
  const auto in_rows = half_of_k + static_cast<uint32_t>(lane % 16 * kPitch + lane / 16 * 16);
  weights += half_of_k + static_cast<uint32_t>((tile * 8 + lane % 8) * kPitch + lane / 8 * 16);
  float next[3][4];
  clear(next);
  RFSEG_UNROLL_BY(2)
  for (int step = 0; step < kWidth / 64; ++step) {
    const auto at = static_cast<uint32_t>(step * 64);
    uint32_t operand[2][2][4];
    RFSEG_UNROLL
    for (int i = 0; i < 2; ++i) {
      load_matrices(operand[0][i], positioned + in_rows + at + static_cast<uint32_t>(i * 32));
      load_matrices(operand[1][i], plain + in_rows + at + static_cast<uint32_t>(i * 32));
    }
    RFSEG_UNROLL
    for (int kind = 0; kind < 3; ++kind) {
      uint32_t columns[4];
      load_matrices(columns, weights + static_cast<uint32_t>(kind * kOwn * kPitch) + at);
      const uint32_t first[2] = {columns[0], columns[1]}, second[2] = {columns[2], columns[3]};
      mma_f16(next[kind], operand[kind / 2][0], first);
      mma_f16(next[kind], operand[kind / 2][1], second);
    }
  }
  RFSEG_UNROLL
  for (int kind = 0; kind < 3; ++kind) {
    store_sums(sums + (part * kTiles + kind * 4 + tile) * 128, next[kind]);
  }
  block_sync();
  if (!active) return;
  const int col = cluster_rank() * kOwn + thread_index() % 16 * 2;
  RFSEG_UNROLL
  for (int kind = 0; kind < 3; ++kind) {
    const Pair v = own_sums<kTeams>(sums + kind * 4 * 128, kTiles, 2);
    static_cast<uint32_t*>(qkv)[(int64_t{row} * 3 * kWidth + kind * kWidth + col) / 2] =
        pack_halves(v.x + shift[kind].x, v.y + shift[kind].y);
  }
}

}  // namespace rfseg::cuda::query
