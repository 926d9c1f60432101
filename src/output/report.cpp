#include "output/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "core/files.h"
#include "output/embedded_files.h"
#include "output/json_text.h"
#include "output/overlay.h"
#include "output/report_picture.h"
#include "rfseg/error.h"

// The page is written as it goes: a head, one card a picture, then what is known only at the end.
// The policy in its head allows the two embedded files by their hashes and pictures as data: URLs,
// nothing else: no request leaves the page, and no name in it can become a script.

namespace rfseg {
namespace {

constexpr int kPictureSide = 1280;
constexpr int kThumbnailSide = 320;
constexpr int kPictureQuality = 85;
constexpr int kThumbnailQuality = 75;
/// Part of the size that pictures may fill before thumbnails follow.
constexpr double kPictureShare = 0.7;
/// Kept free for what follows the cards, beside the script.
constexpr uint64_t kTailBytes = 16 << 10;

/// Text for HTML content and attributes. Bytes that are not UTF-8 show as \xNN.
std::string html(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const auto c = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      out += fmt::format("\\x{:02x}", c);
    } else if (length > 1) {
      out.append(text.substr(0, length));
    } else {
      switch (c) {
        case '&':
          out += "&amp;";
          break;
        case '<':
          out += "&lt;";
          break;
        case '>':
          out += "&gt;";
          break;
        case '"':
          out += "&quot;";
          break;
        case '\'':
          out += "&#39;";
          break;
        default:
          out += c < 0x20 && c != '\n' && c != '\t' ? ' ' : static_cast<char>(c);
      }
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

/// 'sha256-...' of a content security policy, from the hexadecimal hash.
std::string policy_hash(std::string_view hex) {
  std::vector<uint8_t> bytes;
  const auto digit = [](char c) { return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10; };
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<uint8_t>(digit(hex[i]) << 4 | digit(hex[i + 1])));
  }
  std::string out = "'sha256-";
  append_base64(out, bytes);
  return out + "'";
}

std::string hex_color(int class_id) {
  const auto color = class_color(class_id);
  return fmt::format("#{:02x}{:02x}{:02x}", color[0], color[1], color[2]);
}

std::string plural(int64_t n, const char* word) {
  return fmt::format("{} {}{}", n, word, n == 1 ? "" : "s");
}

/// "2 cat, 1 dog": the description of a picture for those who do not see it.
std::string spoken(const Detections& detections, const std::vector<std::string>& class_names) {
  std::map<int, int> counts;
  for (const Detection& item : detections.items) ++counts[item.class_id];
  std::string out;
  for (const auto& [id, n] : counts) {
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", n, class_name(class_names, id));
  }
  return out.empty() ? "nothing found" : out;
}

class Report : public ReportWriter {
 public:
  Report(const std::string& path, ReportOptions options)
      : options_(std::move(options)), file_(path) {
    if (!options_.encode_jpeg) throw Error(ErrorCode::kInternal, "a report needs a JPEG encoder");
    write_head();
  }

  void add(const Image& image, const ResultRecord& record,
           const std::vector<std::pair<std::string, double>>& milliseconds) override {
    ++pictures_;
    instances_ += static_cast<int64_t>(record.detections.items.size());
    for (const auto& [label, value] : milliseconds) {
      if (times_.find(label) == times_.end()) time_order_.push_back(label);
      times_[label].push_back(value);
    }
    const uint64_t tail = kTailBytes + embedded_report_js().size();
    const uint64_t room = options_.max_bytes > tail ? options_.max_bytes - tail : 0;
    if (!full_ && static_cast<double>(written_) < kPictureShare * static_cast<double>(room)) {
      const std::string card =
          make_card(image, record, milliseconds, kPictureSide, kPictureQuality);
      if (written_ + card.size() <= room) {
        write(card);
        return;
      }
    }
    if (!full_) {
      const std::string card =
          make_card(image, record, milliseconds, kThumbnailSide, kThumbnailQuality);
      if (written_ + card.size() <= room) {
        ++thumbnails_;
        write(card);
        return;
      }
      full_ = true;  // the pictures shown are the first ones, without gaps
    }
    ++left_out_;
  }

  void finish(const std::string& incomplete) override {
    incomplete_ = incomplete;
    write("</main>\n");
    write_summary();
    write(
        "<footer class=\"wrap\">Written by rfseg. This page is complete in itself and asks for "
        "nothing from the network.</footer>\n<script>");
    write(embedded_report_js());
    write("</script>\n</body>\n</html>\n");
    file_.commit();
  }

 private:
  void write(std::string_view text) {
    file_.write(text);
    written_ += text.size();
  }

  void write_head() {
    const std::string title = html(options_.title);
    write("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    write(fmt::format(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
        "img-src data:; style-src {}; script-src {}; base-uri 'none'; "
        "form-action 'none'\">\n",
        policy_hash(embedded_report_css_sha256()), policy_hash(embedded_report_js_sha256())));
    write("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    write(fmt::format("<title>{}</title>\n<style>", title));
    write(embedded_report_css());
    write("</style>\n</head>\n<body>\n<header class=\"wrap\">\n");
    write(fmt::format("<h1>{}</h1>\n", title));
    if (!options_.notice.empty()) {
      write(fmt::format("<p class=\"notice\" role=\"note\">{}</p>\n", html(options_.notice)));
    }
    write(
        "<noscript><p>Without scripts this page shows the pictures and the lists, but no "
        "masks.</p></noscript>\n<dl class=\"facts\">\n");
    for (const auto& [label, value] : options_.facts) {
      write(fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", html(label), html(value)));
    }
    write(
        "</dl>\n<div id=\"summary-slot\"></div>\n</header>\n"
        "<div class=\"bar\" id=\"bar\" hidden><div class=\"wrap\"><div class=\"row\">\n"
        "<label>score at least <input type=\"range\" id=\"threshold\" min=\"0\" max=\"1\" "
        "step=\"0.01\" value=\"0\"><output id=\"threshold-value\" for=\"threshold\">0.00</output>"
        "</label>\n"
        "<label><input type=\"checkbox\" id=\"show-masks\" checked>masks</label>\n"
        "<label><input type=\"checkbox\" id=\"show-labels\" checked>labels</label>\n"
        "<label><input type=\"checkbox\" id=\"show-boxes\">boxes</label>\n"
        "<button type=\"button\" id=\"all-on\">all on</button>\n"
        "<button type=\"button\" id=\"all-off\">all off</button>\n"
        "</div><div class=\"classes\" id=\"classes\"></div></div></div>\n"
        "<main class=\"wrap cards\">\n");
  }

  std::string make_card(const Image& image, const ResultRecord& record,
                        const std::vector<std::pair<std::string, double>>& milliseconds, int side,
                        int quality) const {
    const Detections& found = record.detections;
    const Image picture = image.empty() ? Image() : shrink_image(image, side);
    const int width = picture.empty() ? found.width : picture.width;
    const int height = picture.empty() ? found.height : picture.height;

    std::string card = "<figure class=\"card\">\n";
    if (!picture.empty()) {
      card += fmt::format(
          "<div class=\"stage\"><div class=\"picture\"><img loading=\"lazy\" width=\"{}\" "
          "height=\"{}\" alt=\"{}\" src=\"data:image/jpeg;base64,",
          width, height, html(record.file + ": " + spoken(found, options_.class_names)));
      append_base64(card, options_.encode_jpeg(picture.view(), quality));
      card += "\"></div></div>\n";
    }
    card += fmt::format("<figcaption class=\"caption\"><div class=\"name\">{}</div>",
                        html(record.file));
    std::string meta = fmt::format("{} x {}", found.width, found.height);
    if (record.frame) meta += fmt::format(", frame {}", *record.frame);
    if (record.time_s) meta += fmt::format(", {:.2f} s", *record.time_s);
    meta += ", " + plural(static_cast<int64_t>(found.items.size()), "instance");
    if (!milliseconds.empty()) {
      double total = 0;
      for (const auto& [label, value] : milliseconds) total += value;
      meta += fmt::format(", {:.1f} ms", total);
    }
    card += fmt::format(
        "<div class=\"meta\">{}</div><div class=\"list\"><p class=\"none\">{}</p>"
        "</div></figcaption>\n",
        meta, html(spoken(found, options_.class_names)));
    card += "<script type=\"application/json\">";
    append_record(card, record, milliseconds, width, height);
    card += "</script>\n</figure>\n";
    return card;
  }

  void append_record(std::string& out, const ResultRecord& record,
                     const std::vector<std::pair<std::string, double>>& milliseconds, int width,
                     int height) const {
    const Detections& found = record.detections;
    const double scale_x = found.width > 0 ? static_cast<double>(width) / found.width : 1;
    const double scale_y = found.height > 0 ? static_cast<double>(height) / found.height : 1;
    out += "{\"file\":";
    append_json_string(out, record.file, true);
    out += fmt::format(",\"width\":{},\"height\":{},\"ms\":{{", width, height);
    for (std::size_t i = 0; i < milliseconds.size(); ++i) {
      if (i > 0) out += ',';
      append_json_string(out, milliseconds[i].first, true);
      out += ':';
      append_json_float(out, static_cast<float>(milliseconds[i].second));
    }
    out += "},\"items\":[";
    for (std::size_t i = 0; i < found.items.size(); ++i) {
      const Detection& item = found.items[i];
      out += fmt::format("{}{{\"class\":{},\"name\":", i > 0 ? "," : "", item.class_id);
      append_json_string(out, class_name(options_.class_names, item.class_id), true);
      out += fmt::format(",\"color\":\"{}\",\"score\":", hex_color(item.class_id));
      append_json_float(out, item.score);
      out += ",\"box\":[";
      for (int k = 0; k < 4; ++k) {
        if (k > 0) out += ',';
        const double value = item.box_xyxy[k] * (k % 2 == 0 ? scale_x : scale_y);
        append_json_coordinate(out, static_cast<float>(value));
      }
      out += ']';
      if (item.mask) {
        const Rle mask = rle_from_string(item.mask->counts, item.mask->height, item.mask->width);
        out += ",\"mask\":";
        append_json_string(out, rle_to_string(resample_mask(mask, height, width)), true);
      }
      out += '}';
    }
    out += "]}";
  }

  void write_summary() {
    write("<section class=\"wrap\" id=\"summary\"><div class=\"panel\"><h2>Summary</h2>\n");
    if (!times_.empty()) {
      write(
          "<div class=\"scroll\"><table><thead><tr><th>per picture</th><th>median ms</th>"
          "<th>mean ms</th><th>longest ms</th></tr></thead><tbody>\n");
      double median_sum = 0, mean_sum = 0;
      for (const std::string& label : time_order_) {
        std::vector<double>& values = times_[label];
        std::sort(values.begin(), values.end());
        const std::size_t n = values.size();
        const double median = (values[(n - 1) / 2] + values[n / 2]) / 2;
        const double mean =
            std::accumulate(values.begin(), values.end(), 0.) / static_cast<double>(n);
        median_sum += median;
        mean_sum += mean;
        write(
            fmt::format("<tr><th scope=\"row\">{}</th><td>{:.2f}</td><td>{:.2f}</td>"
                        "<td>{:.2f}</td></tr>\n",
                        html(label), median, mean, values.back()));
      }
      write(
          fmt::format("<tr class=\"sum\"><th scope=\"row\">sum</th><td>{:.2f}</td><td>{:.2f}</td>"
                      "<td></td></tr>\n</tbody></table></div>\n",
                      median_sum, mean_sum));
    }
    std::string counts = plural(pictures_, "picture") + ", " + plural(instances_, "instance") + ".";
    if (thumbnails_ > 0 || left_out_ > 0) {
      counts += fmt::format(" To stay under {:.1f} MB, {} shown as thumbnails and {} left out.",
                            static_cast<double>(options_.max_bytes) / 1e6,
                            plural(thumbnails_, "picture") + (thumbnails_ == 1 ? " is" : " are"),
                            std::to_string(left_out_) + (left_out_ == 1 ? " is" : " are"));
    }
    if (!incomplete_.empty()) {
      counts += fmt::format(" This is not all: {}.", html(incomplete_));
    }
    write(fmt::format("<p class=\"counts\">{}</p>\n</div></section>\n", counts));
  }

  ReportOptions options_;
  OutputFile file_;
  uint64_t written_ = 0;
  int64_t pictures_ = 0, instances_ = 0, thumbnails_ = 0, left_out_ = 0;
  bool full_ = false;
  std::string incomplete_;
  std::map<std::string, std::vector<double>> times_;
  std::vector<std::string> time_order_;
};

}  // namespace

std::unique_ptr<ReportWriter> create_report(const std::string& path, ReportOptions options) {
  return std::make_unique<Report>(path, std::move(options));
}

}  // namespace rfseg
