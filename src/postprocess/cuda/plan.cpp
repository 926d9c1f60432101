#include "postprocess/cuda/plan.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "postprocess/backends.h"
#include "postprocess/mask_geometry.h"
#include "postprocess/selection.h"

namespace rfseg::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t aligned(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

/// Hands out pieces of a buffer; without one it only counts.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T>
  void take(T*& pointer, std::size_t count) {
    pointer = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += aligned(count * sizeof(T), kAlignment);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

std::size_t rules_offset() { return aligned(sizeof(CallParams), 16); }
std::size_t pictures_offset(const Shape& shape) {
  return rules_offset() + aligned(sizeof(ColumnRule) * static_cast<std::size_t>(shape.classes), 16);
}

}  // namespace

bool Capacity::holds(const Capacity& other) const { return grown_to(other) == *this; }

Capacity Capacity::grown_to(const Capacity& other) const {
  Capacity grown;
  grown.detections = std::max(detections, other.detections);
  grown.masks = std::max(masks, other.masks);
  grown.keys = std::max(keys, other.keys);
  grown.side = std::max(side, other.side);
  grown.spill = std::max(spill, other.spill);
  grown.bytes = std::max(bytes, other.bytes);
  grown.blocks = std::max(blocks, other.blocks);
  return grown;
}

void check_call(const PostprocessSpec& spec, std::span<const PreprocessGeometry> pictures,
                const Shape& shape) {
  NetworkOutputs outputs;
  static const float kPresent = 0;  // check_call knows of shapes alone
  outputs.boxes = outputs.logits = outputs.masks = &kPresent;
  outputs.queries = shape.queries;
  outputs.classes = shape.classes;
  outputs.mask_rows = shape.rows;
  outputs.mask_cols = shape.columns;
  for (const PreprocessGeometry& geometry : pictures) {
    check_postprocess(outputs, spec, geometry, shape.masks);
  }
}

std::size_t parameter_bytes(const Shape& shape) {
  return pictures_offset(shape) + sizeof(PictureParams) * static_cast<std::size_t>(shape.batch);
}

void point_to_parameters(KernelArguments& arguments, const Shape& shape, const std::byte* block) {
  arguments.call = reinterpret_cast<const CallParams*>(block);
  arguments.rules = reinterpret_cast<const ColumnRule*>(block + rules_offset());
  arguments.pictures = reinterpret_cast<const PictureParams*>(block + pictures_offset(shape));
}

Capacity write_parameters(const PostprocessSpec& spec, std::span<const PreprocessGeometry> pictures,
                          const Shape& shape, std::byte* to) {
  std::memset(to, 0, parameter_bytes(shape));  // padding too: blocks are compared
  const std::vector<ColumnRule> rules = column_rules(spec, shape.classes);
  CallParams call;
  call.num_select = spec.num_select;
  call.max_detections = spec.max_detections;
  float threshold = std::numeric_limits<float>::infinity();
  for (const ColumnRule& rule : rules) {
    if (rule.class_id >= 0) threshold = std::min(threshold, rule.threshold);
  }
  if (!lowest_passing_logit(threshold, &call.cut)) {
    call.cut = std::numeric_limits<float>::quiet_NaN();
  }
  call.inference = spec.like == Convention::kInference ? 1 : 0;
  call.with_masks = shape.masks ? 1 : 0;
  std::memcpy(to, &call, sizeof(call));
  if (!rules.empty()) {
    std::memcpy(to + rules_offset(), rules.data(), rules.size() * sizeof(ColumnRule));
  }

  Capacity need;
  const int64_t pairs = int64_t{shape.queries} * shape.classes;
  const int64_t kept = std::min<int64_t>(spec.num_select, pairs);
  need.detections = static_cast<int32_t>(std::min<int64_t>(kept, spec.max_detections));
  need.masks = shape.masks ? std::min(need.detections, shape.queries) : 0;
  if (kept > kCandidates) {
    need.keys = 1;
    while (need.keys < kept) need.keys *= 2;
  }
  for (std::size_t i = 0; i < pictures.size(); ++i) {
    const PreprocessGeometry& geometry = pictures[i];
    PictureParams params;
    params.height = geometry.original_height;
    params.width = geometry.original_width;
    params.box_x = box_axis_x(geometry, spec.like);
    params.box_y = box_axis_y(geometry, spec.like);
    if (shape.masks) {
      const MaskGeometry mask = mask_geometry(geometry, spec.like, shape.rows, shape.columns);
      params.pad_left = mask.pad_left;
      params.pad_top = mask.pad_top;
      params.x = mask.x;
      params.y = mask.y;
      if (mask.x.sampling != Sampling::kPlain) {
        need.side = std::max({need.side, params.height, params.width});
      }
    }
    // Member by member copies would leave padding; the block was cleared, so copy over it all.
    std::memcpy(to + pictures_offset(shape) + i * sizeof(PictureParams), &params, sizeof(params));
  }
  return need;
}

bool all_plain(const Shape& shape, const std::byte* block) {
  KernelArguments host;
  point_to_parameters(host, shape, block);
  return std::all_of(host.pictures, host.pictures + shape.batch, [](const PictureParams& picture) {
    return picture.x.sampling == Sampling::kPlain && picture.y.sampling == Sampling::kPlain;
  });
}

std::size_t carve_workspace(KernelArguments& a, const Shape& shape, const Capacity& capacity,
                            std::byte* base) {
  Carver carve(base);
  const std::size_t batch = static_cast<std::size_t>(shape.batch);
  const std::size_t queries = static_cast<std::size_t>(shape.queries);
  const std::size_t side = static_cast<std::size_t>(capacity.side);
  carve.take(a.usage, 1);
  carve.take(a.ended, 1);
  carve.take(a.counts, batch);
  carve.take(a.two_taps, batch);
  carve.take(a.mask_query, batch * static_cast<std::size_t>(capacity.masks));
  carve.take(a.start, batch * (kMaxRows + 1));
  carve.take(a.first, shape.queries > kSharedQueries ? batch * queries : 0);
  carve.take(a.slots, shape.queries > kSharedQueries ? batch * queries : 0);
  carve.take(a.survivors, batch * static_cast<std::size_t>(capacity.detections));
  carve.take(a.keys, batch * static_cast<std::size_t>(capacity.keys));
  carve.take(a.weights, batch * 4 * side);
  carve.take(a.cells, batch * 2 * side);
  carve.take(a.spill, static_cast<std::size_t>(capacity.blocks) * capacity.spill);
  a.key_pitch = capacity.keys;
  a.detection_pitch = capacity.detections;
  a.mask_pitch = capacity.masks;
  a.start_pitch = kMaxRows + 1;
  a.side_pitch = capacity.side;
  a.spill_pitch = capacity.spill;
  return carve.used();
}

std::size_t carve_results(KernelArguments& a, const Shape& shape, const Capacity& capacity,
                          std::byte* base) {
  Carver carve(base);
  const std::size_t batch = static_cast<std::size_t>(shape.batch);
  carve.take(a.picture_records, batch);
  carve.take(a.mask_records, batch * static_cast<std::size_t>(capacity.masks));
  carve.take(a.detections, batch * static_cast<std::size_t>(capacity.detections));
  carve.take(a.bytes, capacity.bytes);
  a.byte_capacity = capacity.bytes;
  return carve.used();
}

std::size_t end_of_masks(const KernelArguments& a, const Shape& shape) {
  std::size_t end = 0;
  for (std::size_t i = 0; i < static_cast<std::size_t>(shape.batch); ++i) {
    const MaskRecord* records = a.mask_records + i * static_cast<std::size_t>(a.mask_pitch);
    for (int m = 0; m < a.picture_records[i].masks; ++m) {
      end = std::max(end, std::size_t{records[m].offset} + records[m].length);
    }
  }
  return end;
}

std::vector<Detections> read_results(const KernelArguments& a, const Shape& shape,
                                     const std::byte* parameters, bool with_masks) {
  KernelArguments host;
  point_to_parameters(host, shape, parameters);
  std::vector<Detections> results(static_cast<std::size_t>(shape.batch));
  std::vector<std::shared_ptr<const Mask>> masks;
  for (std::size_t i = 0; i < results.size(); ++i) {
    Detections& result = results[i];
    result.width = host.pictures[i].width;
    result.height = host.pictures[i].height;
    const PictureRecord counts = a.picture_records[i];
    masks.clear();
    const MaskRecord* records = a.mask_records + i * static_cast<std::size_t>(a.mask_pitch);
    for (int m = 0; with_masks && m < counts.masks; ++m) {
      const char* text = reinterpret_cast<const char*>(a.bytes) + records[m].offset;
      masks.push_back(std::make_shared<const Mask>(
          Mask{result.height, result.width, std::string(text, records[m].length)}));
    }
    const DetectionRecord* record = a.detections + i * static_cast<std::size_t>(a.detection_pitch);
    result.items.resize(static_cast<std::size_t>(counts.detections));
    for (Detection& item : result.items) {
      item.class_id = record->class_id;
      item.score = record->score;
      item.query = record->query;
      std::copy(record->box, record->box + 4, item.box_xyxy);
      if (with_masks && record->mask >= 0)
        item.mask = masks[static_cast<std::size_t>(record->mask)];
      ++record;
    }
  }
  return results;
}

}  // namespace rfseg::cuda
