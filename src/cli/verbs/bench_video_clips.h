#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace rfseg::cli {

/// Throws Error(kCancelled) when the user has interrupted the program.
void stop_if_interrupted();

/// A folder for temporary files that goes with its content. Throws Error(kOutput) naming TMPDIR.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

/// "WxH,WxH,..." as widths and heights. Throws Error(kUsage) naming --video-sizes.
std::vector<std::pair<int, int>> parse_video_sizes(const std::string& text);

/// The one of `files` that has the size, or the first of them scaled to it in `scratch`, at most
/// `frames` frames of it. `tick` is called for each frame that is written.
std::string clip_of_size(const std::vector<std::string>& files, int width, int height, int frames,
                         const ScratchFolder& scratch, const std::function<void()>& tick);

}  // namespace rfseg::cli
