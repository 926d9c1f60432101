#include "core/npy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/files.h"
#include "core/half.h"
#include "core/temporary_folder.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

// A file as NumPy writes it, from its header dictionary and raw data.
std::vector<uint8_t> npy_bytes(const std::string& dictionary, const std::string& data,
                               int major = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(major);
  bytes += '\0';
  bytes += static_cast<char>(dictionary.size() & 0xff);
  bytes += static_cast<char>(dictionary.size() >> 8);
  if (major > 1) bytes += std::string(2, '\0');
  bytes += dictionary + data;
  return {bytes.begin(), bytes.end()};
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

Tensor parse(const std::vector<uint8_t>& bytes) {
  return parse_npy(bytes.data(), bytes.size(), "t.npy");
}

std::string rejection(const std::vector<uint8_t>& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInput);
    return error.what();
  }
  return "accepted";
}

TEST(Npy, ReadsEveryFloatWidthAndBothOrders) {
  const std::vector<float> values = {1.5f, -2, 3, 4, 5, 6.25f};
  const Tensor c = parse(
      npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", raw(values)));
  EXPECT_EQ(c.shape, (Shape{2, 3}));
  EXPECT_EQ(std::vector<float>(c.data.begin(), c.data.end()), values);

  const Tensor fortran =
      parse(npy_bytes("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", raw(values)));
  EXPECT_EQ(std::vector<float>(fortran.data.begin(), fortran.data.end()),
            (std::vector<float>{1.5f, 3, 5, -2, 4, 6.25f}));

  const Tensor wide = parse(npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }",
                                      raw(std::vector<double>{0.1, -7}), 2));
  EXPECT_EQ(wide.data[0], 0.1f);
  EXPECT_EQ(wide.data[1], -7.0f);

  const Tensor half = parse(npy_bytes("{'descr': '<f2', 'fortran_order': False, 'shape': (3,), }",
                                      raw(std::vector<uint16_t>{0x3c00, 0xc000, 0x0001}), 3));
  EXPECT_EQ(half.data[0], 1.0f);
  EXPECT_EQ(half.data[1], -2.0f);
  EXPECT_EQ(half.data[2], std::ldexp(1.0f, -24));
}

TEST(Npy, ScalarAndEmptyShapes) {
  EXPECT_EQ(parse(npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
                            raw(std::vector<float>{3})))
                .size(),
            1);
  const Tensor empty = parse(npy_bytes(
      "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807), }", ""));
  EXPECT_EQ(empty.size(), 0);
}

TEST(Npy, RefusesWithAReasonThatNamesTheFile) {
  const std::string ok = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
  for (const auto& [bytes, reason] : std::vector<std::pair<std::vector<uint8_t>, std::string>>{
           {{}, "magic"},
           {npy_bytes("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }",
                      std::string(8, 'x')),
            "<c8"},
           {npy_bytes("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }",
                      std::string(4, 'x')),
            ">f4"},
           {npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
                      std::string(4, 'x')),
            "more data"},
           {npy_bytes(
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
                ""),
            "more data"},
           {npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", ""),
            "size expected"},
           {npy_bytes("{'descr': '<f4', 'shape': (1,), }", ""), "lacks"},
           {npy_bytes("{'descr': '<f4", ""), "unterminated"},
           {npy_bytes(ok, "", 9), "version"}}) {
    const std::string message = rejection(bytes);
    EXPECT_NE(message.find("t.npy"), std::string::npos) << message;
    EXPECT_NE(message.find(reason), std::string::npos) << message;
  }
}

TEST(Npy, WritesWhatItReads) {
  const test::TemporaryFolder folder;
  const std::vector<float> values = {1, 2, 3, std::numeric_limits<float>::infinity()};
  write_npy(folder / "a.npy", values.data(), {2, 1, 2});
  const Tensor back = read_npy(folder / "a.npy");
  EXPECT_EQ(back.shape, (Shape{2, 1, 2}));
  EXPECT_EQ(std::memcmp(back.data.data(), values.data(), sizeof(float) * 4), 0);
  // NumPy wants the data on a 64-byte boundary.
  EXPECT_EQ((read_file(folder / "a.npy").size() - 16) % 64, 0u);

  const std::vector<int32_t> indices = {5, -3};
  const std::vector<uint8_t> bytes = {0, 255, 7, 128, 9, 1};
  write_npy(folder / "b.npy", bytes.data(), {3, 2});
  const ByteArray read_bytes = read_npy_bytes(folder / "b.npy");
  EXPECT_EQ(read_bytes.shape, (Shape{3, 2}));
  EXPECT_EQ(read_bytes.data, bytes);
  EXPECT_THROW(read_npy_bytes(folder / "a.npy"), Error) << "float32 is no uint8";
  EXPECT_THROW(read_npy(folder / "b.npy"), Error);
  const std::vector<float> halves = {1.5f, -65504, 1.0009766f, 0};  // 1 + 2^-10 is the next after 1
  write_npy_half(folder / "h.npy", halves.data(), {4});
  const Tensor read_halves = read_npy(folder / "h.npy");
  EXPECT_EQ(std::vector<float>(read_halves.data.begin(), read_halves.data.end()),
            (std::vector<float>{1.5f, -65504, 1.0009765625f, 0}));
  write_npy(folder / "i.npy", indices.data(), {2});
  EXPECT_EQ(read_npy_int(folder / "i.npy").data, indices);
  EXPECT_THROW(read_npy(folder / "i.npy"), Error);
  EXPECT_THROW(read_npy_int(folder / "a.npy"), Error);
}

TEST(Half, EveryHalfSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = half_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(half_to_float(float_to_half(value))));
    } else {
      ASSERT_EQ(float_to_half(value), bits);
    }
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(float_to_half(1.0f + 0x1p-11f), 0x3c00);      // tie, down to even
  EXPECT_EQ(float_to_half(1.0f + 3 * 0x1p-11f), 0x3c02);  // tie, up to even
  EXPECT_EQ(float_to_half(1.0f + 0x1.002p-11f), 0x3c01);  // above the tie
  EXPECT_EQ(float_to_half(65519.996f), 0x7bff);           // below the overflow
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);             // tie with 2^16
  EXPECT_EQ(float_to_half(0x1p-25f), 0x0000);             // tie with zero, to even
  EXPECT_EQ(float_to_half(0x1.8p-24f), 0x0002);           // subnormal tie, to even
  EXPECT_EQ(float_to_half(-0x1p-14f), 0x8400);            // smallest normal
}

}  // namespace
}  // namespace rfseg
