#include "media/http_fetch.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <strings.h>

#include <memory>
#include <mutex>
#include <string_view>

#include "core/curl_settings.h"
#include "media/image_io.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr long kStalledBytesPerSecond = 100;

struct Transfer {
  const FetchOptions& options;
  std::vector<uint8_t> bytes;
  bool too_long = false, cancelled = false, no_memory = false;
};

std::size_t on_data(char* data, std::size_t size, std::size_t count, void* self) {
  auto& transfer = *static_cast<Transfer*>(self);
  if (count * size > transfer.options.max_bytes - transfer.bytes.size()) {
    transfer.too_long = true;
    return 0;
  }
  try {  // no exception may pass through curl's C code
    transfer.bytes.insert(transfer.bytes.end(), data, data + size * count);
  } catch (const std::bad_alloc&) {
    transfer.no_memory = true;
    return 0;
  }
  return size * count;
}

int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(self);
  transfer.cancelled = transfer.options.cancelled && transfer.options.cancelled();
  return transfer.cancelled ? 1 : 0;
}

}  // namespace

std::vector<uint8_t> fetch_url(const std::string& url, const FetchOptions& options) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  const std::unique_ptr<CURL, void (*)(CURL*)> handle(curl_easy_init(), curl_easy_cleanup);
  if (!handle) throw Error(ErrorCode::kInput, "libcurl cannot be started");
  CURL* curl = handle.get();
  Transfer transfer{options, {}};
  char message[CURL_ERROR_SIZE] = {};
  set_common_options(curl, url.c_str(), options.connect_timeout_s, message);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, kStalledBytesPerSecond);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(options.stall_timeout_s));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  const CURLcode code = curl_easy_perform(curl);
  if (transfer.cancelled) throw Error(ErrorCode::kCancelled, fmt::format("{}: cancelled", url));
  if (transfer.no_memory) throw std::bad_alloc();
  if (transfer.too_long) {
    throw Error(ErrorCode::kInput, fmt::format("{}: is larger than the {} bytes accepted here", url,
                                               options.max_bytes));
  }
  if (code != CURLE_OK) {
    throw Error(
        ErrorCode::kInput,
        fmt::format("{}: {}", url, message[0] != '\0' ? message : curl_easy_strerror(code)));
  }
  return std::move(transfer.bytes);
}

bool is_image_url(const std::string& url) {
  const bool http =
      strncasecmp(url.c_str(), "http://", 7) == 0 || strncasecmp(url.c_str(), "https://", 8) == 0;
  if (!http) return false;
  const std::string path = url.substr(0, url.find_first_of("?#"));
  return path.find('/', path.find("://") + 3) != std::string::npos && is_image_name(path);
}

}  // namespace rfseg
