#pragma once

#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/tensor.h"
#include "preprocess/preprocess.h"

// Random frames and calls for the CUDA backend, and what the reference backend says of them.

namespace rfseg::test {

class CaseRandom {
 public:
  explicit CaseRandom(uint64_t seed) : engine_(seed * 0x9e3779b97f4a7c15u + 1) {}
  int range(int low, int high) {
    return low + static_cast<int>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  bool one_in(int n) { return range(1, n) == 1; }
  uint64_t bits() { return engine_(); }
  float uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(engine_() >> 40) / 16777216.0f;
  }

 private:
  std::mt19937_64 engine_;
};

/// A frame in one buffer of exactly the bytes that it may touch, `before` bytes after an address
/// that is a multiple of 256.
struct TestFrame {
  AlignedVector<uint8_t> bytes;
  std::size_t offsets[3] = {0, 0, 0};
  int planes = 1;
  ImageView view;  ///< into `bytes`

  /// The same frame with its buffer's copy at `base`.
  ImageView at(const uint8_t* base) const {
    ImageView v = view;
    for (int i = 0; i < planes; ++i) v.planes[i] = base + offsets[i];
    return v;
  }
};

inline TestFrame make_frame(CaseRandom& random, PixelFormat format, int width, int height,
                            bool plain) {
  TestFrame frame;
  ImageView& v = frame.view;
  v.format = format;
  v.width = width;
  v.height = height;
  v.matrix = random.one_in(2) ? YuvMatrix::kBt601 : YuvMatrix::kBt709;
  v.range = random.one_in(2) ? YuvRange::kLimited : YuvRange::kFull;
  const bool yuv =
      format == PixelFormat::kNv12 || format == PixelFormat::kP010 || format == PixelFormat::kI420;
  frame.planes = !yuv ? 1 : format == PixelFormat::kI420 ? 3 : 2;
  const int sample = format == PixelFormat::kP010 ? 2 : 1;
  const int half = (width + 1) / 2;
  std::size_t end = 0;
  for (int i = 0; i < frame.planes; ++i) {
    int row = width * (format == PixelFormat::kRgba8          ? 4
                       : format == PixelFormat::kGray8 || yuv ? 1
                                                              : 3);
    if (yuv) row = (i == 0 ? width : format == PixelFormat::kI420 ? half : 2 * half) * sample;
    const int rows = i == 0 ? height : (height + 1) / 2;
    std::ptrdiff_t stride = row;
    if (plain || random.one_in(3)) {
      stride = (row + 15) / 16 * 16 + (random.one_in(3) ? 16 * random.range(1, 3) : 0);
      end = (end + 15) / 16 * 16;
    } else {
      if (random.one_in(2)) stride += random.range(0, 40);
      end += static_cast<std::size_t>(random.range(0, 20));
    }
    const bool up = random.one_in(4);
    frame.offsets[i] = end + static_cast<std::size_t>(up ? stride * (rows - 1) : 0);
    v.strides[i] = up ? -stride : stride;
    end += static_cast<std::size_t>(stride * (rows - 1) + row);
  }
  frame.bytes.resize(end);
  // Noise, or few levels, so that sums meet their rounding bounds.
  const int kind = random.range(0, 3);
  for (std::size_t i = 0; i < end; i += 8) {
    uint64_t word = random.bits();
    if (kind == 0) word &= 0x8080808080808080u;
    if (kind == 1) word |= 0xfcfcfcfcfcfcfcfcu;
    std::memcpy(frame.bytes.data() + i, &word, std::min<std::size_t>(8, end - i));
  }
  for (int i = 0; i < frame.planes; ++i) v.planes[i] = frame.bytes.data() + frame.offsets[i];
  return frame;
}

inline PixelFormat random_format(CaseRandom& random) {
  constexpr PixelFormat kFormats[] = {PixelFormat::kRgb8,  PixelFormat::kRgb8,  PixelFormat::kBgr8,
                                      PixelFormat::kRgba8, PixelFormat::kGray8, PixelFormat::kNv12,
                                      PixelFormat::kNv12,  PixelFormat::kI420,  PixelFormat::kP010};
  return kFormats[random.range(0, 8)];
}

/// A side, mostly small; never over `most`.
inline int random_side(CaseRandom& random, int most) {
  const int kind = random.range(0, 9);
  if (kind == 0) return random.range(1, 3);
  if (kind < 7) return random.range(1, most / 4 + 1);
  return random.range(1, most);
}

/// A frame's width: often a multiple of 16, whose rows are read as they are.
inline int random_width(CaseRandom& random, int most) {
  const int side = random_side(random, most);
  return random.one_in(2) ? (side + 15) / 16 * 16 : side;
}

inline PreprocessSpec random_spec(CaseRandom& random, int most) {
  PreprocessSpec spec;
  constexpr ResizeMode kModes[] = {ResizeMode::kPil, ResizeMode::kPil, ResizeMode::kPil13,
                                   ResizeMode::kBilinear, ResizeMode::kAntialias};
  spec.resize = kModes[random.range(0, 4)];
  spec.network_width = random_side(random, most);
  spec.network_height = random_side(random, most);
  if (random.one_in(4)) {
    spec.static_crop = StaticCrop{random.range(0, 40), random.range(60, 100), random.range(0, 40),
                                  random.range(60, 100)};
  }
  const int placement = random.range(0, 4);
  if (placement >= 3) {
    spec.placement = placement == 3 ? Placement::kLetterbox : Placement::kCenterCrop;
    spec.intermediate_width = random_side(random, most);
    spec.intermediate_height = random_side(random, most);
    spec.padding_value = random.range(0, 255);
  }
  if (random.one_in(3)) {
    for (int c = 0; c < 3; ++c) {
      spec.mean[c] = random.uniform(0, 1);
      spec.std[c] = random.uniform(0.1f, 1);
    }
  }
  return spec;
}

inline std::string describe(const ImageView& v, const PreprocessSpec& s) {
  return std::to_string(v.width) + "x" + std::to_string(v.height) + " format " +
         std::to_string(static_cast<int>(v.format)) + " stride " + std::to_string(v.strides[0]) +
         " to " + std::to_string(s.network_width) + "x" + std::to_string(s.network_height) +
         " mode " + std::to_string(static_cast<int>(s.resize)) + " placement " +
         std::to_string(static_cast<int>(s.placement)) + " " +
         std::to_string(s.intermediate_width) + "x" + std::to_string(s.intermediate_height) +
         (s.static_crop ? " cropped" : "");
}

/// The reference backend's tensor of a batch. Throws what preprocess() throws.
inline std::vector<float> reference_batch(std::span<const ImageView> frames, PreprocessSpec spec,
                                          Backend backend = Backend::kReference) {
  spec.backend = backend;
  const std::size_t one = static_cast<std::size_t>(spec.network_width) * spec.network_height * 3;
  std::vector<float> out(one * frames.size());
  for (std::size_t i = 0; i < frames.size(); ++i) preprocess(frames[i], spec, out.data() + i * one);
  return out;
}

/// The elements that differ; `half`: `found` has float16, compared with the rounded float32.
inline std::size_t count_differences(const std::vector<float>& expected, const void* found,
                                     bool half) {
  std::size_t different = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (half) {
      different += static_cast<const uint16_t*>(found)[i] != float_to_half(expected[i]) ? 1 : 0;
    } else {
      different += std::memcmp(static_cast<const float*>(found) + i, &expected[i], 4) != 0 ? 1 : 0;
    }
  }
  return different;
}

inline uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace rfseg::test
