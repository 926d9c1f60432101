// Element types, finite checks and the position table's resampling.

#include "checkpoint/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "checkpoint/names.h"
#include "checkpoint/position_table.h"
#include "checkpoint/test_files.h"
#include "core/half.h"

namespace rfseg {
namespace {

TEST(Convert, EveryFiniteHalfFloatIsAsTorchSays) {
  std::vector<uint16_t> halves;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7c00u) != 0x7c00u) halves.push_back(static_cast<uint16_t>(bits));
  }
  Tensor out({static_cast<int64_t>(halves.size())});
  EXPECT_TRUE(convert_to_float(DType::kF16, halves.data(), halves.size(), out.data.data()));
  EXPECT_EQ(test::hash_of(out), "af417771d363a145");  // printed by make_goldens.py
}

TEST(Convert, UnalignedAndOddCountsGiveTheSame) {
  std::vector<unsigned char> bytes(2 * 37 + 1);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 7 % 60);
  for (std::size_t count = 0; count <= 37; ++count) {
    std::vector<float> out(count + 1, -1.0f);
    EXPECT_TRUE(convert_to_float(DType::kF16, bytes.data() + 1, count, out.data()));
    for (std::size_t i = 0; i < count; ++i) {
      const auto bits = static_cast<uint16_t>(bytes[1 + 2 * i] | bytes[2 + 2 * i] << 8);
      EXPECT_EQ(out[i], half_to_float(bits));
    }
    EXPECT_EQ(out[count], -1.0f);
  }
}

template <class T>
std::vector<float> convert(DType dtype, const std::vector<T>& values, bool* finite = nullptr) {
  std::vector<float> out(values.size());
  const bool ok = convert_to_float(dtype, values.data(), values.size(), out.data());
  if (finite != nullptr) *finite = ok;
  return out;
}

TEST(Convert, IntegersBooleansAndDoubles) {
  EXPECT_EQ(convert<int8_t>(DType::kI8, {-128, 0, 127}), (std::vector<float>{-128, 0, 127}));
  EXPECT_EQ(convert<uint8_t>(DType::kU8, {0, 255}), (std::vector<float>{0, 255}));
  EXPECT_EQ(convert<uint8_t>(DType::kBool, {0, 1, 2}), (std::vector<float>{0, 1, 1}));
  EXPECT_EQ(convert<int16_t>(DType::kI16, {-32768, 32767}), (std::vector<float>{-32768, 32767}));
  EXPECT_EQ(convert<int32_t>(DType::kI32, {-5, 1 << 24}), (std::vector<float>{-5, 16777216}));
  EXPECT_EQ(convert<int64_t>(DType::kI64, {-5, int64_t{1} << 40}),
            (std::vector<float>{-5, 1099511627776.0f}));
  EXPECT_EQ(convert<double>(DType::kF64, {0.1, -2.5}), (std::vector<float>{0.1f, -2.5f}));
}

TEST(Convert, NotFiniteIsSeenAtEveryPositionAndInEveryType) {
  const float bad[] = {
      std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
      std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
  for (std::size_t size = 1; size < 40; ++size) {
    std::vector<float> values(size, std::numeric_limits<float>::max());
    EXPECT_TRUE(all_finite(values.data(), size));
    for (std::size_t at = 0; at < size; ++at) {
      values[at] = bad[at % 4];
      EXPECT_FALSE(all_finite(values.data(), size)) << at;
      values[at] = -std::numeric_limits<float>::denorm_min();
    }
  }
  bool finite = true;
  convert<uint16_t>(DType::kF16, {0x3c00, 0x7c00}, &finite);
  EXPECT_FALSE(finite);
  convert<uint16_t>(DType::kBf16, {0x3f80, 0x7fc0}, &finite);
  EXPECT_FALSE(finite);
  convert<double>(DType::kF64, {1e300}, &finite);  // no float32
  EXPECT_FALSE(finite);
}

TEST(Convert, RoundsToBfloat16NearestEven) {
  EXPECT_EQ(round_to(DType::kBf16, 1.0f + 0x1p-8f), 1.0f);              // a tie, to even
  EXPECT_EQ(round_to(DType::kBf16, 1.0f + 0x3p-8f), 1.0f + 0x1p-6f);    // a tie, to even
  EXPECT_EQ(round_to(DType::kBf16, 1.0f + 0x1.1p-8f), 1.0f + 0x1p-7f);  // above the tie
  EXPECT_EQ(round_to(DType::kBf16, -1.0f - 0x1.1p-8f), -1.0f - 0x1p-7f);
  EXPECT_EQ(round_to(DType::kF32, 0.1f), 0.1f);
}

TEST(PositionTable, ResamplesAsTorchDoes) {
  const std::map<std::string, std::pair<const char*, DType>> sources = {
      {"f32", {"torch/tiny_stripped.pth", DType::kF32}},
      {"f16", {"torch/tiny_bundle_half.pt", DType::kF16}},
      {"bf16", {"torch/tiny_bf16.pth", DType::kBf16}}};
  int compared = 0;
  for (const auto& row : test::read_table("resampled.tsv")) {
    const auto& [file, dtype] = sources.at(row[0]);
    const int grid = std::stoi(row[1]);
    const Tensor table =
        open_checkpoint(test::data_path(file)).weights->read(kPositionTable, {1, 17, 64});
    const Tensor moved = resample_position_table(table, grid, dtype);
    ASSERT_EQ(moved.shape, (Shape{1, grid * grid + 1, 64}));
    const auto expected = test::split(row[2], ' ');
    ASSERT_EQ(expected.size(), (moved.data.size() + 52) / 53);
    // One step of the file's type, where the last bits of the sums decide the rounding.
    const float step = dtype == DType::kF32 ? 1e-6f : dtype == DType::kF16 ? 0x1p-10f : 0x1p-7f;
    std::size_t differ = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(moved.data[i * 53], std::stof(expected[i]), step) << row[0] << ' ' << grid;
      differ += moved.data[i * 53] != std::stof(expected[i]);
    }
    if (dtype != DType::kF32) {
      EXPECT_LE(differ, expected.size() / 50);
    }
    ++compared;
  }
  EXPECT_EQ(compared, 15);
}

}  // namespace
}  // namespace rfseg
