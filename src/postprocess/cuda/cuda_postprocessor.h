#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "postprocess/cuda/records.h"
#include "postprocess/postprocess.h"

struct CUstream_st;  ///< what a cudaStream_t points to

namespace rfseg {

/// Raw network outputs of a batch, in device memory, C order.
struct DeviceOutputs {
  const void* boxes = nullptr;   ///< [B, Q, 4] cx,cy,w,h normalised
  const void* logits = nullptr;  ///< [B, Q, K]
  const void* masks = nullptr;   ///< [B, Q, mask_rows, mask_cols] logits, or nullptr
  cuda::Number boxes_type = cuda::Number::kFloat32;
  cuda::Number logits_type = cuda::Number::kFloat32;
  cuda::Number masks_type = cuda::Number::kFloat32;
  int batch = 0, queries = 0, classes = 0, mask_rows = 0, mask_cols = 0;
};

/// postprocess() on a GPU, for batches: the same boxes, scores and mask bytes as the CPU backends.
/// One or two kernels a call, one host synchronisation, no allocation once shapes and capacities
/// have been seen. Masks are run lengths, bytes or bits of pixels; results land in pinned host
/// memory, in proportion to their size, or stay on the device. Not thread-safe.
///
/// A call is prepare, enqueue, wait, results; run does all four. What enqueue launches may be
/// captured into a CUDA graph: pictures' sizes, transforms, thresholds and class maps are read from
/// device memory, which prepare writes before each replay. generation() tells when a captured graph
/// has to be captured again.
class CudaPostprocessor {
 public:
  enum class Place {
    kHost,   ///< pinned host memory
    kDevice  ///< device memory, all but the word that tells an overflow
  };
  /// What results are, where they are, and the sizes of the static buffers. A call that needs more
  /// runs again with what it needs, alone.
  struct Limits {
    uint32_t toggles_per_block = 16384;  ///< beyond 1024; a block has all or a part of a mask
    uint64_t bytes = uint64_t{8} << 20;  ///< of a call's masks, at least
    uint64_t bytes_per_picture = uint64_t{1} << 20;  ///< at least; about 10 are reserved for a run
    int32_t detections = 300;                        ///< a picture; more only on request
    int blocks_per_mask = 0;  ///< 0: the best known; 1 to 8, 1 where the GPU has no clusters
    /// Selection always by a kernel of its own. Else the run lengths of one picture with up to 32
    /// candidates in an eighth of its logits, and masks of pixels with up to 256 in all, are made
    /// by one kernel; with more, the call runs again with two, and so do calls with the same
    /// thresholds and class map from then on.
    bool selection_apart = false;
    cuda::MaskBytes mask_bytes = cuda::MaskBytes::kRle;
    Place place = Place::kHost;
    /// Not for run lengths: room for so many masks a picture, but for no more than `dense_bytes`.
    int dense_masks = 100;
    uint64_t dense_bytes = uint64_t{1} << 30;
    /// wait() looks at a word in pinned memory that the call's last block writes behind the
    /// results, not at the stream, and returns some microseconds before the stream is done. Then
    /// every prepare() is followed by one enqueue() or replay, on its stream, and by one wait().
    bool spin = false;
  };
  struct Counters {
    uint64_t allocations = 0, synchronisations = 0, launches = 0, uploads = 0, reruns = 0;
  };
  /// Where the results are after wait(), until the next prepare: host or device pointers, by
  /// Limits::place. They are not to be written: calls write only the pixels that differ from those
  /// of the last. Run lengths: mask m of picture i is masks[i * mask_pitch + m] of `bytes`. Pixels:
  /// it begins at bytes[pictures[i].offset + m * height * p] with p = cuda::row_pitch(width, ...),
  /// the bytes from one row to the next, and `masks` is not written.
  struct Results {
    const cuda::PictureRecord* pictures = nullptr;      ///< [B]
    const cuda::DetectionRecord* detections = nullptr;  ///< [B, detection_pitch]
    const cuda::MaskRecord* masks = nullptr;            ///< [B, mask_pitch]
    const uint8_t* bytes = nullptr;
    int detection_pitch = 0, mask_pitch = 0;
  };

  /// Throws Error(kDevice) without a usable GPU, or in a build without CUDA.
  explicit CudaPostprocessor(int device = 0);
  CudaPostprocessor(int device, const Limits& limits);
  ~CudaPostprocessor();
  CudaPostprocessor(const CudaPostprocessor&) = delete;
  CudaPostprocessor& operator=(const CudaPostprocessor&) = delete;

  /// Checks the call, and brings parameters and buffers in place, on `stream`. `pictures` has
  /// outputs.batch entries; spec.geometry and spec.backend are not read. Throws what postprocess()
  /// throws.
  void prepare(const DeviceOutputs& outputs, const PostprocessSpec& spec,
               std::span<const PreprocessGeometry> pictures, CUstream_st* stream);
  /// Launches the kernels for the shapes of the last prepare.
  void enqueue(const DeviceOutputs& outputs, CUstream_st* stream);
  /// Waits for `stream`, once; on overflow runs the call of the last enqueue again.
  Results wait(CUstream_st* stream);
  /// Detections of the last wait(). With Place::kDevice they are copied first, and waited for.
  /// Masks are there where they are run lengths.
  std::vector<Detections> results() const;
  std::vector<Detections> run(const DeviceOutputs& outputs, const PostprocessSpec& spec,
                              std::span<const PreprocessGeometry> pictures,
                              CUstream_st* stream = nullptr);
  /// The same from host memory; all outputs have the shapes of the first.
  std::vector<Detections> run_from_host(std::span<const NetworkOutputs> outputs,
                                        const PostprocessSpec& spec,
                                        std::span<const PreprocessGeometry> pictures);

  uint64_t generation() const;
  const Counters& counters() const;
  std::string device_name() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// postprocess() of one picture on GPU `spec.cuda_device`. Thread-safe: calls wait for each other.
Detections postprocess_cuda(const NetworkOutputs& outputs, const PostprocessSpec& spec);

}  // namespace rfseg
