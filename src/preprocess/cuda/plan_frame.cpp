#include "preprocess/cuda/plan_frame.h"

#include <fmt/format.h>

#include <algorithm>

#include "preprocess/cuda/plan_tables.h"
#include "preprocess/placement.h"
#include "rfseg/error.h"

namespace rfseg::cuda {
namespace {

constexpr int kMostStaged = 4;  ///< rounds under way together that are made into pixels
static_assert(kMostStaged <= kSlots);

/// Whether the input is pixels of the picture, as they are.
bool is_direct(const FrameRecord& f) {
  return f.scaling == Scaling::kNone && f.swapped == 0 && f.place_width == f.in_width &&
         f.place_height == f.in_height;
}

/// Rows of three-byte pixels that begin at multiples of 16 are used as they are, if the last 16
/// bytes of a window lie in the memory, too.
bool plan_direct(const ImageView& view, int row_bytes, FrameRecord& f) {
  if (f.format != FrameFormat::kRgb && f.format != FrameFormat::kBgr) return false;
  const int begin = kChannels * f.origin_x;
  const std::size_t end = static_cast<std::size_t>(begin + kChannels * f.in_width + 15) / 16 * 16;
  if (reinterpret_cast<uintptr_t>(view.planes[0]) % 16 != 0 || view.strides[0] % 16 != 0 ||
      begin % 16 != 0 || end > plane_row_bytes(view, 0)) {
    return false;
  }
  const int round_bytes = kRound * f.pitch, half = row_bytes / 32 * 16;
  f.half = f.row_steps <= kSlots && f.row_steps <= half / round_bytes ? 1 : 0;
  f.depth = f.half != 0 ? f.row_steps : std::min(kSlots, row_bytes / round_bytes);
  if (f.depth < 1) return false;
  f.reading = Reading::kDirect;
  return true;
}

/// Sets up copies of whole rows that are made into pixels, if they fit.
bool plan_staging(const ImageView& view, int widest, int row_bytes, FrameRecord& f) {
  f.planes_used = plane_count(f.format);
  if (f.planes_used > 1 && f.origin_x % 2 != 0) return false;
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
  f.depth = std::min(kMostStaged, (row_bytes - 2 * kRound * f.pitch) / (kRound * f.raw_pitch));
  if (f.depth < 1) return false;
  f.reading = Reading::kStaged;
  return true;
}

}  // namespace

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

void plan_reading(const ImageView& view, int widest, int row_bytes, FrameRecord& f) {
  if (f.pitch > row_bytes / (2 * kRound)) {
    // A strip of pixels, a multiple of 8, and a product's 32 inputs fit from any start before
    // `strip_advance`.
    f.reading = Reading::kStrips;
    f.pitch = (row_bytes / kRound - 32) / 64 * 64 + 32;
    f.strip = f.pitch / kChannels / 8 * 8;
    f.strip_advance = f.strip - 24;
    return;
  }
  f.depth = 0;
  if (!is_direct(f) ||
      (!plan_direct(view, row_bytes, f) && !plan_staging(view, widest, row_bytes, f))) {
    f.reading = Reading::kGeneral;
    f.depth = 0;
    return;
  }
  f.reversed = f.format == FrameFormat::kBgr ? 1 : 0;
}

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

}  // namespace rfseg::cuda
