#include "preprocess/cuda/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "preprocess/cv_resize.h"
#include "preprocess/float_axis.h"
#include "preprocess/pil_axis.h"
#include "preprocess/placement.h"
#include "rfseg/error.h"

namespace rfseg::cuda {
namespace {

constexpr int kMostRounds = 4;  // kMaxDepth of source_rows.h

int divide_up(int a, int b) { return (a + b - 1) / b; }
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

// Tables ----------------------------------------------------------------------------------------

enum class TableKind { kPilColumns, kPilRows, kAntialias, kCvColumns, kCvRows };
struct TableKey {
  TableKind kind;
  int in, out;
  int tile_rows;                                      ///< of pil rows
  auto operator<=>(const TableKey&) const = default;  // NOLINT(modernize-use-nullptr): misread
};

struct Table {
  std::vector<std::byte> bytes;
  std::vector<ColumnWindow> columns;
  std::vector<RowWindow> rows;
  int steps = 0;   ///< products a group or tile
  int pitch = 0;   ///< for the widest window
  int widest = 0;  ///< inputs of the widest window
  int taps = 0;
};

/// The weights of 8 output columns for 32 inputs are one right-hand matrix: column lane / 4, inputs
/// lane % 4 * 4 .. + 3 of each half.
Table pil_columns(int in, int out) {
  const PilAxis axis = make_pil_axis(in, out);
  Table table;
  const int groups = divide_up(out, kColumnGroup), tiles = divide_up(out, kTileColumns);
  std::vector<int> starts(static_cast<std::size_t>(groups)), ends(starts);
  for (int g = 0; g < groups; ++g) {
    const int last = std::min(out, (g + 1) * kColumnGroup) - 1;
    starts[g] = axis.first[g * kColumnGroup] & ~3;
    ends[g] = axis.first[last] + axis.count[last];
    table.steps = std::max(table.steps, divide_up(ends[g] - starts[g], 32));
  }
  table.bytes.resize(static_cast<std::size_t>(groups) * table.steps * kDigits * 256);
  for (int o = 0; o < out; ++o) {
    const int g = o / kColumnGroup;
    for (int k = 0; k < axis.count[o]; ++k) {
      const int input = axis.first[o] + k - starts[g], step = input / 32, within = input % 32;
      const int lane = o % kColumnGroup * 4 + within % 16 / 4;
      const int32_t weight = axis.weights[static_cast<std::size_t>(o) * axis.taps + k];
      for (int d = 0; d < kDigits; ++d) {
        const std::size_t matrix = (static_cast<std::size_t>(g) * table.steps + step) * kDigits + d;
        table.bytes[matrix * 256 + lane * 8 + within / 16 * 4 + within % 4] =
            static_cast<std::byte>(weight >> (8 * d) & 255);
      }
    }
  }
  for (int t = 0; t < tiles; ++t) {
    ColumnWindow window{};
    window.range.first = starts[t * kColumnGroups] & ~15;
    int read = 0;
    for (int i = 0; i < kColumnGroups; ++i) {
      const int g = t * kColumnGroups + i;
      window.start[i] = window.range.first;
      if (g >= groups) continue;
      window.start[i] = starts[g];
      window.range.end = std::max(window.range.end, ends[g]);
      read = std::max(read, starts[g] + table.steps * 32);
    }
    table.widest = std::max(table.widest, window.range.end - window.range.first);
    // Rows of a channel, so that eight of them begin in different banks.
    const int pitch = divide_up(std::max(read, window.range.end) - window.range.first, 16) * 16;
    table.pitch = std::max(table.pitch, pitch % 32 == 16 ? pitch : pitch + 16);
    table.columns.push_back(window);
  }
  return table;
}

/// The weights of a tile's output rows for 16 source rows are one left-hand matrix: rows lane / 4
/// and + 8, source rows lane % 4 * 4 .. + 3.
Table pil_rows(int in, int out, int tile_rows) {
  const PilAxis axis = make_pil_axis(in, out);
  Table table;
  const int tiles = divide_up(out, tile_rows);
  for (int t = 0; t < tiles; ++t) {
    const int first = axis.first[t * tile_rows];
    const int last = std::min(out, (t + 1) * tile_rows) - 1;
    const int count = axis.first[last] + axis.count[last] - first;
    table.rows.push_back({first, count, {}});
    table.steps = std::max(table.steps, divide_up(count, kRound));
  }
  table.bytes.resize(static_cast<std::size_t>(tiles) * table.steps * kDigits * 256);
  for (int o = 0; o < out; ++o) {
    const int t = o / tile_rows, r = o % tile_rows;
    for (int k = 0; k < axis.count[o]; ++k) {
      const int input = axis.first[o] + k - table.rows[t].first, step = input / kRound;
      const int within = input % kRound, lane = r % 8 * 4 + within / 4;
      const int32_t weight = axis.weights[static_cast<std::size_t>(o) * axis.taps + k];
      for (int d = 0; d < kDigits; ++d) {
        const std::size_t matrix = (static_cast<std::size_t>(t) * table.steps + step) * kDigits + d;
        table.bytes[matrix * 256 + lane * 8 + r / 8 * 4 + within % 4] =
            static_cast<std::byte>(weight >> (8 * d) & 255);
      }
    }
  }
  return table;
}

template <class T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const std::size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

Table antialias(int in, int out) {
  const AntialiasAxis axis = make_antialias_axis(in, out);
  Table table;
  table.taps = axis.taps;
  for (int i = 0; i < out; ++i) append(table.bytes, TapRange{axis.first[i], axis.count[i]});
  for (const float weight : axis.weights) append(table.bytes, weight);
  for (int t = 0; t < divide_up(out, kFloatTileRows); ++t) {
    const int from = t * kFloatTileRows, to = std::min(out, from + kFloatTileRows);
    RowWindow window{axis.first[from], 0, {}};
    for (int i = from; i < to; ++i) {
      window.count = std::max(window.count, axis.first[i] + axis.count[i] - window.first);
    }
    table.rows.push_back(window);
  }
  return table;
}

Table cv_taps(int in, int out, bool columns) {
  const CvAxis axis = make_cv_axis(in, out, columns);
  Table table;
  for (int i = 0; i < out; ++i) {
    append(table.bytes, CvTaps{axis.low[i], axis.high[i], axis.weight0[i], axis.weight1[i]});
  }
  return table;
}

Table make_table(const TableKey& key) {
  switch (key.kind) {
    case TableKind::kPilColumns:
      return pil_columns(key.in, key.out);
    case TableKind::kPilRows:
      return pil_rows(key.in, key.out, key.tile_rows);
    case TableKind::kAntialias:
      return antialias(key.in, key.out);
    case TableKind::kCvColumns:
      return cv_taps(key.in, key.out, true);
    case TableKind::kCvRows:
      return cv_taps(key.in, key.out, false);
  }
  throw Error(ErrorCode::kInternal, "unknown table");
}

/// Where the input's pixels come from.
void describe_input(const ImageView& view, const PreprocessSpec& spec, FrameRecord& f) {
  const PreprocessGeometry g = preprocess_geometry(view.height, view.width, spec);
  const CropRect crop = static_crop_rect(view.height, view.width, spec);
  for (int i = 0; i < 3; ++i) {
    f.planes[i] = view.planes[i];
    f.strides[i] = view.strides[i];
  }
  f.format = frame_format(view.format);
  f.yuv = make_yuv_formula(view.matrix, view.range, f.format == FrameFormat::kP010);
  f.width = view.width;
  f.height = view.height;
  f.origin_x = crop.x;
  f.origin_y = crop.y;
  f.in_width = f.place_width = crop.width;
  f.in_height = f.place_height = crop.height;
  if (!is_two_step(spec)) return;
  f.in_width = g.intermediate_width;
  f.in_height = g.intermediate_height;
  f.place_x = std::max(0, g.pad_left);
  f.place_y = std::max(0, g.pad_top);
  if (spec.placement == Placement::kLetterbox) {
    f.fill = spec.padding_value;
    f.place_width = g.intermediate_width - g.pad_left - g.pad_right;
    f.place_height = g.intermediate_height - g.pad_top - g.pad_bottom;
    if (crop.width == f.place_width && crop.height == f.place_height) return;
    const bool halved = crop.width == 2 * f.place_width && crop.height == 2 * f.place_height;
    f.scaling = halved ? Scaling::kHalve : Scaling::kLinear;
    return;
  }
  f.origin_x += std::max(0, -g.pad_left);
  f.origin_y += std::max(0, -g.pad_top);
  f.place_width = std::min(crop.width, f.in_width);
  f.place_height = std::min(crop.height, f.in_height);
}

/// Sets up copies of whole rows where the input is the picture's own pixels and the copies fit.
void plan_staging(const ImageView& view, int widest, int row_bytes, FrameRecord& f) {
  const bool direct = f.scaling == Scaling::kNone && f.swapped == 0 &&
                      f.place_width == f.in_width && f.place_height == f.in_height;
  f.planes_used = plane_count(f.format);
  if (!direct || (f.planes_used > 1 && f.origin_x % 2 != 0)) return;
  int bytes[3] = {48, 0, 0};
  if (f.format == FrameFormat::kRgba) bytes[0] = 64;
  if (f.format == FrameFormat::kGray) bytes[0] = 16;
  if (f.format == FrameFormat::kNv12) bytes[0] = bytes[1] = 16;
  if (f.format == FrameFormat::kP010) bytes[0] = bytes[1] = 32;
  if (f.format == FrameFormat::kI420) bytes[0] = 16, bytes[1] = bytes[2] = 8;
  for (int i = 0; i < f.planes_used; ++i) {
    f.unit_bytes[i] = bytes[i];
    f.segments[i] = f.raw_pitch;
    // Whole units, what lies before the first in its 16 bytes, and a word to shift in.
    f.raw_pitch += divide_up(divide_up(widest, 16) * bytes[i] + 32, 16) * 16;
    const int rows = plane_rows(view, i);
    const uint64_t first = reinterpret_cast<uintptr_t>(view.planes[i]);
    const uint64_t last = first + static_cast<uint64_t>(view.strides[i] * (rows - 1));
    f.memory[i][0] = std::min(first, last);
    f.memory[i][1] = std::max(first, last) + plane_row_bytes(view, i);
  }
  const int channels = 2 * 3 * kRound * f.pitch;
  f.depth = std::min(kMostRounds, (row_bytes - channels) / (kRound * f.raw_pitch));
  if (f.depth > 0) f.reading = Reading::kStaged;
}

}  // namespace

FrameFormat frame_format(PixelFormat format) {
  switch (format) {
    case PixelFormat::kRgb8:
      return FrameFormat::kRgb;
    case PixelFormat::kBgr8:
      return FrameFormat::kBgr;
    case PixelFormat::kRgba8:
      return FrameFormat::kRgba;
    case PixelFormat::kGray8:
      return FrameFormat::kGray;
    case PixelFormat::kNv12:
      return FrameFormat::kNv12;
    case PixelFormat::kI420:
      return FrameFormat::kI420;
    case PixelFormat::kP010:
      return FrameFormat::kP010;
  }
  throw Error(ErrorCode::kInternal, "unknown pixel format");
}

int plane_count(FrameFormat format) {
  if (format == FrameFormat::kI420) return 3;
  return format == FrameFormat::kNv12 || format == FrameFormat::kP010 ? 2 : 1;
}

std::size_t plane_row_bytes(const ImageView& view, int plane) {
  const std::size_t width = static_cast<std::size_t>(view.width), half = (width + 1) / 2;
  switch (view.format) {
    case PixelFormat::kRgb8:
    case PixelFormat::kBgr8:
      return width * 3;
    case PixelFormat::kRgba8:
      return width * 4;
    case PixelFormat::kGray8:
      return width;
    case PixelFormat::kNv12:
      return plane == 0 ? width : half * 2;
    case PixelFormat::kI420:
      return plane == 0 ? width : half;
    case PixelFormat::kP010:
      return plane == 0 ? width * 2 : half * 4;
  }
  throw Error(ErrorCode::kInternal, "unknown pixel format");
}

int plane_rows(const ImageView& view, int plane) {
  return plane == 0 ? view.height : (view.height + 1) / 2;
}

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

void check_frame(const ImageView& view, const PreprocessSpec& spec) {
  preprocess_geometry(view.height, view.width, spec);
  for (int i = 0; i < plane_count(frame_format(view.format)); ++i) {
    if (view.planes[i] == nullptr) {
      throw Error(ErrorCode::kInput, i == 0 ? "picture without pixels"
                                            : fmt::format("plane {} of a picture is missing", i));
    }
  }
  if (spec.padding_value < 0 || spec.padding_value > 255) {
    throw Error(ErrorCode::kInput,
                fmt::format("padding value {}: must be 0 to 255", spec.padding_value));
  }
}

UsedRows used_rows(const ImageView& view, const PreprocessSpec& spec) {
  FrameRecord f{};
  describe_input(view, spec, f);
  if (f.scaling != Scaling::kNone) {
    const CropRect crop = static_crop_rect(view.height, view.width, spec);
    return {crop.y, crop.y + crop.height};
  }
  return {f.origin_y, f.origin_y + f.place_height};
}

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
    const int rows_held = 2 * 3 * kRound;
    if (f.pitch <= a.row_bytes / rows_held) {
      plan_staging(view, across.table->widest, a.row_bytes, f);
      return;
    }
    f.reading = Reading::kStrips;
    f.pitch = ((a.row_bytes - kPartialBytes) / rows_held - 16) / 32 * 32 + 16;
    f.strip = f.pitch;
    f.strip_advance = f.strip - 28;
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
    records[i] = f;
  }
  Block result;
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
