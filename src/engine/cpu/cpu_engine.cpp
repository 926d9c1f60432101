#include "engine/cpu/cpu_engine.h"

#include <algorithm>

#include "core/cpu.h"
#include "engine/cpu/stages.h"
#include "engine/model_weights.h"
#include "rfseg/error.h"

namespace rfseg {
namespace cpu {

Geometry::Geometry(const ModelConfig& c, const Proposals& proposals) {
  const int windows = c.windows, rows_in = c.grid_rows() / windows,
            cols_in = c.grid_cols() / windows;
  window_tokens = rows_in * cols_in + 1;
  tokens = windows * windows * window_tokens;
  cell_of_token.reserve(tokens);
  for (int w = 0; w < windows * windows; ++w) {
    cell_of_token.push_back(-1);
    for (int y = 0; y < rows_in; ++y) {
      for (int x = 0; x < cols_in; ++x) {
        cell_of_token.push_back((w / windows * rows_in + y) * c.grid_cols() +
                                w % windows * cols_in + x);
      }
    }
  }
  int64_t first = 0;
  for (const MapSize& size : proposals.levels) {
    rows.push_back(size.rows);
    cols.push_back(size.cols);
    first_cell.push_back(first);
    first += size.cells();
  }
  // Bilinear, align_corners=False, no antialias.
  const auto taps = [](int in, int out, std::vector<int>& low, std::vector<float>& part) {
    for (int i = 0; i < out; ++i) {
      const double source = std::max((i + 0.5) * in / out - 0.5, 0.0);
      low.push_back(static_cast<int>(source));
      part.push_back(static_cast<float>(source - low.back()));
    }
  };
  if (c.seg) {
    taps(rows[0], c.mask_rows(), mask_low_y, mask_part_y);
    taps(cols[0], c.mask_cols(), mask_low_x, mask_part_x);
  }
  zeros.assign(static_cast<std::size_t>(std::max({c.enc_dim, c.dim, c.patch})) + 16, 0.0f);
}

void Buffers::resize(const ModelConfig& c, const Proposals& proposals, int pictures) {
  memory.clear();
  batch = pictures;
  const int64_t n = pictures, grid = int64_t{c.grid_rows()} * c.grid_cols();
  const int64_t m = grid + int64_t{c.windows} * c.windows, cells = proposals.count;
  enum { kEncode, kProject, kDecode, kSegment };
  memory.plan(&tokens, n * m * c.enc_dim, kEncode, kEncode);
  memory.plan(&qkv, n * m * 3 * c.enc_dim, kEncode, kEncode);
  taps.assign(c.taps.size(), nullptr);
  for (float*& tap : taps) memory.plan(&tap, n * grid * c.enc_dim, kEncode, kProject);
  level_input.assign(c.levels.size(), nullptr);
  int64_t largest = 0;
  for (std::size_t i = 0; i < c.levels.size(); ++i) {
    const int64_t level = proposals.levels[i].cells();
    largest = std::max(largest, level);
    if (c.levels[i] == Level::kP4) continue;
    const int64_t width = c.levels[i] == Level::kP3 ? c.enc_dim / 2 : c.enc_dim;
    const int64_t taps_of = static_cast<int64_t>(c.taps.size());
    memory.plan(&level_input[i], n * level * taps_of * width, kProject, kProject);
  }
  memory.plan(&parts, n * largest * 5 * (c.dim / 2), kProject, kProject);
  memory.plan(&middle, n * largest * (c.dim / 2), kProject, kProject);
  memory.plan(&maps, n * cells * c.dim, kProject, kSegment);
  memory.plan(&values, n * cells * c.dim * c.dec_layers, kProject, kDecode);
  memory.plan(&scores, n * cells, kProject, kDecode);
  const int64_t q = n * c.queries;
  memory.plan(&reference, q * 4, kDecode, kDecode);
  memory.plan(&position, q * c.dim, kDecode, kDecode);
  memory.plan(&queries, q * c.dim, kDecode, kDecode);
  memory.plan(&query_qkv, q * 3 * c.dim, kDecode, kDecode);
  if (c.seg) {
    const int64_t pixels = int64_t{c.mask_rows()} * c.mask_cols();
    memory.plan(&query_masks, q * (c.dim + 1), kDecode, kSegment);
    for (float*& map : spatial) memory.plan(&map, pixels * c.dim, kSegment, kSegment);
  }
  memory.allocate();
}

namespace {

void resize(Tensor& t, Shape shape) {
  if (t.shape == shape) return;
  t = Tensor(std::move(shape));
}

class CpuEngine final : public Engine {
 public:
  CpuEngine(const ModelConfig& config, const WeightSource& weights, int threads)
      : kernels_(best_kernels()),
        team_(threads),
        workers_(static_cast<std::size_t>(threads)),
        net_(config, weights, team_),
        geometry_(net_.config, net_.proposals) {}

  const ModelConfig& config() const override { return net_.config; }
  const char* backend_name() const override { return "cpu"; }

  std::size_t memory_bytes() const override {
    std::size_t bytes = net_.memory.bytes() + buffers_.memory.bytes() +
                        net_.encoder.position.patches.data.size() * sizeof(float);
    for (const Worker& w : workers_) {
      bytes += (w.scratch.size() + w.attention.size()) * sizeof(float);
    }
    return bytes;
  }

  void forward(const float* input, int batch, EngineOutputs& out,
               const ForwardOptions& options) override {
    if (options.trace) {
      throw Error(ErrorCode::kUsage,
                  "the cpu backend gives no intermediate points; use the reference backend");
    }
    if (batch < 1) throw Error(ErrorCode::kUsage, "the batch must hold at least one picture");
    const ModelConfig& c = net_.config;
    resize(out.boxes, {batch, c.queries, 4});
    resize(out.logits, {batch, c.queries, c.logits});
    resize(out.masks, c.seg ? Shape{batch, c.queries, c.mask_rows(), c.mask_cols()} : Shape{0});
    // A picture at a time while it keeps all threads busy: its rows stay nearer to the cores.
    const int group = std::clamp(team_.size() / 8, 1, batch);
    if (buffers_.batch != group) buffers_.resize(c, net_.proposals, group);
    for (int first = 0; first < batch; first += group) {
      const Pass pass{
          net_, geometry_, {kernels_, team_, workers_}, buffers_, std::min(group, batch - first)};
      const int64_t queries = int64_t{first} * c.queries;
      const Heads heads{
          out.boxes.data.data() + queries * 4, out.logits.data.data() + queries * c.logits,
          c.seg ? out.masks.data.data() + queries * c.mask_rows() * c.mask_cols() : nullptr};
      encode(pass, input + int64_t{first} * 3 * c.height * c.width);
      project(pass);
      decode(pass, options.forced_topk ? options.forced_topk + queries : nullptr, heads);
      if (c.seg) segment(pass, heads);
    }
  }

 private:
  const Kernels& kernels_;
  ThreadTeam team_;
  std::vector<Worker> workers_;
  Network net_;
  Geometry geometry_;
  Buffers buffers_;
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Engine> create_cpu_engine(const ModelConfig& config, const WeightSource& weights,
                                          int threads) {
  return std::make_unique<cpu::CpuEngine>(config, weights,
                                          threads > 0 ? threads : available_cpus());
}

}  // namespace rfseg
