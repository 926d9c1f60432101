#pragma once

#include "preprocess/preprocess.h"
#include "preprocess/rgb_rows.h"

namespace rfseg {

/// The static crop in pixels of a height x width picture; the whole picture without one.
CropRect static_crop_rect(int height, int width, const PreprocessSpec& spec);

/// True when the picture goes through an intermediate canvas before the network's size.
bool is_two_step(const PreprocessSpec& spec);

/// Whether Pillow shrinks a picture of this size (from `input`'s) vertically before horizontally.
/// Source: python-pillow/Pillow 12.3.0, src/PIL/Image.py, resize(), and 13.0.0,
/// src/libImaging/Resample.c, ImagingResampleInner().
bool pil_vertical_comes_first(const CropRect& input, const PreprocessSpec& spec);

/// Puts the cropped picture on the intermediate canvas (letterbox or centre crop), as packed RGB.
/// Source: pre-processing of roboflow/inference (inference-models 0.39.6): cv2.resize INTER_LINEAR
/// onto a filled canvas, or a crop padded with zeros.
Image place_on_canvas(const ImageView& image, const CropRect& crop,
                      const PreprocessGeometry& geometry, const PreprocessSpec& spec);

}  // namespace rfseg
