// Any bytes as the head of a .safetensors file, followed by zeros enough for an honest header.

#include <algorithm>
#include <cstring>

#include "checkpoint/checkpoint_internal.h"
#include "core/model_tensors.h"
#include "rfseg/error.h"

namespace {

class ZeroTail final : public rfseg::ByteSource {
 public:
  ZeroTail(const uint8_t* data, size_t size) : ByteSource("fuzz"), data_(data), size_(size) {}
  uint64_t size() const override { return size_ + (uint64_t{1} << 20); }

 protected:
  void do_read(uint64_t offset, void* out, uint64_t count) const override {
    std::memset(out, 0, count);
    if (offset < size_) std::memcpy(out, data_ + offset, std::min<uint64_t>(count, size_ - offset));
  }

 private:
  const uint8_t* data_;
  uint64_t size_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rfseg;
  try {
    const Checkpoint checkpoint =
        open_checkpoint_source(std::make_shared<ZeroTail>(data, size), {}, "");
    for (const TensorSpec& tensor : required_tensors(checkpoint.config)) {
      checkpoint.weights->read(tensor.name, tensor.shape);
    }
  } catch (const Error&) {
  }
  return 0;
}
