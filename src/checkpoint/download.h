#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rfseg {

/// Official weights of one variant, as rfdetr 1.11.2 and rf-detr_plus 1.1.0 name them.
struct WeightsRelease {
  std::string variant;    ///< "seg-nano"
  std::string file_name;  ///< "rf-detr-seg-nano.pt": its name in the cache
  std::string url_path;   ///< below the base URL
  std::string md5;        ///< lower-case hexadecimal
  std::string license;    ///< "Apache-2.0" or "PML-1.0" (needs an active Roboflow platform plan)
};

/// Of all 15 variants, in the order of `stock_variants`.
const std::vector<WeightsRelease>& weights_releases();

/// Throws Error(kUsage) naming the known variants.
const WeightsRelease& weights_release(const std::string& variant);

/// Where downloaded weights lie: $RF_HOME, else $ROBOFLOW_HOME, else ~/.roboflow/models, as rfdetr
/// has it. Throws Error(kUsage) if none of them can be told.
std::string weights_folder();

/// The downloaded weights of `variant` in `weights_folder`, if they are there. Their checksum was
/// verified when they came.
std::optional<std::string> find_downloaded(const std::string& variant);

struct DownloadOptions {
  /// Called with bytes so far and bytes in all (0 = not known), at most some times a second, on the
  /// calling thread.
  std::function<void(uint64_t done, uint64_t total)> progress;
  /// Asked several times a second; true ends the transfer with Error(kCancelled).
  std::function<bool()> cancelled;
  int connect_timeout_s = 20;
  int stall_timeout_s = 30;  ///< without a byte for so long, the transfer counts as broken
  int attempts = 4;          ///< transfers in a row without any new byte before giving up
};

/// Fetches `url` to `path`. What arrives is kept in `path`.part, so that a broken transfer is
/// resumed by the next call (and by itself, up to `options.attempts` times); servers that ignore
/// ranges are understood. The file gets its name only after its MD5 was found right, so `path`
/// never holds anything else; a file with the right MD5 that is there already is left as it is.
/// Throws Error: kInput (network, HTTP status, wrong MD5; the message names the URL), kOutput
/// (cannot write, another process is at it), kCancelled.
void download_file(const std::string& url, const std::string& path, const std::string& md5,
                   const DownloadOptions& options = {});

/// Downloads the official weights of `variant` and returns where they are. `destination` "" = in
/// `weights_folder`, which is created. `base_url` "" = $RFSEG_WEIGHTS_URL, else the official one.
std::string download_weights(const std::string& variant, const std::string& destination = "",
                             const std::string& base_url = "", const DownloadOptions& options = {});

}  // namespace rfseg
