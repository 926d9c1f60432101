#include "engine/weight_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/digest.h"
#include "core/files.h"

namespace rfseg {
namespace {

// magic, length of the key, bytes of the image, digest of the image; the key; zeros up to a
// multiple of kAlignment; the image.
constexpr char kMagic[8] = {'R', 'F', 'S', 'E', 'G', 'W', '0', '1'};
constexpr std::size_t kHeader = 32, kAlignment = 256;

struct Header {
  char magic[8];
  uint64_t key_size, image_size, digest;
};
static_assert(sizeof(Header) == kHeader);

std::size_t image_at(std::size_t key_size) {
  return (kHeader + key_size + kAlignment - 1) / kAlignment * kAlignment;
}

/// Everything but the image, which `header` speaks of.
bool fits(const Header& header, const uint8_t* key_bytes, std::string_view key,
          std::size_t file_size, std::size_t image_size, std::string* why) {
  const auto fail = [&](const char* what) {
    *why = what;
    return false;
  };
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return fail("no cache of weights");
  if (header.key_size != key.size() || std::memcmp(key_bytes, key.data(), key.size()) != 0) {
    return fail("made of another checkpoint or for another network");
  }
  if (header.image_size != image_size || file_size != image_at(key.size()) + image_size) {
    return fail("cut short or too long");
  }
  return true;
}

}  // namespace

std::string weight_cache_path(const std::string& folder, std::string_view key) {
  const std::string name = fmt::format("{:016x}.rfsegw", quick_digest(key.data(), key.size()));
  return (std::filesystem::path(folder) / name).string();
}

bool parse_weight_cache(const uint8_t* data, std::size_t size, std::string_view key,
                        std::vector<std::byte>& image, std::string* why) {
  Header header;
  if (size < kHeader + key.size()) {
    *why = "cut short";
    return false;
  }
  std::memcpy(&header, data, kHeader);
  if (!fits(header, data + kHeader, key, size, image.size(), why)) return false;
  std::memcpy(image.data(), data + image_at(key.size()), image.size());
  if (quick_digest(image.data(), image.size()) != header.digest) {
    *why = "its bytes have changed";
    return false;
  }
  return true;
}

bool read_weight_cache(const std::string& path, std::string_view key, std::vector<std::byte>& image,
                       std::string* why) {
  why->clear();
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return false;
  std::ifstream file(path, std::ios::binary);
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  Header header;
  std::vector<uint8_t> start(image_at(key.size()));
  if (!file.read(reinterpret_cast<char*>(start.data()),
                 static_cast<std::streamsize>(start.size()))) {
    *why = "cannot be read, or cut short";
    return false;
  }
  std::memcpy(&header, start.data(), kHeader);
  if (error || !fits(header, start.data() + kHeader, key, static_cast<std::size_t>(size),
                     image.size(), why)) {
    return false;
  }
  if (!file.read(reinterpret_cast<char*>(image.data()),
                 static_cast<std::streamsize>(image.size())) ||
      quick_digest(image.data(), image.size()) != header.digest) {
    *why = "its bytes have changed";
    return false;
  }
  return true;
}

void write_weight_cache(const std::string& path, std::string_view key,
                        const std::vector<std::byte>& image) {
  Header header;
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.key_size = key.size();
  header.image_size = image.size();
  header.digest = quick_digest(image.data(), image.size());
  std::string start(image_at(key.size()), '\0');
  std::memcpy(start.data(), &header, kHeader);
  std::copy(key.begin(), key.end(), start.begin() + kHeader);
  OutputFile file(path);
  file.write(start);
  file.write({reinterpret_cast<const char*>(image.data()), image.size()});
  file.commit();
}

}  // namespace rfseg
