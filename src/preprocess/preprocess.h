#pragma once

#include <array>
#include <optional>

#include "core/geometry.h"
#include "rfseg/image.h"
#include "rfseg/options.h"

namespace rfseg {

/// Percentages of the picture, as the static crop of a Roboflow dataset version gives them.
struct StaticCrop {
  int x_min = 0, x_max = 100, y_min = 0, y_max = 100;
};

enum class Placement { kStretch, kLetterbox, kCenterCrop };

/// How a picture becomes the network's input.
struct PreprocessSpec {
  int network_height = 0, network_width = 0;
  ResizeMode resize = ResizeMode::kBilinear;
  std::optional<StaticCrop> static_crop;
  Placement placement = Placement::kStretch;
  int intermediate_height = 0, intermediate_width = 0;  ///< of letterbox and centre crop
  int padding_value = 0;                                ///< letterbox fill, 0..255
  std::array<float, 3> mean{0.485f, 0.456f, 0.406f};
  std::array<float, 3> std{0.229f, 0.224f, 0.225f};
  /// kReference: the plain loops; kCpu: vectorised, same bits; kCuda: on a GPU, same bits.
  Backend backend = Backend::kAuto;
  int cuda_device = 0;  ///< of kCuda
};

/// Writes one picture as normalised float32 [3, network_height, network_width], R,G,B planes:
/// (x/255 - mean)/std in float32. `out` may not alias the picture. Thread-safe; works on the
/// calling thread alone. Throws Error(kInput) for an empty picture or a size over 65535. Returns
/// how to go back from network to picture coordinates.
/// Batches and frames in GPU memory: cuda/cuda_preprocessor.h.
PreprocessGeometry preprocess(const ImageView& image, const PreprocessSpec& spec, float* out);

/// The geometry alone.
PreprocessGeometry preprocess_geometry(int height, int width, const PreprocessSpec& spec);

}  // namespace rfseg
