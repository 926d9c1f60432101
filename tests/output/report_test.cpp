#include "output/report.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/sha.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "output/overlay.h"
#include "output/report_picture.h"
#include "rfseg/error.h"
#include "test_data.h"

namespace rfseg {
namespace {

using Json = nlohmann::json;

/// A stand-in for a JPEG encoder: as many bytes as a tenth of the picture.
std::vector<uint8_t> fake_jpeg(const ImageView& view, int quality) {
  EXPECT_EQ(view.format, PixelFormat::kRgb8);
  EXPECT_GE(quality, 50);
  return std::vector<uint8_t>(static_cast<std::size_t>(view.width) * view.height * 3 / 10, 'j');
}

ReportOptions options() {
  ReportOptions out;
  out.title = "seg-nano & <friends>";
  out.facts = {{"model", "a<b>.safetensors"}, {"device", "cpu"}};
  out.notice = "This is a \"demonstration\".";
  out.class_names = {"", "person", "</script><script>alert(1)</script>"};
  out.encode_jpeg = fake_jpeg;
  return out;
}

ResultRecord sample(const std::string& file, int width = 60, int height = 40) {
  ResultRecord record;
  record.file = file;
  record.detections.width = width;
  record.detections.height = height;
  record.detections.items = {
      detection(1, 0.9f, 10, 10, 30, 20, box_mask(height, width, 10, 10, 30, 20)),
      detection(2, 0.5f, 1, 2, 3, 4)};
  return record;
}

std::string write_report(const std::string& path, const ReportOptions& with,
                         const std::vector<ResultRecord>& records, int width = 60,
                         int height = 40) {
  auto report = create_report(path, with);
  const Image image(width, height);
  double ms = 1;
  for (const ResultRecord& record : records) {
    report->add(image, record, {{"decode", ms}, {"network", 10 * ms}});
    ms += 1;
  }
  report->finish();
  return read_text(path);
}

std::vector<Json> records_of(const std::string& page) {
  static const std::string kOpen = "<script type=\"application/json\">", kClose = "</script>";
  std::vector<Json> out;
  for (std::size_t at = page.find(kOpen); at != std::string::npos; at = page.find(kOpen, at + 1)) {
    const std::size_t begin = at + kOpen.size();
    out.push_back(Json::parse(page.substr(begin, page.find(kClose, begin) - begin)));
  }
  return out;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

TEST(Report, HoldsWhatWasFound) {
  const TemporaryFolder folder;
  ResultRecord frame = sample("v.mp4");
  frame.frame = 7;
  frame.time_s = 0.28;
  const std::string page =
      write_report(folder / "r.html", options(), {sample("a.jpg"), frame, sample("c.jpg")});
  const std::vector<Json> records = records_of(page);
  ASSERT_EQ(records.size(), 3u);
  const Json& first = records[0];
  EXPECT_EQ(first["file"], "a.jpg");
  EXPECT_EQ(first["width"], 60);
  EXPECT_EQ(first["ms"]["network"], 10.0);
  ASSERT_EQ(first["items"].size(), 2u);
  EXPECT_EQ(first["items"][0]["name"], "person");
  EXPECT_EQ(first["items"][0]["class"], 1);
  EXPECT_EQ(first["items"][0]["score"].get<float>(), 0.9f);
  EXPECT_EQ(first["items"][0]["box"], Json({10, 10, 30, 20}));
  EXPECT_EQ(first["items"][0]["mask"], box_mask(40, 60, 10, 10, 30, 20)->counts);
  EXPECT_FALSE(first["items"][1].contains("mask"));
  const auto color = class_color(1);
  char hex[8];
  std::snprintf(hex, sizeof hex, "#%02x%02x%02x", color[0], color[1], color[2]);
  EXPECT_EQ(first["items"][0]["color"], hex);
  EXPECT_EQ(count(page, "<img "), 3u);
  EXPECT_NE(page.find("frame 7, 0.28 s"), std::string::npos);
  EXPECT_NE(page.find("<h1>seg-nano &amp; &lt;friends&gt;</h1>"), std::string::npos);
  EXPECT_NE(page.find("This is a &quot;demonstration&quot;."), std::string::npos);
  EXPECT_NE(page.find("<dd>a&lt;b&gt;.safetensors</dd>"), std::string::npos);
  EXPECT_NE(page.find("3 pictures, 6 instances."), std::string::npos);
  // The notice comes before everything but the title.
  EXPECT_LT(page.find("class=\"notice\""), page.find("<dl"));
  // Medians and means of 1, 2, 3 and 10, 20, 30.
  EXPECT_NE(page.find("decode</th><td>2.00</td><td>2.00</td><td>3.00"), std::string::npos);
  EXPECT_NE(page.find("network</th><td>20.00</td><td>20.00</td><td>30.00"), std::string::npos);
}

TEST(Report, TheMedianOfTwoLiesBetweenThem) {
  const TemporaryFolder folder;
  const std::string page =
      write_report(folder / "r.html", options(), {sample("a.jpg"), sample("b.jpg")});
  EXPECT_NE(page.find("decode</th><td>1.50</td><td>1.50</td><td>2.00"), std::string::npos);
  EXPECT_NE(page.find("network</th><td>15.00</td><td>15.00</td><td>20.00"), std::string::npos);
}

TEST(Report, NamesCannotBreakOut) {
  const TemporaryFolder folder;
  const std::string evil = "</script><script>alert('x')</script>\"><img onerror=1>\xff.jpg";
  const std::string page = write_report(folder / "r.html", options(), {sample(evil)});
  EXPECT_EQ(count(page, "<script"), 2u);  // the record and the page's own
  EXPECT_EQ(count(page, "</script"), 2u);
  EXPECT_EQ(count(page, "<img "), 1u);
  EXPECT_EQ(page.find("<img onerror"), std::string::npos);
  const std::vector<Json> records = records_of(page);
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0]["file"], "</script><script>alert('x')</script>\"><img onerror=1>\\xff.jpg");
  EXPECT_EQ(records[0]["items"][1]["name"], options().class_names[2]);
}

TEST(Report, NeedsNothingFromOutside) {
  const TemporaryFolder folder;
  const std::string page = write_report(folder / "r.html", options(), {sample("a.jpg")});
  for (const char* part : {"http:", "https:", "//cdn", "@import", "url(", "<link", "<iframe"}) {
    EXPECT_EQ(page.find(part), std::string::npos) << part;
  }
  const std::regex source("src=\"([^\"]{0,30})");
  for (std::sregex_iterator it(page.begin(), page.end(), source), end; it != end; ++it) {
    EXPECT_EQ((*it)[1].str().rfind("data:image/jpeg;base64,", 0), 0u);
  }
}

std::string sha256_base64(const std::string& text) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest);
  unsigned char out[64];
  const int n = EVP_EncodeBlock(out, digest, sizeof digest);
  return {reinterpret_cast<char*>(out), static_cast<std::size_t>(n)};
}

TEST(Report, PolicyAllowsItsOwnStyleAndScriptAlone) {
  const TemporaryFolder folder;
  const std::string page = write_report(folder / "r.html", options(), {sample("a.jpg")});
  const auto between = [&](const std::string& open, const std::string& close) {
    const std::size_t begin = page.rfind(open) + open.size();
    return page.substr(begin, page.find(close, begin) - begin);
  };
  const std::string policy = between("Content-Security-Policy\" content=\"", "\"");
  EXPECT_NE(policy.find("default-src 'none'"), std::string::npos);
  EXPECT_EQ(policy.find("unsafe"), std::string::npos);
  EXPECT_NE(policy.find("style-src 'sha256-" + sha256_base64(between("<style>", "</style>")) + "'"),
            std::string::npos);
  EXPECT_NE(
      policy.find("script-src 'sha256-" + sha256_base64(between("<script>", "</script>")) + "'"),
      std::string::npos);
}

TEST(Report, SizeCapTurnsPicturesIntoThumbnailsThenLeavesThemOut) {
  const TemporaryFolder folder;
  ReportOptions capped = options();
  capped.max_bytes = 400'000;
  const std::vector<ResultRecord> records(40, sample("a.jpg", 600, 400));
  const std::string page = write_report(folder / "r.html", capped, records, 600, 400);
  EXPECT_LE(page.size(), capped.max_bytes);
  EXPECT_GE(page.size(), capped.max_bytes / 2);
  std::size_t pictures = 0, thumbnails = 0;
  for (const Json& record : records_of(page)) {
    const int width = record["width"];
    EXPECT_TRUE(width == 600 || width == 320) << width;
    EXPECT_TRUE(width == 600 ? thumbnails == 0 : true);  // in order
    (width == 600 ? pictures : thumbnails) += 1;
  }
  EXPECT_GE(pictures, 2u);
  EXPECT_GE(thumbnails, 2u);
  const std::size_t left_out = records.size() - pictures - thumbnails;
  EXPECT_GE(left_out, 1u);
  EXPECT_NE(page.find("40 pictures, 80 instances. To stay under 0.4 MB, " +
                      std::to_string(thumbnails) + " pictures are shown as thumbnails and " +
                      std::to_string(left_out) + " are left out."),
            std::string::npos);
}

TEST(Report, LargePicturesAreShrunkWithTheirMasks) {
  const TemporaryFolder folder;
  ResultRecord record = sample("big.jpg", 2560, 1000);
  record.detections.items[0] =
      detection(1, 0.9f, 100, 100, 1100, 500, box_mask(1000, 2560, 100, 100, 1100, 500));
  const std::string page = write_report(folder / "r.html", options(), {record}, 2560, 1000);
  const Json json = records_of(page).at(0);
  EXPECT_EQ(json["width"], 1280);
  EXPECT_EQ(json["height"], 500);
  EXPECT_EQ(json["items"][0]["box"], Json({50, 50, 550, 250}));
  EXPECT_EQ(json["items"][0]["mask"], box_mask(500, 1280, 50, 50, 550, 250)->counts);
}

TEST(Report, IsCompleteOrAbsent) {
  const TemporaryFolder folder;
  {
    auto report = create_report(folder / "r.html", options());
    report->add(Image(60, 40), sample("a.jpg"), {});
  }
  EXPECT_EQ(folder.entries(), 0u);
  EXPECT_THROW(create_report(folder / "no/such/folder/r.html", options()), Error);
  const std::string page = write_report(folder / "empty.html", options(), {});
  EXPECT_NE(page.find("0 pictures, 0 instances."), std::string::npos);
  ReportOptions without = options();
  without.encode_jpeg = nullptr;
  EXPECT_THROW(create_report(folder / "x.html", without), Error);
}

TEST(Report, PictureWithoutPixelsHasItsListAlone) {
  const TemporaryFolder folder;
  auto report = create_report(folder / "r.html", options());
  report->add(Image(), sample("a.jpg"), {});
  report->finish();
  const std::string page = read_text(folder / "r.html");
  EXPECT_EQ(count(page, "<img "), 0u);
  EXPECT_EQ(records_of(page).at(0)["items"].size(), 2u);
}

TEST(Report, SaysWhyItIsNotComplete) {
  const TemporaryFolder folder;
  for (const std::string why : {"", "interrupted after 1 of 3 frames"}) {
    auto report = create_report(folder / "r.html", options());
    report->add(Image(60, 40), sample("a.jpg"), {});
    report->finish(why);
    const std::string page = read_text(folder / "r.html");
    EXPECT_EQ(count(page, "This is not all"), why.empty() ? 0u : 1u);
    EXPECT_EQ(count(page, "interrupted after 1 of 3 frames."), why.empty() ? 0u : 1u);
  }
}

TEST(ReportPicture, MaskSamplesPixelCentres) {
  std::vector<uint8_t> dense(37 * 53);
  for (std::size_t i = 0; i < dense.size(); ++i) dense[i] = (i * 2654435761u >> 7) % 3 == 0;
  const Rle mask = rle_encode(dense.data(), 37, 53);
  for (const auto& [height, width] : {std::pair(37, 53), std::pair(10, 20), std::pair(36, 11),
                                      std::pair(1, 1), std::pair(74, 106), std::pair(50, 3)}) {
    const Rle out = resample_mask(mask, height, width);
    EXPECT_EQ(out.height, height);
    const std::vector<uint8_t> got = rle_decode(out);  // also checks the sum
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const int sy = (2 * y + 1) * 37 / (2 * height), sx = (2 * x + 1) * 53 / (2 * width);
        EXPECT_EQ(got[y * width + x], dense[sy * 53 + sx]) << y << " " << x;
      }
    }
  }
}

TEST(ReportPicture, ShrinkAverages) {
  Image image(4, 2);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(i);
  const Image half = shrink_image(image, 2);
  ASSERT_EQ(half.width, 2);
  ASSERT_EQ(half.height, 1);
  EXPECT_EQ(half.pixels[0], (0 + 3 + 12 + 15 + 2) / 4);
  EXPECT_EQ(half.pixels[5], (8 + 11 + 20 + 23 + 2) / 4);
  EXPECT_EQ(shrink_image(image, 4).pixels, image.pixels);
  EXPECT_EQ(shrink_image(Image(1000, 1), 10).height, 1);
}

TEST(ReportPicture, Base64) {
  const auto encode = [](const std::string& text) {
    std::string out;
    append_base64(out, {text.begin(), text.end()});
    return out;
  };
  EXPECT_EQ(encode(""), "");  // RFC 4648, section 10
  EXPECT_EQ(encode("f"), "Zg==");
  EXPECT_EQ(encode("fo"), "Zm8=");
  EXPECT_EQ(encode("foo"), "Zm9v");
  EXPECT_EQ(encode("foobar"), "Zm9vYmFy");
  EXPECT_EQ(encode("\xff\xfe\xfd"), "//79");
}

}  // namespace
}  // namespace rfseg
