// The operations of postprocess/cuda/stepwise.h, a kernel each, one thread an element. Nothing is
// fused and nothing is fast: the arithmetic is that of the reference, operation by operation.

#include <thrust/iterator/counting_iterator.h>
#include <cub/device/device_radix_sort.cuh>

#include <algorithm>
#include <cub/device/device_select.cuh>

#include "core/coco_rle.h"
#include "core/cuda/device.h"
#include "postprocess/cuda/stepwise.h"
#include "postprocess/mask_geometry.h"
#include "postprocess/selection.h"
#include "postprocess/sigmoid.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using cuda::Buffer;
using cuda::check;

constexpr unsigned kThreads = 256;

__device__ int64_t element() { return int64_t{blockIdx.x} * kThreads + threadIdx.x; }

__global__ void sigmoid_of(const float* logits, float* scores, int64_t n) {
  const int64_t i = element();
  if (i < n) scores[i] = sigmoid(logits[i]);
}

/// Descending score, then ascending flat index, as one integer in descending order; 0 for NaN.
__global__ void sort_keys(const float* scores, uint64_t* keys, int64_t n) {
  const int64_t i = element();
  if (i >= n) return;
  const float score = scores[i];
  keys[i] = score == score
                ? uint64_t{__float_as_uint(score)} << 32 | (0xffffffffu - static_cast<uint32_t>(i))
                : 0;
}

__global__ void values_of(const uint64_t* keys, float* scores, int n) {
  const int64_t i = element();
  if (i < n) scores[i] = keys[i] == 0 ? __int_as_float(0x7fc00000) : __uint_as_float(keys[i] >> 32);
}

__global__ void indices_of(const uint64_t* keys, int32_t* flat, int n) {
  const int64_t i = element();
  if (i < n)
    flat[i] = keys[i] == 0 ? 0 : static_cast<int32_t>(0xffffffffu - (keys[i] & 0xffffffffu));
}

__global__ void queries_of(const int32_t* flat, int32_t* query, int classes, int n) {
  const int64_t i = element();
  if (i < n) query[i] = flat[i] / classes;
}

__global__ void columns_of(const int32_t* flat, int32_t* column, int classes, int n) {
  const int64_t i = element();
  if (i < n) column[i] = flat[i] % classes;
}

__global__ void passes(const float* scores, const int32_t* column, const ColumnRule* rules,
                       uint8_t* flags, int n) {
  const int64_t i = element();
  if (i >= n) return;
  const ColumnRule rule = rules[column[i]];
  flags[i] = rule.class_id >= 0 && scores[i] > rule.threshold;
}

template <class T>
__global__ void gather(const T* from, const int32_t* index, T* to, int width, int64_t n) {
  const int64_t i = element();
  if (i < n) to[i] = from[int64_t{index[i / width]} * width + i % width];
}

__global__ void class_ids_of(const int32_t* column, const ColumnRule* rules, int32_t* ids, int n) {
  const int64_t i = element();
  if (i < n) ids[i] = rules[column[i]].class_id;
}

__global__ void place_boxes(const float* cxcywh, BoxAxis x, BoxAxis y, float* xyxy, int n) {
  const int64_t i = element();
  if (i < n) place_box(cxcywh + 4 * i, x, y, false, xyxy + 4 * i);
}

/// [n, height, width] values of the masks' logits at every pixel; 0 where the network saw nothing.
__global__ void interpolate(const float* grids, AxisMap x, AxisMap y, float* values, int64_t n) {
  const int64_t i = element();
  if (i >= n) return;
  const int px = static_cast<int>(i % x.extent);
  const int64_t row = i / x.extent;
  const int py = static_cast<int>(row % y.extent);
  if (px < x.begin || px >= x.end || py < y.begin || py >= y.end) {
    values[i] = 0;
    return;
  }
  const float* grid = grids + row / y.extent * x.cells * y.cells;
  const PlainTaps tx = plain_taps(x, px), ty = plain_taps(y, py);
  const float* upper = grid + int64_t{ty.i0} * x.cells;
  const float* lower = grid + int64_t{ty.i1} * x.cells;
  values[i] = plain_blend(ty.w0, plain_blend(tx.w0, upper[tx.i0], tx.w1, upper[tx.i1]), ty.w1,
                          plain_blend(tx.w0, lower[tx.i0], tx.w1, lower[tx.i1]));
}

__global__ void above_zero(const float* values, uint8_t* pixels, int64_t n) {
  const int64_t i = element();
  if (i < n) pixels[i] = values[i] > 0.0f;
}

}  // namespace

struct StepwisePostprocessor::Impl {
  explicit Impl(int device_index) : device(device_index) { cuda::open_device(device); }

  /// Launches `kernel`, one thread an element.
  template <class... Parameters, class... Arguments>
  void each(int64_t n, void (*kernel)(Parameters...), Arguments... arguments) {
    if (n == 0) return;
    kernel<<<static_cast<unsigned>((n + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
        arguments...);
    check(cudaGetLastError(), "launching a kernel");
    ++counters.kernels;
  }

  /// Kernels that a CUB call launches are counted in a capture of their own, once a shape.
  template <class Work>
  int kernels_in(Work&& work) {
    cuda::Graph graph;
    graph.capture(stream, work);
    return graph.kernels();
  }

  void download(Buffer& to, const void* from, std::size_t bytes) {
    to.reserve(bytes);
    check(cudaMemcpyAsync(to.data(), from, bytes, cudaMemcpyDeviceToHost, stream),
          "fetching results");
    counters.bytes_to_host += bytes;
  }
  void synchronize() {
    check(cudaStreamSynchronize(stream), "post-processing step by step");
    ++counters.synchronisations;
  }

  template <class T>
  T* device_array(Buffer& buffer, int64_t count) {
    buffer.reserve(std::max<std::size_t>(16, static_cast<std::size_t>(count) * sizeof(T)));
    return buffer.as<T>();
  }

  /// Survivors, in order; their places among the selected pairs are in `kept`.
  int select(const DeviceOutputs& outputs, const PostprocessSpec& spec) {
    const int64_t pairs = int64_t{outputs.queries} * outputs.classes;
    const int n = static_cast<int>(std::min<int64_t>(pairs, spec.num_select));
    const std::vector<ColumnRule> host_rules = column_rules(spec, outputs.classes);
    ColumnRule* rules = device_array<ColumnRule>(rules_, outputs.classes);
    check(cudaMemcpyAsync(rules, host_rules.data(), host_rules.size() * sizeof(ColumnRule),
                          cudaMemcpyHostToDevice, stream),
          "uploading class rules");

    float* all = device_array<float>(all_scores_, pairs);
    each(pairs, sigmoid_of, static_cast<const float*>(outputs.logits), all, pairs);
    uint64_t* keys = device_array<uint64_t>(keys_, pairs);
    uint64_t* sorted = device_array<uint64_t>(sorted_, pairs);
    each(pairs, sort_keys, static_cast<const float*>(all), keys, pairs);
    std::size_t scratch_bytes = 0, select_bytes = 0;
    const auto sort = [&](void* scratch) {
      check(cub::DeviceRadixSort::SortKeysDescending(scratch, scratch_bytes, keys, sorted,
                                                     static_cast<int>(pairs), 0, 64, stream),
            "sorting scores");
    };
    sort(nullptr);
    scratch_.reserve(scratch_bytes);
    float* scores = device_array<float>(scores_, n);
    int32_t* flat = device_array<int32_t>(flat_, n);
    int32_t* query = device_array<int32_t>(query_, n);
    int32_t* column = device_array<int32_t>(column_, n);
    uint8_t* flags = device_array<uint8_t>(flags_, n);
    int32_t* kept = device_array<int32_t>(kept_, n);
    int32_t* count = device_array<int32_t>(count_, 1);
    const thrust::counting_iterator<int32_t> places(0);
    const auto compact = [&](void* scratch) {
      check(
          cub::DeviceSelect::Flagged(scratch, select_bytes, places, flags, kept, count, n, stream),
          "picking survivors");
    };
    compact(nullptr);
    select_scratch_.reserve(select_bytes);
    if (counted_pairs_ != pairs || counted_n_ != n) {
      cub_kernels_ = kernels_in([&] {
        sort(scratch_.data());
        compact(select_scratch_.data());
      });
      counted_pairs_ = pairs;
      counted_n_ = n;
    }
    sort(scratch_.data());
    each(n, values_of, static_cast<const uint64_t*>(sorted), scores, n);
    each(n, indices_of, static_cast<const uint64_t*>(sorted), flat, n);
    each(n, queries_of, static_cast<const int32_t*>(flat), query, outputs.classes, n);
    each(n, columns_of, static_cast<const int32_t*>(flat), column, outputs.classes, n);
    each(n, passes, static_cast<const float*>(scores), static_cast<const int32_t*>(column),
         static_cast<const ColumnRule*>(rules), flags, n);
    compact(select_scratch_.data());
    counters.kernels += cub_kernels_;
    download(host_count_, count, sizeof(int32_t));
    synchronize();
    return std::min(*host_count_.as<int32_t>(), spec.max_detections);
  }

  /// `fetch_masks`: the masks come to the host, and their run lengths are found.
  Detections run(const DeviceOutputs& outputs, const PostprocessSpec& spec, bool fetch_masks) {
    const int n = select(outputs, spec);
    Detections detections;
    detections.width = spec.geometry.original_width;
    detections.height = spec.geometry.original_height;
    if (n == 0) return detections;

    const int32_t* kept = kept_.as<int32_t>();
    float* scores = device_array<float>(kept_scores_, n);
    int32_t* query = device_array<int32_t>(kept_query_, n);
    int32_t* column = device_array<int32_t>(kept_column_, n);
    int32_t* ids = device_array<int32_t>(kept_class_, n);
    float* raw = device_array<float>(kept_boxes_, int64_t{n} * 4);
    float* boxes = device_array<float>(placed_, int64_t{n} * 4);
    each(n, gather<float>, static_cast<const float*>(scores_.as<float>()), kept, scores, 1,
         int64_t{n});
    each(n, gather<int32_t>, static_cast<const int32_t*>(query_.as<int32_t>()), kept, query, 1,
         int64_t{n});
    each(n, gather<int32_t>, static_cast<const int32_t*>(column_.as<int32_t>()), kept, column, 1,
         int64_t{n});
    each(n, class_ids_of, static_cast<const int32_t*>(column),
         static_cast<const ColumnRule*>(rules_.as<ColumnRule>()), ids, n);
    each(int64_t{n} * 4, gather<float>, static_cast<const float*>(outputs.boxes),
         static_cast<const int32_t*>(query), raw, 4, int64_t{n} * 4);
    each(n, place_boxes, static_cast<const float*>(raw), box_axis_x(spec.geometry, spec.like),
         box_axis_y(spec.geometry, spec.like), boxes, n);

    const bool with_masks = outputs.masks != nullptr && spec.masks != MaskFormat::kNone;
    const int64_t picture = int64_t{detections.width} * detections.height;
    if (with_masks) {
      const MaskGeometry geometry =
          mask_geometry(spec.geometry, spec.like, outputs.mask_rows, outputs.mask_cols);
      const int cells = outputs.mask_rows * outputs.mask_cols;
      float* grids = device_array<float>(grids_, int64_t{n} * cells);
      float* values = device_array<float>(values_, n * picture);
      uint8_t* pixels = device_array<uint8_t>(pixels_, n * picture);
      each(int64_t{n} * cells, gather<float>, static_cast<const float*>(outputs.masks),
           static_cast<const int32_t*>(query), grids, cells, int64_t{n} * cells);
      each(n * picture, interpolate, static_cast<const float*>(grids), geometry.x, geometry.y,
           values, n * picture);
      each(n * picture, above_zero, static_cast<const float*>(values), pixels, n * picture);
      if (fetch_masks) download(host_pixels_, pixels, static_cast<std::size_t>(n * picture));
    }
    const auto count = static_cast<std::size_t>(n);
    download(host_scores_, scores, count * sizeof(float));
    download(host_query_, query, count * sizeof(int32_t));
    download(host_class_, ids, count * sizeof(int32_t));
    download(host_boxes_, boxes, count * 4 * sizeof(float));
    synchronize();

    for (int i = 0; i < n; ++i) {
      Detection d;
      d.class_id = host_class_.as<int32_t>()[i];
      d.score = host_scores_.as<float>()[i];
      d.query = host_query_.as<int32_t>()[i];
      std::copy_n(host_boxes_.as<float>() + 4 * i, 4, d.box_xyxy);
      if (with_masks && fetch_masks) {
        Mask mask;
        mask.height = detections.height;
        mask.width = detections.width;
        mask.counts = rle_to_string(
            rle_encode(host_pixels_.as<uint8_t>() + i * picture, mask.height, mask.width));
        d.mask = std::make_shared<const Mask>(std::move(mask));
      }
      detections.items.push_back(std::move(d));
    }
    return detections;
  }

  int device;
  cudaStream_t stream = nullptr;  ///< of the call
  Counters counters;
  int64_t counted_pairs_ = -1, counted_n_ = -1;
  int cub_kernels_ = 0;

#define RFSEG_DEVICE_BUFFER(name) \
  Buffer name { Buffer::Kind::kDevice }
#define RFSEG_HOST_BUFFER(name) \
  Buffer name { Buffer::Kind::kPinned }
  RFSEG_DEVICE_BUFFER(rules_);
  RFSEG_DEVICE_BUFFER(all_scores_);
  RFSEG_DEVICE_BUFFER(keys_);
  RFSEG_DEVICE_BUFFER(sorted_);
  RFSEG_DEVICE_BUFFER(scratch_);
  RFSEG_DEVICE_BUFFER(select_scratch_);
  RFSEG_DEVICE_BUFFER(scores_);
  RFSEG_DEVICE_BUFFER(flat_);
  RFSEG_DEVICE_BUFFER(query_);
  RFSEG_DEVICE_BUFFER(column_);
  RFSEG_DEVICE_BUFFER(flags_);
  RFSEG_DEVICE_BUFFER(kept_);
  RFSEG_DEVICE_BUFFER(count_);
  RFSEG_DEVICE_BUFFER(kept_scores_);
  RFSEG_DEVICE_BUFFER(kept_query_);
  RFSEG_DEVICE_BUFFER(kept_column_);
  RFSEG_DEVICE_BUFFER(kept_class_);
  RFSEG_DEVICE_BUFFER(kept_boxes_);
  RFSEG_DEVICE_BUFFER(placed_);
  RFSEG_DEVICE_BUFFER(grids_);
  RFSEG_DEVICE_BUFFER(values_);
  RFSEG_DEVICE_BUFFER(pixels_);
  RFSEG_HOST_BUFFER(host_count_);
  RFSEG_HOST_BUFFER(host_pixels_);
  RFSEG_HOST_BUFFER(host_scores_);
  RFSEG_HOST_BUFFER(host_query_);
  RFSEG_HOST_BUFFER(host_class_);
  RFSEG_HOST_BUFFER(host_boxes_);
#undef RFSEG_DEVICE_BUFFER
#undef RFSEG_HOST_BUFFER
};

StepwisePostprocessor::StepwisePostprocessor(int device) : impl_(std::make_unique<Impl>(device)) {}
StepwisePostprocessor::~StepwisePostprocessor() = default;

void StepwisePostprocessor::begin(const DeviceOutputs& outputs, const PostprocessSpec& spec,
                                  CUstream_st* stream) {
  if (outputs.batch != 1 || outputs.boxes_type != cuda::Number::kFloat32 ||
      outputs.logits_type != cuda::Number::kFloat32 ||
      outputs.masks_type != cuda::Number::kFloat32 || spec.like == Convention::kInference) {
    throw Error(ErrorCode::kUsage,
                "step by step, one picture in float32 is post-processed, without antialiasing");
  }
  check_geometry(spec.geometry, spec.like);
  check(cudaSetDevice(impl_->device), "choosing the device");
  impl_->stream = stream;
  impl_->counters = {};
}

Detections StepwisePostprocessor::run(const DeviceOutputs& outputs, const PostprocessSpec& spec,
                                      CUstream_st* stream) {
  begin(outputs, spec, stream);
  return impl_->run(outputs, spec, true);
}

Detections StepwisePostprocessor::run_on_device(const DeviceOutputs& outputs,
                                                const PostprocessSpec& spec, CUstream_st* stream) {
  begin(outputs, spec, stream);
  return impl_->run(outputs, spec, false);
}

const StepwisePostprocessor::Counters& StepwisePostprocessor::counters() const {
  return impl_->counters;
}

}  // namespace rfseg
