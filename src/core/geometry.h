#pragma once

namespace rfseg {

/// How a picture was brought to the network's input, as post-processing needs it to go back.
/// Field for field the PreProcessingMetadata of roboflow/inference (inference-models 0.39.6):
/// original -> static crop -> (letterbox or centre crop to the intermediate size) -> stretch.
/// All sizes in pixels. A plain stretch has no pads, no crop and no intermediate size.
struct PreprocessGeometry {
  int original_height = 0, original_width = 0;
  int crop_x = 0, crop_y = 0;           ///< static crop offset in the original
  int crop_width = 0, crop_height = 0;  ///< size after the static crop
  int pad_left = 0, pad_top = 0, pad_right = 0,
      pad_bottom = 0;               ///< in the intermediate; negative = cropped away
  double scale_x = 1, scale_y = 1;  ///< cropped picture -> intermediate (or network) pixels
  int intermediate_height = 0, intermediate_width = 0;  ///< 0 = one step, straight to the network
  int network_height = 0, network_width = 0;

  /// A plain stretch of a height x width picture to the network's input.
  static PreprocessGeometry stretch(int height, int width, int network_height, int network_width) {
    PreprocessGeometry g;
    g.original_height = g.crop_height = height;
    g.original_width = g.crop_width = width;
    g.network_height = network_height;
    g.network_width = network_width;
    g.scale_x = static_cast<double>(network_width) / width;
    g.scale_y = static_cast<double>(network_height) / height;
    return g;
  }
};

}  // namespace rfseg
