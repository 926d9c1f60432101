#pragma once

#include <cstdint>
#include <map>
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
/// video; equal names get -2, -3 in the order of `expect`. Never writes over one of `inputs`. Not
/// thread-safe.
class OverlayFiles {
 public:
  /// `reserved` are outputs of the same run; their names are taken.
  OverlayFiles(std::string folder, std::vector<std::string> inputs,
               const std::vector<std::string>& reserved, std::vector<std::string> class_names);
  ~OverlayFiles();
  /// Keeps a name for what `file` will give. Throws Error(kUsage) if that would overwrite an input.
  void expect(const std::string& file, bool video);
  /// Draws onto `image` and writes or encodes it. `stream` is which of the inputs that are read at
  /// once it is of; a video is closed when another input of the same stream follows, if
  /// `end_stream` has not told before that none does.
  void write(Image image, const ResultRecord& record, int stream = 0);
  void end_stream(int stream);
  /// Which have a video under way.
  std::vector<int> open_streams() const;
  void finish();
  /// Time spent encoding video, on threads of its own.
  double encode_ms() const { return encode_ms_; }
  /// Most frames that waited for an encoder.
  int queue_max() const { return queue_max_; }

 private:
  /// A video under way.
  struct Video {
    std::unique_ptr<AsyncVideoWriter> writer;
    std::string file;
    int width = 0, height = 0;
    int64_t last_frame = -1;
    double start_s = 0;  ///< time of its first frame: the annotated one starts at 0
  };
  std::string unique_path(const std::string& file, const std::string& extension);
  /// The one that `expect` kept, or a new one.
  std::string take_path(const std::string& file, const std::string& extension);
  void close(Video& video);

  std::string folder_;
  std::vector<std::string> inputs_;
  std::vector<std::string> class_names_;
  std::set<std::string> taken_;
  std::multimap<std::string, std::string> expected_;  ///< paths by input file, in order
  std::map<int, Video> videos_;                       ///< by stream
  double encode_ms_ = 0;
  int queue_max_ = 0;
};

}  // namespace rfseg::cli
