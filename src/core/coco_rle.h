#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// COCO run-length masks: column-major runs that alternate background and foreground, starting with
// background. The functions mirror maskApi.c of cocodataset/cocoapi (commit 8c9bcc3) in meaning;
// unlike it, every decoder checks that the counts describe exactly height * width pixels.

namespace rfseg {

/// More pixels than any picture that is decoded; keeps a lying size from asking for gigabytes.
inline constexpr int64_t kMostMaskPixels = int64_t{1} << 30;

/// Uncompressed run lengths of one mask.
struct Rle {
  int height = 0;
  int width = 0;
  std::vector<uint32_t> counts;  ///< sum == height * width
};

/// Encodes a row-major [height, width] mask; non-zero is foreground.
Rle rle_encode(const uint8_t* mask, int height, int width);
/// Row-major [height, width], 0 or 1.
std::vector<uint8_t> rle_decode(const Rle& rle);
/// Compressed bytes as pycocotools gives them.
std::string rle_to_string(const Rle& rle);
/// Appends the compressed bytes of `n` counts to `out`.
void rle_append_string(const uint32_t* counts, std::size_t n, std::string& out);
/// Throws Error(kInput) when the bytes are malformed, a run is negative, or the sum is not
/// height * width.
Rle rle_from_string(std::string_view bytes, int height, int width);
/// Checks an uncompressed list in the same way.
Rle rle_from_counts(const std::vector<int64_t>& counts, int height, int width);

uint64_t rle_area(const Rle& rle);
/// x, y, w, h of the foreground; zeros for an empty mask.
void rle_to_bbox(const Rle& rle, double bbox[4]);
/// Union, or intersection, of masks of one size.
Rle rle_merge(const std::vector<Rle>& masks, bool intersect);
/// Intersection over union; with `crowd`, over the area of `a` (the detection).
double rle_iou(const Rle& a, const Rle& b, bool crowd);
/// Rasterises one polygon [x0,y0,x1,y1,...] as pycocotools' frPoly does (5x up-sampled border).
Rle rle_from_polygon(const std::vector<double>& xy, int height, int width);

}  // namespace rfseg
