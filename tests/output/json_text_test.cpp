#include "output/json_text.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "rfseg/error.h"

namespace rfseg {
namespace {

std::string json_string(std::string_view text, bool for_html = false) {
  std::string out;
  append_json_string(out, text, for_html);
  return out;
}

std::string number(float value) {
  std::string out;
  append_json_float(out, value);
  return out;
}

std::string coordinate(float value) {
  std::string out;
  append_json_coordinate(out, value);
  return out;
}

TEST(JsonText, Strings) {
  EXPECT_EQ(json_string("a \"b\" \\ c/d"), R"("a \"b\" \\ c/d")");
  EXPECT_EQ(json_string(std::string_view("\n\t\r\0\x1f\x7f", 6)), R"("\n\t\r\u0000\u001f\u007f")");
  EXPECT_EQ(json_string("größe 猫 🐈"), "\"größe 猫 🐈\"");
  EXPECT_EQ(json_string("</script>&'", true), R"("\u003c/script\u003e\u0026\u0027")");
  EXPECT_EQ(json_string("a\xe2\x80\xa8z", true), R"("a\u2028z")");
}

TEST(JsonText, BytesThatAreNotUtf8BecomeVisible) {
  EXPECT_EQ(json_string("a\xff.jpg"), R"("a\\xff.jpg")");
  EXPECT_EQ(json_string("\xc0\xaf"), R"("\\xc0\\xaf")");                    // overlong
  EXPECT_EQ(json_string("\xed\xa0\x80"), R"("\\xed\\xa0\\x80")");           // a surrogate
  EXPECT_EQ(json_string("\xf4\x90\x80\x80"), R"("\\xf4\\x90\\x80\\x80")");  // past U+10FFFF
  EXPECT_EQ(json_string("\xe7\x8c"), R"("\\xe7\\x8c")");                    // cut off
  EXPECT_EQ(json_string("\x80"), R"("\\x80")");
}

TEST(JsonText, AnyBytesGiveValidJson) {
  std::mt19937 random(5);
  for (int i = 0; i < 3000; ++i) {
    std::string text(random() % 12, '\0');
    for (char& c : text) c = static_cast<char>(random());
    for (const bool for_html : {false, true}) {
      const std::string json = json_string(text, for_html);
      const auto parsed = nlohmann::json::parse(json);  // throws on malformed UTF-8 or JSON
      EXPECT_TRUE(parsed.is_string());
      if (for_html) {
        EXPECT_EQ(json.find_first_of("<>&'"), std::string::npos);
      }
    }
  }
}

TEST(JsonText, ValidTextReadsBack) {
  for (const std::string text : {"", "plain", "q\"\\\b\f\n", "größe 猫 🐈 \u2028", "\x7f"}) {
    EXPECT_EQ(nlohmann::json::parse(json_string(text)).get<std::string>(), text);
    EXPECT_EQ(nlohmann::json::parse(json_string(text, true)).get<std::string>(), text);
  }
}

// Expected digits: repr() of numpy.float32 values.
TEST(JsonText, ShortestFloats) {
  EXPECT_EQ(number(0.931f), "0.931");
  EXPECT_EQ(number(1.f), "1.0");
  EXPECT_EQ(number(0.f), "0.0");
  EXPECT_EQ(number(0.1f), "0.1");
  EXPECT_EQ(number(1e-5f), "1e-05");
  EXPECT_EQ(number(16777216.f), "16777216.0");
  EXPECT_EQ(number(0.33333334f), "0.33333334");
  EXPECT_EQ(coordinate(12.f), "12");
  EXPECT_EQ(coordinate(12.5f), "12.5");
  EXPECT_EQ(coordinate(100000.f), "100000");
  EXPECT_THROW(number(std::numeric_limits<float>::quiet_NaN()), Error);
  EXPECT_THROW(coordinate(std::numeric_limits<float>::infinity()), Error);
}

TEST(JsonText, FloatsReadBackToTheSameBits) {
  std::mt19937 random(6);
  for (int i = 0; i < 20000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isfinite(value)) continue;
    const std::string text = number(value);
    EXPECT_EQ(std::bit_cast<uint32_t>(std::strtof(text.c_str(), nullptr)),
              std::bit_cast<uint32_t>(value))
        << text;
    EXPECT_TRUE(nlohmann::json::parse(text).is_number_float()) << text;
    EXPECT_EQ(std::strtof(coordinate(value).c_str(), nullptr), value);
  }
}

}  // namespace
}  // namespace rfseg
