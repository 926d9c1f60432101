#include "cli/dense_masks.h"

#include <fmt/format.h>

#include <filesystem>

#include "cli/common.h"
#include "core/files.h"
#include "media/image_io.h"

namespace rfseg::cli {
namespace fs = std::filesystem;

DenseMaskFiles::DenseMaskFiles(const std::string& results_path) {
  const fs::path path(results_path);
  parent_ = path.parent_path().string();
  folder_ = path.stem().string() + "-masks";
}

void DenseMaskFiles::write(ResultRecord& record) {
  record.mask_files.clear();
  if (record.detections.items.empty()) return;
  create_folder((fs::path(parent_) / folder_).string());
  auto [entry, is_new] = names_.try_emplace(record.file);
  if (is_new) {
    const std::string stem = fs::path(record.file).stem().string();
    const int count = ++taken_[stem];
    entry->second = count == 1 ? stem : fmt::format("{}-{}", stem, count);
  }
  const std::string frame = record.frame ? fmt::format("-f{:06}", *record.frame) : "";
  for (std::size_t i = 0; i < record.detections.items.size(); ++i) {
    const Mask& mask = *record.detections.items[i].mask;
    std::vector<uint8_t> pixels = mask.dense();
    for (uint8_t& value : pixels) value = value != 0 ? 255 : 0;
    const std::vector<uint8_t> png = encode_png(pixels.data(), mask.width, mask.height, 1);
    const fs::path name =
        fs::path(folder_) / fmt::format("{}{}-{:03}.png", entry->second, frame, i);
    write_file((fs::path(parent_) / name).string(),
               {reinterpret_cast<const char*>(png.data()), png.size()});
    record.mask_files.push_back(name.string());
  }
}

}  // namespace rfseg::cli
