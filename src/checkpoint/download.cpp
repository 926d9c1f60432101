#include "checkpoint/download.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>

#include "core/curl_settings.h"
#include "core/log.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr char kOfficialUrl[] = "https://storage.googleapis.com/rfdetr/";
constexpr uint64_t kMaxBytes = uint64_t{8} << 30;

using Clock = std::chrono::steady_clock;

[[noreturn]] void fail_write(const std::string& path, const char* what) {
  const int code = errno;
  throw Error(ErrorCode::kOutput,
              fmt::format("{}: cannot {}: {}", path, what, std::strerror(code)));
}

/// The unfinished file beside the target, locked against other processes.
class PartFile {
 public:
  explicit PartFile(const std::string& target) : path_(target + ".part") {
    // Whoever held the lock may have renamed the file in between: then it is not ours to write.
    struct stat mine {
    }, named{};
    for (int tries = 0; tries < 10; ++tries) {
      descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
      if (descriptor_ < 0) fail_write(path_, "create");
      if (fstat(descriptor_, &mine) != 0 || !S_ISREG(mine.st_mode)) {
        close(descriptor_);
        throw Error(ErrorCode::kOutput, fmt::format("{}: is no regular file", path_));
      }
      const bool locked = flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
      if (locked && fstat(descriptor_, &mine) == 0 && stat(path_.c_str(), &named) == 0 &&
          mine.st_ino == named.st_ino && mine.st_dev == named.st_dev) {
        size_ = static_cast<uint64_t>(mine.st_size);
        return;
      }
      close(descriptor_);
      if (!locked) break;
    }
    throw Error(ErrorCode::kOutput, fmt::format("{}: another download is writing it", path_));
  }
  ~PartFile() {
    if (size_ == 0) remove();  // nothing to continue from
    close(descriptor_);
  }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  uint64_t size() const { return size_; }

  void append(const char* data, std::size_t count) {
    while (count > 0) {
      const ssize_t n = pwrite(descriptor_, data, count, static_cast<off_t>(size_));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail_write(path_, "write");
      data += n;
      size_ += static_cast<uint64_t>(n);
      count -= static_cast<std::size_t>(n);
    }
  }

  void restart() {
    if (ftruncate(descriptor_, 0) != 0) fail_write(path_, "truncate");
    size_ = 0;
  }

  void remove() { unlink(path_.c_str()); }

  void finish(const std::string& target) {
    if (fsync(descriptor_) != 0) fail_write(path_, "write");
    if (rename(path_.c_str(), target.c_str()) != 0) fail_write(target, "rename to");
  }

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

/// MD5 of a file in lower-case hexadecimal, "" if it cannot be read.
std::string md5_of(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             std::fclose);
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free);
  if (!file || !context) return "";
  if (EVP_DigestInit_ex(context.get(), EVP_md5(), nullptr) != 1) {
    throw Error(ErrorCode::kInput,
                "this OpenSSL does not compute MD5, so weights cannot be verified");
  }
  std::vector<char> buffer(std::size_t{1} << 18);
  std::size_t n = 0;
  while ((n = std::fread(buffer.data(), 1, buffer.size(), file.get())) > 0) {
    EVP_DigestUpdate(context.get(), buffer.data(), n);
  }
  if (std::ferror(file.get())) return "";
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  std::string text;
  for (unsigned int i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

enum class Outcome {
  kDone,
  kBroken,    ///< may be resumed
  kBadRange,  ///< what is there does not continue: start again
};

/// One HTTP request that appends to a PartFile. Callbacks run inside curl's C code, so exceptions
/// are kept and thrown afterwards.
class Transfer {
 public:
  Transfer(const std::string& url, PartFile& part, const DownloadOptions& options)
      : url_(url), part_(part), options_(options), curl_(curl_easy_init(), curl_easy_cleanup) {
    if (!curl_) throw Error(ErrorCode::kInput, "libcurl cannot be started");
  }

  Outcome run() {
    CURL* curl = curl_.get();
    start_ = part_.size();
    set_common_options(curl, url_.c_str(), options_.connect_timeout_s, error_);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, this);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Transfer::on_data);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, this);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, this);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    const std::string range = fmt::format("{}-", start_);
    if (start_ > 0) curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
    last_byte_ = Clock::now();
    const CURLcode code = curl_easy_perform(curl);
    if (thrown_) std::rethrow_exception(thrown_);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status_);
    if (bad_range_ || status_ == 416) return Outcome::kBadRange;
    if (code == CURLE_OK) {
      if (options_.progress) options_.progress(part_.size(), part_.size());
      return Outcome::kDone;
    }
    reason_ = stalled_            ? fmt::format("no data for {} seconds", options_.stall_timeout_s)
              : error_[0] != '\0' ? std::string(error_)
                                  : std::string(curl_easy_strerror(code));
    final_ = status_ >= 400 && status_ < 500 && status_ != 408 && status_ != 429;
    return Outcome::kBroken;
  }

  const std::string& reason() const { return reason_; }
  /// Trying again would not help.
  bool is_final() const { return final_; }

 private:
  static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self) {
    static_cast<Transfer*>(self)->header({data, size * count});
    return size * count;
  }
  static std::size_t on_data(char* data, std::size_t size, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    try {
      return transfer.data({data, size * count}) ? size * count : 0;
    } catch (...) {
      transfer.thrown_ = std::current_exception();
      return 0;
    }
  }
  static int on_progress(void* self, curl_off_t total, curl_off_t done, curl_off_t, curl_off_t) {
    auto& transfer = *static_cast<Transfer*>(self);
    try {
      return transfer.progress(static_cast<uint64_t>(total), static_cast<uint64_t>(done)) ? 0 : 1;
    } catch (...) {
      transfer.thrown_ = std::current_exception();
      return 1;
    }
  }

  void header(std::string_view line) {
    if (line.starts_with("HTTP/")) content_range_.clear();  // of the answer after a redirect
    std::string name(line.substr(0, std::min<std::size_t>(line.find(':'), line.size())));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (name == "content-range") content_range_ = line.substr(name.size() + 1);
  }

  bool data(std::string_view bytes) {
    if (!started_) {
      started_ = true;
      curl_easy_getinfo(curl_.get(), CURLINFO_RESPONSE_CODE, &status_);
      const bool continues = status_ == 206 && content_range_.find(fmt::format(
                                                   "bytes {}-", start_)) != std::string::npos;
      if (start_ > 0 && !continues) {
        bad_range_ = status_ == 206;  // another part than was asked for
        if (bad_range_) return false;
        part_.restart();  // the server ignores ranges and sends the whole file
        start_ = 0;
      }
    }
    if (part_.size() + bytes.size() > kMaxBytes) {
      throw Error(ErrorCode::kInput, fmt::format("{}: sends more than {} bytes", url_, kMaxBytes));
    }
    part_.append(bytes.data(), bytes.size());
    last_byte_ = Clock::now();
    return true;
  }

  bool progress(uint64_t total, uint64_t done) {
    if (options_.cancelled && options_.cancelled()) {
      throw Error(ErrorCode::kCancelled,
                  "the download was cancelled; it continues from here next time");
    }
    const Clock::time_point now = Clock::now();
    if (now - last_byte_ > std::chrono::seconds(options_.stall_timeout_s)) {
      stalled_ = true;
      return false;
    }
    if (options_.progress && started_ && now - last_report_ > std::chrono::milliseconds(100)) {
      last_report_ = now;
      options_.progress(start_ + done, total == 0 ? 0 : start_ + total);
    }
    return true;
  }

  std::string url_;
  PartFile& part_;
  const DownloadOptions& options_;
  std::unique_ptr<CURL, void (*)(CURL*)> curl_;
  char error_[CURL_ERROR_SIZE] = {};
  std::string content_range_;
  std::string reason_;
  std::exception_ptr thrown_;
  uint64_t start_ = 0;
  long status_ = 0;
  bool started_ = false;
  bool bad_range_ = false;
  bool stalled_ = false;
  bool final_ = false;
  Clock::time_point last_byte_, last_report_;
};

// Waits, but not past a cancellation.
void pause_before_retry(int tries, const DownloadOptions& options) {
  const auto end = Clock::now() + std::chrono::milliseconds(200 << std::min(tries, 4));
  while (Clock::now() < end) {
    if (options.cancelled && options.cancelled()) {
      throw Error(ErrorCode::kCancelled,
                  "the download was cancelled; it continues from here next time");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// Fills `part` until the server has sent everything. Returns whether that took several pieces.
bool fetch(const std::string& url, PartFile& part, const DownloadOptions& options) {
  for (int fruitless = 0;;) {
    const uint64_t before = part.size();
    const bool joined = before > 0;
    Transfer transfer(url, part, options);
    switch (transfer.run()) {
      case Outcome::kDone:
        return joined;
      case Outcome::kBadRange:
        // Either everything was there already, which the checksum tells, or it never will be.
        if (before == 0)
          throw Error(ErrorCode::kInput, fmt::format("{}: sends no usable range", url));
        return joined;
      case Outcome::kBroken:
        break;
    }
    fruitless = part.size() > before ? 0 : fruitless + 1;
    if (transfer.is_final() || fruitless >= options.attempts) {
      throw Error(ErrorCode::kInput,
                  fmt::format("{}: {}{}", url, transfer.reason(),
                              part.size() == 0 ? ""
                                               : fmt::format(" ({} bytes are kept in {}, the next "
                                                             "try continues there)",
                                                             part.size(), part.path())));
    }
    log_info(fmt::format("{}: {}; trying again", url, transfer.reason()));
    pause_before_retry(fruitless, options);
  }
}

}  // namespace

void download_file(const std::string& url, const std::string& path, const std::string& md5,
                   const DownloadOptions& options) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  struct stat info {};
  if (stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      throw Error(ErrorCode::kOutput,
                  fmt::format("{}: is no regular file; expected a file name", path));
    }
    if (md5_of(path) == md5) return;
    log_warning(fmt::format("{}: has another MD5 than the official file and is replaced", path));
  }
  PartFile part(path);
  const bool joined = fetch(url, part, options);
  std::string found = md5_of(part.path());
  if (found != md5 && joined) {
    // The first piece may be of another file, or of a damaged one.
    part.restart();
    fetch(url, part, options);
    found = md5_of(part.path());
  }
  if (found != md5) {
    part.remove();
    throw Error(ErrorCode::kInput, fmt::format("{}: what arrived has MD5 {}, expected {}; it was "
                                               "thrown away",
                                               url, found, md5));
  }
  part.finish(path);
}

std::string download_weights(const std::string& variant, const std::string& destination,
                             const std::string& base_url, const DownloadOptions& options) {
  const WeightsRelease& release = weights_release(variant);
  std::string path = destination;
  if (path.empty()) {
    const std::string folder = weights_folder();
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) {
      throw Error(ErrorCode::kOutput,
                  fmt::format("{}: cannot create: {}", folder, error.message()));
    }
    path = folder + "/" + release.file_name;
  }
  std::string url = base_url;
  if (const char* mirror = std::getenv("RFSEG_WEIGHTS_URL"); url.empty() && mirror != nullptr) {
    url = mirror;
  }
  if (url.empty()) url = kOfficialUrl;
  if (!url.ends_with('/')) url += '/';
  download_file(url + release.url_path, path, release.md5, options);
  return path;
}

}  // namespace rfseg
