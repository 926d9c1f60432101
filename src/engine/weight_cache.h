#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Packed weights in a file beside the checkpoint's own, so that they need not be read, converted
// and folded again. The file is worth nothing: whatever is wrong with it, it is made anew.

namespace rfseg {

/// The name of the file for a key, in `folder`.
std::string weight_cache_path(const std::string& folder, std::string_view key);

/// Fills `image`, whose size is what is expected, from the file's bytes. False, and `why` tells, if
/// they are not a whole and unchanged cache of that key and size; `image` is undefined then.
bool parse_weight_cache(const uint8_t* data, std::size_t size, std::string_view key,
                        std::vector<std::byte>& image, std::string* why);

/// The same from a file; one that is not there is no fault: `why` stays empty.
bool read_weight_cache(const std::string& path, std::string_view key, std::vector<std::byte>& image,
                       std::string* why);

/// Complete or not at all. Throws Error(kOutput).
void write_weight_cache(const std::string& path, std::string_view key,
                        const std::vector<std::byte>& image);

}  // namespace rfseg
