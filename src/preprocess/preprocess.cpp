#include "preprocess/preprocess.h"

#include <fmt/format.h>

#include "preprocess/cuda/cuda_preprocessor.h"
#include "preprocess/placement.h"
#include "preprocess/resize_kernels.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

enum class Kernels { kReference, kAvx2, kAvx512 };

Kernels choose_kernels(Backend backend) {
  if (backend == Backend::kReference || !cpu_has_avx2_fma()) return Kernels::kReference;
  static const bool avx512 = cpu_has_avx512_vnni();
  return avx512 ? Kernels::kAvx512 : Kernels::kAvx2;
}

void check(const ImageView& image, const PreprocessSpec& spec) {
  if (image.planes[0] == nullptr) throw Error(ErrorCode::kInput, "picture without pixels");
  if (spec.padding_value < 0 || spec.padding_value > 255) {
    throw Error(ErrorCode::kInput,
                fmt::format("padding value {}: must be 0 to 255", spec.padding_value));
  }
}

void pil_stretch(RgbRows& rows, Kernels kernels, const PreprocessSpec& spec, float* out) {
  const Normalization norm{spec.mean, spec.std};
  const PilAxis across = make_pil_axis(rows.width(), spec.network_width);
  const PilAxis down = make_pil_axis(rows.height(), spec.network_height);
  if (kernels == Kernels::kReference) return pil_resize_reference(rows, across, down, norm, out);
  if (kernels == Kernels::kAvx2) return pil_resize_avx2(rows, across, down, norm, out);
  return pil_resize_avx512(rows, across, down, norm, out);
}

void pil_vertical_first(RgbRows& rows, Kernels kernels, const PreprocessSpec& spec, float* out) {
  const PilAxis down = make_pil_axis(rows.height(), spec.network_height);
  const std::size_t row_bytes = static_cast<std::size_t>(rows.width()) * rows.bytes_per_pixel();
  AlignedVector<uint8_t> low(row_bytes * spec.network_height);
  (kernels == Kernels::kReference ? pil_vertical_reference : pil_vertical_avx2)(rows, down,
                                                                                low.data());
  const ImageView view =
      ImageView::packed(low.data(), rows.width(), spec.network_height, rows.format());
  // Now of the network's height: the vertical pass of the stretch is the identity.
  RgbRows low_rows(view, CropRect{0, 0, view.width, view.height}, 16);
  pil_stretch(low_rows, kernels, spec, out);
}

/// The last step: the cropped picture stretched to the network's size and normalised.
void stretch(const ImageView& image, const CropRect& crop, const PreprocessSpec& spec, float* out) {
  const Kernels kernels = choose_kernels(spec.backend);
  const Normalization norm{spec.mean, spec.std};
  const int height = spec.network_height, width = spec.network_width;
  RgbRows rows(image, crop, spec.resize == ResizeMode::kBilinear ? 2 : 16);
  switch (spec.resize) {
    case ResizeMode::kPil:
    case ResizeMode::kPil13:
      if (pil_vertical_comes_first(crop, spec)) {
        return pil_vertical_first(rows, kernels, spec, out);
      }
      return pil_stretch(rows, kernels, spec, out);
    case ResizeMode::kBilinear: {
      const BilinearAxis across = make_bilinear_axis(crop.width, width);
      const BilinearAxis down = make_bilinear_axis(crop.height, height);
      if (kernels == Kernels::kReference) {
        return bilinear_resize_reference(rows, across, down, norm, out);
      }
      return bilinear_resize_avx2(rows, across, down, norm, out);
    }
    case ResizeMode::kAntialias: {
      const AntialiasAxis across = make_antialias_axis(crop.width, width);
      const AntialiasAxis down = make_antialias_axis(crop.height, height);
      if (kernels == Kernels::kReference) {
        return antialias_resize_reference(rows, across, down, norm, out);
      }
      return antialias_resize_avx2(rows, across, down, norm, out);
    }
  }
  throw Error(ErrorCode::kInternal, "unknown resize mode");
}

}  // namespace

PreprocessGeometry preprocess(const ImageView& image, const PreprocessSpec& spec, float* out) {
  const PreprocessGeometry geometry = preprocess_geometry(image.height, image.width, spec);
  check(image, spec);
  if (spec.backend == Backend::kCuda) return preprocess_cuda(image, spec, out);
  const CropRect crop = static_crop_rect(image.height, image.width, spec);
  if (!is_two_step(spec)) {
    stretch(image, crop, spec, out);
    return geometry;
  }
  const Image canvas = place_on_canvas(image, crop, geometry, spec);
  stretch(canvas.view(), CropRect{0, 0, canvas.width, canvas.height}, spec, out);
  return geometry;
}

}  // namespace rfseg
