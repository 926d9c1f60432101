#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "output/results.h"
#include "rfseg/image.h"

namespace rfseg {
class AsyncVideoWriter;
}

namespace rfseg::cli {

/// Annotated pictures and videos in one folder: NAME.jpg or NAME.png for a picture, NAME.mp4 for a
/// video; equal names get -2, -3. Never writes over one of `inputs`. Not thread-safe.
class OverlayFiles {
 public:
  /// `reserved` are outputs of the same run; their names are taken.
  OverlayFiles(std::string folder, std::vector<std::string> inputs,
               const std::vector<std::string>& reserved, std::vector<std::string> class_names);
  ~OverlayFiles();
  /// Throws Error(kUsage) if the picture that `file` will give would overwrite an input.
  void check(const std::string& file, bool video) const;
  /// Draws onto `image` and writes or encodes it; a video is closed when another input follows.
  void write(Image image, const ResultRecord& record);
  void finish();
  /// Time spent encoding video, on its own thread.
  double encode_ms() const { return encode_ms_; }

 private:
  std::string unique_path(const std::string& file, const std::string& extension);
  void close_video();

  std::string folder_;
  std::vector<std::string> inputs_;
  std::vector<std::string> class_names_;
  std::set<std::string> taken_;
  std::unique_ptr<AsyncVideoWriter> video_;
  std::string video_file_;
  int video_width_ = 0, video_height_ = 0;
  int64_t last_frame_ = -1;
  double start_s_ = 0;  // time of the video's first frame: the annotated one starts at 0
  double encode_ms_ = 0;
};

}  // namespace rfseg::cli
