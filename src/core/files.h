#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace rfseg {

/// The whole file. Throws Error(kInput) naming it; refuses files over `max_bytes`. A file that does
/// not begin with `prefix` is read no further than that takes: its bytes tell the caller what it
/// is.
std::vector<uint8_t> read_file(const std::string& path,
                               std::size_t max_bytes = std::size_t{1} << 31,
                               std::string_view prefix = {});

/// Removes the temporary files of all outputs that are not committed. For signal handlers that end
/// the process: takes no lock, allocates nothing.
void remove_temporary_files() noexcept;

/// An output file that is complete or absent: written beside its name and renamed by `commit`. A
/// target that exists and is no regular file (a pipe), or that names an open stream (/dev/stdout,
/// /dev/fd/N), is written directly, in the latter case after what the stream holds. Without
/// `commit` the destructor removes what was written. Every failure is Error(kOutput) naming the
/// target. Not thread-safe.
class OutputFile {
 public:
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::string_view bytes);
  /// Where the bytes go before `commit`, for writers that take a name (a video muxer).
  const std::string& temporary_path() const { return temporary_; }
  /// Closes the stream first if `temporary_path` is written by someone else.
  void release_stream();
  void flush();
  /// Flushes, closes and renames.
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  std::FILE* stream_ = nullptr;
  bool direct_ = false;
  bool done_ = false;
  int registration_ = -1;  // place in the table of remove_temporary_files
};

/// Writes all of `bytes` through an OutputFile.
void write_file(const std::string& path, std::string_view bytes);

}  // namespace rfseg
