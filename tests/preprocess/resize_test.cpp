// preprocess() against Pillow, OpenCV and emulations of torch's CUDA arithmetic: checksums of every
// bit, written by make_goldens.py.

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "preprocess/cv_resize.h"
#include "preprocess/preprocess.h"
#include "preprocess/test_picture.h"

namespace rfseg {
namespace {

using test::crc32_hex;
using test::noise_picture;

/// The lines of the goldens that start with `kind`, without it.
std::vector<std::string> goldens(const std::string& kind) {
  std::ifstream file(RFSEG_SOURCE_DIR "/tests/preprocess/data/resize_goldens.txt");
  EXPECT_TRUE(file.is_open());
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(kind + " ", 0) == 0) lines.push_back(line.substr(kind.size() + 1));
  }
  EXPECT_GT(lines.size(), 4u) << kind;
  return lines;
}

std::string checksum(const Image& image, const PreprocessSpec& spec) {
  std::vector<float> out(static_cast<std::size_t>(spec.network_height) * spec.network_width * 3,
                         -1e30f);
  preprocess(image.view(), spec, out.data());
  return crc32_hex(out.data(), out.size() * sizeof(float));
}

void check_stretches(const std::string& kind, ResizeMode mode) {
  for (const std::string& line : goldens(kind)) {
    std::istringstream fields(line);
    int width, height, seed;
    PreprocessSpec spec;
    std::string expected;
    fields >> width >> height >> spec.network_width >> spec.network_height >> seed >> expected;
    ASSERT_TRUE(fields) << line;
    spec.resize = mode;
    const Image image = noise_picture(width, height, seed);
    for (const Backend backend : {Backend::kReference, Backend::kCpu}) {
      spec.backend = backend;
      EXPECT_EQ(checksum(image, spec), expected)
          << kind << " " << line << (backend == Backend::kCpu ? " cpu" : " reference");
    }
  }
}

TEST(Resize, PilIsPillowsBitForBit) { check_stretches("pil12", ResizeMode::kPil); }
TEST(Resize, PilInThePassOrderOfPillow13) { check_stretches("pil13", ResizeMode::kPil13); }
TEST(Resize, BilinearIsThePlainFormula) { check_stretches("bilinear", ResizeMode::kBilinear); }
TEST(Resize, AntialiasIsTorchsFormula) { check_stretches("antialias", ResizeMode::kAntialias); }

TEST(Resize, CvLinearIsOpenCvsBitForBit) {
  for (const std::string& line : goldens("cv")) {
    std::istringstream fields(line);
    int width, height, out_width, out_height, seed;
    std::string expected;
    fields >> width >> height >> out_width >> out_height >> seed >> expected;
    ASSERT_TRUE(fields) << line;
    const Image image = noise_picture(width, height, seed);
    Image out(out_width, out_height);
    cv_resize_linear(image.pixels.data(), width, height, out.pixels.data(), out_width, out_height,
                     static_cast<std::size_t>(out_width) * 3);
    EXPECT_EQ(crc32_hex(out.pixels.data(), out.pixels.size()), expected) << line;
  }
}

void check_two_steps(const std::string& kind, Placement placement) {
  for (const std::string& line : goldens(kind)) {
    std::istringstream fields(line);
    int width, height, seed;
    PreprocessSpec spec;
    std::string expected;
    fields >> width >> height >> spec.intermediate_width >> spec.intermediate_height >>
        spec.padding_value >> spec.network_width >> spec.network_height >> seed >> expected;
    ASSERT_TRUE(fields) << line;
    spec.resize = ResizeMode::kPil;
    spec.placement = placement;
    EXPECT_EQ(checksum(noise_picture(width, height, seed), spec), expected) << kind << " " << line;
  }
}

TEST(Resize, LetterboxThenPil) { check_two_steps("letterbox", Placement::kLetterbox); }
TEST(Resize, CenterCropThenPil) { check_two_steps("crop", Placement::kCenterCrop); }

}  // namespace
}  // namespace rfseg
