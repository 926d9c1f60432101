// Any bytes as the pickle of a torch.save file.

#include "checkpoint/pickle.h"
#include "rfseg/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace rfseg;
  try {
    const PickleReader pickle({reinterpret_cast<const char*>(data), size}, "fuzz");
    const PickleNode& root = pickle.node(pickle.root());
    if (const PickleNode* model = pickle.get(root, "model")) {
      for (const PickleId id : model->items) {
        if (pickle.node(id).kind == PickleKind::kTensor) {
          pickle.storage(pickle.tensor(pickle.node(id)).storage);
        }
      }
    }
  } catch (const Error&) {
  }
  return 0;
}
