#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "preprocess/preprocess.h"

struct CUstream_st;  ///< what a cudaStream_t points to

namespace rfseg {

/// Where the pixels of a frame are.
enum class FrameMemory {
  kPageable,  ///< copied through pinned memory before prepare returns
  kPinned,    ///< copied by the GPU: must stay until the stream has passed prepare's work
  kDevice     ///< read in place: must stay until the kernel has run
};

struct CudaFrame {
  ImageView view;
  FrameMemory memory = FrameMemory::kPageable;
};

/// preprocess() on a GPU, for batches of frames of any sizes and formats: the same bits as the CPU
/// backends. One kernel a batch; no allocation and no synchronisation once sizes and capacities
/// have been seen. Not thread-safe, and one stream at a time: the frames of a call share memory
/// with those of the next.
///
/// A call is prepare, then enqueue. What enqueue launches may be captured into a CUDA graph: sizes,
/// pointers, formats, tables and the tensor's address are read from device memory, which prepare
/// writes before each replay. generation() tells when a captured graph has to be captured again:
/// for another batch, network or tensor type, for tables that have outgrown their memory, and once
/// when the first frame comes that the Pillow kernel of aligned three-byte pixels does not serve.
class CudaPreprocessor {
 public:
  struct Limits {
    int tile_rows = 0;  ///< output rows of a tile of the Pillow modes; 0: the best known, or 1..16
  };
  struct Counters {
    uint64_t allocations = 0, synchronisations = 0, launches = 0, uploads = 0, copies = 0;
  };

  /// Throws Error(kDevice) without a usable GPU, or in a build without CUDA.
  explicit CudaPreprocessor(int device = 0);
  CudaPreprocessor(int device, const Limits& limits);
  ~CudaPreprocessor();
  CudaPreprocessor(const CudaPreprocessor&) = delete;
  CudaPreprocessor& operator=(const CudaPreprocessor&) = delete;

  /// Checks the frames, and brings host frames and parameters to the device, on `stream`. `tensor`
  /// is device memory for [frames.size(), 3, network_height, network_width] float32, or float16
  /// (rounded to nearest even) where `half`, aligned to 16 bytes. spec.backend and cuda_device are
  /// not read. Throws what preprocess() throws.
  void prepare(std::span<const CudaFrame> frames, const PreprocessSpec& spec, void* tensor,
               bool half, CUstream_st* stream);
  /// Launches the kernel for the last prepare.
  void enqueue(CUstream_st* stream);
  /// The words of a cuda::PixelGate that the kernels of the next enqueues wait for; nullptr: they
  /// need not. A change is a new generation().
  void wait_for(uint32_t* gate);
  /// Of the frames of the last prepare: how to go back to picture coordinates.
  std::span<const PreprocessGeometry> geometries() const;

  /// Both, on a stream of its own, and the tensor to the host: float32 [B, 3, H, W].
  void run_to_host(std::span<const CudaFrame> frames, const PreprocessSpec& spec, float* out);

  uint64_t generation() const;
  const Counters& counters() const;
  std::string device_name() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// preprocess() on GPU `spec.cuda_device`. Thread-safe: calls wait for each other.
PreprocessGeometry preprocess_cuda(const ImageView& image, const PreprocessSpec& spec, float* out);

}  // namespace rfseg
