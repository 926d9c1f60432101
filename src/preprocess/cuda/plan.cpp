#include "preprocess/cuda/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "preprocess/cuda/plan_frame.h"
#include "preprocess/cuda/plan_tables.h"
#include "preprocess/placement.h"
#include "rfseg/error.h"

namespace rfseg::cuda {
namespace {

std::size_t align(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

/// Rows of a tile: few enough that every multiprocessor has one, but a tile's first source rows are
/// read by the tile above, too (about one row's worth), and it begins with a wait (about two).
int choose_tile_rows(const LaunchShape& shape, int processors) {
  int best = kMaxTileRows;
  int64_t least = INT64_MAX;
  for (int rows = 1; rows <= kMaxTileRows; ++rows) {
    const int64_t tiles =
        int64_t{shape.batch} * divide_up(shape.width, kTileColumns) * divide_up(shape.height, rows);
    const int64_t cost = (tiles + processors - 1) / processors * (rows + 3);
    if (cost < least) least = cost, best = rows;
  }
  return best;
}

}  // namespace

LaunchShape launch_shape(std::size_t batch, const PreprocessSpec& spec, bool half) {
  constexpr std::size_t kMaxBatch = 4096;
  if (batch < 1 || batch > kMaxBatch) {
    throw Error(ErrorCode::kInput,
                fmt::format("a batch of {} frames: 1 to {} can be had", batch, kMaxBatch));
  }
  const ResizeKernel kernel = spec.resize == ResizeMode::kBilinear    ? ResizeKernel::kBilinear
                              : spec.resize == ResizeMode::kAntialias ? ResizeKernel::kAntialias
                                                                      : ResizeKernel::kPil;
  return {static_cast<int>(batch), spec.network_height, spec.network_width, kernel, half};
}

PreprocessArguments launch_arguments(const LaunchShape& shape, const PlanLimits& limits) {
  PreprocessArguments a;
  a.batch = shape.batch;
  a.height = shape.height;
  a.width = shape.width;
  a.kernel = shape.kernel;
  a.half = shape.half;
  a.row_bytes = limits.row_bytes;
  if (shape.kernel == ResizeKernel::kPil) {
    a.tile_rows =
        limits.tile_rows > 0 ? limits.tile_rows : choose_tile_rows(shape, limits.processors);
    const auto tiles = [&](int columns, int rows) {
      return divide_up(columns, kTileColumns) * divide_up(rows, a.tile_rows);
    };
    a.tiles_per_frame =
        std::max(tiles(shape.width, shape.height), tiles(shape.height, shape.width));
    a.tiles_across = divide_up(shape.width, kTileColumns);
    a.across_reciprocal = 1.0f / static_cast<float>(a.tiles_across);
    const int longest = std::max(shape.height, shape.width);
    a.column_windows = divide_up(longest, kTileColumns);
    a.row_windows = divide_up(longest, a.tile_rows);
  } else {
    a.row_windows = divide_up(shape.height, kFloatTileRows);
    a.tiles_across = divide_up(shape.width, kFloatTileColumns);
    a.across_reciprocal = 1.0f / static_cast<float>(a.tiles_across);
    a.tiles_per_frame = a.row_windows * a.tiles_across;
  }
  const std::size_t batch = static_cast<std::size_t>(a.batch);
  const std::size_t frames = align(sizeof(BatchHeader), 64);
  const std::size_t columns = frames + batch * sizeof(FrameRecord);
  const std::size_t rows = columns + batch * a.column_windows * sizeof(ColumnWindow);
  a.frames = static_cast<uint32_t>(frames);
  a.columns = static_cast<uint32_t>(columns);
  a.rows = static_cast<uint32_t>(rows);
  a.normalised =
      static_cast<uint32_t>(align(rows + batch * a.row_windows * sizeof(RowWindow), 256));
  return a;
}

int total_tiles(const PreprocessArguments& a) { return a.batch * a.tiles_per_frame; }

struct Planner::Impl {
  struct Placed {
    const Table* table;
    uint32_t offset;
  };
  std::map<TableKey, std::unique_ptr<Table>> cache;
  std::size_t cached = 0;
  std::vector<TableKey> in_place;  ///< tables of the last block, in order
  std::size_t in_place_fixed = 0;
  float normalised[3 * 256] = {};
  std::vector<std::byte> block;

  // Of the block that is being built.
  std::vector<TableKey> keys;
  std::map<TableKey, Placed> placed;
  std::size_t end = 0;

  const Table& table(const TableKey& key) {
    auto& entry = cache[key];
    if (entry == nullptr) {
      entry = std::make_unique<Table>(make_table(key));
      cached += entry->bytes.size();
    }
    return *entry;
  }

  Placed place(const TableKey& key) {
    const auto found = placed.find(key);
    if (found != placed.end()) return found->second;
    const Table& t = table(key);
    if (end + t.bytes.size() > INT32_MAX) {
      throw Error(ErrorCode::kInput, "the resize tables of this batch exceed 2 GiB");
    }
    const Placed result{&t, static_cast<uint32_t>(end)};
    end = align(end + t.bytes.size(), 64);
    keys.push_back(key);
    placed.emplace(key, result);
    return result;
  }

  void plan_pil(const PreprocessArguments& a, const ImageView& view, const PreprocessSpec& spec,
                FrameRecord& f, ColumnWindow* columns, RowWindow* rows) {
    const CropRect input{0, 0, f.in_width, f.in_height};
    f.swapped = pil_vertical_comes_first(input, spec) ? 1 : 0;
    const bool s = f.swapped != 0;
    const int out_columns = s ? a.height : a.width, out_rows = s ? a.width : a.height;
    const Placed across =
        place({TableKind::kPilColumns, s ? f.in_height : f.in_width, out_columns, 0});
    const Placed down =
        place({TableKind::kPilRows, s ? f.in_width : f.in_height, out_rows, a.tile_rows});
    f.column_table = across.offset;
    f.row_table = down.offset;
    f.steps = across.table->steps;
    f.row_steps = down.table->steps;
    f.tiles_across = static_cast<int>(across.table->columns.size());
    f.tiles_down = static_cast<int>(down.table->rows.size());
    std::copy(across.table->columns.begin(), across.table->columns.end(), columns);
    std::copy(down.table->rows.begin(), down.table->rows.end(), rows);
    f.pitch = across.table->pitch;
    plan_reading(view, across.table->widest, a.row_bytes, f);
  }

  void plan_antialias(const PreprocessArguments& a, FrameRecord& f, RowWindow* rows) {
    const Placed across = place({TableKind::kAntialias, f.in_width, a.width, 0});
    const Placed down = place({TableKind::kAntialias, f.in_height, a.height, 0});
    f.column_table = across.offset;
    f.row_table = down.offset;
    f.column_taps = across.table->taps;
    f.row_taps = down.table->taps;
    std::copy(down.table->rows.begin(), down.table->rows.end(), rows);
  }
};

Planner::Planner() : impl_(std::make_unique<Impl>()) {}
Planner::~Planner() = default;

Planner::Block Planner::build(const PreprocessArguments& a, std::span<const FrameView> frames,
                              const PreprocessSpec& spec, void* tensor) {
  Impl& impl = *impl_;
  constexpr std::size_t kMostCached = std::size_t{64} << 20;
  if (impl.cached > kMostCached) {
    impl.cache.clear();
    impl.cached = 0;
  }
  const std::size_t batch = frames.size();
  const std::size_t fixed = a.normalised;
  impl.keys.clear();
  impl.placed.clear();
  impl.end = fixed + sizeof(impl.normalised);

  std::vector<std::byte>& block = impl.block;
  if (block.size() < fixed) block.resize(fixed);
  std::memset(block.data(), 0, fixed);
  BatchHeader header{};
  header.tensor = tensor;
  std::copy_n(spec.mean.begin(), 3, header.mean);
  std::copy_n(spec.std.begin(), 3, header.std);
  std::memcpy(block.data(), &header, sizeof(header));
  auto* const records = reinterpret_cast<FrameRecord*>(block.data() + a.frames);
  auto* const columns = reinterpret_cast<ColumnWindow*>(block.data() + a.columns);
  auto* const rows = reinterpret_cast<RowWindow*>(block.data() + a.rows);
  bool direct = a.kernel == ResizeKernel::kPil;
  for (std::size_t i = 0; i < batch; ++i) {
    FrameRecord f{};
    describe_input(frames[i], spec, f);
    if (a.kernel == ResizeKernel::kPil) {
      impl.plan_pil(a, frames[i], spec, f, columns + i * a.column_windows,
                    rows + i * a.row_windows);
    } else if (a.kernel == ResizeKernel::kAntialias) {
      impl.plan_antialias(a, f, rows + i * a.row_windows);
    }
    if (f.scaling == Scaling::kLinear) {
      const CropRect crop = static_crop_rect(frames[i].height, frames[i].width, spec);
      f.scale_columns = impl.place({TableKind::kCvColumns, crop.width, f.place_width, 0}).offset;
      f.scale_rows = impl.place({TableKind::kCvRows, crop.height, f.place_height, 0}).offset;
    }
    direct = direct && f.reading == Reading::kDirect && f.half != 0 && f.steps == kHeldSteps;
    records[i] = f;
  }
  Block result;
  result.direct = direct;
  result.fixed = fixed;
  float normalised[3 * 256];
  for (std::size_t c = 0; c < 3; ++c) {
    for (int i = 0; i < 256; ++i) {
      normalised[c * 256 + i] = (static_cast<float>(i) / 255.0f - spec.mean[c]) / spec.std[c];
    }
  }
  result.tables_changed =
      impl.keys != impl.in_place || fixed != impl.in_place_fixed ||
      !std::equal(std::begin(normalised), std::end(normalised), std::begin(impl.normalised));
  if (result.tables_changed) {
    block.resize(impl.end);
    std::memcpy(impl.normalised, normalised, sizeof(normalised));
    std::memcpy(block.data() + fixed, normalised, sizeof(normalised));
    for (const auto& [key, placed] : impl.placed) {
      std::copy(placed.table->bytes.begin(), placed.table->bytes.end(),
                block.begin() + placed.offset);
    }
    impl.in_place = impl.keys;
    impl.in_place_fixed = fixed;
  }
  result.bytes = {block.data(), impl.end};
  return result;
}

}  // namespace rfseg::cuda
