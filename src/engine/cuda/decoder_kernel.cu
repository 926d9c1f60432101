#include "engine/cuda/decoder_kernel.h"

#include <algorithm>
#include <cmath>

#include "core/cuda/launch.h"
#include "engine/cuda/arithmetic.h"
#include "engine/cuda/decoder_stream.h"
#include "engine/cuda/elements.h"
#include "rfseg/error.h"

// The steps of the plan stand in a loop, so that their product's code is there once: it is fetched
// anew by every kernel. Sums are made in a fixed order.

namespace rfseg::cuda {
namespace {

constexpr int kDecoderThreads = kDecoderWarps * kWarp;
constexpr int kRowPadding = 8;  // halves or floats: rows begin at different banks

using Then = DecoderStep::Then;

struct Four {
  float v[4];
};
RFSEG_DEVICE Four load_four(const float* p) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  return {{v.x, v.y, v.z, v.w}};
}
RFSEG_DEVICE void store_four(float* p, const Four& f) {
  *reinterpret_cast<float4*>(p) = float4{f.v[0], f.v[1], f.v[2], f.v[3]};
}
RFSEG_DEVICE void add_four(Four& to, const Four& f) {
  RFSEG_UNROLL
  for (int j = 0; j < 4; ++j) to.v[j] += f.v[j];
}

template <int kVectors>
class DecoderBlock {
 public:
  RFSEG_DEVICE DecoderBlock(const DecoderArguments& a, std::byte* shared)
      : a_(a),
        shared_(shared),
        thread_(thread_index()),
        warp_(thread_index() / kWarp),
        lane_(thread_index() % kWarp),
        rank_(cluster_rank()),
        own_(a.dim / kDecoderBlocks),
        first_row_(block_x() / kDecoderBlocks * kDecoderRows),
        x_(floats(0)),
        ldx_(a.dim + kRowPadding),
        parts_(floats(a.parts_at)),
        constants_(floats(a.constants_at)),
        references_(floats(a.references_at)),
        stream_(a.stream + (int64_t{rank_} * kDecoderWarps + warp_) * a.plan.chunks * kChunkBytes,
                a.plan.chunks, shared + a.ring_at + warp_ * a.slots * kChunkBytes,
                reinterpret_cast<uint64_t*>(shared + a.barriers_at) + warp_ * a.slots, a.slots) {}

  RFSEG_DEVICE void run() {
    const float* from = a_.constants + int64_t{rank_} * a_.plan.constants;
    for (int i = 4 * thread_; i < a_.plan.constants; i += 4 * kDecoderThreads) {
      store_four(constants_ + i, load_four(from + i));
    }
    cluster_arrive();
    await_previous_kernel();
    load_inputs();
    cluster_wait();  // the others' shared memory is there
    RFSEG_UNROLL_BY(1)
    for (int i = 0; i < a_.plan.count; ++i) {
      const DecoderStep& s = a_.plan.step[i];
      multiply(s);
      finish(s);
    }
  }

 private:
  RFSEG_DEVICE float* floats(int at) const { return reinterpret_cast<float*>(shared_ + at); }
  RFSEG_DEVICE uint16_t* operand(int i) const {
    return reinterpret_cast<uint16_t*>(shared_ + a_.operand_at[i]);
  }
  RFSEG_DEVICE int global_row(int row) const {
    return first_row_ + row < a_.rows ? first_row_ + row : a_.rows - 1;
  }

  RFSEG_DEVICE void load_inputs() {
    const int eighths = a_.dim / 8;
    uint16_t* content = operand(DecoderStep::kContent);
    const uint16_t* attended = static_cast<const uint16_t*>(a_.attended);
    for (int i = thread_; i < kDecoderRows * eighths; i += kDecoderThreads) {
      const int row = i / eighths, column = i % eighths * 8;
      store_quad(content + row * a_.operand_ld[DecoderStep::kContent] + column,
                 load_quad(attended + int64_t{global_row(row)} * a_.dim + column));
    }
    const int fours = own_ / 4;
    for (int i = thread_; i < kDecoderRows * fours; i += kDecoderThreads) {
      const int row = i / fours, column = rank_ * own_ + i % fours * 4;
      store_four(x_ + row * ldx_ + column,
                 load_four(a_.queries + int64_t{global_row(row)} * a_.dim + column));
    }
    if (thread_ < kDecoderRows) {
      store_four(references_ + thread_ * 4,
                 load_four(a_.sample.references + int64_t{global_row(thread_)} * 4));
    }
    RFSEG_UNROLL
    for (int r = 0; r < 2; ++r) {
      RFSEG_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        const int channel = 8 * (lane_ + kWarp * i);
        if (channel >= a_.dim) continue;
        read8(a_.position + int64_t{global_row(2 * warp_ + r)} * a_.dim + channel, position_[r][i]);
      }
    }
  }

  RFSEG_DEVICE void multiply(const DecoderStep& s) {
    const int ld = a_.operand_ld[s.a];
    const int part = warp_ % s.parts, group = warp_ / s.parts;
    // Row of the lane's 16 bytes of the four matrices of A.
    const SharedAddress a =
        shared_address(operand(s.a) + (lane_ % 16) * ld + part * s.steps * 32 + lane_ / 16 * 8);
    const int tile = group * s.per_warp;
    int first = 0;
    for (; s.per_warp - first >= 4; first += 4) multiply_tiles<4>(s, a, part, tile + first);
    const int rest = s.per_warp - first;
    if (rest == 3) {
      multiply_tiles<3>(s, a, part, tile + first);
    } else if (rest == 2) {
      multiply_tiles<2>(s, a, part, tile + first);
    } else if (rest == 1) {
      multiply_tiles<1>(s, a, part, tile + first);
    }
  }

  template <int kTiles>
  RFSEG_DEVICE void multiply_tiles(const DecoderStep& s, SharedAddress a, int part, int tile) {
    float c[kTiles][4];
    RFSEG_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      RFSEG_UNROLL
      for (int j = 0; j < 4; ++j) c[t][j] = 0;
    }
    RFSEG_UNROLL_BY(1)
    for (int step = 0; step < s.steps; ++step) {
      uint32_t low[4], high[4];
      load_matrices(low, a + static_cast<SharedAddress>(step * 64));
      load_matrices(high, a + static_cast<SharedAddress>(step * 64 + 32));
      Quad b[kTiles];
      stream_.next(b);
      RFSEG_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t first[2] = {b[t].word[0], b[t].word[1]};
        mma_f16(c[t], low, first);
      }
      RFSEG_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t second[2] = {b[t].word[2], b[t].word[3]};
        mma_f16(c[t], high, second);
      }
    }
    RFSEG_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      const int column = (tile + t) * 8 + lane_ % 4 * 2;
      RFSEG_UNROLL
      for (int below = 0; below < 2; ++below) {
        put(s, part, lane_ / 4 + 8 * below, column, c[t][2 * below], c[t][2 * below + 1]);
      }
    }
  }

  /// Two neighbours of a product's result, to where finish() looks for them.
  RFSEG_DEVICE void put(const DecoderStep& s, int part, int row, int column, float one, float two) {
    if (s.then == Then::kHidden) {
      if (column >= s.columns) return;
      const float* bias = constants_ + s.bias + column;
      uint16_t* to =
          operand(DecoderStep::kOwnHidden) + row * a_.operand_ld[DecoderStep::kOwnHidden] + column;
      *reinterpret_cast<uint32_t*>(to) =
          pack_halves(activate<Math::kFp16>(one + bias[0], s.activation),
                      activate<Math::kFp16>(two + bias[1], s.activation));
      return;
    }
    float* to;
    if (s.then == Then::kReduceNorm || s.then == Then::kReduceGather) {
      if (column >= s.columns) return;
      const int owner = column / own_;
      to = cluster_peer(
          parts_ + (rank_ * kDecoderRows + row) * (own_ + kRowPadding) + column - owner * own_,
          owner);
    } else {
      to = parts_ + (part * kDecoderRows + row) * (s.padded_columns() + kRowPadding) + column;
    }
    *reinterpret_cast<float2*>(to) = float2{one, two};
  }

  /// Four columns of the sum of `count` parts, with the bias.
  RFSEG_DEVICE Four summed(int count, int ld, int row, int column, const float* bias) const {
    const float* from = parts_ + row * ld + column;
    Four sum = load_four(from);
    for (int part = 1; part < count; ++part) {
      add_four(sum, load_four(from + part * kDecoderRows * ld));
    }
    add_four(sum, load_four(bias + column));
    return sum;
  }
  RFSEG_DEVICE Four summed(const DecoderStep& s, int row, int column) const {
    return summed(s.parts, s.padded_columns() + kRowPadding, row, column, constants_ + s.bias);
  }
  /// Of the columns that this block adds up for all.
  RFSEG_DEVICE Four reduced(const DecoderStep& s, int row, int column) const {
    return summed(kDecoderBlocks, own_ + kRowPadding, row, column,
                  constants_ + s.bias + rank_ * own_);
  }

  RFSEG_DEVICE void finish(const DecoderStep& s) {
    switch (s.then) {
      case Then::kAddNorm:
        block_sync();
        share_sum(s, false);
        cluster_sync();
        normalise(s);
        break;
      case Then::kReduceNorm:
        cluster_sync();
        share_sum(s, true);
        cluster_sync();
        normalise(s);
        break;
      case Then::kSample:
        block_sync();
        sample(s);
        cluster_sync();
        return;
      case Then::kHidden:
        break;
      case Then::kStore:
      case Then::kStoreFloat:
        block_sync();
        store(s);
        break;
      case Then::kGather:
        block_sync();
        gather(s, false);
        cluster_sync();
        return;
      case Then::kReduceGather:
        cluster_sync();
        gather(s, true);
        cluster_sync();
        return;
      case Then::kBox:
        block_sync();
        refine(s);
        break;
    }
    block_sync();
  }

  /// y + queries in this block's columns, to all blocks.
  RFSEG_DEVICE void share_sum(const DecoderStep& s, bool reduce) {
    // Two threads an item, each for half of the blocks.
    const int fours = own_ / 4;
    for (int i = thread_; i < kDecoderRows * fours * 2; i += kDecoderThreads) {
      const int half = i % 2, row = i / 2 / fours, column = i / 2 % fours * 4;
      Four sum = reduce ? reduced(s, row, column) : summed(s, row, column);
      float* to = x_ + row * ldx_ + rank_ * own_ + column;
      add_four(sum, load_four(to));
      warp_sync();  // both have read
      RFSEG_UNROLL
      for (int p = 0; p < kDecoderBlocks / 2; ++p) {
        store_four(cluster_peer(to, half * (kDecoderBlocks / 2) + p), sum);
      }
    }
  }

  RFSEG_DEVICE void affine(float (&v)[kVectors][8], const float* gamma) const {
    const WarpNorm<kVectors> norm(v, a_.dim, a_.eps);
    RFSEG_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const int channel = 8 * (lane_ + kWarp * i);
      if (channel >= a_.dim) continue;
      float g[8], b[8];
      read8(gamma + channel, g);
      read8(gamma + a_.dim + channel, b);
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) v[i][j] = (v[i][j] - norm.mean) * norm.inverse * g[j] + b[j];
    }
  }

  RFSEG_DEVICE void put_halves(const float (&v)[8], DecoderStep::Operand to, int row,
                               int channel) const {
    write8(reinterpret_cast<__half*>(operand(to) + row * a_.operand_ld[to] + channel), v);
  }

  /// Every block does all rows, two a warp.
  RFSEG_DEVICE void normalise(const DecoderStep& s) {
    const bool layer_end = s.then == Then::kReduceNorm;
    RFSEG_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = 2 * warp_ + r;
      float v[kVectors][8];
      RFSEG_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        const int channel = 8 * (lane_ + kWarp * i);
        if (channel < a_.dim) read8(x_ + row * ldx_ + channel, v[i]);
      }
      affine(v, constants_ + s.norm);
      const bool kept = layer_end && first_row_ + row < a_.rows;
      RFSEG_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        const int channel = 8 * (lane_ + kWarp * i);
        if (channel >= a_.dim) continue;
        write8(x_ + row * ldx_ + channel, v[i]);
        if (kept && channel / own_ == rank_) {
          write8(a_.queries + int64_t{first_row_ + row} * a_.dim + channel, v[i]);
        }
        // Inside of a layer only what the next step reads: into the other one blocks that are
        // ahead may already sample.
        if (layer_end || s.to == DecoderStep::kContent) {
          put_halves(v[i], DecoderStep::kContent, row, channel);
        }
        if (!layer_end && s.to == DecoderStep::kContent) continue;
        float sum[8];
        RFSEG_UNROLL
        for (int j = 0; j < 8; ++j) sum[j] = v[i][j] + position_[r][i][j];
        put_halves(sum, DecoderStep::kPositioned, row, channel);
      }
      if (!layer_end || a_.plan.norm_count < 4) continue;
      affine(v, constants_ + a_.plan.norms + 6 * a_.dim);
      RFSEG_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        const int channel = 8 * (lane_ + kWarp * i);
        if (channel >= a_.dim) continue;
        put_halves(v[i], DecoderStep::kPositioned, row, channel);
        if (kept && channel / own_ == rank_) {
          write8(static_cast<__half*>(a_.hs) + int64_t{first_row_ + row} * a_.dim + channel, v[i]);
        }
      }
      if (a_.plan.norm_count < 5) continue;
      affine(v, constants_ + a_.plan.norms + 8 * a_.dim);
      RFSEG_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        const int channel = 8 * (lane_ + kWarp * i);
        if (channel < a_.dim) put_halves(v[i], DecoderStep::kContent, row, channel);
      }
    }
    // From here on the place of the queries holds operands that other blocks write.
    if (layer_end && a_.plan.norm_count >= 4) cluster_sync();
  }

  /// As sample_values(), a thread for a corner and 8 of the 16 channels of a head.
  RFSEG_DEVICE void sample(const DecoderStep& s) {
    const SampleArguments& v = a_.sample;
    float* sampling = reinterpret_cast<float*>(operand(DecoderStep::kOwnHidden));
    const int ld = s.columns + 1;
    for (int i = thread_; i < kDecoderRows * s.columns; i += kDecoderThreads) {
      const int row = i / s.columns, column = i % s.columns;
      sampling[row * ld + column] = one_sum(s, row, column);
    }
    block_sync();
    const int samples = v.levels * v.points, heads = v.heads / kDecoderBlocks;
    const float reach = 0.5f / static_cast<float>(v.points);
    for (int item = thread_; item < kDecoderRows * heads * 8; item += kDecoderThreads) {
      const int part = item % 2, corner = item / 2 % 4, head = item / 8 % heads;
      const int row = item / 8 / heads;
      const float* offsets = sampling + row * ld + head * 3 * samples;
      const float* weights = offsets + 2 * samples;
      float largest = -INFINITY;
      for (int i = 0; i < samples; ++i) largest = fmaxf(largest, weights[i]);
      float total = 0;
      for (int i = 0; i < samples; ++i) total += expf(weights[i] - largest);
      const Four box = load_four(references_ + row * 4);
      float sum[8] = {};
      const __half* values = static_cast<const __half*>(v.values) +
                             global_row(row) / v.queries * int64_t{v.n} * v.ldv +
                             (rank_ * heads + head) * 16 + part * 8;
      int sample = 0;
      for (int level = 0; level < v.levels; ++level) {
        const int rows = v.level_rows[level], cols = v.level_cols[level];
        RFSEG_UNROLL_BY(2)
        for (int point = 0; point < v.points; ++point, ++sample) {
          const float weight = expf(weights[sample] - largest) / total;
          const float px =
              (box.v[0] + offsets[2 * sample] * box.v[2] * reach) * static_cast<float>(cols) - 0.5f;
          const float py =
              (box.v[1] + offsets[2 * sample + 1] * box.v[3] * reach) * static_cast<float>(rows) -
              0.5f;
          const float x = floorf(px) + static_cast<float>(corner % 2);
          const float y = floorf(py) + static_cast<float>(corner / 2);
          // Compared as floats: positions are unbounded and may not fit an integer.
          const bool inside =
              x >= 0 && x < static_cast<float>(cols) && y >= 0 && y < static_cast<float>(rows);
          const int64_t cell = inside ? static_cast<int>(y) * cols + static_cast<int>(x) : 0;
          float value[8];
          read8(values + cell * v.ldv, value);
          const float share = (1 - fabsf(px - x)) * (1 - fabsf(py - y)) * weight;
          RFSEG_UNROLL
          for (int j = 0; j < 8; ++j) {
            if (inside) sum[j] += value[j] * share;
          }
        }
        values += int64_t{rows} * cols * v.ldv;
      }
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) {
        sum[j] += warp_read(sum[j], lane_ ^ 2);
        sum[j] += warp_read(sum[j], lane_ ^ 4);
      }
      __half* to = reinterpret_cast<__half*>(operand(DecoderStep::kContent) +
                                             row * a_.operand_ld[DecoderStep::kContent] +
                                             (rank_ * heads + head) * 16 + part * 8);
      const Eight<__half> packed = pack<__half>(sum);
      store8(cluster_peer(to, 2 * corner), packed);
      store8(cluster_peer(to, 2 * corner + 1), packed);
    }
  }

  RFSEG_DEVICE float one_sum(const DecoderStep& s, int row, int column) const {
    const int ld = s.padded_columns() + kRowPadding;
    const float* from = parts_ + row * ld + column;
    float sum = from[0];
    for (int part = 1; part < s.parts; ++part) sum += from[part * kDecoderRows * ld];
    return sum + constants_[s.bias + column];
  }

  RFSEG_DEVICE void store(const DecoderStep& s) {
    for (int i = thread_; i < kDecoderRows * s.columns; i += kDecoderThreads) {
      const int row = i / s.columns, column = i % s.columns;
      const int to = column / s.width * s.stride + rank_ * s.width + column % s.width;
      if (first_row_ + row >= a_.rows || to >= s.limit) continue;
      const float v = one_sum(s, row, column);
      const int64_t at = int64_t{first_row_ + row} * s.ldo + to;
      if (s.then == Then::kStore) {
        static_cast<__half*>(s.out)[at] = from_float<__half>(v);
      } else {
        static_cast<float*>(s.out)[at] = v;
      }
    }
  }

  /// half(act(y)) or, of sums over the blocks, half(y + hs) in this block's columns to all blocks.
  RFSEG_DEVICE void gather(const DecoderStep& s, bool reduce) {
    const int fours = own_ / 4;
    for (int i = thread_; i < kDecoderRows * fours * 2; i += kDecoderThreads) {
      const int half = i % 2, row = i / 2 / fours, column = i / 2 % fours * 4;
      Four sum = reduce ? reduced(s, row, column) : summed(s, row, column);
      const int place = rank_ * own_ + column;
      const __half* hs =
          reinterpret_cast<const __half*>(operand(DecoderStep::kPositioned) +
                                          row * a_.operand_ld[DecoderStep::kPositioned] + place);
      RFSEG_UNROLL
      for (int j = 0; j < 4; ++j) {
        sum.v[j] =
            reduce ? sum.v[j] + to_float(hs[j]) : activate<Math::kFp16>(sum.v[j], s.activation);
      }
      uint16_t* to = operand(s.to) + row * a_.operand_ld[s.to] + place;
      RFSEG_UNROLL
      for (int p = 0; p < kDecoderBlocks / 2; ++p) {
        store_pair(cluster_peer(to, half * (kDecoderBlocks / 2) + p),
                   pack_halves(sum.v[0], sum.v[1]), pack_halves(sum.v[2], sum.v[3]));
      }
    }
  }

  RFSEG_DEVICE void refine(const DecoderStep& s) {
    if (rank_ != 0 || thread_ >= kDecoderRows || first_row_ + thread_ >= a_.rows) return;
    const Four d = summed(s, thread_, 0), box = load_four(references_ + thread_ * 4);
    store_four(a_.boxes + int64_t{first_row_ + thread_} * 4,
               {{d.v[0] * box.v[2] + box.v[0], d.v[1] * box.v[3] + box.v[1],
                 expf(d.v[2]) * box.v[2], expf(d.v[3]) * box.v[3]}});
  }

  const DecoderArguments& a_;
  std::byte* shared_;
  int thread_, warp_, lane_, rank_;
  int own_;  ///< columns of the decoder's width
  int first_row_;
  float* x_;  ///< queries, at the beginning of shared memory
  int ldx_;
  float *parts_, *constants_, *references_;
  WeightStream stream_;
  float position_[2][kVectors][8];  ///< as normalise() has the rows
};

template <int kVectors>
RFSEG_DEVICE void decoder_body(const DecoderArguments& a, void* shared) {
  release_next_kernel();
  DecoderBlock<kVectors> block(a, static_cast<std::byte*>(shared));
  block.run();
}

}  // namespace

void decoder_layer(const Queue& queue, const DecoderArguments& arguments) {
  constexpr int kSharedBytes = 227 * 1024, kMaxSlots = 12;
  DecoderArguments a = arguments;
  int size = 0;
  const auto take = [&](int bytes) {
    const int at = size;
    size += (bytes + 127) / 128 * 128;
    return at;
  };
  const int ld = a.dim + kRowPadding, row_bytes = 2 * kDecoderRows * ld;
  int hidden = 0, parts = 0, sampling = 0;
  for (int i = 0; i < a.plan.count; ++i) {
    const DecoderStep& s = a.plan.step[i];
    if (s.then == Then::kHidden) hidden = std::max(hidden, s.columns);
    if (s.then == Then::kSample) sampling = s.columns + 1;
    const bool reduce = s.then == Then::kReduceNorm || s.then == Then::kReduceGather;
    parts = std::max(parts, reduce ? a.dim + kDecoderBlocks * kRowPadding
                                   : s.parts * (s.padded_columns() + kRowPadding));
  }
  const int queries_at = take(2 * row_bytes);
  a.operand_at[DecoderStep::kOne] = queries_at;
  a.operand_at[DecoderStep::kTwo] = queries_at + row_bytes;
  a.operand_at[DecoderStep::kPositioned] = take(row_bytes);
  a.operand_at[DecoderStep::kContent] = take(row_bytes);
  for (int& operand_ld : a.operand_ld) operand_ld = ld;
  a.operand_ld[DecoderStep::kOwnHidden] = hidden + kRowPadding;
  a.operand_at[DecoderStep::kOwnHidden] =
      take(kDecoderRows * std::max(2 * (hidden + kRowPadding), 4 * sampling));
  a.parts_at = take(4 * kDecoderRows * parts);
  a.constants_at = take(4 * a.plan.constants);
  a.references_at = take(16 * kDecoderRows);
  a.slots = std::min({kMaxSlots, a.plan.chunks,
                      (kSharedBytes - size - 128) / (kDecoderWarps * (kChunkBytes + 8))});
  if (a.slots < 1) throw Error(ErrorCode::kInternal, "the decoder's kernel does not fit");
  a.barriers_at = take(8 * kDecoderWarps * a.slots);
  a.ring_at = take(kDecoderWarps * a.slots * kChunkBytes);

  const Grid grid{(a.rows + kDecoderRows - 1) / kDecoderRows * kDecoderBlocks};
  const std::size_t shared = static_cast<std::size_t>(size);
  if (a.dim <= 256) {
    launch_cluster<decoder_body<1>, kDecoderThreads>(queue, grid, kDecoderBlocks, shared, a);
  } else {
    launch_cluster<decoder_body<2>, kDecoderThreads>(queue, grid, kDecoderBlocks, shared, a);
  }
}

}  // namespace rfseg::cuda
