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
constexpr int kRowShare = kDecoderThreads / kDecoderRows;  // where threads share a row
constexpr int kTiles = 4;       // of 8 columns, that a warp computes at once
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

template <int kVectors, bool kStart>
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
        raw_(floats(a.raw_at)),
        constants_(floats(a.constants_at)),
        references_(floats(a.references_at)),
        stream_(a.stream + (int64_t{rank_} * kDecoderWarps + warp_) * a.plan.chunks * kChunkBytes,
                a.plan.chunks, shared + a.ring_at + warp_ * a.slots * kChunkBytes,
                reinterpret_cast<uint64_t*>(shared + a.barriers_at) + warp_ * a.slots, a.slots) {}

  RFSEG_DEVICE void run() {
    const float* from = a_.constants + int64_t{rank_} * a_.plan.constants;
    RFSEG_ROLLED
    for (int i = 4 * thread_; i < a_.plan.constants; i += 4 * kDecoderThreads) {
      store_four(constants_ + i, load_four(from + i));
    }
    cluster_arrive();
    await_previous_kernel();
    if constexpr (kStart) {
      load_start();
    } else {
      load_inputs();
    }
    block_sync();
    cluster_wait();  // the others' shared memory is there
    RFSEG_ROLLED
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
    const int row = thread_ / kRowShare, first = thread_ % kRowShare;
    const int64_t from = int64_t{global_row(row)} * a_.dim;
    uint16_t* content = operand(DecoderStep::kContent) + row * a_.operand_ld[DecoderStep::kContent];
    const uint16_t* attended = static_cast<const uint16_t*>(a_.attended) + from;
    RFSEG_UNROLL_BY(2)
    for (int i = 8 * first; i < a_.dim; i += 8 * kRowShare) {
      store_quad(content + i, load_quad(attended + i));
    }
    RFSEG_ROLLED
    for (int i = 4 * first; i < own_; i += 4 * kRowShare) {
      store_four(x_ + row * ldx_ + rank_ * own_ + i,
                 load_four(a_.queries + from + rank_ * own_ + i));
    }
    if (first == 0) {
      store_four(references_ + row * 4,
                 load_four(a_.sample.references + int64_t{global_row(row)} * 4));
    }
    each_vector([&](int r, int i, int at, int channel) {
      read8(a_.position + int64_t{global_row(at)} * a_.dim + channel, position_[r][i]);
    });
  }

  RFSEG_DEVICE void load_start() {
    const int row = thread_ / kRowShare, first = thread_ % kRowShare;
    const int at = global_row(row);
    const int query = at % a_.start.queries, cell = a_.start.chosen[at];
    const uint16_t* from =
        static_cast<const uint16_t*>(a_.start.cells) + int64_t{a_.start.chosen_rows[at]} * a_.dim;
    uint16_t* content = operand(DecoderStep::kContent) + row * a_.operand_ld[DecoderStep::kContent];
    RFSEG_UNROLL_BY(2)
    for (int i = 8 * first; i < a_.dim; i += 8 * kRowShare) {
      store_quad(content + i, load_quad(from + i));
    }
    RFSEG_ROLLED
    for (int i = 4 * first; i < own_; i += 4 * kRowShare) {
      store_four(raw_ + row * own_ + i,
                 load_four(a_.start.learned + int64_t{query} * a_.dim + rank_ * own_ + i));
    }
    if (first != 0) return;
    Four proposal = {{-1, 0, 0, 0}};  // none
    if (cell >= 0) proposal = load_four(a_.start.proposals + int64_t{cell} * 4);
    store_four(references_ + kDecoderRows * 4 + row * 4, proposal);
    store_four(references_ + kDecoderRows * 8 + row * 4,
               load_four(a_.start.learned_boxes + int64_t{query} * 4));
  }

  static RFSEG_DEVICE bool reduces(const DecoderStep& s) {
    return s.then == Then::kReduceNorm || s.then == Then::kReduceGather;
  }

  RFSEG_DEVICE void multiply(const DecoderStep& s) {
    const int ld = a_.operand_ld[s.a];
    const int part = warp_ % s.parts;
    // Row of the lane's 16 bytes of the four matrices of A.
    const SharedAddress a =
        shared_address(operand(s.a) + lane_ % 16 * ld + part * s.steps * 32 + lane_ / 16 * 8);
    const int tile = warp_ / s.parts * s.per_warp;
    RFSEG_ROLLED
    for (int first = 0; first < s.per_warp; first += kTiles) {
      const int tiles = s.per_warp - first < kTiles ? s.per_warp - first : kTiles;
      multiply_tiles(s, a, part, tile + first, tiles);
    }
  }

  RFSEG_DEVICE void multiply_tiles(const DecoderStep& s, SharedAddress a, int part, int tile,
                                   int tiles) {
    float c[kTiles][4];
    RFSEG_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      RFSEG_UNROLL
      for (int j = 0; j < 4; ++j) c[t][j] = 0;
    }
    RFSEG_ROLLED
    for (int step = 0; step < s.steps; ++step) {
      uint32_t low[4], high[4];
      load_matrices(low, a + static_cast<SharedAddress>(step * 64));
      load_matrices(high, a + static_cast<SharedAddress>(step * 64 + 32));
      Quad b[kTiles];
      RFSEG_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        if (t < tiles) b[t] = stream_.next();
      }
      RFSEG_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t first[2] = {b[t].word[0], b[t].word[1]};
        if (t < tiles) mma_f16(c[t], low, first);
      }
      RFSEG_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t second[2] = {b[t].word[2], b[t].word[3]};
        if (t < tiles) mma_f16(c[t], high, second);
      }
    }
    // To where the sums are made: in this block, or in the one that makes them for all.
    const bool reduce = reduces(s);
    const int ld = kRowPadding + (reduce ? own_ : s.padded_columns());
    float* base = s.then == Then::kHidden ? raw_ : parts_;
    base += ((reduce ? rank_ : part) * kDecoderRows + lane_ / 4) * ld + lane_ % 4 * 2;
    RFSEG_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      if (t >= tiles) continue;
      int column = (tile + t) * 8;
      float* to = base;
      if (reduce) {
        if (column >= s.columns) continue;
        const int owner = column / own_;
        column -= owner * own_;
        to = cluster_peer(base, owner);
      }
      to += column;
      *reinterpret_cast<float2*>(to) = float2{c[t][0], c[t][1]};
      *reinterpret_cast<float2*>(to + 8 * ld) = float2{c[t][2], c[t][3]};
    }
  }

  RFSEG_DEVICE void finish(const DecoderStep& s) {
    const bool norm = s.then == Then::kAddNorm || s.then == Then::kReduceNorm;
    const bool shared = norm || s.then == Then::kGather || s.then == Then::kReduceGather ||
                        s.then == Then::kPosition;
    if (reduces(s)) {
      cluster_sync();
    } else {
      block_sync();
    }
    if constexpr (kStart) {
      if (shared) {
        exchange(s, norm);
        cluster_sync();
      } else if (s.then == Then::kReference) {
        refer(s);
      } else {
        store(s);
      }
    } else {
      if (shared) {
        exchange(s, norm);
      } else if (s.then == Then::kSample) {
        sample(s);
      } else if (s.then == Then::kHidden) {
        hide(s);
      } else if (s.then == Then::kBox) {
        refine(s);
      } else {
        store(s);
      }
      if (shared || s.then == Then::kSample) {
        cluster_sync();
        if (norm) normalise(s);
      }
    }
    block_sync();
  }

  /// Sums of this block's columns to all blocks: y + queries, or half(act(y)), or half(y + hs).
  RFSEG_DEVICE void exchange(const DecoderStep& s, bool norm) {
    const bool reduce = reduces(s);
    const int count = reduce ? kDecoderBlocks : s.parts;
    const int ld = kRowPadding + (reduce ? own_ : s.padded_columns());
    const float* bias = constants_ + s.bias + (reduce ? rank_ * own_ : 0);
    const int row = thread_ / kRowShare;
    // Two threads an item, each for half of the blocks.
    const int half = thread_ % 2;
    RFSEG_ROLLED
    for (int first = 0; first < own_; first += 2 * kRowShare) {
      const int column = first + thread_ % kRowShare / 2 * 4;
      const bool active = column < own_;
      const int place = rank_ * own_ + column;
      Four sum = {};
      if (active) {
        const float* from = parts_ + row * ld + column;
        sum = load_four(bias + column);
        RFSEG_UNROLL
        for (int part = 0; part < kDecoderBlocks; ++part) {
          if (part < count) add_four(sum, load_four(from + part * kDecoderRows * ld));
        }
        if (norm) {
          add_four(sum, load_four(x_ + row * ldx_ + place));
        } else if (kStart && s.then == Then::kPosition) {
          const Four learned = load_four(raw_ + row * own_ + column);
          if (half == 0 && first_row_ + row < a_.rows) {
            const int64_t to = int64_t{first_row_ + row} * a_.dim + place;
            store_four(a_.start.position + to, sum);
            store_four(a_.queries + to, learned);
          }
          add_four(sum, learned);
        } else if (reduce && s.activation == Activation::kNone) {
          const uint16_t* hs = operand(DecoderStep::kPositioned) +
                               row * a_.operand_ld[DecoderStep::kPositioned] + place;
          RFSEG_UNROLL
          for (int j = 0; j < 4; ++j) {
            sum.v[j] += to_float(reinterpret_cast<const __half*>(hs)[j]);
          }
        } else {
          RFSEG_UNROLL
          for (int j = 0; j < 4; ++j) sum.v[j] = relu(sum.v[j]);
        }
      }
      warp_sync();  // both have read
      if (!active) continue;
      const uint32_t low = pack_halves(sum.v[0], sum.v[1]), high = pack_halves(sum.v[2], sum.v[3]);
      uint16_t* narrow = operand(s.to) + row * a_.operand_ld[s.to] + place;
      RFSEG_UNROLL
      for (int p = 0; p < kDecoderBlocks / 2; ++p) {
        const int peer = half * (kDecoderBlocks / 2) + p;
        if (norm) {
          store_four(cluster_peer(x_ + row * ldx_ + place, peer), sum);
        } else {
          store_pair(cluster_peer(narrow, peer), low, high);
        }
      }
    }
  }

  /// Component `i` of what `delta` makes of a row's proposal.
  RFSEG_DEVICE float refined(const DecoderStep& s, const float* box, int row, int i) const {
    const float delta = one_sum(s, row, i);
    return i < 2 ? delta * box[i + 2] + box[i] : expf(delta) * box[i];
  }

  /// Reference boxes, the block's columns of their sine embedding (as make_references()), and the
  /// learned queries, which have no position yet.
  RFSEG_DEVICE void refer(const DecoderStep& s) {
    const int row = thread_ / kRowShare, first = thread_ % kRowShare;
    const int query = global_row(row) % a_.start.queries;
    uint16_t* content = operand(DecoderStep::kOne) + row * a_.operand_ld[DecoderStep::kOne];
    RFSEG_UNROLL_BY(2)
    for (int i = 8 * first; i < a_.dim; i += 8 * kRowShare) {
      float v[8];
      read8(a_.start.learned + int64_t{query} * a_.dim + i, v);
      write8(reinterpret_cast<__half*>(content + i), v);
    }
    if (first < 4) {
      const float* proposal = references_ + kDecoderRows * 4 + row * 4;
      const float* learned = references_ + kDecoderRows * 8 + row * 4;
      float v = learned[first];
      if (proposal[0] >= 0) {
        const float own = refined(s, proposal, row, first);
        v = first < 2 ? v * refined(s, proposal, row, first + 2) + own : expf(v) * own;
      }
      references_[row * 4 + first] = v;
      if (rank_ == 0 && first_row_ + row < a_.rows) {
        a_.start.references[int64_t{first_row_ + row} * 4 + first] = v;
      }
    }
    cluster_sync();  // the next step's sums come to where these were
    // dim / 2 columns for each of cy, cx, w, h; the block has half of those of one.
    const int coordinate = rank_ / 2;
    const float u = references_[row * 4 + (coordinate < 2 ? 1 - coordinate : coordinate)];
    uint16_t* sine =
        operand(DecoderStep::kOwnHidden) + row * a_.operand_ld[DecoderStep::kOwnHidden];
    RFSEG_ROLLED
    for (int i = first; i < own_; i += kRowShare) {
      const int k = rank_ % 2 * own_ + i;
      const float period =
          powf(10000.0f, static_cast<float>(2 * k) / static_cast<float>(a_.dim / 2));
      const float angle = u * 2 * 3.14159265358979f / period;
      *reinterpret_cast<uint32_t*>(sine + 2 * i) = pack_halves(sinf(angle), cosf(angle));
    }
  }

  static RFSEG_DEVICE float relu(float v) { return activate<Math::kFp16>(v, Activation::kRelu); }

  /// half(act(y)) of this block's hidden columns.
  RFSEG_DEVICE void hide(const DecoderStep& s) {
    const int row = thread_ / kRowShare, ld = s.padded_columns() + kRowPadding;
    uint16_t* to = operand(DecoderStep::kOwnHidden) + row * a_.operand_ld[DecoderStep::kOwnHidden];
    RFSEG_ROLLED
    for (int column = thread_ % kRowShare * 4; column < s.columns; column += 4 * kRowShare) {
      Four v = load_four(raw_ + row * ld + column);
      add_four(v, load_four(constants_ + s.bias + column));
      RFSEG_UNROLL
      for (int j = 0; j < 4; ++j) {
        v.v[j] = s.activation == Activation::kGelu ? short_gelu(v.v[j]) : relu(v.v[j]);
      }
      store_pair(to + column, pack_halves(v.v[0], v.v[1]), pack_halves(v.v[2], v.v[3]));
    }
  }

  using TwoRows = float[2][kVectors][8];  ///< 2 * warp and the next, lanes as in WarpNorm

  /// LayerNorm of two rows side by side, so that their chains overlap.
  RFSEG_DEVICE void affine(TwoRows& v, const float* gamma) const {
    const float channels = static_cast<float>(a_.dim);
    float mean[2] = {0, 0}, inverse[2];
    RFSEG_UNROLL
    for (int pass = 0; pass < 2; ++pass) {
      float sum[2] = {0, 0};
      RFSEG_UNROLL
      for (int i = 0; i < kVectors; ++i) {
        if (8 * (lane_ + kWarp * i) >= a_.dim) continue;
        RFSEG_UNROLL
        for (int j = 0; j < 8; ++j) {
          RFSEG_UNROLL
          for (int r = 0; r < 2; ++r) {
            const float x = v[r][i][j] - mean[r];  // in the first pass the value
            sum[r] += pass == 0 ? x : x * x;
          }
        }
      }
      RFSEG_UNROLL
      for (int d = kWarp / 2; d > 0; d /= 2) {
        RFSEG_UNROLL
        for (int r = 0; r < 2; ++r) sum[r] += warp_read(sum[r], lane_ ^ d);
      }
      RFSEG_UNROLL
      for (int r = 0; r < 2; ++r) {
        if (pass == 0) {
          mean[r] = sum[r] / channels;
        } else {
          inverse[r] = 1.0f / sqrtf(sum[r] / channels + a_.eps);
        }
      }
    }
    RFSEG_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const int channel = 8 * (lane_ + kWarp * i);
      if (channel >= a_.dim) continue;
      float g[8], b[8];
      read8(gamma + channel, g);
      read8(gamma + a_.dim + channel, b);
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) {
        RFSEG_UNROLL
        for (int r = 0; r < 2; ++r) v[r][i][j] = (v[r][i][j] - mean[r]) * inverse[r] * g[j] + b[j];
      }
    }
  }

  /// Calls f(r, i, row, channel) for what the lane has of its warp's two rows.
  template <class F>
  RFSEG_DEVICE void each_vector(F&& f) const {
    RFSEG_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const int channel = 8 * (lane_ + kWarp * i);
      if (channel >= a_.dim) continue;
      RFSEG_UNROLL
      for (int r = 0; r < 2; ++r) f(r, i, 2 * warp_ + r, channel);
    }
  }
  /// Whether this block stores that part of a row for all.
  RFSEG_DEVICE bool stores(int row, int channel) const {
    return channel / own_ == rank_ && first_row_ + row < a_.rows;
  }

  RFSEG_DEVICE void put_halves(const float (&v)[8], DecoderStep::Operand to, int row,
                               int channel) const {
    write8(reinterpret_cast<__half*>(operand(to) + row * a_.operand_ld[to] + channel), v);
  }

  /// Every block does all rows, two a warp. After the last layer decoder.norm and query_norm
  /// follow.
  RFSEG_DEVICE void normalise(const DecoderStep& s) {
    const bool layer_end = s.then == Then::kReduceNorm;
    const int count = layer_end ? a_.plan.norm_count - 2 : 1;
    TwoRows v;
    each_vector(
        [&](int r, int i, int row, int channel) { read8(x_ + row * ldx_ + channel, v[r][i]); });
    RFSEG_ROLLED
    for (int norm = 0; norm < count; ++norm) {
      affine(v, constants_ + s.norm + norm * 2 * a_.dim);
      each_vector([&](int r, int i, int row, int channel) {
        if (norm == 0) write8(x_ + row * ldx_ + channel, v[r][i]);
        const int64_t place = int64_t{first_row_ + row} * a_.dim + channel;
        if (layer_end && norm < 2 && stores(row, channel)) {
          if (norm == 0) {
            write8(a_.queries + place, v[r][i]);
          } else {
            write8(static_cast<__half*>(a_.hs) + place, v[r][i]);
          }
        }
        // Inside of a layer only what the next step reads: into the other one blocks that are ahead
        // may already sample.
        if ((layer_end && norm != 1) || s.to == DecoderStep::kContent) {
          put_halves(v[r][i], DecoderStep::kContent, row, channel);
        }
        if ((layer_end && norm < 2) || s.to == DecoderStep::kPositioned) {
          float sum[8];
          RFSEG_UNROLL
          for (int j = 0; j < 8; ++j) {
            sum[j] = norm == 0 ? v[r][i][j] + position_[r][i][j] : v[r][i][j];
          }
          put_halves(sum, DecoderStep::kPositioned, row, channel);
        }
      });
    }
    // From here on the place of the queries holds operands that other blocks write.
    if (count > 1) cluster_sync();
  }

  /// As sample_values(), a thread for a corner and 8 of the 16 channels of a head.
  RFSEG_DEVICE void sample(const DecoderStep& s) {
    const SampleArguments& v = a_.sample;
    float* sampling = raw_;
    const int ld = s.columns + 1, row = thread_ / kRowShare;
    RFSEG_ROLLED
    for (int column = thread_ % kRowShare; column < s.columns; column += kRowShare) {
      sampling[row * ld + column] = one_sum(s, row, column);
    }
    block_sync();
    const int samples = v.levels * v.points, heads = v.heads / kDecoderBlocks;
    const float reach = 0.5f / static_cast<float>(v.points);
    const int part = thread_ % 2, corner = thread_ / 2 % 4;
    RFSEG_ROLLED
    for (int item = thread_ / 8; item < kDecoderRows * heads; item += kDecoderThreads / 8) {
      const int head = item % heads, row = item / heads;
      const float* offsets = sampling + row * ld + head * 3 * samples;
      const float* weights = offsets + 2 * samples;
      float largest = -INFINITY;
      RFSEG_ROLLED
      for (int i = 0; i < samples; ++i) largest = fmaxf(largest, weights[i]);
      float total = 0;
      RFSEG_ROLLED
      for (int i = 0; i < samples; ++i) total += expf(weights[i] - largest);
      const Four box = load_four(references_ + row * 4);
      float sum[8] = {};
      const __half* values = static_cast<const __half*>(v.values) +
                             global_row(row) / v.queries * int64_t{v.n} * v.ldv +
                             (rank_ * heads + head) * 16 + part * 8;
      int sample = 0;
      RFSEG_ROLLED
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
    float sum = constants_[s.bias + column];
    RFSEG_UNROLL
    for (int part = 0; part < kDecoderWarps; ++part) {
      if (part < s.parts) sum += from[part * kDecoderRows * ld];
    }
    return sum;
  }

  RFSEG_DEVICE void store(const DecoderStep& s) {
    const int row = thread_ / kRowShare;
    if (first_row_ + row >= a_.rows) return;
    RFSEG_ROLLED
    for (int column = thread_ % kRowShare; column < s.columns; column += kRowShare) {
      // At most two runs.
      const int to = rank_ * s.width + (column < s.width ? column : s.stride + column - s.width);
      if (to >= s.limit) continue;
      const float v = one_sum(s, row, column);
      const int64_t at = int64_t{first_row_ + row} * s.ldo + to;
      if (s.then == Then::kStore) {
        static_cast<__half*>(s.out)[at] = from_float<__half>(v);
      } else {
        static_cast<float*>(s.out)[at] = v;
      }
    }
  }

  RFSEG_DEVICE void refine(const DecoderStep& s) {
    const int row = thread_ / kRowShare, i = thread_ % kRowShare;
    if (rank_ != 0 || i >= 4 || first_row_ + row >= a_.rows) return;
    a_.boxes[int64_t{first_row_ + row} * 4 + i] = refined(s, references_ + row * 4, row, i);
  }

  const DecoderArguments& a_;
  std::byte* shared_;
  int thread_, warp_, lane_, rank_;
  int own_;  ///< columns of the decoder's width
  int first_row_;
  float* x_;  ///< queries, at the beginning of shared memory
  int ldx_;
  float *parts_, *raw_, *constants_, *references_;
  WeightStream stream_;
  float position_[2][kVectors][8];  ///< as normalise() has the rows
};

template <int kVectors, bool kStart>
RFSEG_DEVICE void decoder_body(const DecoderArguments& a, void* shared) {
  release_next_kernel();
  DecoderBlock<kVectors, kStart> block(a, static_cast<std::byte*>(shared));
  block.run();
}

/// Finds places in shared memory; returns the bytes needed.
std::size_t place_shared(DecoderArguments& a) {
  constexpr int kSharedBytes = 227 * 1024, kMaxSlots = 12;
  int size = 0;
  const auto take = [&](int bytes) {
    const int at = size;
    size += (bytes + 127) / 128 * 128;
    return at;
  };
  const int ld = a.dim + kRowPadding, row_bytes = 2 * kDecoderRows * ld;
  int hidden = 0, parts = 0, raw = 0;
  for (int i = 0; i < a.plan.count; ++i) {
    const DecoderStep& s = a.plan.step[i];
    if (s.then == Then::kReference) {  // its sines; the learned queries
      hidden = std::max(hidden, a.dim / 4);
      raw = std::max(raw, a.dim / kDecoderBlocks);
    }
    if (s.then == Then::kHidden) hidden = std::max(hidden, s.columns);
    if (s.then == Then::kSample) raw = std::max(raw, s.columns + 1);
    const bool reduce = s.then == Then::kReduceNorm || s.then == Then::kReduceGather;
    if (s.then == Then::kHidden) {
      raw = std::max(raw, s.padded_columns() + kRowPadding);
      continue;
    }
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
  a.operand_at[DecoderStep::kOwnHidden] = take(2 * kDecoderRows * (hidden + kRowPadding));
  a.raw_at = take(4 * kDecoderRows * raw);
  a.parts_at = take(4 * kDecoderRows * parts);
  a.constants_at = take(4 * a.plan.constants);
  a.references_at = take(3 * 16 * kDecoderRows);
  a.slots = std::min({kMaxSlots, a.plan.chunks,
                      (kSharedBytes - size - 128) / (kDecoderWarps * (kChunkBytes + 8))});
  if (a.slots < 1) throw Error(ErrorCode::kInternal, "the decoder's kernel does not fit");
  a.barriers_at = take(8 * kDecoderWarps * a.slots);
  a.ring_at = take(kDecoderWarps * a.slots * kChunkBytes);

  return static_cast<std::size_t>(size);
}

template <auto kBody>
void launch_decoder(const Queue& queue, const DecoderArguments& arguments) {
  DecoderArguments a = arguments;
  const std::size_t shared = place_shared(a);
  const Grid grid{(a.rows + kDecoderRows - 1) / kDecoderRows * kDecoderBlocks};
  launch_cluster<kBody, kDecoderThreads>(queue, grid, kDecoderBlocks, shared, a);
}

}  // namespace

void decoder_layer(const Queue& queue, const DecoderArguments& a) {
  if (a.dim <= 256) {
    launch_decoder<decoder_body<1, false>>(queue, a);
  } else {
    launch_decoder<decoder_body<2, false>>(queue, a);
  }
}

void decoder_start(const Queue& queue, const DecoderArguments& a) {
  launch_decoder<decoder_body<1, true>>(queue, a);
}

}  // namespace rfseg::cuda
