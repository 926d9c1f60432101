#pragma once

// Dense masks and masks of bits against those of the CPU.

#include <gtest/gtest.h>

#include "postprocess/cuda/records.h"
#include "rfseg/detections.h"

namespace rfseg::test {

/// What one picture has in a call's results, in host memory.
struct PictureResults {
  cuda::PictureRecord record;
  const cuda::DetectionRecord* detections = nullptr;
  const uint8_t* bytes = nullptr;  ///< of all pictures
};

/// Every pixel, and that rows end in zeros.
inline ::testing::AssertionResult same_pixels(const Detections& expected,
                                              const PictureResults& found, cuda::MaskBytes format) {
  if (found.record.detections != static_cast<int>(expected.items.size())) {
    return ::testing::AssertionFailure()
           << found.record.detections << " detections and " << expected.items.size();
  }
  const int64_t pitch = cuda::row_pitch(expected.width, format);
  const uint64_t size = cuda::mask_bytes(expected.height, expected.width, format);
  for (std::size_t i = 0; i < expected.items.size(); ++i) {
    const cuda::DetectionRecord& record = found.detections[i];
    if (record.query != expected.items[i].query || record.mask < 0 ||
        record.mask >= found.record.masks) {
      return ::testing::AssertionFailure() << "detection " << i << " has mask " << record.mask;
    }
    const std::vector<uint8_t> pixels = expected.items[i].mask->dense();
    const uint8_t* mask =
        found.bytes + found.record.offset + static_cast<uint64_t>(record.mask) * size;
    for (int y = 0; y < expected.height; ++y) {
      const uint8_t* row = mask + y * pitch;
      for (int64_t b = 0; b < pitch; ++b) {
        uint8_t value = 0;
        const auto pixel = [&](int64_t x) {
          return x < expected.width
                     ? pixels[static_cast<std::size_t>(int64_t{y} * expected.width + x)]
                     : uint8_t{0};
        };
        if (format == cuda::MaskBytes::kDense) {
          value = pixel(b);
        } else {
          for (int k = 0; k < 8; ++k) {
            value = static_cast<uint8_t>(value | pixel(8 * b + k) << (7 - k));
          }
        }
        if (row[b] != value) {
          return ::testing::AssertionFailure()
                 << "mask of query " << record.query << ", row " << y << ", byte " << b << ": "
                 << static_cast<int>(row[b]) << ", expected " << static_cast<int>(value);
        }
      }
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace rfseg::test
