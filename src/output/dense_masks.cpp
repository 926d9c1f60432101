#include "output/dense_masks.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "core/coco_rle.h"
#include "core/files.h"

namespace rfseg {

namespace {

std::string prefix_of(const std::string& results_path) {
  return std::filesystem::path(results_path).replace_extension().string();
}

/// Takes digits off the front; false if there are fewer than `least`.
bool take_digits(std::string_view& text, std::size_t least) {
  const std::size_t count = std::min(text.find_first_not_of("0123456789"), text.size());
  text.remove_prefix(count);
  return count >= least;
}

bool take(std::string_view& text, std::string_view part) {
  if (!text.starts_with(part)) return false;
  text.remove_prefix(part.size());
  return true;
}

}  // namespace

bool is_dense_mask(const std::string& results_path, const std::string& name) {
  std::string_view rest = name;
  return take(rest, std::filesystem::path(prefix_of(results_path)).filename().string()) &&
         take(rest, "-") && take_digits(rest, 6) && take(rest, "-") && take_digits(rest, 3) &&
         rest == ".png";
}

std::string dense_mask_pattern(const std::string& results_path) {
  return prefix_of(results_path) + "-NNNNNN-NNN.png";
}

DenseMaskWriter::DenseMaskWriter(const std::string& results_path, GreyPngEncoder encode)
    : prefix_(prefix_of(results_path)), encode_(std::move(encode)) {}

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
