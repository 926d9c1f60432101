#include "eval/json_entries.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/json_input.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr std::size_t kBlockBytes = 1 << 18;

/// Lets the JSON lexer pull from a JsonBytes.
class JsonBytesIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  explicit JsonBytesIterator(JsonBytes* source) : source_(source) {}
  char operator*() const { return source_->peek(); }
  JsonBytesIterator& operator++() {
    source_->advance();
    return *this;
  }
  friend bool operator==(const JsonBytesIterator& a, const JsonBytesIterator& b) {
    return a.at_end() == b.at_end();
  }
  friend bool operator!=(const JsonBytesIterator& a, const JsonBytesIterator& b) {
    return !(a == b);
  }

 private:
  bool at_end() const { return source_ == nullptr || source_->at_end(); }
  JsonBytes* source_;
};

/// SAX handler. `stack_` says in which kind of container the parser is.
class EntryHandler {
 public:
  EntryHandler(const std::string& name, const EntryRequest& request,
               const std::function<void(std::size_t, std::size_t, RawEntry&)>& sink)
      : name_(name), request_(request), sink_(sink), seen_(request.sections.size()) {}

  bool null() {
    const bool optional = field_ == Field::kSegmentation || field_ == Field::kBbox;
    return where() == Where::kEntry && optional ? true : scalar("null");
  }
  bool boolean(bool value) {
    if (where() == Where::kEntry && field_ == Field::kCrowd) {
      entry_.crowd = value;
      return true;
    }
    return scalar(value ? "true" : "false");
  }
  bool number_integer(int64_t value) { return number(static_cast<double>(value), value); }
  bool number_unsigned(uint64_t value) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return number(static_cast<double>(value), std::nullopt);
    }
    return number(static_cast<double>(value), static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string&) {
    if (std::abs(value) < 9e15 && value == std::trunc(value)) {
      return number(value, static_cast<int64_t>(value));
    }
    return number(value, std::nullopt);
  }
  bool string(std::string& value) {
    if (where() == Where::kMask && mask_field_ == MaskField::kCounts) {
      entry_.segmentation.kind = RawSegmentation::Kind::kRleBytes;
      entry_.segmentation.bytes = value;
      return true;
    }
    return scalar("a string");
  }
  bool binary(std::vector<uint8_t>&) { return scalar("binary data"); }

  bool key(std::string& value) {
    switch (where()) {
      case Where::kRoot: {
        const auto found = std::find(request_.sections.begin(), request_.sections.end(), value);
        section_ = found == request_.sections.end()
                       ? kNone
                       : static_cast<std::size_t>(found - request_.sections.begin());
        break;
      }
      case Where::kEntry:
        field_ = entry_field(value);
        field_name_ = value;
        break;
      case Where::kMask:
        mask_field_ = value == "size"     ? MaskField::kSize
                      : value == "counts" ? MaskField::kCounts
                                          : MaskField::kOther;
        break;
      default:
        break;
    }
    return true;
  }

  bool start_object(std::size_t) {
    switch (where()) {
      case Where::kOutside:
        if (is_array_file()) fail_root("an array of results");
        push(Where::kRoot);
        break;
      case Where::kRoot:
        if (section_ != kNone) fail_section();
        push(Where::kSkipped);
        break;
      case Where::kSection:
        entry_ = {};
        field_ = Field::kOther;
        push(Where::kEntry);
        break;
      case Where::kEntry:
        if (field_ == Field::kSegmentation && request_.segmentation) {
          entry_.segmentation = {};
          has_size_ = false;
          mask_field_ = MaskField::kOther;
          push(Where::kMask);
        } else {
          push_skipped_member("an object");
        }
        break;
      case Where::kMask:
        if (mask_field_ != MaskField::kOther) fail_mask_member();
        push(Where::kSkipped);
        break;
      case Where::kSkipped:
        push(Where::kSkipped);
        break;
      default:
        fail_value("an object");
    }
    return true;
  }
  bool end_object() {
    const Where closed = where();
    stack_.pop_back();
    if (closed == Where::kEntry) {
      field_name_.clear();
      sink_(section_, index_, entry_);
      ++index_;
    } else if (closed == Where::kMask) {
      RawSegmentation& mask = entry_.segmentation;
      if (mask.kind == RawSegmentation::Kind::kAbsent) fail("has no 'counts'");
      if (!has_size_) fail("has no 'size'");
    }
    return true;
  }

  bool start_array(std::size_t) {
    switch (where()) {
      case Where::kOutside:
        if (!is_array_file()) fail_root("an object with images, annotations and categories");
        section_ = 0;
        open_section();
        break;
      case Where::kRoot:
        if (section_ != kNone) {
          open_section();
        } else {
          push(Where::kSkipped);
        }
        break;
      case Where::kEntry:
        if (field_ == Field::kBbox) {
          entry_.bbox.clear();
          push(Where::kBbox);
        } else if (field_ == Field::kSegmentation && request_.segmentation) {
          entry_.segmentation = {};
          entry_.segmentation.kind = RawSegmentation::Kind::kPolygons;
          push(Where::kPolygons);
        } else {
          push_skipped_member("an array");
        }
        break;
      case Where::kMask:
        if (mask_field_ == MaskField::kSize) {
          size_items_ = 0;
          push(Where::kSize);
        } else if (mask_field_ == MaskField::kCounts) {
          entry_.segmentation.kind = RawSegmentation::Kind::kRleCounts;
          entry_.segmentation.counts.clear();
          push(Where::kCounts);
        } else {
          push(Where::kSkipped);
        }
        break;
      case Where::kPolygons:
        entry_.segmentation.polygons.emplace_back();
        push(Where::kPolygon);
        break;
      case Where::kSkipped:
        push(Where::kSkipped);
        break;
      default:
        fail_value("an array");
    }
    return true;
  }
  bool end_array() {
    const Where closed = where();
    stack_.pop_back();
    if (closed == Where::kSize) {
      if (size_items_ != 2) fail("'size' must be [height, width]");
      has_size_ = true;
    }
    return true;
  }

  [[noreturn]] bool parse_error(std::size_t, const std::string&,
                                const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kInput,
                fmt::format("{}: not valid JSON: {}", name_, json_problem(error.what())));
  }

  void finish() const {
    for (std::size_t i = 0; i < seen_.size(); ++i) {
      if (seen_[i]) continue;
      if (is_array_file()) fail_root("an array of results");
      throw Error(ErrorCode::kInput,
                  fmt::format("{}: has no '{}' array; COCO ground truth needs {}", name_,
                              request_.sections[i], fmt::join(request_.sections, ", ")));
    }
  }

 private:
  enum class Where {
    kOutside,
    kRoot,     ///< the root object
    kSection,  ///< an array of entries
    kEntry,
    kBbox,
    kMask,  ///< a run-length segmentation
    kSize,
    kCounts,
    kPolygons,
    kPolygon,
    kSkipped,  ///< anything that is not asked for
  };
  enum class Field {
    kOther,
    kId,
    kImageId,
    kCategoryId,
    kHeight,
    kWidth,
    kScore,
    kArea,
    kCrowd,
    kBbox,
    kSegmentation
  };
  enum class MaskField { kOther, kSize, kCounts };
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  static Field entry_field(const std::string& key) {
    if (key == "id") return Field::kId;
    if (key == "image_id") return Field::kImageId;
    if (key == "category_id") return Field::kCategoryId;
    if (key == "height") return Field::kHeight;
    if (key == "width") return Field::kWidth;
    if (key == "score") return Field::kScore;
    if (key == "area") return Field::kArea;
    if (key == "iscrowd") return Field::kCrowd;
    if (key == "bbox") return Field::kBbox;
    if (key == "segmentation") return Field::kSegmentation;
    return Field::kOther;
  }

  Where where() const { return stack_.empty() ? Where::kOutside : stack_.back(); }
  void push(Where where) { stack_.push_back(where); }
  bool is_array_file() const { return request_.sections.front().empty(); }

  void open_section() {
    if (seen_[section_]) fail_section();
    seen_[section_] = true;
    index_ = 0;
    push(Where::kSection);
  }
  void push_skipped_member(const char* found) {
    if (field_ != Field::kOther && field_ != Field::kSegmentation) fail_value(found);
    push(Where::kSkipped);
  }

  bool number(double value, std::optional<int64_t> integer) {
    const auto whole = [&](std::optional<int64_t>& out) {
      if (!integer) fail("must be a whole number");
      out = integer;
    };
    switch (where()) {
      case Where::kEntry:
        switch (field_) {
          case Field::kId:
            whole(entry_.id);
            break;
          case Field::kImageId:
            whole(entry_.image_id);
            break;
          case Field::kCategoryId:
            whole(entry_.category_id);
            break;
          case Field::kHeight:
            whole(entry_.height);
            break;
          case Field::kWidth:
            whole(entry_.width);
            break;
          case Field::kScore:
            entry_.score = value;
            break;
          case Field::kArea:
            entry_.area = value;
            break;
          case Field::kCrowd:
            entry_.crowd = value != 0;
            break;
          case Field::kBbox:
          case Field::kSegmentation:
            return scalar("a number");
          case Field::kOther:
            break;
        }
        return true;
      case Where::kBbox:
        if (entry_.bbox.size() == 4) fail("must hold four numbers");
        entry_.bbox.push_back(value);
        return true;
      case Where::kSize:
        if (!integer || *integer < 0 || *integer > std::numeric_limits<int>::max()) {
          fail("'size' must be [height, width] in pixels");
        }
        if (size_items_ == 0) entry_.segmentation.height = static_cast<int>(*integer);
        if (size_items_ == 1) entry_.segmentation.width = static_cast<int>(*integer);
        ++size_items_;
        return true;
      case Where::kCounts:
        if (!integer) fail("'counts' must hold whole numbers");
        entry_.segmentation.counts.push_back(*integer);
        return true;
      case Where::kPolygon:
        entry_.segmentation.polygons.back().push_back(value);
        return true;
      default:
        return scalar("a number");
    }
  }

  /// A scalar where nothing took it.
  bool scalar(const char* found) {
    switch (where()) {
      case Where::kOutside:
        fail_root(is_array_file() ? "an array of results"
                                  : "an object with images, annotations and categories");
      case Where::kRoot:
        if (section_ != kNone) fail_section();
        return true;
      case Where::kEntry:
        if (field_ == Field::kOther) return true;
        if (field_ == Field::kSegmentation && !request_.segmentation) return true;
        fail_value(found);
      case Where::kMask:
        if (mask_field_ != MaskField::kOther) fail_mask_member();
        return true;
      case Where::kSkipped:
        return true;
      default:
        fail_value(found);
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    const std::string& section = request_.sections[section_];
    const std::string entry =
        section.empty() ? fmt::format("entry {}", index_) : fmt::format("{}[{}]", section, index_);
    throw Error(ErrorCode::kInput,
                fmt::format("{}: {}: {}{}{}", name_, entry, json_problem(field_name_.c_str()),
                            field_name_.empty() ? "" : " ", what));
  }
  [[noreturn]] void fail_value(const char* found) const {
    fail(fmt::format("holds {}, which is not accepted there", found));
  }
  [[noreturn]] void fail_mask_member() const {
    fail("must hold 'size' [height, width] and 'counts', a string or a list");
  }
  [[noreturn]] void fail_section() const {
    throw Error(ErrorCode::kInput, fmt::format("{}: '{}' must be one array of objects", name_,
                                               request_.sections[section_]));
  }
  [[noreturn]] void fail_root(const char* expected) const {
    throw Error(ErrorCode::kInput, fmt::format("{}: expected {}", name_, expected));
  }

  const std::string& name_;
  const EntryRequest& request_;
  const std::function<void(std::size_t, std::size_t, RawEntry&)>& sink_;
  std::vector<bool> seen_;
  std::vector<Where> stack_;
  std::size_t section_ = kNone;
  std::size_t index_ = 0;
  RawEntry entry_;
  Field field_ = Field::kOther;
  std::string field_name_;
  MaskField mask_field_ = MaskField::kOther;
  bool has_size_ = false;
  int size_items_ = 0;
};

}  // namespace

JsonBytes::JsonBytes(const std::string& path) : name_(path), buffer_(kBlockBytes) {
  file_.reset(std::fopen(path.c_str(), "rb"));
  if (!file_) {
    throw Error(ErrorCode::kInput, fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  }
}

JsonBytes::JsonBytes(std::string_view bytes, std::string name)
    : name_(std::move(name)), current_(bytes.data()), end_(bytes.data() + bytes.size()) {}

bool JsonBytes::refill() {
  if (!file_) return false;
  const std::size_t n = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
  if (n == 0 && std::ferror(file_.get())) {
    throw Error(ErrorCode::kInput, fmt::format("{}: cannot read: {}", name_, std::strerror(errno)));
  }
  current_ = buffer_.data();
  end_ = current_ + n;
  return n > 0;
}

void read_entries(JsonBytes& source, const EntryRequest& request,
                  const std::function<void(std::size_t, std::size_t, RawEntry&)>& sink) {
  EntryHandler handler(source.name(), request, sink);
  nlohmann::json::sax_parse(JsonBytesIterator(&source), JsonBytesIterator(nullptr), &handler);
  handler.finish();
}

}  // namespace rfseg
