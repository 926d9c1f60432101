#include "output/dense_masks.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/coco_rle.h"
#include "core/files.h"

namespace rfseg {

DenseMaskWriter::DenseMaskWriter(const std::string& results_path, GreyPngEncoder encode)
    : prefix_(std::filesystem::path(results_path).replace_extension().string()),
      encode_(std::move(encode)) {}

void DenseMaskWriter::write(ResultRecord& record) {
  record.mask_files.clear();
  for (std::size_t i = 0; i < record.detections.items.size(); ++i) {
    const Detection& detection = record.detections.items[i];
    record.mask_files.emplace_back();
    if (!detection.mask) continue;
    const Mask& mask = *detection.mask;
    std::vector<uint8_t> pixels = rle_decode(rle_from_string(mask.counts, mask.height, mask.width));
    for (uint8_t& pixel : pixels) pixel = static_cast<uint8_t>(-pixel);  // 1 to 255
    const std::vector<uint8_t> png = encode_(pixels.data(), mask.width, mask.height);
    const std::string path = fmt::format("{}-{:06}-{:03}.png", prefix_, records_, i);
    write_file(path, {reinterpret_cast<const char*>(png.data()), png.size()});
    record.mask_files.back() = std::filesystem::path(path).filename().string();
  }
  ++records_;
}

}  // namespace rfseg
