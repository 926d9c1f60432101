#include "engine/cuda/hopper/attention_split.h"

#include "core/cuda/cluster_mail.h"
#include "core/cuda/launch.h"
#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda/hopper/split.h"
#include "engine/cuda/portable/portable.h"

// Attention of floats with fp32's accuracy, softmax with a running maximum.
//
// A cluster of one or two (`kParts`) blocks has 64 queries of one head, a block two warpgroups;
// each of these 2 * kParts warpgroups takes every 2 * kParts-th tile of 64 keys, through buffers of
// its own, so that one's products hide the other's softmax. At the end each block finishes its
// share of the queries, of which the other mails it its results.
//
// Both products take A from registers and B from shared memory, split as hopper/split.h says.
// S = Q K^T: B are the keys as they lie in memory. O += P V: the tensor core wants TF32's B with k
// (the keys) contiguous, so the values are transposed on their way, both parts. Scores of query row
// g and keys 2 t, 2 t + 1 come out of the first product where the second wants words t and t + 4 of
// eight keys, so the values' keys lie in that order.
//
// Shared memory, from a multiple of 1024 on: queries [2][64][32], then for each warpgroup keys
// [2][64][32] as they are and their small parts, values transposed [2][64 of the head][32 keys],
// large and small parts, all as wgmma wants them (chunk c of a row r of 128 bytes at c ^ (r % 8)),
// and values as they come, [64][64], chunk c of a row r of 256 bytes at c ^ (r % 8). Behind them
// results.

#if !RFSEG_HOPPER
#pragma nv_diag_suppress 177  // constants that Hopper's code alone uses
#endif

namespace rfseg::cuda::hopper {
namespace {

constexpr int kThreads = 256, kTile = 64, kTileBytes = kTile * 64 * 4, kSlabBytes = kTileBytes / 2;
constexpr int kKeysAt = 0, kSmallKeysAt = kTileBytes, kValuesAt = 2 * kTileBytes;
constexpr int kSmallValuesAt = 3 * kTileBytes, kRawValuesAt = 4 * kTileBytes;
constexpr int kGroupBytes = 5 * kTileBytes;
/// Results of each of up to 2 * 2 warpgroups for the queries that a block finishes: sums [kPitch] a
/// query, and behind them its maximum and weight.
constexpr int kPitch = 68, kMaximumAt = 64, kWeightAt = kMaximumAt + 1;
constexpr int kResultsAt = kTileBytes + 2 * kGroupBytes;
/// With two blocks each has 32 queries of four warpgroups, with one 64 of two.
constexpr int kBoxAt = kResultsAt + 128 * kPitch * 4;
constexpr int kSharedBytes = 1024 + kBoxAt + 16;
static_assert(kSharedBytes <= 227 * 1024);
/// What a block is mailed: of 32 queries two warpgroups' sums, maximum and weight.
constexpr int kMailBytes = 2 * 32 * (64 + 2) * 4;
constexpr float kLowest = -1e30f;

#if RFSEG_HOPPER

/// Where 16-byte chunk `chunk` of row `row` of two slabs [64][32] lies.
RFSEG_DEVICE uint32_t slab_place(int row, int chunk) {
  return static_cast<uint32_t>(chunk / 8 * kSlabBytes + row * 128 + ((chunk % 8) ^ (row & 7)) * 16);
}

/// A thread of a warpgroup.
class SplitAttentionGroup {
 public:
  RFSEG_DEVICE SplitAttentionGroup(const AttentionArguments& g, int64_t first_row, int head,
                                   uint32_t queries, uint32_t buffers)
      : length_(g.length), queries_(queries), buffers_(buffers) {
    const int warp = uniform(thread_index() / kWarp);
    group_ = warp / 4;
    warp_ = warp % 4;
    lane_ = thread_index() % kWarp;
    ldk_ = static_cast<int>(g.ldk);
    ldv_ = static_cast<int>(g.ldv);
    k_ = static_cast<const float*>(g.k) + first_row * g.ldk + head * 64;
    v_ = static_cast<const float*>(g.v) + first_row * g.ldv + head * 64;
    factor_ = g.scale * 1.44269504f;  // weight = 2^(score * factor - maximum)
    RFSEG_UNROLL
    for (int i = 0; i < 32; ++i) o_[i] = 0;
  }

  RFSEG_DEVICE void request(int first_key) {
    const int thread = thread_index() % 128, row0 = thread / 16, chunk = thread % 16;
    RFSEG_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int row = row0 + 8 * i;
      const int key = first_key + row < length_ ? first_key + row : length_ - 1;
      copy_async_16(buffers_ + kKeysAt + slab_place(row, chunk),
                    k_ + static_cast<int64_t>(key) * ldk_ + chunk * 4);
      copy_async_16(
          buffers_ + kRawValuesAt + static_cast<uint32_t>(row * 256 + (chunk ^ (row & 7)) * 16),
          v_ + static_cast<int64_t>(key) * ldv_ + chunk * 4);
    }
    copy_async_commit();
  }

  /// Once the block's queries are there.
  RFSEG_DEVICE void take_queries() {
    const int row = warp_ * 16 + lane_ % 16;
    RFSEG_UNROLL
    for (int step = 0; step < 8; ++step) {
      uint32_t raw[4];
      load_matrices(queries_ + slab_place(row, step * 2 + lane_ / 16), raw[0], raw[1], raw[2],
                    raw[3]);
      Arithmetic<Math::kFp32>::take_a(q_[step], raw);
    }
  }

  /// Takes the tile of keys that was requested; requests the next one unless its first key is
  /// beyond the last.
  RFSEG_DEVICE void attend(int first_key, int next_key) {
    copy_async_wait<0>();
    split_keys();
    fence_async();
    meet();
    score();
    transpose_values();  // while the scores are computed
    fence_async();
    wgmma_wait<0>();
    fence_registers(s_);
    fence_registers(more_);
    RFSEG_UNROLL
    for (int step = 0; step < 8; ++step) fence_registers(q_[step]);
    meet();  // values are transposed, keys have been read
    if (next_key < length_) request(next_key);
    weigh(first_key);
    add_values();
  }

  /// To `results` of the block that finishes the row: [2 * kParts][64 / kParts][kPitch]; to the
  /// other block by mail to its `box`.
  template <int kParts>
  RFSEG_DEVICE void store(float* results, MailBox* box, int part) const {
    constexpr int kRows = kTile / kParts;
    RFSEG_UNROLL
    for (int half = 0; half < 2; ++half) {
      float w = weight_[half];
      w += warp_read(w, lane_ ^ 1);
      w += warp_read(w, lane_ ^ 2);
      const int row = warp_ * 16 + half * 8 + lane_ / 4, owner = row / kRows;
      float* to = results + ((2 * part + group_) * kRows + row % kRows) * kPitch;
      const auto put = [&](int at, const Pair& v) {
        if (kParts > 1 && owner != part) {
          send(to + at, box, owner, v);
        } else {
          store_pair(to + at, float_bits(v.x), float_bits(v.y));
        }
      };
      RFSEG_UNROLL
      for (int n = 0; n < 8; ++n) {
        put(n * 8 + lane_ % 4 * 2, {o_[4 * n + 2 * half], o_[4 * n + 2 * half + 1]});
      }
      if (lane_ % 4 == 0) put(kMaximumAt, {maximum_[half], w});
    }
  }

 private:
  RFSEG_DEVICE void meet() { named_sync(1 + group_, 128); }
  /// Of 64 rows, eight elements of each.
  RFSEG_DEVICE uint64_t operand(int from, int step) const {
    return tile_descriptor(buffers_ + static_cast<uint32_t>(from + step / 4 * kSlabBytes)) +
           static_cast<uint64_t>(step % 4 * 2);
  }

  /// Begins `d` with the small products, so that little is cut from them.
  RFSEG_DEVICE void multiply_small(float (&d)[32], const SplitA (&a)[8], int large,
                                   int small) const {
    RFSEG_UNROLL
    for (int step = 0; step < 8; ++step) {
      WgmmaTf32<64>::run(d, a[step].small, operand(large, step), step > 0 ? 1 : 0);
      WgmmaTf32<64>::run(d, a[step].large, operand(small, step), 1);
    }
  }

  /// Of the chunks that this thread has copied.
  RFSEG_DEVICE void split_keys() {
    const int thread = thread_index() % 128, row0 = thread / 16, chunk = thread % 16;
    uint32_t v[8][4];
    const auto place = [&](int i) { return buffers_ + kKeysAt + slab_place(row0 + 8 * i, chunk); };
    RFSEG_UNROLL
    for (int i = 0; i < 8; ++i) load_words(place(i), v[i]);
    RFSEG_UNROLL
    for (int i = 0; i < 8; ++i) {
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) v[i][e] = small_part(v[i][e]);
      store_words(place(i) + static_cast<uint32_t>(kSmallKeysAt - kKeysAt), v[i]);
    }
  }

  /// Begins S, in two sums of four steps each, for what the tensor core cuts from long ones.
  RFSEG_DEVICE void score() {
    fence_registers(s_);
    fence_registers(more_);
    wgmma_fence();
    multiply_small(s_, q_, kKeysAt, kSmallKeysAt);
    RFSEG_UNROLL
    for (int step = 0; step < 4; ++step) {
      WgmmaTf32<64>::run(s_, q_[step].large, operand(kKeysAt, step), 1);
    }
    RFSEG_UNROLL
    for (int step = 4; step < 8; ++step) {
      WgmmaTf32<64>::run(more_, q_[step].large, operand(kKeysAt, step), step > 4 ? 1 : 0);
    }
    wgmma_commit();
  }

  /// A lane a key, so that a warp's words of one element of the head lie in one row.
  RFSEG_DEVICE void transpose_values() {
    const int position = (lane_ & ~7) + lane_ % 8 / 2 + lane_ % 2 * 4;
    RFSEG_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int unit = warp_ * 8 + i, slab = unit / 16, chunk = unit % 16;
      const int key = slab * 32 + lane_;
      uint32_t v[4];
      load_words(
          buffers_ + kRawValuesAt + static_cast<uint32_t>(key * 256 + (chunk ^ (key & 7)) * 16), v);
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int row = chunk * 4 + e;
        const uint32_t to =
            buffers_ + kValuesAt +
            static_cast<uint32_t>(slab * kSlabBytes + row * 128 +
                                  ((position / 4) ^ (row & 7)) * 16 + position % 4 * 4);
        store_word(to, v[e]);
        store_word(to + static_cast<uint32_t>(kSmallValuesAt - kValuesAt), small_part(v[e]));
      }
    }
  }
  static RFSEG_DEVICE void store_word(uint32_t to, uint32_t word) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
  }

  /// Scores to weights; and what the sums so far are to be multiplied with.
  RFSEG_DEVICE void weigh(int first_key) {
    RFSEG_UNROLL
    for (int i = 0; i < 32; ++i) s_[i] += more_[i];
    if (first_key + kTile > length_) {
      RFSEG_UNROLL
      for (int i = 0; i < 32; ++i) {
        if (first_key + i / 4 * 8 + lane_ % 4 * 2 + i % 2 >= length_) s_[i] = -INFINITY;
      }
    }
    RFSEG_UNROLL
    for (int half = 0; half < 2; ++half) {
      float highest = s_[2 * half];
      RFSEG_UNROLL
      for (int n = 0; n < 8; ++n) {
        highest = fmaxf(highest, fmaxf(s_[4 * n + 2 * half], s_[4 * n + 2 * half + 1]));
      }
      highest = fmaxf(highest, warp_read(highest, lane_ ^ 1));
      highest = fmaxf(highest, warp_read(highest, lane_ ^ 2));
      const float high = fmaxf(maximum_[half], highest * factor_);
      shrink_[half] = approximate_exp2(maximum_[half] - high);
      maximum_[half] = high;
      float sum = 0;
      RFSEG_UNROLL
      for (int n = 0; n < 8; ++n) {
        RFSEG_UNROLL
        for (int i = 4 * n + 2 * half; i < 4 * n + 2 * half + 2; ++i) {
          s_[i] = approximate_exp2(fused(s_[i], factor_, -high));
          sum += s_[i];
        }
      }
      weight_[half] = fused(weight_[half], shrink_[half], sum);
    }
  }

  RFSEG_DEVICE void add_values() {
    SplitA p[8];
    RFSEG_UNROLL
    for (int step = 0; step < 8; ++step) {
      const uint32_t raw[4] = {float_bits(s_[4 * step]), float_bits(s_[4 * step + 2]),
                               float_bits(s_[4 * step + 1]), float_bits(s_[4 * step + 3])};
      Arithmetic<Math::kFp32>::take_a(p[step], raw);
    }
    fence_registers(more_);
    wgmma_fence();
    multiply_small(more_, p, kValuesAt, kSmallValuesAt);
    RFSEG_UNROLL
    for (int step = 0; step < 8; ++step) {
      WgmmaTf32<64>::run(more_, p[step].large, operand(kValuesAt, step), 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    fence_registers(more_);
    RFSEG_UNROLL
    for (int step = 0; step < 8; ++step) fence_registers(p[step]);
    RFSEG_UNROLL
    for (int i = 0; i < 32; ++i) o_[i] = fused(o_[i], shrink_[i / 2 % 2], more_[i]);
  }

  const float* k_;
  const float* v_;
  int length_, ldk_, ldv_, group_, warp_, lane_;
  uint32_t queries_, buffers_;
  float factor_;
  float maximum_[2] = {kLowest, kLowest}, weight_[2] = {}, shrink_[2];
  SplitA q_[8];
  float s_[32], more_[32], o_[32];
};

#endif

template <int kParts>
RFSEG_DEVICE void split_attention_body(const AttentionArguments& g, void* shared) {
#if RFSEG_HOPPER
  const uint32_t start = shared_address(shared), base = (start + 1023) / 1024 * 1024;
  std::byte* const aligned = static_cast<std::byte*>(shared) + (base - start);
  const int part = block_x() % kParts, first_query = block_x() / kParts * kTile;
  const int head = block_y() % g.heads, sequence = block_y() / g.heads;
  const int64_t first_row = static_cast<int64_t>(sequence) * g.length;
  const int group = uniform(thread_index() / 128);
  MailBox* const box = reinterpret_cast<MailBox*>(aligned + kBoxAt);
  if constexpr (kParts > 1) {
    if (thread_index() == 0) open_box(box, kMailBytes);
    warp_sync();
    greet_cluster();
  }
  release_next_kernel();
  SplitAttentionGroup worker(g, first_row, head, base,
                             base + static_cast<uint32_t>(kTileBytes + group * kGroupBytes));
  await_previous_kernel();
  const int chunk = thread_index() % 16;
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = thread_index() / 16 + 16 * i;
    const int query = first_query + row < g.length ? first_query + row : g.length - 1;
    copy_async_16(
        base + slab_place(row, chunk),
        static_cast<const float*>(g.q) + (first_row + query) * g.ldq + head * 64 + chunk * 4);
  }
  copy_async_commit();
  constexpr int kStep = 2 * kParts * kTile;
  int first_key = (2 * part + group) * kTile;
  if (first_key < g.length) worker.request(first_key);
  copy_async_wait<0>();
  __syncthreads();
  worker.take_queries();
  for (; first_key < g.length; first_key += kStep) worker.attend(first_key, first_key + kStep);

  float* const results = reinterpret_cast<float*>(aligned + kResultsAt);
  if constexpr (kParts > 1) meet_cluster();
  worker.store<kParts>(results, box, part);
  __syncthreads();
  if constexpr (kParts > 1) await_mail(box);
  // A thread finishes four elements of a row at a time.
  constexpr int kRows = kTile / kParts;
  for (int item = thread_index(); item < kRows * 16; item += kThreads) {
    const int row = item / 16, col = item % 16 * 4, query = first_query + part * kRows + row;
    if (query >= g.length) continue;
    const auto of = [&](int i) { return results + (i * kRows + row) * kPitch; };
    float highest = kLowest;
    RFSEG_UNROLL
    for (int i = 0; i < 2 * kParts; ++i) highest = fmaxf(highest, of(i)[kMaximumAt]);
    float total = 0, values[4] = {};
    RFSEG_UNROLL
    for (int i = 0; i < 2 * kParts; ++i) {
      const float share = approximate_exp2(of(i)[kMaximumAt] - highest);
      total = fused(share, of(i)[kWeightAt], total);
      const Quad quad = load_quad(of(i) + col);
      RFSEG_UNROLL
      for (int e = 0; e < 4; ++e) values[e] = fused(share, float_of_bits(quad.word[e]), values[e]);
    }
    const float divisor = 1.0f / total;
    Quad out;
    RFSEG_UNROLL
    for (int e = 0; e < 4; ++e) out.word[e] = float_bits(values[e] * divisor);
    store_quad(static_cast<float*>(g.out) + (first_row + query) * g.ldo + head * 64 + col, out);
  }
#else
  static_cast<void>(g);
  static_cast<void>(shared);
#endif
}

}  // namespace

bool split_attention(const Queue& queue, const AttentionArguments& arguments) {
  if (arguments.head_dim != 64 || !usable()) return false;
  const int tiles = (arguments.length + kTile - 1) / kTile;
  const int heads = arguments.sequences * arguments.heads;
  // A block a multiprocessor, if every warpgroup has keys then.
  if (2 * tiles * heads <= portable::multiprocessors() && tiles >= 4) {
    launch_cluster<split_attention_body<2>, kThreads>(queue, {tiles * 2, heads}, 2, kSharedBytes,
                                                      arguments);
  } else {
    launch<split_attention_body<1>, kThreads>(queue, {tiles, heads}, kSharedBytes, arguments);
  }
  return true;
}

}  // namespace rfseg::cuda::hopper
