#include "checkpoint/tensor_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/convert.h"
#include "checkpoint/names.h"
#include "checkpoint/position_table.h"
#include "core/digest.h"

namespace rfseg {
namespace {

// Pieces that stay in the second-level cache between being read and being checked.
constexpr uint64_t kChunkBytes = uint64_t{256} << 10;
// A scattered view is gathered from blocks of at most this many bytes.
constexpr uint64_t kGatherBytes = uint64_t{16} << 20;
constexpr int64_t kMaxElements = int64_t{1} << 31;

class Gatherer {
 public:
  Gatherer(const ByteSource& file, const StridedPart& part) : file_(file), part_(part) {}

  // Appends dimensions `dim`.. of the view whose first element lies at byte `offset`.
  bool gather(std::size_t dim, uint64_t offset, float*& out) {
    const Shape shape(part_.shape.begin() + static_cast<std::ptrdiff_t>(dim), part_.shape.end());
    const Shape stride(part_.stride.begin() + static_cast<std::ptrdiff_t>(dim), part_.stride.end());
    const uint64_t size = element_size(part_.dtype);
    const uint64_t extent = static_cast<uint64_t>(view_extent(shape, stride)) * size;
    if (extent == 0) return true;
    if (extent <= kGatherBytes) {
      block_.resize(static_cast<std::size_t>(extent));
      file_.read(offset, block_.data(), extent);
      return pick(dim, block_.data(), out);
    }
    bool finite = true;
    const uint64_t step = static_cast<uint64_t>(part_.stride[dim]) * size;
    for (int64_t i = 0; i < part_.shape[dim]; ++i) {
      finite &= gather(dim + 1, offset + static_cast<uint64_t>(i) * step, out);
    }
    return finite;
  }

 private:
  bool pick(std::size_t dim, const char* base, float*& out) {
    if (dim == part_.shape.size()) return convert_to_float(part_.dtype, base, 1, out++);
    const auto size = static_cast<int64_t>(element_size(part_.dtype));
    const int64_t count = part_.shape[dim];
    if (dim + 1 == part_.shape.size() && part_.stride[dim] == 1) {
      const bool finite = convert_to_float(part_.dtype, base, static_cast<std::size_t>(count), out);
      out += count;
      return finite;
    }
    bool finite = true;
    for (int64_t i = 0; i < count; ++i)
      finite &= pick(dim + 1, base + i * part_.stride[dim] * size, out);
    return finite;
  }

  const ByteSource& file_;
  const StridedPart& part_;
  std::vector<char> block_;
};

bool is_contiguous(const StridedPart& part) {
  int64_t step = 1;
  for (std::size_t i = part.shape.size(); i-- > 0;) {
    if (part.shape[i] != 1 && part.stride[i] != step) return false;
    step *= part.shape[i];
  }
  return true;
}

}  // namespace

Shape contiguous_strides(const Shape& shape) {
  Shape stride(shape.size(), 1);
  for (std::size_t i = shape.size(); i-- > 1;)
    stride[i - 1] = stride[i] * std::max<int64_t>(shape[i], 1);
  return stride;
}

int64_t checked_element_count(const Shape& shape) {
  int64_t count = 1;
  bool empty = false;
  for (const int64_t side : shape) {
    if (side < 0) return -1;
    empty |= side == 0;
    if (side > 0 && count > kMaxElements / side) return -1;
    count *= std::max<int64_t>(side, 1);
  }
  return empty ? 0 : count;
}

int64_t view_extent(const Shape& shape, const Shape& stride) {
  const int64_t count = checked_element_count(shape);
  if (count <= 0 || stride.size() != shape.size()) return count <= 0 ? count : -1;
  int64_t last = 0;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    int64_t reach = 0;
    if (stride[i] < 0 || __builtin_mul_overflow(shape[i] - 1, stride[i], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return -1;
    }
  }
  return last > (int64_t{1} << 56) ? -1 : last + 1;
}

TensorFile::TensorFile(std::shared_ptr<const ByteSource> file, std::vector<TensorRecord> records)
    : file_(std::move(file)), records_(std::move(records)) {
  for (std::size_t i = 0; i < records_.size(); ++i) {
    const TensorRecord& record = records_[i];
    TensorInfo info{record.name, record.parts.at(0).dtype, record.parts[0].shape};
    for (std::size_t part = 1; part < record.parts.size(); ++part) {
      info.shape.at(0) += record.parts[part].shape.at(0);
    }
    infos_.push_back(std::move(info));
    by_name_.emplace(record.name, i);
  }
}

const TensorInfo* TensorFile::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &infos_[found->second];
}

void TensorFile::resample_positions(int grid) {
  const auto found = by_name_.find(kPositionTable);
  if (found == by_name_.end()) return;
  TensorInfo& info = infos_[found->second];
  stored_grid_ =
      static_cast<int>(std::lround(std::sqrt(static_cast<double>(info.shape.at(1) - 1))));
  position_grid_ = grid;
  info.shape[1] = int64_t{grid} * grid + 1;
}

void TensorFile::read_part(const TensorInfo& info, const StridedPart& part, float* out) const {
  const auto count = static_cast<uint64_t>(element_count(part.shape));
  bool finite = true;
  if (!is_contiguous(part)) {
    finite = Gatherer(*file_, part).gather(0, part.offset, out);
  } else {
    const uint64_t size = element_size(part.dtype);
    const uint64_t chunk = kChunkBytes / size;
    std::vector<char> buffer;
    if (part.dtype != DType::kF32)
      buffer.resize(static_cast<std::size_t>(std::min(chunk, count) * size));
    for (uint64_t done = 0; done < count; done += chunk) {
      const uint64_t n = std::min(chunk, count - done);
      void* landing = part.dtype == DType::kF32 ? static_cast<void*>(out + done) : buffer.data();
      file_->read(part.offset + done * size, landing, n * size);
      finite &= convert_to_float(part.dtype, landing, static_cast<std::size_t>(n), out + done);
    }
  }
  if (!finite) {
    fail_model(origin(), fmt::format("tensor '{}' ({}) holds a NaN or an infinity; the weights are "
                                     "damaged or their training diverged",
                                     printable(info.name), dtype_name(part.dtype)));
  }
}

Tensor TensorFile::read(const std::string& name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    fail_model(origin(), fmt::format("tensor '{}' is missing", printable(name)));
  }
  const TensorInfo& info = infos_[found->second];
  const bool resampled = position_grid_ != 0 && name == kPositionTable;
  Shape stored = info.shape;
  if (resampled) stored[1] = int64_t{stored_grid_} * stored_grid_ + 1;
  Tensor tensor(std::move(stored));
  float* out = tensor.data.data();
  for (const StridedPart& part : records_[found->second].parts) {
    read_part(info, part, out);
    out += element_count(part.shape);
  }
  if (resampled) return resample_position_table(tensor, position_grid_, info.dtype);
  return tensor;
}

std::string TensorFile::fingerprint() const {
  // Every byte: fine-tuning may change nothing but a few biases.
  const uint64_t size = file_->size();
  std::vector<uint8_t> chunk(static_cast<std::size_t>(std::min(kChunkBytes, size)));
  std::vector<uint64_t> digests;
  for (uint64_t at = 0; at < size; at += kChunkBytes) {
    const uint64_t count = std::min(kChunkBytes, size - at);
    file_->read(at, chunk.data(), count);
    digests.push_back(quick_digest(chunk.data(), static_cast<std::size_t>(count)));
  }
  return fmt::format("{} bytes, {:016x}, grid {}", size,
                     quick_digest(digests.data(), digests.size() * sizeof(uint64_t)),
                     position_grid_);
}

}  // namespace rfseg
