// Any bytes as a torch.save file: opened or refused, and what is opened can be read.

#include "checkpoint/checkpoint_internal.h"
#include "core/model_tensors.h"
#include "rfseg/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rfseg;
  try {
    auto source = std::make_shared<MemorySource>(
        "fuzz", std::string(reinterpret_cast<const char*>(data), size));
    const Checkpoint checkpoint = open_checkpoint_source(std::move(source), {}, "");
    for (const TensorSpec& tensor : required_tensors(checkpoint.config)) {
      checkpoint.weights->read(tensor.name, tensor.shape);
    }
  } catch (const Error&) {
  }
  return 0;
}
