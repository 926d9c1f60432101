// All backends give the same bits for any size, pixel format, stride and crop.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "preprocess/preprocess.h"
#include "preprocess/resize_kernels.h"
#include "preprocess/simd_normalize.h"
#include "preprocess/test_picture.h"
#include "preprocess/x86_target.h"

namespace rfseg {
namespace {

constexpr Normalization kNorm{{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};

int random_in(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// A view with random format and stride over memory of exactly the size that it may touch.
struct RandomView {
  std::vector<uint8_t> bytes;
  ImageView view;

  RandomView(std::mt19937& random, int width, int height) {
    const PixelFormat formats[] = {PixelFormat::kRgb8, PixelFormat::kBgr8, PixelFormat::kRgba8,
                                   PixelFormat::kGray8};
    view.format = formats[random_in(random, 0, 3)];
    view = ImageView::packed(nullptr, width, height, view.format);
    const std::ptrdiff_t row = view.strides[0];
    const std::ptrdiff_t stride = row + random_in(random, 0, 1) * random_in(random, 0, 40);
    bytes = test::noise(static_cast<std::size_t>(stride * (height - 1) + row),
                        random_in(random, 0, 1000));
    bytes.shrink_to_fit();
    const bool bottom_up = random_in(random, 0, 2) == 0;
    view.planes[0] = bytes.data() + (bottom_up ? stride * (height - 1) : 0);
    view.strides[0] = bottom_up ? -stride : stride;
  }
};

TEST(Backends, EqualOverRandomPictures) {
  std::mt19937 random(20240607);
  for (int round = 0; round < 250; ++round) {
    const int width = random_in(random, 1, round % 5 == 0 ? 1500 : 120);
    const int height = random_in(random, 1, round % 7 == 0 ? 1500 : 120);
    RandomView picture(random, width, height);
    PreprocessSpec spec;
    spec.network_width = random_in(random, 1, 130);
    spec.network_height = random_in(random, 1, 130);
    if (round % 3 == 0) {
      spec.static_crop = StaticCrop{random_in(random, 0, 40), random_in(random, 60, 100),
                                    random_in(random, 0, 40), random_in(random, 60, 100)};
      if (width < 10 || height < 10) spec.static_crop.reset();
    }
    for (const ResizeMode mode :
         {ResizeMode::kPil, ResizeMode::kPil13, ResizeMode::kBilinear, ResizeMode::kAntialias}) {
      spec.resize = mode;
      const std::size_t size = static_cast<std::size_t>(spec.network_width) * spec.network_height;
      std::vector<float> plain(size * 3, 1e30f), fast(size * 3, -1e30f);
      spec.backend = Backend::kReference;
      preprocess(picture.view, spec, plain.data());
      spec.backend = Backend::kCpu;
      preprocess(picture.view, spec, fast.data());
      ASSERT_TRUE(same_bits(plain, fast))
          << width << "x" << height << " -> " << spec.network_width << "x" << spec.network_height
          << " mode " << static_cast<int>(mode) << " format "
          << static_cast<int>(picture.view.format) << " round " << round;
      ASSERT_LT(*std::max_element(plain.begin(), plain.end()), 3.0f);
    }
  }
}

/// preprocess() picks the widest kernels of the machine; this runs each that exists.
TEST(Backends, EveryPilKernelEqualsTheReference) {
  using Kernel = void (*)(RgbRows&, const PilAxis&, const PilAxis&, const Normalization&, float*);
  std::vector<Kernel> kernels;
  if (cpu_has_avx2_fma()) kernels.push_back(pil_resize_avx2);
  if (cpu_has_avx512_vnni()) kernels.push_back(pil_resize_avx512);
  std::mt19937 random(7);
  for (int round = 0; round < 120; ++round) {
    const int width = random_in(random, 1, 400), height = random_in(random, 1, 400);
    const int out_width = random_in(random, 1, 100), out_height = random_in(random, 1, 100);
    RandomView picture(random, width, height);
    const PilAxis across = make_pil_axis(width, out_width);
    const PilAxis down = make_pil_axis(height, out_height);
    RgbRows rows(picture.view, CropRect{0, 0, width, height}, 16);
    std::vector<float> plain(static_cast<std::size_t>(out_width) * out_height * 3);
    pil_resize_reference(rows, across, down, kNorm, plain.data());
    for (const Kernel kernel : kernels) {
      std::vector<float> fast(plain.size(), -1e30f);
      kernel(rows, across, down, kNorm, fast.data());
      ASSERT_TRUE(same_bits(plain, fast))
          << width << "x" << height << " -> " << out_width << "x" << out_height;
    }
  }
}

TEST(Backends, ExtremePixelsDoNotOverflow) {
  for (const uint8_t value : {uint8_t{0}, uint8_t{255}}) {
    Image image(1000, 700);
    std::fill(image.pixels.begin(), image.pixels.end(), value);
    for (const Backend backend : {Backend::kReference, Backend::kCpu}) {
      PreprocessSpec spec;
      spec.network_width = spec.network_height = 37;
      spec.resize = ResizeMode::kPil;
      spec.backend = backend;
      spec.mean = {0, 0, 0};
      spec.std = {1, 1, 1};
      std::vector<float> out(37 * 37 * 3, -1.0f);
      preprocess(image.view(), spec, out.data());
      for (const float v : out) ASSERT_EQ(v, value / 255.0f);
    }
  }
}

TEST(Backends, FormatsOfOneGreyPictureAgree) {
  const std::vector<uint8_t> grey = test::noise(61 * 47, 3);
  std::vector<uint8_t> rgba;
  for (const uint8_t v : grey) rgba.insert(rgba.end(), {v, v, v, static_cast<uint8_t>(v / 2)});
  PreprocessSpec spec;
  spec.network_width = 40;
  spec.network_height = 30;
  spec.resize = ResizeMode::kPil;
  std::vector<float> a(40 * 30 * 3), b(40 * 30 * 3);
  preprocess(ImageView::packed(grey.data(), 61, 47, PixelFormat::kGray8), spec, a.data());
  preprocess(ImageView::packed(rgba.data(), 61, 47, PixelFormat::kRgba8), spec, b.data());
  EXPECT_TRUE(same_bits(a, b));
}

/// A YUV picture, which is converted in bands, equals the same picture converted at once.
TEST(Backends, YuvBandsEqualWholeConversion) {
  std::mt19937 random(5);
  for (int round = 0; round < 30; ++round) {
    const int width = random_in(random, 2, 90), height = random_in(random, 2, 90);
    const int chroma_row = 2 * ((width + 1) / 2);
    const std::vector<uint8_t> luma = test::noise(static_cast<std::size_t>(width) * height, round);
    const std::vector<uint8_t> chroma =
        test::noise(static_cast<std::size_t>(chroma_row) * ((height + 1) / 2), round + 100);
    ImageView view;
    view.format = PixelFormat::kNv12;
    view.width = width;
    view.height = height;
    view.planes[0] = luma.data();
    view.planes[1] = chroma.data();
    view.strides[0] = width;
    view.strides[1] = chroma_row;
    Image rgb(width, height);
    copy_to_rgb(view, CropRect{0, 0, width, height}, rgb.pixels.data());

    PreprocessSpec spec;
    spec.network_width = random_in(random, 1, 60);
    spec.network_height = random_in(random, 1, 60);
    if (round % 2 == 0 && width > 20 && height > 20) spec.static_crop = StaticCrop{13, 90, 7, 81};
    for (const ResizeMode mode :
         {ResizeMode::kPil, ResizeMode::kPil13, ResizeMode::kBilinear, ResizeMode::kAntialias}) {
      for (const Backend backend : {Backend::kReference, Backend::kCpu}) {
        spec.resize = mode;
        spec.backend = backend;
        const std::size_t size =
            static_cast<std::size_t>(spec.network_width) * spec.network_height * 3;
        std::vector<float> a(size, 1e30f), b(size, -1e30f);
        preprocess(view, spec, a.data());
        preprocess(rgb.view(), spec, b.data());
        ASSERT_TRUE(same_bits(a, b)) << width << "x" << height;
      }
    }
  }
}

#if RFSEG_X86_DISPATCH
RFSEG_AVX2 void unit_bytes(const uint32_t* bytes, float* units) {
  for (int i = 0; i < 256; i += 8) {
    const __m256i pixels = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + i));
    _mm256_storeu_ps(units + i, simd::unit_channel(pixels, 8));
  }
}

TEST(Backends, EveryByteIsDividedBy255Exactly) {
  if (!cpu_has_avx2_fma()) GTEST_SKIP() << "this processor lacks AVX2";
  uint32_t bytes[256];
  float units[256];
  for (uint32_t i = 0; i < 256; ++i) bytes[i] = 0x11000033u | i << 8;
  unit_bytes(bytes, units);
  for (int i = 0; i < 256; ++i) EXPECT_EQ(units[i], static_cast<float>(i) / 255.0f) << i;
}
#endif

}  // namespace
}  // namespace rfseg
