#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <vector>

#include "core/log.h"
#include "media/image_io.h"
#include "rfseg/error.h"

namespace rfseg::test {

inline std::string image_path(const std::string& name) {
  return std::string(RFSEG_SOURCE_DIR "/tests/media/images/") + name;
}

inline std::vector<uint8_t> read_bytes(const std::string& name) {
  std::ifstream file(image_path(name), std::ios::binary);
  EXPECT_TRUE(file.is_open()) << name;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// CRC-32 as zlib.crc32 gives it, in hexadecimal.
inline std::string crc32_hex(const std::vector<uint8_t>& bytes) {
  uint32_t crc = 0xffffffffu;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int k = 0; k < 8; ++k) crc = crc & 1 ? 0xedb88320u ^ (crc >> 1) : crc >> 1;
  }
  char text[16];
  std::snprintf(text, sizeof text, "%08x", crc ^ 0xffffffffu);
  return text;
}

/// Collects log messages while it lives.
class LogCapture {
 public:
  LogCapture() {
    messages().clear();
    set_log_sink([](LogLevel level, const std::string& message) {
      if (level <= LogLevel::kWarning) messages().push_back(message);
    });
  }
  ~LogCapture() { set_log_sink(nullptr); }
  /// Warnings and errors so far.
  static std::vector<std::string>& messages() {
    static std::vector<std::string> list;
    return list;
  }
};

/// The message of the Error(kInput) that decoding these bytes must throw.
inline std::string decode_error(const std::vector<uint8_t>& bytes, const std::string& name,
                                const DecodeOptions& options = {}) {
  try {
    decode_image(bytes.data(), bytes.size(), name, options);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput) << error.what();
    EXPECT_EQ(std::string(error.what()).rfind(name + ": ", 0), 0u) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.what();
  }
  ADD_FAILURE() << name << " was decoded";
  return "";
}

}  // namespace rfseg::test
