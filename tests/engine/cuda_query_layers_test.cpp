// The kernels of a decoder layer for few queries, on the emulator, against plain loops in double
// over the same halves.

#define RFSEG_SIMT_EMULATION 1

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/cuda/small/query_attention.cu"
#include "engine/cuda/small/query_forward.cu"
#include "engine/cuda/small/query_heads.cu"
#include "engine/cuda/small/query_masks.cu"
#include "engine/cuda/small/query_start.cu"
#include "engine/cuda_few_rows_plain.h"

namespace rfseg::cuda {
namespace {

using namespace few_rows;

void expect_row(const Row& expected, const float* got, const uint16_t* element, double bound) {
  for (int i = 0; i < kColumns; ++i) {
    ASSERT_TRUE(std::abs(got[i] - expected[i]) <= bound)
        << i << ": " << got[i] << ", " << expected[i];
    ASSERT_EQ(half_to_float(element[i]), static_cast<float>(rounded(got[i]))) << i;
  }
}

Row relu(Row v) {
  for (double& e : v) e = std::max(e, 0.0);
  return v;
}
/// The box that `delta` makes of `base`.
Row refined(const Row& delta, const Row& base) {
  return {delta[0] * base[2] + base[0], delta[1] * base[3] + base[1], std::exp(delta[2]) * base[2],
          std::exp(delta[3]) * base[3]};
}

TEST(QueryForward, IsTheLayerAndWhatFollows) {
  for (const int rows : {16, 37, 133}) {
    for (const bool last : {false, true}) {
      const Linear first(2048, kColumns), second(kColumns, 2048), next(3 * kColumns, kColumns);
      const Affine norm;
      const std::vector<float> x = floats(std::size_t(rows) * kColumns, 1);
      const std::vector<float> position = floats(x.size(), 1);
      std::vector<uint16_t> element;
      for (float v : x) element.push_back(float_to_half(v));
      std::vector<float> out = x;
      std::vector<uint16_t> out_element = element;
      std::vector<uint16_t> qkv(std::size_t(rows) * 3 * kColumns, 0x7e00);
      QueryForwardArguments a;
      a.x_element = out_element.data();
      a.x = out.data();
      a.out_element = out_element.data();
      a.position = position.data();
      a.first = first.product();
      a.second = second.product();
      a.norm = norm.norm();
      if (!last) a.next = next.product();
      a.qkv = qkv.data();
      a.rows = rows;
      a.eps = 1e-5f;
      query_forward({}, Math::kFp16, a);
      for (int r = 0; r < rows; ++r) {
        Row hidden = first(row_of(x, r, kColumns));
        for (double& v : hidden) v = std::max(v, 0.0);
        const Row y = norm(plus(second(hidden), row_of(x, r, kColumns)), 1e-5);
        expect_row(y, out.data() + r * kColumns, out_element.data() + r * kColumns, 2e-3);
        const Row with = next(plus(y, row_of(position, r, kColumns))), without = next(y);
        for (int i = 0; i < 3 * kColumns; ++i) {
          const uint16_t got = qkv[std::size_t(r) * 3 * kColumns + i];
          if (last) {
            ASSERT_EQ(got, 0x7e00);
          } else {
            ASSERT_TRUE(std::abs(half_to_float(got) - (i < 512 ? with : without)[i]) <= 1e-2) << i;
          }
        }
      }
    }
  }
}

void check_last_forward(int rows) {
  const Linear first(2048, kColumns), second(kColumns, 2048);
  const Affine norm, last, then;
  for (const bool twice : {true, false}) {
    std::vector<float> x = floats(std::size_t(rows) * kColumns, 1);
    const std::vector<float> position = floats(x.size(), 1);
    std::vector<uint16_t> element(x.size());
    std::transform(x.begin(), x.end(), element.begin(), [](float v) { return float_to_half(v); });
    std::vector<uint16_t> hs(x.size() + 1, 0x7e00), normed(hs);
    QueryForwardArguments a;
    a.x_element = a.out_element = element.data();
    a.x = x.data();
    a.position = position.data();
    a.first = first.product();
    a.second = second.product();
    a.norm = norm.norm();
    a.last = last.norm();
    a.hs = hs.data();
    if (twice) a.then = then.norm();
    a.hs_normed = normed.data();
    a.rows = rows;
    a.eps = 1e-5f;
    query_forward({}, Math::kFp16, a);
    for (int r = 0; r < rows; ++r) {
      // From the kernel's own x, which the other test is about.
      const Row expected = last(row_of(x, r, kColumns), 1e-5), more = then(expected, 1e-5);
      for (int i = 0; i < kColumns; ++i) {
        const std::size_t at = std::size_t(r) * kColumns + i;
        ASSERT_TRUE(std::abs(half_to_float(hs[at]) - expected[i]) <= 3e-3) << r << ", " << i;
        if (twice) {
          ASSERT_TRUE(std::abs(half_to_float(normed[at]) - more[i]) <= 3e-3) << r << ", " << i;
        } else {
          ASSERT_EQ(normed[at], 0x7e00);
        }
      }
    }
    EXPECT_EQ(hs.back(), 0x7e00);
    EXPECT_EQ(normed.back(), 0x7e00);
  }
}

TEST(QueryForward, NormalisesTheLastRowsTwiceMore) {
  check_last_forward(21);
  check_last_forward(145);
}

void check_heads(int rows, const std::vector<int>& of_classes) {
  for (const int classes : of_classes) {
    const Linear box0(kColumns, kColumns), box1(kColumns, kColumns), box2(4, kColumns);
    const Linear logits(classes, kColumns);
    const std::vector<uint16_t> hs = halves(std::size_t(rows) * kColumns, 1);
    const std::vector<float> references = floats(std::size_t(rows) * 4, 0.4f, 0.5f);
    std::vector<float> boxes(rows * 4 + 1, NAN), out(std::size_t(rows) * classes + 1, NAN);
    QueryHeadsArguments a;
    a.hs = hs.data();
    a.box[0] = box0.product();
    a.box[1] = box1.product();
    a.box[2] = box2.product();
    a.classes = logits.product();
    a.references = references.data();
    a.boxes = boxes.data();
    a.logits = out.data();
    a.rows = rows;
    a.count = classes;
    query_heads({}, Math::kFp16, a);
    const Row wide = widened(hs);
    for (int r = 0; r < rows; ++r) {
      const Row x = row_of(wide, r, kColumns), delta = box2(relu(box1(relu(box0(x)))));
      const Row base = row_of(references, r, 4);
      const Row box = refined(delta, base);
      for (int i = 0; i < 4; ++i) {
        ASSERT_TRUE(std::abs(boxes[r * 4 + i] - box[i]) <= 3e-3 * (1 + std::abs(box[i])))
            << r << ", " << i << ": " << boxes[r * 4 + i] << ", " << box[i];
      }
      const Row expected = logits(x);
      for (int i = 0; i < classes; ++i) {
        ASSERT_TRUE(std::abs(out[std::size_t(r) * classes + i] - expected[i]) <= 1e-4)
            << r << ", " << i;
      }
    }
    EXPECT_TRUE(std::isnan(boxes.back()) && std::isnan(out.back()));
  }
}

TEST(QueryHeads, AreBoxesAndLogits) {
  check_heads(37, {91, 2, 128});
  check_heads(133, {91});
}

void check_masks(int rows) {
  const int hidden = 1024;
  const Linear first(hidden, kColumns), second(kColumns + 1, hidden + kColumns);
  constexpr int kSlice = kMaskTailHidden + kMaskTailOwn;
  std::vector<uint16_t> slices(std::size_t{kMaskTailSlices} * kMaskTailRows * kSlice, 0);
  for (int s = 0; s < kMaskTailSlices; ++s) {
    for (int n = 0; n <= kColumns; ++n) {
      uint16_t* to = &slices[(std::size_t(s) * kMaskTailRows + n) * kSlice];
      const uint16_t* from = &second.weight[std::size_t(n) * second.k];
      std::copy_n(from + s * kMaskTailHidden, kMaskTailHidden, to);
      std::copy_n(from + hidden + s * kMaskTailOwn, kMaskTailOwn, to + kMaskTailHidden);
    }
  }
  const std::vector<uint16_t> normed = halves(std::size_t(rows) * kColumns, 2);
  const std::vector<uint16_t> hs = halves(normed.size(), 2);
  std::vector<uint16_t> out(normed.size() + 1, 0x7e00);
  std::vector<float> constants(rows + 1, NAN);
  QueryMasksArguments a;
  a.normed = normed.data();
  a.hs = hs.data();
  a.first = first.product();
  a.second = {slices.data(), second.bias.data()};
  a.out = out.data();
  a.constants = constants.data();
  a.rows = rows;
  query_masks({}, Math::kFp16, a);
  const Row wide_normed = widened(normed), wide_hs = widened(hs);
  for (int r = 0; r < rows; ++r) {
    Row h = first(row_of(wide_normed, r, kColumns));
    for (double& v : h) v = 0.5 * v * (1 + std::erf(v * std::sqrt(0.5)));
    const Row more = row_of(wide_hs, r, kColumns);
    h.insert(h.end(), more.begin(), more.end());
    const Row expected = second(h);
    for (int i = 0; i < kColumns; ++i) {
      ASSERT_TRUE(std::abs(half_to_float(out[std::size_t(r) * kColumns + i]) - expected[i]) <= 1e-2)
          << r << ", " << i;
    }
    ASSERT_TRUE(std::abs(constants[r] - expected[kColumns]) <= 2e-3)
        << r << ": " << constants[r] << ", " << expected[kColumns];
  }
  EXPECT_EQ(out.back(), 0x7e00);
  EXPECT_TRUE(std::isnan(constants.back()));
}

TEST(QueryMasks, AreTheSecondProductOfHiddenColumnsAndRows) {
  check_masks(37);
  check_masks(133);
}

void check_start(int batch, int queries) {
  const int rows = batch * queries, cells = 30;
  const Linear box0(kColumns, kColumns), box1(kColumns, kColumns), box2(4, kColumns);
  const Linear position0(kColumns, 2 * kColumns), position1(kColumns, kColumns);
  const Linear next(3 * kColumns, kColumns);
  const std::vector<uint16_t> map = halves(std::size_t(batch) * cells * kColumns, 1);
  const std::vector<float> proposals = floats(cells * 4, 0.4f, 0.5f);
  const std::vector<float> learned = floats(queries * 4, 0.3f, 0.4f);
  const std::vector<float> content = floats(std::size_t(queries) * kColumns, 1);
  std::vector<int32_t> chosen, chosen_rows;
  for (int r = 0; r < rows; ++r) {
    chosen.push_back(r % queries == 20 ? -1 : (r * 7) % cells);
    chosen_rows.push_back(r / queries * cells + std::max(chosen.back(), 0));
  }
  std::vector<float> references(rows * 4, NAN), position(std::size_t(rows) * kColumns, NAN);
  std::vector<float> x(position);
  std::vector<uint16_t> qkv(std::size_t(rows) * 3 * kColumns, 0x7e00);
  QueryStartArguments a;
  a.cells = map.data();
  a.rows = chosen_rows.data();
  a.box[0] = box0.product();
  a.box[1] = box1.product();
  a.box[2] = box2.product();
  a.chosen = chosen.data();
  a.proposals = proposals.data();
  a.learned = learned.data();
  a.position[0] = position0.product();
  a.position[1] = position1.product();
  a.content = content.data();
  a.next = next.product();
  a.references = references.data();
  a.position_out = position.data();
  a.x = x.data();
  a.qkv = qkv.data();
  a.batch = batch;
  a.queries = queries;
  query_start({}, Math::kFp16, a);
  const Row wide_map = widened(map);
  for (int r = 0; r < rows; ++r) {
    const int query = r % queries;
    const Row delta = box2(relu(box1(relu(box0(row_of(wide_map, chosen_rows[r], kColumns))))));
    Row box = row_of(learned, query, 4);
    if (chosen[r] >= 0) box = refined(box, refined(delta, row_of(proposals, chosen[r], 4)));
    for (int i = 0; i < 4; ++i)
      ASSERT_TRUE(std::abs(references[r * 4 + i] - box[i]) <= 5e-3 * (1 + std::abs(box[i])))
          << r << ", " << i;
    Row sine(2 * kColumns);
    for (int block = 0; block < 4; ++block) {
      // From the kernel's own box: the embedding's fast waves would show the rounding of boxes.
      const double u = references[r * 4 + (block < 2 ? 1 - block : block)];
      for (int k = 0; k < 64; ++k) {
        const double angle = u * 2 * 3.14159265358979 / std::pow(10000.0, k / 64.0);
        sine[block * 128 + 2 * k] = std::sin(angle);
        sine[block * 128 + 2 * k + 1] = std::cos(angle);
      }
    }
    const Row where = position1(relu(position0(sine))), start = row_of(content, query, kColumns);
    for (int i = 0; i < kColumns; ++i) {
      ASSERT_TRUE(std::abs(position[std::size_t(r) * kColumns + i] - where[i]) <= 5e-3)
          << r << ", " << i;
      ASSERT_EQ(x[std::size_t(r) * kColumns + i], content[std::size_t(query) * kColumns + i]);
    }
    const Row with = next(plus(start, where)), without = next(start);
    for (int i = 0; i < 3 * kColumns; ++i) {
      ASSERT_TRUE(std::abs(half_to_float(qkv[std::size_t(r) * 3 * kColumns + i]) -
                           (i < 512 ? with : without)[i]) <= 1e-2)
          << r << ", " << i;
    }
  }
}

TEST(QueryStart, IsFromCellsToTheFirstLayer) {
  check_start(2, 21);
  check_start(7, 19);  // the second team of the last cluster has no rows
}

struct AttentionCase {
  int batch, queries, points, levels;
};

void check_attention(const AttentionCase& c) {
  const int rows = c.batch * c.queries, samples = c.points * c.levels, heads = 16;
  const int level_rows[] = {5, 3}, level_cols[] = {7, 4};
  int n = 0;
  for (int l = 0; l < c.levels; ++l) n += level_rows[l] * level_cols[l];
  const Linear attended(kColumns, kColumns), sampling(3 * heads * samples, kColumns);
  const Linear sampled(kColumns, kColumns);
  const Affine norm1, norm2;
  const std::vector<uint16_t> qkv = halves(std::size_t(rows) * 3 * kColumns, 3);
  const std::vector<uint16_t> values = halves(std::size_t(c.batch) * n * 2 * kColumns, 1);
  const std::vector<float> x = floats(std::size_t(rows) * kColumns, 1);
  const std::vector<float> position = floats(x.size(), 1);
  std::vector<float> references = floats(std::size_t(rows) * 4, 0.4f, 0.5f);
  std::vector<float> out = x;
  std::vector<uint16_t> element(x.size(), 0x7e00);
  QueryAttentionArguments a;
  a.qkv = qkv.data();
  a.x = out.data();
  a.x_element = element.data();
  a.position = position.data();
  a.attended = attended.product();
  a.sampling = sampling.product();
  a.sampled = sampled.product();
  a.norm1 = norm1.norm();
  a.norm2 = norm2.norm();
  a.scale = 0.17677669529663687f;
  a.eps = 1e-5f;
  SampleArguments& s = a.samples;
  s.references = references.data();
  s.values = values.data() + kColumns;  // the second layer's
  s.ldv = 2 * kColumns;
  s.batch = c.batch;
  s.queries = c.queries;
  s.heads = heads;
  s.points = c.points;
  s.n = n;
  s.levels = c.levels;
  for (int l = 0; l < c.levels; ++l) {
    s.level_rows[l] = level_rows[l];
    s.level_cols[l] = level_cols[l];
  }
  query_attention({}, Math::kFp16, a);

  const Row all = widened(qkv), map = widened(values);
  for (int r = 0; r < rows; ++r) {
    const int picture = r / c.queries;
    Row mixed(kColumns);
    for (int h = 0; h < 8; ++h) {
      Row weights(c.queries);
      double highest = -1e30, total = 0;
      for (int k = 0; k < c.queries; ++k) {
        double dot = 0;
        for (int i = 0; i < 32; ++i) {
          dot += all[std::size_t(r) * 768 + h * 32 + i] *
                 all[std::size_t(picture * c.queries + k) * 768 + 256 + h * 32 + i];
        }
        weights[k] = dot * a.scale;
        highest = std::max(highest, weights[k]);
      }
      for (double& w : weights) total += w = std::exp(w - highest);
      for (int k = 0; k < c.queries; ++k) {
        for (int i = 0; i < 32; ++i) {
          mixed[h * 32 + i] += weights[k] / total *
                               all[std::size_t(picture * c.queries + k) * 768 + 512 + h * 32 + i];
        }
      }
    }
    const Row first = norm1(plus(attended(mixed), row_of(x, r, kColumns)), 1e-5);
    const Row where = sampling(plus(first, row_of(position, r, kColumns)));
    const float* box = references.data() + r * 4;
    Row taken(kColumns);
    for (int h = 0; h < heads; ++h) {
      const double* offsets = where.data() + h * samples * 2;
      const double* weights = where.data() + heads * samples * 2 + h * samples;
      double total = 0;
      for (int i = 0; i < samples; ++i) total += std::exp(weights[i]);
      int first_cell = 0;
      for (int i = 0; i < samples; ++i) {
        const int level = i / c.points, w = level_cols[level], hh = level_rows[level];
        if (i % c.points == 0 && level > 0)
          first_cell += level_rows[level - 1] * level_cols[level - 1];
        const double px = (box[0] + offsets[2 * i] * box[2] * 0.5 / c.points) * w - 0.5;
        const double py = (box[1] + offsets[2 * i + 1] * box[3] * 0.5 / c.points) * hh - 0.5;
        for (int corner = 0; corner < 4; ++corner) {
          const double cx = std::floor(px) + corner % 2, cy = std::floor(py) + corner / 2;
          if (cx < 0 || cy < 0 || cx >= w || cy >= hh) continue;
          const double share =
              (1 - std::abs(px - cx)) * (1 - std::abs(py - cy)) * std::exp(weights[i]) / total;
          const std::size_t at =
              (std::size_t(picture) * n + first_cell + int(cy) * w + int(cx)) * 512 + 256 + h * 16;
          for (int i2 = 0; i2 < 16; ++i2) taken[h * 16 + i2] += share * map[at + i2];
        }
      }
    }
    const Row y = norm2(plus(sampled(taken), first), 1e-5);
    expect_row(y, out.data() + r * kColumns, element.data() + r * kColumns, 1e-2);
    if (::testing::Test::HasFailure()) FAIL() << "row " << r;
  }
}

TEST(QueryAttention, IsTheLayersFirstHalf) {
  check_attention({1, 16, 2, 1});
  check_attention({2, 37, 4, 1});
  check_attention({1, 150, 4, 2});
  check_attention({2, 70, 2, 1});
}

}  // namespace
}  // namespace rfseg::cuda
