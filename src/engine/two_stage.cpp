#include "engine/two_stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "rfseg/error.h"

namespace rfseg {

Proposals make_proposals(const ModelConfig& config) {
  Proposals proposals;
  for (Level level : config.levels) {
    proposals.levels.push_back(level_size(config, level));
    proposals.count += proposals.levels.back().cells();
  }
  proposals.boxes = Tensor({proposals.count, 4});
  proposals.valid.reserve(proposals.count);
  float* box = proposals.boxes.data.data();
  float side = 0.05f;
  for (const MapSize& level : proposals.levels) {
    for (int y = 0; y < level.rows; ++y) {
      for (int x = 0; x < level.cols; ++x, box += 4) {
        box[0] = (static_cast<float>(x) + 0.5f) / static_cast<float>(level.cols);
        box[1] = (static_cast<float>(y) + 0.5f) / static_cast<float>(level.rows);
        box[2] = box[3] = side;
        const bool valid =
            std::all_of(box, box + 4, [](float v) { return v > 0.01f && v < 0.99f; });
        if (!valid) std::fill(box, box + 4, 0.0f);
        proposals.valid.push_back(valid);
        proposals.all_valid = proposals.all_valid && valid;
      }
    }
    side *= 2;
  }
  return proposals;
}

std::vector<int32_t> select_topk(const float* scores, int64_t n, int64_t k) {
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  const auto before = [scores](int32_t a, int32_t b) {
    const bool a_nan = std::isnan(scores[a]), b_nan = std::isnan(scores[b]);
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && scores[a] != scores[b]) return scores[a] > scores[b];
    return a < b;
  };
  std::partial_sort(order.begin(), order.begin() + k, order.end(), before);
  order.resize(k);
  return order;
}

std::vector<int32_t> choose_queries(const ModelConfig& config, const int32_t* forced, int image,
                                    const float* scores, int64_t n) {
  const int64_t k = std::min<int64_t>(config.queries, n);
  if (forced == nullptr) return select_topk(scores, n, k);
  const int32_t* row = forced + int64_t{image} * config.queries;
  for (int64_t j = 0; j < k; ++j) {
    if (row[j] < 0 || row[j] >= n) {
      throw Error(ErrorCode::kUsage,
                  fmt::format("forced top-k: index {} of image {} is {}; accepted is 0 to {}", j,
                              image, row[j], n - 1));
    }
  }
  return {row, row + k};
}

void refine_box(const float* delta, const float* base, float* out) {
  const float x = delta[0] * base[2] + base[0];
  const float y = delta[1] * base[3] + base[1];
  const float w = std::exp(delta[2]) * base[2];
  const float h = std::exp(delta[3]) * base[3];
  out[0] = x, out[1] = y, out[2] = w, out[3] = h;
}

void sine_embedding(const float* boxes, int64_t n, int dim, float* out) {
  const int half = dim / 2;
  std::vector<float> wave(half);
  for (int k = 0; k < half; ++k) {
    const int even = k - k % 2;
    wave[k] = std::pow(10000.0f, static_cast<float>(even) / static_cast<float>(half));
  }
  constexpr int kOrder[] = {1, 0, 2, 3};
  for (int64_t i = 0; i < n; ++i) {
    for (int coordinate : kOrder) {
      const float angle = boxes[i * 4 + coordinate] * 2 * std::numbers::pi_v<float>;
      for (int k = 0; k < half; ++k) {
        const float phase = angle / wave[k];
        *out++ = k % 2 == 0 ? std::sin(phase) : std::cos(phase);
      }
    }
  }
}

}  // namespace rfseg
