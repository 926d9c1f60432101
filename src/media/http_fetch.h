#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rfseg {

struct FetchOptions {
  std::size_t max_bytes = std::size_t{256} << 20;
  int connect_timeout_s = 20;
  int stall_timeout_s = 30;  ///< under 100 bytes a second for so long ends the transfer
  /// Asked several times a second; true ends the transfer with Error(kCancelled).
  std::function<bool()> cancelled;
};

/// What `url` (http or https, redirections followed) holds. Throws Error: kInput naming the URL
/// (network, HTTP status, more than `max_bytes`), kCancelled. Thread-safe.
std::vector<uint8_t> fetch_url(const std::string& url, const FetchOptions& options = {});

/// True for http(s)://host/path where the path, without query, is named as a picture.
bool is_image_url(const std::string& url);

}  // namespace rfseg
