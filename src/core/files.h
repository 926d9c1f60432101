#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace rfseg {

/// The whole file. Throws Error(kInput) naming it; refuses files over `max_bytes`.
std::vector<uint8_t> read_file(const std::string& path,
                               std::size_t max_bytes = std::size_t{1} << 31);

/// An output file that is complete or absent: written beside its name and renamed by `commit`. A
/// target that exists and is no regular file (a pipe, /dev/stdout) is written directly. Without
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
};

/// Writes all of `bytes` through an OutputFile.
void write_file(const std::string& path, std::string_view bytes);

}  // namespace rfseg
