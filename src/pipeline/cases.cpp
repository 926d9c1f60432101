#include "pipeline/cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "core/files.h"
#include "core/half.h"
#include "core/npy.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

constexpr const char* kManifestName = "manifest.json";
constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 28;

struct Plane {
  std::size_t rows = 0, row_bytes = 0;
};

std::array<Plane, 3> planes_of(const PictureLayout& layout) {
  const auto height = static_cast<std::size_t>(layout.height);
  const auto width = static_cast<std::size_t>(layout.width);
  const std::size_t half_height = (height + 1) / 2, half_width = (width + 1) / 2;
  switch (layout.format) {
    case PixelFormat::kGray8:
      return {{{height, width}}};
    case PixelFormat::kRgba8:
      return {{{height, width * 4}}};
    case PixelFormat::kRgb8:
    case PixelFormat::kBgr8:
      return {{{height, width * 3}}};
    case PixelFormat::kNv12:
      return {{{height, width}, {half_height, half_width * 2}}};
    case PixelFormat::kP010:
      return {{{height, width * 2}, {half_height, half_width * 4}}};
    case PixelFormat::kI420:
      break;
  }
  return {{{height, width}, {half_height, half_width}, {half_height, half_width}}};
}

Shape pixel_shape(const PictureLayout& layout, std::size_t bytes) {
  const Plane plane = planes_of(layout)[0];
  const auto channels = static_cast<int64_t>(plane.row_bytes) / layout.width;
  if (bytes != plane.rows * plane.row_bytes) return {static_cast<int64_t>(bytes)};
  return {layout.height, layout.width, channels};
}

// The queries to keep, ascending.
std::vector<int> kept_queries(const NetworkOutputs& outputs, const PostprocessSpec& spec,
                              const std::optional<int>& weaker) {
  std::vector<int> all(static_cast<std::size_t>(outputs.queries));
  std::iota(all.begin(), all.end(), 0);
  if (!weaker) return all;
  PostprocessSpec selection = spec;
  selection.backend = Backend::kReference;
  selection.masks = MaskFormat::kNone;
  std::vector<bool> keep(all.size());
  for (const Detection& detection : postprocess(outputs, selection).items) {
    keep[static_cast<std::size_t>(detection.query)] = true;
  }
  const auto strength = [&](int query) {
    const float* row = outputs.logits + static_cast<std::size_t>(query) * outputs.classes;
    return *std::max_element(row, row + outputs.classes);
  };
  std::stable_sort(all.begin(), all.end(), [&](int a, int b) { return strength(a) > strength(b); });
  int left = *weaker;
  for (const int query : all) {
    if (left == 0) break;
    if (keep[static_cast<std::size_t>(query)]) continue;
    keep[static_cast<std::size_t>(query)] = true;
    --left;
  }
  std::vector<int> kept;
  for (int query = 0; query < outputs.queries; ++query) {
    if (keep[static_cast<std::size_t>(query)]) kept.push_back(query);
  }
  if (kept.empty()) kept.push_back(0);  // an empty array is no case
  return kept;
}

Tensor rows_of(const float* data, const std::vector<int>& queries, const Shape& row_shape) {
  Shape shape = {static_cast<int64_t>(queries.size())};
  shape.insert(shape.end(), row_shape.begin(), row_shape.end());
  Tensor tensor(shape);
  const auto row = static_cast<std::size_t>(element_count(row_shape));
  for (std::size_t i = 0; i < queries.size(); ++i) {
    std::copy_n(data + static_cast<std::size_t>(queries[i]) * row, row,
                tensor.data.begin() + static_cast<std::ptrdiff_t>(i * row));
  }
  return tensor;
}

std::optional<std::string> difference(const Detections& expected, const Detections& found,
                                      const CaseTolerance& tolerance) {
  if (found.width != expected.width || found.height != expected.height) {
    return fmt::format("picture {}x{}, expected {}x{}", found.width, found.height, expected.width,
                       expected.height);
  }
  if (found.items.size() != expected.items.size()) {
    return fmt::format("{} detections, expected {}", found.items.size(), expected.items.size());
  }
  for (std::size_t i = 0; i < expected.items.size(); ++i) {
    const Detection& a = expected.items[i];
    const Detection& b = found.items[i];
    const auto at = [&](const std::string& what) {
      return fmt::format("detection {}: {}", i, what);
    };
    if (a.class_id != b.class_id) {
      return at(fmt::format("class {}, expected {}", b.class_id, a.class_id));
    }
    if (a.query != b.query) return at(fmt::format("query {}, expected {}", b.query, a.query));
    // Written so that a NaN differs from everything.
    if (!(std::abs(static_cast<double>(a.score) - b.score) <= tolerance.score)) {
      return at(fmt::format("score {}, expected {}", b.score, a.score));
    }
    for (int side = 0; side < 4; ++side) {
      const double apart = std::abs(static_cast<double>(a.box_xyxy[side]) - b.box_xyxy[side]);
      if (!(apart <= tolerance.box_px)) {
        return at(
            fmt::format("box_xyxy[{}] {}, expected {}", side, b.box_xyxy[side], a.box_xyxy[side]));
      }
    }
    if ((a.mask == nullptr) != (b.mask == nullptr)) return at("a mask is missing, or too much");
    if (!a.mask) continue;
    if (a.mask->height != b.mask->height || a.mask->width != b.mask->width ||
        a.mask->counts != b.mask->counts) {
      return at("the mask's run lengths differ");
    }
  }
  return std::nullopt;
}

}  // namespace

std::size_t packed_bytes(const PictureLayout& layout) {
  std::size_t bytes = 0;
  for (const Plane& plane : planes_of(layout)) bytes += plane.rows * plane.row_bytes;
  return bytes;
}

std::vector<uint8_t> pack_picture(const ImageView& view) {
  const PictureLayout layout{view.width, view.height, view.format, view.matrix, view.range};
  std::vector<uint8_t> bytes(packed_bytes(layout));
  uint8_t* to = bytes.data();
  const auto planes = planes_of(layout);
  for (std::size_t i = 0; i < planes.size(); ++i) {
    for (std::size_t row = 0; row < planes[i].rows; ++row) {
      std::memcpy(to, view.planes[i] + static_cast<std::ptrdiff_t>(row) * view.strides[i],
                  planes[i].row_bytes);
      to += planes[i].row_bytes;
    }
  }
  return bytes;
}

ImageView packed_view(const uint8_t* bytes, const PictureLayout& layout) {
  ImageView view;
  view.width = layout.width;
  view.height = layout.height;
  view.format = layout.format;
  view.matrix = layout.matrix;
  view.range = layout.range;
  const auto planes = planes_of(layout);
  for (std::size_t i = 0; i < planes.size() && planes[i].rows > 0; ++i) {
    view.planes[i] = bytes;
    view.strides[i] = static_cast<std::ptrdiff_t>(planes[i].row_bytes);
    bytes += planes[i].rows * planes[i].row_bytes;
  }
  return view;
}

NetworkOutputs RecordedCase::outputs() const {
  NetworkOutputs view;
  view.boxes = boxes.data.data();
  view.logits = logits.data.data();
  view.queries = static_cast<int>(logits.dim(0));
  view.classes = static_cast<int>(logits.dim(1));
  if (!masks.empty()) {
    view.masks = masks.data.data();
    view.mask_rows = static_cast<int>(masks.dim(1));
    view.mask_cols = static_cast<int>(masks.dim(2));
  }
  return view;
}

CaseWriter::CaseWriter(std::string folder, std::map<std::string, std::string> made_by)
    : folder_(std::move(folder)) {
  manifest_.made_by = std::move(made_by);
  std::error_code error;
  made_folder_ = std::filesystem::create_directories(folder_, error);
  if (error || !std::filesystem::is_directory(folder_)) {
    throw Error(ErrorCode::kOutput,
                fmt::format("{}: cannot create the folder: {}", folder_,
                            error ? error.message() : "a file of that name exists"));
  }
  if (!std::filesystem::is_empty(folder_, error) || error) {
    throw Error(ErrorCode::kUsage,
                folder_ + ": is not empty; name a new folder for the recorded cases");
  }
}

CaseWriter::~CaseWriter() {
  if (finished_) return;
  std::error_code ignored;
  for (const std::string& file : written_) std::filesystem::remove(file, ignored);
  if (made_folder_) std::filesystem::remove(folder_, ignored);
}

const std::string& CaseWriter::path(const std::string& name) {
  return written_.emplace_back(folder_ + "/" + name);
}

CaseEntry CaseWriter::begin(CaseEntry::Stage stage, const std::string& source,
                            std::optional<int64_t> frame) {
  CaseEntry entry;
  entry.stage = stage;
  entry.name = fmt::format("{:04}-{}", cases(),
                           stage == CaseEntry::Stage::kPostprocess ? "postprocess" : "preprocess");
  entry.source = source;
  entry.frame = frame;
  return entry;
}

void CaseWriter::add_postprocess(const std::string& source, std::optional<int64_t> frame,
                                 const NetworkOutputs& outputs, const PostprocessSpec& spec,
                                 const RecordOptions& options) {
  RecordedCase recorded;
  recorded.entry = begin(CaseEntry::Stage::kPostprocess, source, frame);
  CaseEntry& entry = recorded.entry;
  entry.postprocess = spec;
  const std::vector<int> queries = kept_queries(outputs, spec, options.weaker_queries);
  recorded.boxes = rows_of(outputs.boxes, queries, {4});
  recorded.logits = rows_of(outputs.logits, queries, {outputs.classes});
  entry.boxes = entry.name + ".boxes.npy";
  entry.logits = entry.name + ".logits.npy";
  write_npy(path(entry.boxes), recorded.boxes.data.data(), recorded.boxes.shape);
  write_npy(path(entry.logits), recorded.logits.data.data(), recorded.logits.shape);
  if (outputs.masks != nullptr && spec.masks != MaskFormat::kNone) {
    recorded.masks = rows_of(outputs.masks, queries, {outputs.mask_rows, outputs.mask_cols});
    Tensor& masks = recorded.masks;
    entry.masks = entry.name + ".masks.npy";
    if (options.half_masks) {
      for (float& value : masks.data) value = half_to_float(float_to_half(value));
      write_npy_half(path(entry.masks), masks.data.data(), masks.shape);
    } else {
      write_npy(path(entry.masks), masks.data.data(), masks.shape);
    }
  }
  PostprocessSpec reference = spec;
  reference.backend = Backend::kReference;
  entry.expected = postprocess(recorded.outputs(), reference);
  manifest_.cases.push_back(std::move(entry));
}

void CaseWriter::add_preprocess(const std::string& source, std::optional<int64_t> frame,
                                const ImageView& picture, const PreprocessSpec& spec,
                                const float* tensor) {
  CaseEntry entry = begin(CaseEntry::Stage::kPreprocess, source, frame);
  entry.preprocess = spec;
  entry.picture = {picture.width, picture.height, picture.format, picture.matrix, picture.range};
  entry.pixels = entry.name + ".pixels.npy";
  entry.tensor = entry.name + ".tensor.npy";
  const std::vector<uint8_t> pixels = pack_picture(picture);
  write_npy(path(entry.pixels), pixels.data(), pixel_shape(entry.picture, pixels.size()));
  write_npy(path(entry.tensor), tensor, {3, spec.network_height, spec.network_width});
  manifest_.cases.push_back(std::move(entry));
}

void CaseWriter::finish() {
  write_file(path(kManifestName), manifest_text(manifest_));
  finished_ = true;
}

CaseManifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifestName;
  const std::vector<uint8_t> bytes = read_file(path, kMaxManifestBytes);
  CaseManifest manifest =
      parse_manifest({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
  if (manifest.cases.empty()) throw Error(ErrorCode::kInput, path + ": lists no case");
  return manifest;
}

RecordedCase read_case(const std::string& folder, const CaseEntry& entry) {
  RecordedCase recorded;
  recorded.entry = entry;
  const auto path = [&](const std::string& name) { return folder + "/" + name; };
  const auto readable = [&](const std::string& name) {
    std::error_code ignored;
    if (std::filesystem::exists(path(name), ignored) &&
        !std::filesystem::is_regular_file(path(name), ignored)) {  // a pipe may never end
      throw Error(ErrorCode::kInput, path(name) + ": is no regular file, which a case's files are");
    }
    return path(name);
  };
  const auto fail = [&](const std::string& name, const Shape& shape, const std::string& expected) {
    throw Error(ErrorCode::kInput,
                fmt::format("{}: shape {}, expected {}", path(name), to_string(shape), expected));
  };
  if (entry.stage == CaseEntry::Stage::kPreprocess) {
    ByteArray pixels = read_npy_bytes(readable(entry.pixels));
    if (pixels.data.size() != packed_bytes(entry.picture)) {
      fail(entry.pixels, pixels.shape, fmt::format("{} bytes", packed_bytes(entry.picture)));
    }
    recorded.pixels = std::move(pixels.data);
    recorded.tensor = read_npy(readable(entry.tensor));
    const Shape expected = {3, entry.preprocess.network_height, entry.preprocess.network_width};
    if (recorded.tensor.shape != expected) {
      fail(entry.tensor, recorded.tensor.shape, to_string(expected));
    }
    return recorded;
  }
  recorded.logits = read_npy(readable(entry.logits));
  const Shape& logits = recorded.logits.shape;
  if (logits.size() != 2 || recorded.logits.empty()) fail(entry.logits, logits, "[Q, K]");
  recorded.boxes = read_npy(readable(entry.boxes));
  if (recorded.boxes.shape != Shape{logits[0], 4}) {
    fail(entry.boxes, recorded.boxes.shape, fmt::format("[{}, 4]", logits[0]));
  }
  if (entry.masks.empty()) return recorded;
  recorded.masks = read_npy(readable(entry.masks));
  const Shape& masks = recorded.masks.shape;
  if (masks.size() != 3 || masks[0] != logits[0] || recorded.masks.empty()) {
    fail(entry.masks, masks, fmt::format("[{}, rows, columns]", logits[0]));
  }
  return recorded;
}

std::optional<std::string> check_answer(const RecordedCase& recorded, const Detections& detections,
                                        const float* tensor, const CaseTolerance& tolerance) {
  if (recorded.entry.stage == CaseEntry::Stage::kPostprocess) {
    return difference(recorded.entry.expected, detections, tolerance);
  }
  const AlignedVector<float>& expected = recorded.tensor.data;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::abs(static_cast<double>(tensor[i]) - expected[i]) <= tolerance.tensor) continue;
    return fmt::format("value {} of the tensor is {}, expected {}", i, tensor[i], expected[i]);
  }
  return std::nullopt;
}

std::optional<std::string> check_case(const RecordedCase& recorded, Backend backend,
                                      int cuda_device, const CaseTolerance& tolerance) {
  Tensor out(recorded.tensor.shape);
  const Detections detections = run_case(recorded, backend, cuda_device, out.data.data());
  return check_answer(recorded, detections, out.data.data(), tolerance);
}

Detections run_case(const RecordedCase& recorded, Backend backend, int cuda_device, float* out) {
  const CaseEntry& entry = recorded.entry;
  if (entry.stage == CaseEntry::Stage::kPostprocess) {
    PostprocessSpec spec = entry.postprocess;
    spec.backend = backend;
    spec.cuda_device = cuda_device;
    return postprocess(recorded.outputs(), spec);
  }
  PreprocessSpec spec = entry.preprocess;
  spec.backend = backend;
  spec.cuda_device = cuda_device;
  preprocess(recorded.view(), spec, out);
  return {};
}

}  // namespace rfseg
