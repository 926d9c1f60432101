#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

// Owners of CUDA objects, for host code of every stage's CUDA backend. Only compiled where CUDA is
// built (RFSEG_CUDA_BUILT); whether a GPU is there at run time: core/cuda/usable.h.

namespace rfseg::cuda {

/// Throws Error(kDevice) that names what was being done and CUDA's reason. The error is taken from
/// CUDA, so that the next call does not report it again (an error that has destroyed the context
/// stays).
void check(cudaError_t status, const char* what);

/// The properties of GPU `device`. Throws Error(kDevice) if there is none of that number, or it is
/// older than compute capability 8.0.
cudaDeviceProp device_properties(int device);

/// The same, and makes that GPU current.
cudaDeviceProp open_device(int device);

/// Whether kernels run on the current device from code made for compute capability 9.0 or newer.
/// Only that has clusters, and waits for the kernel before it (await_previous_kernel); a newer GPU
/// may have been given older code, compiled by the driver from PTX.
bool has_hopper_code();

/// Bytes of shared memory that a block may ask for on the current device.
std::size_t most_shared_memory();

/// Grow-only memory, on the device or pinned on the host (mapped, so that kernels can write it).
/// Contents are undefined, and lost by growing.
class Buffer {
 public:
  enum class Kind { kDevice, kPinned };
  explicit Buffer(Kind kind) : kind_(kind) {}
  Buffer(Buffer&& other) noexcept
      : kind_(other.kind_),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(kind_, other.kind_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  /// Whether it had to be allocated anew. Throws Error(kDevice) with the size asked for and what
  /// is free; the buffer is empty then.
  bool reserve(std::size_t bytes);
  void release();
  std::byte* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  std::size_t size() const { return size_; }

 private:
  Kind kind_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Copies from any memory of the host and waits until the bytes are there, for readers on streams
/// of every kind: of pageable memory cudaMemcpy returns when they have been staged, and streams
/// that do not wait for the default one may read what was there before.
void upload(void* to, const void* from, std::size_t bytes, const char* what);

/// A stream of the current device that does not wait for the default stream.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }
  /// Waits until everything enqueued is done; `what` names the work in an error.
  void synchronize(const char* what) const;

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  /// `timing`: whether elapsed_ms may be asked; events without are cheaper.
  explicit Event(bool timing = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Milliseconds between two timed events that have happened.
float elapsed_ms(const Event& from, const Event& to);

/// A captured graph, ready to launch.
class Graph {
 public:
  Graph() = default;
  ~Graph() { reset(); }
  Graph(Graph&& other) noexcept
      : exec_(std::exchange(other.exec_, nullptr)), kernels_(other.kernels_) {}
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  bool empty() const { return exec_ == nullptr; }
  /// Kernels that a launch runs; other graphs' inside of it count too.
  int kernels() const { return kernels_; }
  void reset();
  /// Records what `work` enqueues on `stream`, and on streams that it joins with it by events.
  /// If `work` throws, the capture is ended and the exception passed on.
  template <class Work>
  void capture(cudaStream_t stream, Work&& work) {
    begin(stream);
    try {
      work();
    } catch (...) {
      abandon(stream);
      throw;
    }
    end(stream);
  }
  void launch(cudaStream_t stream) const;

 private:
  static void begin(cudaStream_t stream);
  static void abandon(cudaStream_t stream);
  void end(cudaStream_t stream);
  cudaGraphExec_t exec_ = nullptr;
  int kernels_ = 0;
};

}  // namespace rfseg::cuda
