#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/geometry.h"

namespace rfseg {

/// Reads a class map: a JSON array, one output class id for each logit column, -1 to drop. Throws
/// Error(kInput) naming `name` and the entry; at most 2^20 entries.
std::vector<int> parse_class_map(std::string_view json, const std::string& name);

/// Reads how a picture was brought to the network's input: a JSON object with the fields of
/// PreProcessingMetadata of roboflow/inference (inference-models 0.39.6), all sizes in pixels:
///   inference_size {height, width}             required
///   original_size {height, width}              must be the picture's where given
///   static_crop_offset {offset_x, offset_y, crop_width, crop_height}   default: no crop
///   size_after_pre_processing {height, width}  must be the crop's size where given
///   nonsquare_intermediate_size {height, width} or null
///   pad_left, pad_top, pad_right, pad_bottom   default 0, negative = cropped away
///   scale_width, scale_height                  default: what sizes and pads say
/// Unknown fields are errors. `image_height` and `image_width` are the picture's. Throws
/// Error(kInput) naming `name`, the field and what is accepted.
PreprocessGeometry parse_transform(std::string_view json, const std::string& name, int image_height,
                                   int image_width);

}  // namespace rfseg
