#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cli/file_claims.h"
#include "output/results.h"
#include "rfseg/image.h"

namespace rfseg {
class AsyncVideoWriter;
}

namespace rfseg::cli {

/// Annotated pictures and videos in one folder: NAME.jpg or NAME.png for a picture, NAME.mp4 for a
/// video; equal names get -2, -3 in the order of `expect`, as do those of other outputs. Never
/// writes over an input. Not thread-safe.
class OverlayFiles {
 public:
  /// `claims` are the files of the same call.
  OverlayFiles(std::string folder, FileClaims& claims);
  /// What class ids are called; before the first `write`.
  void set_class_names(std::vector<std::string> names) { class_names_ = std::move(names); }
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
  /// Another name instead of that of an input where `expected` is false.
  std::string unique_path(const std::string& file, const std::string& extension, bool expected);
  /// The one that `expect` kept, or a new one.
  std::string take_path(const std::string& file, const std::string& extension);
  void close(Video& video);

  std::string folder_;
  FileClaims& claims_;
  std::vector<std::string> class_names_;
  std::set<std::string> taken_;
  std::multimap<std::string, std::string> expected_;  ///< paths by input file, in order
  std::map<int, Video> videos_;                       ///< by stream
  double encode_ms_ = 0;
  int queue_max_ = 0;
};

}  // namespace rfseg::cli
