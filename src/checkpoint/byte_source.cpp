#include "checkpoint/byte_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rfseg/error.h"

namespace rfseg {

void fail_model(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::kModel, name + ": " + what);
}

std::string printable(std::string_view text) {
  constexpr std::size_t kLongest = 160;
  std::string out(text.substr(0, kLongest));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > kLongest) out += "...";
  return out;
}

void ByteSource::read(uint64_t offset, void* out, uint64_t count) const {
  if (offset > size() || count > size() - offset) {
    fail_model(name_, fmt::format("truncated: bytes {} to {} are needed, the file has {}", offset,
                                  offset + count, size()));
  }
  if (count == 0) return;
  do_read(offset, out, count);
  bytes_read_ += count;
}

std::string ByteSource::read_string(uint64_t offset, uint64_t count) const {
  if (offset > size() || count > size() - offset) read(offset, nullptr, count);  // throws
  std::string bytes(static_cast<std::size_t>(count), '\0');
  read(offset, bytes.data(), count);
  return bytes;
}

FileSource::FileSource(const std::string& path) : ByteSource(path) {
  // O_NONBLOCK: opening a pipe that nobody writes must not hang.
  descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) fail_model(path, fmt::format("cannot open: {}", std::strerror(errno)));
  struct stat info {};
  const bool regular = fstat(descriptor_, &info) == 0 && S_ISREG(info.st_mode);
  if (!regular) {
    close(descriptor_);
    fail_model(path, "is no regular file; a checkpoint file is expected");
  }
  size_ = static_cast<uint64_t>(info.st_size);
}

FileSource::~FileSource() { close(descriptor_); }

void FileSource::do_read(uint64_t offset, void* out, uint64_t count) const {
  auto* destination = static_cast<char*>(out);
  while (count > 0) {
    const ssize_t n = pread(descriptor_, destination, static_cast<std::size_t>(count),
                            static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_model(name(), fmt::format("cannot read: {}", std::strerror(errno)));
    if (n == 0) fail_model(name(), "became shorter while it was read");
    destination += n;
    offset += static_cast<uint64_t>(n);
    count -= static_cast<uint64_t>(n);
  }
}

void MemorySource::do_read(uint64_t offset, void* out, uint64_t count) const {
  std::memcpy(out, bytes_.data() + offset, static_cast<std::size_t>(count));
}

}  // namespace rfseg
