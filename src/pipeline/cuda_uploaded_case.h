#pragma once

#include <cuda_runtime.h>

#include "core/cuda/device.h"
#include "pipeline/cases.h"
#include "postprocess/cuda/cuda_postprocessor.h"

namespace rfseg {

/// The network's answer of recorded calls of the post-processing, one at a time, in device memory.
class UploadedCase {
 public:
  /// Valid until the next call. Enqueued: `recorded` has to stay until the stream has come so far.
  const DeviceOutputs& upload(const RecordedCase& recorded, cudaStream_t stream) {
    const NetworkOutputs host = recorded.outputs();
    outputs_.batch = 1;
    outputs_.queries = host.queries;
    outputs_.classes = host.classes;
    outputs_.mask_rows = host.mask_rows;
    outputs_.mask_cols = host.mask_cols;
    outputs_.boxes = upload(boxes_, recorded.boxes, stream);
    outputs_.logits = upload(logits_, recorded.logits, stream);
    outputs_.masks = upload(masks_, recorded.masks, stream);
    return outputs_;
  }

 private:
  static const void* upload(cuda::Buffer& to, const Tensor& tensor, cudaStream_t stream) {
    if (tensor.empty()) return nullptr;
    const std::size_t bytes = tensor.data.size() * sizeof(float);
    to.reserve(bytes);
    cuda::check(
        cudaMemcpyAsync(to.data(), tensor.data.data(), bytes, cudaMemcpyHostToDevice, stream),
        "uploading a recorded case");
    return to.data();
  }

  cuda::Buffer boxes_{cuda::Buffer::Kind::kDevice}, logits_{cuda::Buffer::Kind::kDevice},
      masks_{cuda::Buffer::Kind::kDevice};
  DeviceOutputs outputs_;
};

}  // namespace rfseg
