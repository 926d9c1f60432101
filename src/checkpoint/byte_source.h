#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

namespace rfseg {

/// Bytes that can be read at any offset: a file, or memory in tests. Thread-safe.
class ByteSource {
 public:
  explicit ByteSource(std::string name) : name_(std::move(name)) {}
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;
  /// Fills `out` with the `count` bytes at `offset`. Throws Error(kModel) if the range does not lie
  /// in the source or cannot be read.
  void read(uint64_t offset, void* out, uint64_t count) const;
  /// As `read`, for small pieces that are parsed. `count` must have been checked against a limit.
  std::string read_string(uint64_t offset, uint64_t count) const;
  /// The name for messages.
  const std::string& name() const { return name_; }
  /// How many bytes have been read so far: what shows that a large file is not read whole.
  uint64_t bytes_read() const { return bytes_read_.load(); }

 protected:
  /// The range has been checked.
  virtual void do_read(uint64_t offset, void* out, uint64_t count) const = 0;

 private:
  std::string name_;
  mutable std::atomic<uint64_t> bytes_read_{0};
};

/// A regular file, read with pread so that only what is asked for is touched.
class FileSource final : public ByteSource {
 public:
  /// Throws Error(kModel) if the file cannot be opened or is no regular file.
  explicit FileSource(const std::string& path);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;
  uint64_t size() const override { return size_; }

 protected:
  void do_read(uint64_t offset, void* out, uint64_t count) const override;

 private:
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

class MemorySource final : public ByteSource {
 public:
  MemorySource(std::string name, std::string bytes)
      : ByteSource(std::move(name)), bytes_(std::move(bytes)) {}
  uint64_t size() const override { return bytes_.size(); }

 protected:
  void do_read(uint64_t offset, void* out, uint64_t count) const override;

 private:
  std::string bytes_;
};

/// Throws Error(kModel) with "NAME: WHAT".
[[noreturn]] void fail_model(const std::string& name, const std::string& what);

/// Text from a file made safe for one line of a message: control characters replaced, length
/// capped.
std::string printable(std::string_view text);

/// Little-endian integer at `bytes`, any host.
template <class T>
T load_le(const void* bytes) {
  const auto* p = static_cast<const unsigned char*>(bytes);
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i)
    value = static_cast<T>(value | (static_cast<T>(p[i]) << (8 * i)));
  return value;
}

}  // namespace rfseg
