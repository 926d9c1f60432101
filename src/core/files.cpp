#include "core/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <memory>

#include "rfseg/error.h"

namespace rfseg {
namespace {

[[noreturn]] void fail_output(const std::string& path, const char* what) {
  const int code = errno;
  throw Error(ErrorCode::kOutput,
              fmt::format("{}: cannot {}: {}", path, what, std::strerror(code)));
}

// Names of the outputs in progress. Full, further ones are just not known to signal handlers.
std::array<std::atomic<const char*>, 64> g_temporaries{};

int register_temporary(const char* path) {
  for (std::size_t i = 0; i < g_temporaries.size(); ++i) {
    const char* expected = nullptr;
    if (g_temporaries[i].compare_exchange_strong(expected, path)) return static_cast<int>(i);
  }
  return -1;
}

void unregister_temporary(int place) {
  if (place >= 0) g_temporaries[static_cast<std::size_t>(place)].store(nullptr);
}

// The descriptor that /dev/stdout, /dev/fd/N and their like name, or -1. Opened by name, a file
// behind it would be emptied and lose what others have written to it.
int named_descriptor(const std::string& path) {
  if (path == "/dev/stdout") return STDOUT_FILENO;
  if (path == "/dev/stderr") return STDERR_FILENO;
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    int number = -1;
    const char* end = path.data() + path.size();
    if (path.starts_with(folder) &&
        std::from_chars(path.data() + folder.size(), end, number).ptr == end) {
      return number;
    }
  }
  return -1;
}

}  // namespace

std::vector<uint8_t> read_file(const std::string& path, std::size_t max_bytes,
                               std::string_view prefix) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) {
    throw Error(ErrorCode::kInput, fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  }
  struct stat info {};
  if (fstat(fileno(file.get()), &info) == 0 && S_ISDIR(info.st_mode)) {
    throw Error(ErrorCode::kInput, fmt::format("{}: is a directory, expected a file", path));
  }
  const auto refuse = [&] {
    throw Error(ErrorCode::kInput,
                fmt::format("{}: is larger than the {} bytes accepted here", path, max_bytes));
  };
  std::vector<uint8_t> bytes;
  if (S_ISREG(info.st_mode)) {
    if (static_cast<std::uint64_t>(info.st_size) > max_bytes) refuse();
    bytes.reserve(static_cast<std::size_t>(info.st_size) + 1);
  }
  std::size_t used = 0;
  for (;;) {
    bytes.resize(std::max<std::size_t>(bytes.capacity(), used + 65536));
    const std::size_t n = std::fread(bytes.data() + used, 1, bytes.size() - used, file.get());
    used += n;
    if (used > max_bytes) refuse();
    if (n == 0) break;
    const std::size_t compared = std::min(used, prefix.size());
    if (compared > 0 && std::memcmp(bytes.data(), prefix.data(), compared) != 0) break;
  }
  if (std::ferror(file.get())) {
    throw Error(ErrorCode::kInput, fmt::format("{}: cannot read: {}", path, std::strerror(errno)));
  }
  bytes.resize(used);
  return bytes;
}

void remove_temporary_files() noexcept {
  for (const std::atomic<const char*>& name : g_temporaries) {
    if (const char* path = name.load()) unlink(path);
  }
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)) {
  if (const int number = named_descriptor(path_); number >= 0) {
    direct_ = true;
    temporary_ = path_;
    const int descriptor = dup(number);
    if (descriptor < 0) fail_output(path_, "open for writing");
    stream_ = fdopen(descriptor, "wb");
    if (stream_ == nullptr) {
      close(descriptor);
      fail_output(path_, "open for writing");
    }
    return;
  }
  std::error_code ignored;
  // A link stays a link: what it points to is replaced.
  if (std::filesystem::is_symlink(path_, ignored)) {
    const std::filesystem::path target = std::filesystem::canonical(path_, ignored);
    if (!ignored) path_ = target.string();
  }
  struct stat info {};
  if (stat(path_.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) {
      throw Error(ErrorCode::kOutput,
                  fmt::format("{}: is a directory, expected a file name", path_));
    }
    direct_ = !S_ISREG(info.st_mode);
  }
  if (direct_) {
    temporary_ = path_;
    stream_ = std::fopen(path_.c_str(), "wb");
    if (stream_ == nullptr) fail_output(path_, "open for writing");
    return;
  }
  // A name of its own for each process and file: two runs with one target must not share it.
  // It is short, so that the target's own name may be as long as the file system allows.
  temporary_ = (std::filesystem::path(path_).parent_path() / ".rfseg-XXXXXX.part").string();
  const int descriptor = mkstemps(temporary_.data(), 5);
  if (descriptor < 0) {
    const std::filesystem::path folder = std::filesystem::path(path_).parent_path();
    if (errno == ENOENT && !folder.empty()) {
      std::error_code none;
      throw Error(ErrorCode::kOutput,
                  fmt::format("{}: cannot create: {}", path_,
                              std::filesystem::exists(folder, none)
                                  ? fmt::format("the folder {} takes no files", folder.string())
                                  : fmt::format("there is no folder {}", folder.string())));
    }
    fail_output(path_, "create");
  }
  registration_ = register_temporary(temporary_.c_str());
  const mode_t mask = umask(0);
  umask(mask);
  fchmod(descriptor, 0666 & ~mask);
  stream_ = fdopen(descriptor, "wb");
  if (stream_ == nullptr) {
    close(descriptor);
    unlink(temporary_.c_str());
    unregister_temporary(registration_);
    fail_output(path_, "create");
  }
}

OutputFile::~OutputFile() {
  if (stream_ != nullptr) std::fclose(stream_);
  if (!done_ && !direct_) unlink(temporary_.c_str());
  unregister_temporary(registration_);
}

void OutputFile::write(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stream_) != bytes.size()) {
    fail_output(path_, "write");
  }
}

void OutputFile::flush() {
  if (std::fflush(stream_) != 0) fail_output(path_, "write");
}

void OutputFile::release_stream() {
  if (stream_ == nullptr) return;
  const int result = std::fclose(stream_);
  stream_ = nullptr;
  if (result != 0) fail_output(path_, "write");
}

void OutputFile::commit() {
  release_stream();
  if (!direct_ && std::rename(temporary_.c_str(), path_.c_str()) != 0)
    fail_output(path_, "rename to");
  done_ = true;
}

void write_file(const std::string& path, std::string_view bytes) {
  OutputFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace rfseg
