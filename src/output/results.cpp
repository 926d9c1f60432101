#include "output/results.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <algorithm>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <unordered_map>

#include "output/json_text.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

/// Bytes to a file (complete or absent) or, for "-", to standard output.
class Stream {
 public:
  explicit Stream(const std::string& path) {
    if (path != "-") file_.emplace(path);
  }
  void write(std::string_view bytes) {
    if (file_) {
      file_->write(bytes);
    } else {
      check(std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size());
    }
  }
  void flush() {
    if (file_) {
      file_->flush();
    } else {
      check(std::fflush(stdout) == 0);
    }
  }
  void finish() {
    flush();
    if (file_) file_->commit();
  }

 private:
  static void check(bool good) {
    if (good) return;
    throw Error(ErrorCode::kOutput,
                fmt::format("standard output: cannot write: {}", std::strerror(errno)));
  }
  std::optional<OutputFile> file_;
};

void append_segmentation(std::string& out, const Mask& mask, MaskFormat format) {
  if (format == MaskFormat::kRle) {
    out += R"({"size": [)";
    append_json_integer(out, mask.height);
    out += ", ";
    append_json_integer(out, mask.width);
    out += R"(], "counts": )";
    append_json_string(out, mask.counts);
    out += '}';
    return;
  }
  out += '[';
  const char* separator = "";
  for (const std::vector<float>& polygon : mask.polygons()) {
    out += separator;
    separator = ", ";
    // pycocotools refuses polygons of fewer than three points: a component of one or two pixels
    // repeats its last point.
    out += '[';
    const std::size_t numbers = std::max<std::size_t>(polygon.size(), 6);
    for (std::size_t i = 0; i < numbers; ++i) {
      if (i > 0) out += ',';
      append_json_coordinate(out, polygon[i < polygon.size() ? i : polygon.size() - 2 + i % 2]);
    }
    out += ']';
  }
  out += ']';
}

/// `, "segmentation": ...` or `, "mask_file": ...` where the detection has one.
void append_mask(std::string& out, const ResultRecord& record, std::size_t index,
                 MaskFormat format) {
  const Detection& detection = record.detections.items[index];
  if (!detection.mask || format == MaskFormat::kNone) return;
  if (format == MaskFormat::kDense) {
    if (index >= record.mask_files.size() || record.mask_files[index].empty()) return;
    out += R"(, "mask_file": )";
    append_json_string(out, record.mask_files[index]);
    return;
  }
  out += R"(, "segmentation": )";
  append_segmentation(out, *detection.mask, format);
}

std::string shortest(double value) {
  std::string text = fmt::format("{}", value);
  return text;
}

/// `, "frame": ..., "time_s": ..., "width": ..., "height": ...`, the first two for video only.
void append_place_and_size(std::string& out, const ResultRecord& record) {
  if (record.frame) {
    out += R"(, "frame": )";
    append_json_integer(out, *record.frame);
  }
  if (record.time_s) out += R"(, "time_s": )" + shortest(*record.time_s);
  out += R"(, "width": )";
  append_json_integer(out, record.detections.width);
  out += R"(, "height": )";
  append_json_integer(out, record.detections.height);
}

class JsonlWriter : public ResultWriter {
 public:
  JsonlWriter(const std::string& path, std::vector<std::string> class_names, MaskFormat masks)
      : stream_(path), class_names_(std::move(class_names)), masks_(masks) {}

  void write(const ResultRecord& record) override {
    stream_.write(to_json_line(record, class_names_, masks_) + '\n');
    stream_.flush();
  }
  void finish() override { stream_.finish(); }

 private:
  Stream stream_;
  std::vector<std::string> class_names_;
  MaskFormat masks_;
};

class CocoWriter : public ResultWriter {
 public:
  CocoWriter(const std::string& path, ImageIds image_ids, MaskFormat masks)
      : path_(path), stream_(path), image_ids_(std::move(image_ids)), masks_(masks) {
    struct stat info {};
    const bool regular = path != "-" && (stat(path.c_str(), &info) != 0 || S_ISREG(info.st_mode));
    if (image_ids_.empty() && regular) images_.emplace(path + ".images.json");
    stream_.write("[");
    if (images_) images_->write("[");
  }

  void write(const ResultRecord& record) override {
    const int64_t id = image_id(record);
    std::string out;
    for (std::size_t i = 0; i < record.detections.items.size(); ++i) {
      const Detection& detection = record.detections.items[i];
      const float* box = detection.box_xyxy;
      out += entries_++ == 0 ? "\n" : ",\n";
      out += R"({"image_id": )";
      append_json_integer(out, id);
      out += R"(, "category_id": )";
      append_json_integer(out, detection.class_id);
      out += R"(, "bbox": [)";
      append_json_float(out, box[0]);
      out += ", ";
      append_json_float(out, box[1]);
      out += ", ";
      append_json_float(out, box[2] - box[0]);
      out += ", ";
      append_json_float(out, box[3] - box[1]);
      out += R"(], "score": )";
      append_json_float(out, detection.score);
      append_mask(out, record, i, masks_);
      out += '}';
    }
    stream_.write(out);
  }

  void finish() override {
    stream_.write(entries_ == 0 ? "]\n" : "\n]\n");
    if (images_) {
      images_->write(next_id_ == 1 ? "]\n" : "\n]\n");
      images_->commit();
    }
    stream_.finish();
  }

 private:
  int64_t image_id(const ResultRecord& record) {
    if (image_ids_.empty()) {
      const int64_t id = next_id_++;
      if (images_) list_image(record, id);
      return id;
    }
    const int64_t id = image_ids_.of(record.file);
    if (record.frame) {
      throw Error(
          ErrorCode::kInput,
          fmt::format("{}: image ids name pictures; the frames of a video have none", record.file));
    }
    const auto [other, is_new] = used_.emplace(id, record.file);
    if (!is_new) {
      throw Error(ErrorCode::kInput,
                  fmt::format("{}: its image_id {} is that of {} already; their results would be "
                              "one picture's",
                              record.file, id, other->second));
    }
    return id;
  }

  void list_image(const ResultRecord& record, int64_t id) {
    std::string out = id == 1 ? "\n" : ",\n";
    out += R"({"id": )";
    append_json_integer(out, id);
    out += R"(, "file_name": )";
    append_json_string(out, record.file);
    append_place_and_size(out, record);
    out += '}';
    images_->write(out);
  }

  std::string path_;
  Stream stream_;
  ImageIds image_ids_;
  MaskFormat masks_;
  std::optional<OutputFile> images_;
  std::unordered_map<int64_t, std::string> used_;  ///< files
  int64_t next_id_ = 1;
  int64_t entries_ = 0;
};

}  // namespace

std::string class_name(const std::vector<std::string>& names, int class_id) {
  const auto index = static_cast<std::size_t>(class_id);
  if (class_id >= 0 && index < names.size() && !names[index].empty()) return names[index];
  return "class_" + std::to_string(class_id);
}

std::string to_json_line(const ResultRecord& record, const std::vector<std::string>& class_names,
                         MaskFormat masks) {
  std::string out = R"({"file": )";
  append_json_string(out, record.file);
  append_place_and_size(out, record);
  out += R"(, "detections": [)";
  for (std::size_t i = 0; i < record.detections.items.size(); ++i) {
    const Detection& detection = record.detections.items[i];
    if (i > 0) out += ", ";
    out += R"({"class_id": )";
    append_json_integer(out, detection.class_id);
    out += R"(, "class_name": )";
    append_json_string(out, class_name(class_names, detection.class_id));
    out += R"(, "score": )";
    append_json_float(out, detection.score);
    out += R"(, "box_xyxy": [)";
    for (int k = 0; k < 4; ++k) {
      if (k > 0) out += ", ";
      append_json_float(out, detection.box_xyxy[k]);
    }
    out += ']';
    append_mask(out, record, i, masks);
    out += '}';
  }
  out += "]}";
  return out;
}

std::unique_ptr<ResultWriter> create_jsonl_writer(const std::string& path,
                                                  std::vector<std::string> class_names,
                                                  MaskFormat masks) {
  return std::make_unique<JsonlWriter>(path, std::move(class_names), masks);
}

std::unique_ptr<ResultWriter> create_coco_writer(const std::string& path, ImageIds image_ids,
                                                 MaskFormat masks) {
  return std::make_unique<CocoWriter>(path, std::move(image_ids), masks);
}

}  // namespace rfseg
