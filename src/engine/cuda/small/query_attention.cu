#include <algorithm>

#include "engine/cuda/small/elements.h"
#include "engine/cuda/small/query_cluster.h"
#include "engine/cuda/small/query_layer.h"
#include "rfseg/error.h"

// The first half of a decoder layer: from queries, keys and values to the rows that the
// feed-forward part takes. Block i of a cluster has self-attention's head i, and cross-attention's
// heads 2 i and 2 i + 1: no rows travel between a product for the samples and the samples
// themselves. All weights are on their way before the previous kernel has ended.

namespace rfseg::cuda {
namespace query {
namespace {

constexpr int kHead = 32;                     // of self-attention
constexpr int kHeadPitch = kHead * 2 + 16;    // bytes
constexpr int kSumFloats = kWarps * 4 * 128;  // of attention's warps; products need less

constexpr int kMostTurns = 6 * kMostSamples / 16;  // of a row's 16 threads
// So much that two blocks do not share a multiprocessor: where others were idle, too, clusters
// would come to lie on few of them.
constexpr int kAloneBytes = 116 * 1024;
constexpr int kAttentionBoxes = 5, kAttentionBoxBytes = 64;

struct AttentionTask {
  QueryAttentionArguments a;
  int tiles;     // of a cluster's queries in a picture
  int samples;   // of a head of cross-attention
  int sampling;  // columns of that product in a block, rounded up to tiles of 8
  int chunks;    // of 16 keys
};

RFSEG_HOST_DEVICE constexpr int attention_team_bytes(int sampling) {
  return kAttentionBoxBytes + 2 * kRowBytes + 2 * kStatBytes + kSumFloats * 4 + kWarps * kRows * 8 +
         kRows * sampling * 4 + 16 * kHeadPitch;
}
constexpr int attention_bytes(int teams, int chunks, int sampling) {
  return teams * attention_team_bytes(sampling) + (2 * kOwn + sampling) * kPitch +
         2 * chunks * 16 * kHeadPitch;
}
/// Of the product for the samples in a block: offsets and weights of two heads.
constexpr int sampling_columns(int samples) { return (6 * samples + 7) / 8 * 8; }
// All that takes_query_layers() lets through: of one picture the most keys.
static_assert(attention_bytes(2, 2 * kMostClusters, sampling_columns(kMostSamples)) <= kMostShared);

/// Attention of a head: this warp's keys are every eighth chunk of 16. Leaves the sums of all warps
/// in `sums` and maxima and weights in `rows` [kWarps][kRows].
template <int kTeams>
RFSEG_DEVICE void attend(const AttentionTask& task, SharedAddress queries, SharedAddress keys,
                         SharedAddress values, float* sums, Pair* rows) {
  const int lane = thread_index() % kWarp, warp = team_thread<kTeams>() / kWarp;
  const float factor = task.a.scale * 1.44269504f;
  float o[4][4], maximum[2] = {-1e30f, -1e30f}, weight[2] = {0, 0};
  clear(o);
  uint32_t q[2][4];
  RFSEG_UNROLL
  for (int s = 0; s < 2; ++s) {
    load_matrices(
        q[s], queries + static_cast<uint32_t>(lane % 16 * kHeadPitch + lane / 16 * 16 + s * 32));
  }
  for (int chunk = warp; chunk < task.chunks; chunk += kWarps) {
    const auto at = static_cast<uint32_t>(chunk * 16 * kHeadPitch);
    float p[2][4];
    clear(p);
    RFSEG_UNROLL
    for (int tile = 0; tile < 2; ++tile) {
      uint32_t k[4];
      load_matrices(
          k, keys + at + static_cast<uint32_t>((tile * 8 + lane % 8) * kHeadPitch + lane / 8 * 16));
      const uint32_t first[2] = {k[0], k[1]}, second[2] = {k[2], k[3]};
      mma_f16(p[tile], q[0], first);
      mma_f16(p[tile], q[1], second);
    }
    RFSEG_UNROLL
    for (int tile = 0; tile < 2; ++tile) {
      RFSEG_UNROLL
      for (int e = 0; e < 2; ++e) {
        if (chunk * 16 + tile * 8 + lane % 4 * 2 + e >= task.a.samples.queries) {
          p[tile][e] = p[tile][e + 2] = -1e30f;
        }
      }
    }
    RFSEG_UNROLL
    for (int h = 0; h < 2; ++h) {
      float high = p[0][2 * h];
      high = high > p[0][2 * h + 1] ? high : p[0][2 * h + 1];
      high = high > p[1][2 * h] ? high : p[1][2 * h];
      high = high > p[1][2 * h + 1] ? high : p[1][2 * h + 1];
      RFSEG_UNROLL
      for (int d = 1; d < 4; d *= 2) {
        const float other = warp_read(high, lane ^ d);
        high = high > other ? high : other;
      }
      high *= factor;
      high = high > maximum[h] ? high : maximum[h];
      const float shrink = approximate_exp2(maximum[h] - high);
      maximum[h] = high;
      weight[h] *= shrink;
      RFSEG_UNROLL
      for (int tile = 0; tile < 2; ++tile) {
        RFSEG_UNROLL
        for (int e = 2 * h; e < 2 * h + 2; ++e) {
          p[tile][e] = approximate_exp2(fused(p[tile][e], factor, -high));
          weight[h] += p[tile][e];
        }
      }
      RFSEG_UNROLL
      for (int n = 0; n < 4; ++n) {
        o[n][2 * h] *= shrink;
        o[n][2 * h + 1] *= shrink;
      }
    }
    const uint32_t a[4] = {pack_halves(p[0][0], p[0][1]), pack_halves(p[0][2], p[0][3]),
                           pack_halves(p[1][0], p[1][1]), pack_halves(p[1][2], p[1][3])};
    RFSEG_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t v[4];
      load_matrices_transposed(
          v,
          values + at + static_cast<uint32_t>(lane % 16 * kHeadPitch + pair * 32 + lane / 16 * 16));
      const uint32_t first[2] = {v[0], v[1]}, second[2] = {v[2], v[3]};
      mma_f16(o[2 * pair], a, first);
      mma_f16(o[2 * pair + 1], a, second);
    }
  }
  RFSEG_UNROLL
  for (int n = 0; n < 4; ++n) store_sums(sums + (warp * 4 + n) * 128, o[n]);
  RFSEG_UNROLL
  for (int h = 0; h < 2; ++h) {
    weight[h] += warp_read(weight[h], lane ^ 1);
    weight[h] += warp_read(weight[h], lane ^ 2);
    if (lane % 4 == 0) rows[warp * kRows + lane / 4 + 8 * h] = {maximum[h], weight[h]};
  }
}

/// This thread's two columns of what the warps have left.
template <int kTeams>
RFSEG_DEVICE Pair meet(const float* sums, const Pair* rows) {
  const int row = team_thread<kTeams>() / 16, col = thread_index() % 16 * 2;
  float highest = rows[row].x;
  RFSEG_UNROLL
  for (int w = 1; w < kWarps; ++w) {
    const float other = rows[w * kRows + row].x;
    highest = highest > other ? highest : other;
  }
  float weight = 0;
  Pair v = {0, 0};
  RFSEG_UNROLL
  for (int w = 0; w < kWarps; ++w) {
    const Pair one = rows[w * kRows + row];
    const float share = approximate_exp2(one.x - highest);
    weight = fused(share, one.y, weight);
    const Pair part = load_pair(sums + (w * 4 + col / 8) * 128 + place_in_tile(row, col));
    v.x = fused(share, part.x, v.x);
    v.y = fused(share, part.y, v.y);
  }
  const float inverse = 1.0f / weight;
  return {v.x * inverse, v.y * inverse};
}

/// sample_values() for the block's two heads of the 16 rows; a lane has 8 channels of a head and a
/// corner of every sample. `sampled` [kRows][6 * samples]: offsets of both heads, then weights.
template <int kTeams>
RFSEG_DEVICE void sample(const AttentionTask& task, const float* sampled, const float (&box)[4],
                         int picture, std::byte* rows, MailBox* mail) {
  const SampleArguments& a = task.a.samples;
  const int local = team_thread<kTeams>() / 16, head = thread_index() / 8 % 2;
  const int part = thread_index() / 4 % 2, corner = thread_index() % 4, samples = task.samples;
  const float* offsets = sampled + local * task.sampling + head * 2 * samples;
  const float* weights = sampled + local * task.sampling + 4 * samples + head * samples;
  float largest = weights[0];
  for (int s = 1; s < samples; ++s) largest = largest > weights[s] ? largest : weights[s];
  float total = 0;
  for (int s = 0; s < samples; ++s) total += expf(weights[s] - largest);
  const float inverse = 1.0f / total;
  const float reach = 0.5f / static_cast<float>(a.points);
  float sum[8] = {};
  const __half* values = static_cast<const __half*>(a.values) + int64_t{picture} * a.n * a.ldv +
                         (cluster_rank() * 2 + head) * 16 + part * 8;
  int at_sample = 0;
  for (int level = 0; level < a.levels; ++level) {
    const int map_rows = a.level_rows[level], cols = a.level_cols[level];
    RFSEG_UNROLL_BY(2)
    for (int point = 0; point < a.points; ++point, ++at_sample) {
      const float weight = expf(weights[at_sample] - largest) * inverse;
      const float px =
          (box[0] + offsets[2 * at_sample] * box[2] * reach) * static_cast<float>(cols) - 0.5f;
      const float py =
          (box[1] + offsets[2 * at_sample + 1] * box[3] * reach) * static_cast<float>(map_rows) -
          0.5f;
      const float x = floorf(px) + static_cast<float>(corner % 2);
      const float y = floorf(py) + static_cast<float>(corner / 2);
      // Compared as floats: positions are unbounded and may not fit an integer.
      const bool inside =
          x >= 0 && x < static_cast<float>(cols) && y >= 0 && y < static_cast<float>(map_rows);
      const float share = inside ? (1 - fabsf(px - x)) * (1 - fabsf(py - y)) * weight : 0.0f;
      const int64_t at = inside ? static_cast<int64_t>(y) * cols + static_cast<int64_t>(x) : 0;
      float v[8];
      read8(values + at * a.ldv, v);
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) sum[j] += v[j] * share;
    }
    values += int64_t{map_rows} * cols * a.ldv;
  }
  const int lane = thread_index() % kWarp;
  RFSEG_UNROLL
  for (int d = 1; d < 4; d *= 2) {
    RFSEG_UNROLL
    for (int j = 0; j < 8; ++j) sum[j] += warp_read(sum[j], lane ^ d);
  }
  // All four lanes of a corner have the sums: each tells two blocks.
  const Quad q = {{pack_halves(sum[0], sum[1]), pack_halves(sum[2], sum[3]),
                   pack_halves(sum[4], sum[5]), pack_halves(sum[6], sum[7])}};
  std::byte* to = rows + local * kPitch + cluster_rank() * kOwn * 2 + head * 32 + part * 16;
  send(to, mail, corner, q);
  send(to, mail, corner + 4, q);
}

template <int kTeams>
RFSEG_DEVICE void attention_body(const AttentionTask& task, void* shared) {
  const QueryAttentionArguments& a = task.a;
  const int queries = a.samples.queries, rank = cluster_rank(), sampling = task.sampling;
  const int thread = team_thread<kTeams>();
  std::byte* base =
      static_cast<std::byte*>(shared) + team_index<kTeams>() * attention_team_bytes(sampling);
  auto* boxes = reinterpret_cast<MailBox*>(base);
  if (thread == 0) {
    constexpr int kMail[kAttentionBoxes] = {handed_bytes(), kShareMail, handed_bytes(),
                                            handed_bytes(), kShareMail};
    RFSEG_UNROLL
    for (int i = 0; i < kAttentionBoxes; ++i) open_box(boxes + i, kMail[i]);
  }
  warp_sync();
  greet_cluster();
  std::byte* rows = base + kAttentionBoxBytes;
  std::byte* more_rows = rows + kRowBytes;
  auto* shares = reinterpret_cast<Pair*>(more_rows + kRowBytes);
  auto* sums = reinterpret_cast<float*>(shares + 2 * kBlocks * kRows);
  auto* meeting = reinterpret_cast<Pair*>(sums + kSumFloats);
  auto* sampled = reinterpret_cast<float*>(meeting + kWarps * kRows);
  const SharedAddress own_queries = shared_address(sampled + kRows * sampling);
  const SharedAddress out_weights =
      shared_address(shared) + static_cast<uint32_t>(kTeams * attention_team_bytes(sampling));
  const SharedAddress sampled_weights = out_weights + static_cast<uint32_t>(kOwn * kPitch);
  const SharedAddress sampling_weights = sampled_weights + static_cast<uint32_t>(kOwn * kPitch);
  const SharedAddress keys = sampling_weights + static_cast<uint32_t>(sampling * kPitch);
  const SharedAddress values = keys + static_cast<uint32_t>(task.chunks * 16 * kHeadPitch);

  constexpr int64_t kWeightStep = kWidth * 2;
  const auto weights_of = [&](const QueryProduct& p, int row) {
    return static_cast<const std::byte*>(p.weight) + row * kWeightStep;
  };
  copy_rows<kTeams>(out_weights, kPitch, weights_of(a.attended, rank * kOwn), kWeightStep, kOwn,
                    32);
  copy_rows<kTeams>(sampled_weights, kPitch, weights_of(a.sampled, rank * kOwn), kWeightStep, kOwn,
                    32);
  // Of the product for the samples, offsets of all heads come first, then weights.
  const int samples = task.samples, offsets = 4 * samples, weights = 2 * samples;
  const int heads = a.samples.heads;
  copy_rows<kTeams>(sampling_weights, kPitch, weights_of(a.sampling, rank * offsets), kWeightStep,
                    offsets, 32);
  copy_rows<kTeams>(sampling_weights + static_cast<uint32_t>(offsets * kPitch), kPitch,
                    weights_of(a.sampling, 2 * heads * samples + rank * weights), kWeightStep,
                    weights, 32);
  const int col = rank * kOwn + thread_index() % 16 * 2;
  const Pair out_bias = load_pair(a.attended.bias + col);
  const Pair sampled_bias = load_pair(a.sampled.bias + col);
  const Pair gamma1 = load_pair(a.norm1.gamma + col), beta1 = load_pair(a.norm1.beta + col);
  const Pair gamma2 = load_pair(a.norm2.gamma + col), beta2 = load_pair(a.norm2.beta + col);
  float sampling_bias[kMostTurns];
  RFSEG_UNROLL
  for (int i = 0; i < kMostTurns; ++i) {
    const int c = i * 16 + thread_index() % 16;
    if (c >= offsets + weights) continue;
    sampling_bias[i] =
        a.sampling.bias[c < offsets ? rank * offsets + c
                                    : 2 * heads * samples + rank * weights + c - offsets];
  }
  const int tile = block_x() / kBlocks % task.tiles * kTeams + team_index<kTeams>();
  const int picture = block_x() / kBlocks / task.tiles;
  const int local = tile * kRows + thread / 16;
  const bool active = local < queries;
  const int row = picture * queries + (active ? local : queries - 1);  // of the thread
  meet_cluster();
  await_previous_kernel();
  // Only now: two kernels of the decoder shall hold multiprocessors, not three.
  release_next_kernel();

  const std::byte* head = static_cast<const std::byte*>(a.qkv) + rank * kHead * 2;
  constexpr int64_t kStep = 3 * kWidth * 2;
  const int64_t first = int64_t{picture} * queries * kStep;
  {
    // Rows behind the last are copies of it: their weights are 0, and they are not stored.
    const auto in_row = static_cast<uint32_t>(thread_index() % 4 * 16);
    const std::byte* from = head + first + in_row;
    const auto copy = [&](SharedAddress to, int r, int key, int kind) {
      const int source = key < queries ? key : queries - 1;
      copy_async_16(to + static_cast<uint32_t>(r * kHeadPitch) + in_row,
                    from + source * kStep + kind * kWidth * 2);
    };
    if (thread < 4 * kRows) copy(own_queries, thread / 4, tile * kRows + thread / 4, 0);
    for (int key = thread_index() / 4; key < task.chunks * 16; key += kTeams * kThreads / 4) {
      copy(keys, key, key, 1);
      copy(values, key, key, 2);
    }
    copy_async_commit();
  }
  const Pair old = load_pair(a.x + int64_t{row} * kWidth + col);
  const Pair position = load_pair(a.position + int64_t{row} * kWidth + col);
  float box[4];
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) box[i] = a.samples.references[int64_t{row} * 4 + i];
  copy_async_wait<0>();
  block_sync();

  attend<kTeams>(task, own_queries, keys, values, sums, meeting);
  block_sync();
  hand_over<kTeams>(rows, boxes, meet<kTeams>(sums, meeting));
  await_mail(boxes);

  multiply_tiles<kTeams>(shared_address(rows), out_weights, kOwn / 8, sums);
  Pair x = own_sums<kTeams>(sums, kOwn / 8, 2);
  x = {x.x + out_bias.x + old.x, x.y + out_bias.y + old.y};
  normalise<kTeams>(x, shares, boxes + 1, a.eps, gamma1, beta1);
  // Every block has multiplied the rows.
  hand_over<kTeams>(rows, boxes + 2, {x.x + position.x, x.y + position.y});
  await_mail(boxes + 2);

  multiply_tiles<kTeams>(shared_address(rows), sampling_weights, sampling / 8, sums);
  const int sampling_tiles = sampling / 8, sampling_parts = parts_of(sampling_tiles);
  RFSEG_UNROLL
  for (int i = 0; i < kMostTurns; ++i) {
    const int c = i * 16 + thread % 16, r = thread / 16;
    if (c >= offsets + weights) continue;
    float v = sampling_bias[i];
    const float* from = sums + c / 8 * 128 + place_in_tile(r, c / 2 * 2) + c % 2;
    for (int part = 0; part < sampling_parts; ++part) v += from[part * sampling_tiles * 128];
    sampled[r * sampling + c] = v;
  }
  block_sync();
  sample<kTeams>(task, sampled, box, picture, more_rows, boxes + 3);
  await_mail(boxes + 3);

  multiply_tiles<kTeams>(shared_address(more_rows), sampled_weights, kOwn / 8, sums);
  const Pair y = own_sums<kTeams>(sums, kOwn / 8, 2);
  x = {y.x + sampled_bias.x + x.x, y.y + sampled_bias.y + x.y};
  normalise<kTeams>(x, shares + kBlocks * kRows, boxes + 4, a.eps, gamma2, beta2);
  if (!active) return;
  const int64_t to = int64_t{row} * kWidth + col;
  *reinterpret_cast<Pair*>(a.x + to) = x;
  static_cast<uint32_t*>(a.x_element)[to / 2] = pack_halves(x.x, x.y);
}

}  // namespace
}  // namespace query

void query_attention(const Queue& queue, Math, const QueryAttentionArguments& a) {
  const SampleArguments& samples = a.samples;
  query::AttentionTask task;
  task.a = a;
  task.samples = samples.points * samples.levels;
  task.sampling = query::sampling_columns(task.samples);
  task.chunks = (samples.queries + 15) / 16;
  query::with_teams(samples.batch * samples.queries, [&](auto teams) {
    constexpr int kTeams = teams.value;
    const int blocks = query::blocks_for(samples.queries, kTeams);  // of a picture
    const int bytes = query::attention_bytes(kTeams, task.chunks, task.sampling);
    task.tiles = blocks / query::kBlocks;
    launch_cluster<query::attention_body<kTeams>, kTeams * query::kThreads, 2 / kTeams>(
        queue, {samples.batch * blocks, 1}, query::kBlocks,
        static_cast<std::size_t>(std::max(bytes, query::kAloneBytes)), task);
  });
}

}  // namespace rfseg::cuda
