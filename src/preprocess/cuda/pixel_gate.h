#pragma once

#include <cstdint>

#include "core/cuda/device.h"

namespace rfseg::cuda {

/// Two words in device memory by which a stream that copies pixels tells a kernel on another one
/// that they are there. The kernel may be launched at once: what it needs beside the pixels is
/// ready when they come, and no edge from a copy to a kernel lies between. It keeps its
/// multiprocessors meanwhile, so this is for one frame at a time. open() has to be enqueued before
/// the kernel is launched: then the kernel waits for nothing that comes behind it.
class PixelGate {
 public:
  /// On the current device. Throws Error(kDevice).
  PixelGate();
  /// Whether this device and driver have what it takes: a stream that writes a word.
  bool usable() const { return write_ != nullptr; }
  /// Opens the gate when all that is on `stream` is done. The kernel closes it.
  void open(cudaStream_t stream) const;
  /// After an error: closes it, when nothing runs that opens it or waits for it. Waits for
  /// `stream`.
  void close(const Stream& stream) const;
  uint32_t* words() const { return words_.as<uint32_t>(); }

 private:
  Buffer words_{Buffer::Kind::kDevice};
  void* write_ = nullptr;  ///< the driver's cuStreamWriteValue32
};

}  // namespace rfseg::cuda
