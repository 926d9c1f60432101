#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace rfseg {

/// What a pickle holds, once read by `PickleReader`.
enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInt,
  kFloat,
  kString,  ///< str or bytes
  kTuple,
  kList,
  kDict,     ///< also collections.OrderedDict
  kGlobal,   ///< a name, never looked up: "module name"
  kStorage,  ///< index into `storages`
  kTensor,   ///< index into `tensors`
  kObject,   ///< argparse.Namespace or types.SimpleNamespace; its attributes are a dict
  kOpaque    ///< anything else: kept as a name, contents dropped
};

using PickleId = uint32_t;
inline constexpr PickleId kNoNode = std::numeric_limits<PickleId>::max();

struct PickleNode {
  PickleKind kind = PickleKind::kNone;
  int64_t integer =
      0;            ///< kBool, kInt; index for kStorage, kTensor; attributes of kObject, -1 = none
  double real = 0;  ///< kFloat
  std::string_view text;   ///< kString, kGlobal's module, kOpaque's class; points into the pickle
  std::string_view text2;  ///< kGlobal's name
  std::vector<PickleId> items;  ///< kTuple, kList; key, value, key, value, ... for kDict
};

/// ('storage', torch.FloatStorage, 'key', 'cpu', numel)
struct PickleStorage {
  std::string_view type;  ///< "FloatStorage"
  std::string_view key;   ///< entry `data/KEY` of the archive
  int64_t numel = 0;
};

/// torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...), in elements
struct PickleTensor {
  std::size_t storage = 0;
  int64_t offset = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> stride;
};

/// Bounds of what a pickle may build. A training checkpoint of RF-DETR needs a fiftieth of them.
struct PickleLimits {
  std::size_t bytes = std::size_t{64} << 20;
  std::size_t nodes = 1'000'000;
  std::size_t references = 8'000'000;  ///< entries of all stacks, memo slots and containers
  std::size_t dimensions = 16;
};

/// Reads the pickles that torch.save writes (protocols 2 to 5) and executes nothing: the only calls
/// understood are those that rebuild tensors, OrderedDict and the two namespaces; every other class
/// becomes an opaque value. Values live in one arena and refer to each other by index, so cyclic
/// or deeply nested input costs no recursion. `bytes` must outlive the reader.
class PickleReader {
 public:
  /// `origin` names the file in errors. Throws Error(kModel) on anything malformed or over a limit.
  PickleReader(std::string_view bytes, std::string origin, PickleLimits limits = {});

  PickleId root() const { return root_; }
  const PickleNode& node(PickleId id) const { return nodes_[id]; }
  const PickleTensor& tensor(const PickleNode& node) const {
    return tensors_[static_cast<std::size_t>(node.integer)];
  }
  const PickleStorage& storage(std::size_t index) const { return storages_[index]; }
  /// The value under a string key of a dict or namespace, the last one if repeated; nullptr if
  /// none.
  const PickleNode* get(const PickleNode& container, std::string_view key) const;

 private:
  void run();
  [[noreturn]] void corrupt(const std::string& what) const;
  std::string_view take(uint64_t count);
  std::string_view take_line();
  template <class T>
  T take_int();

  PickleId make(PickleKind kind);
  PickleId make_text(PickleKind kind, std::string_view text);
  void push(PickleId id);
  void push_int(int64_t value);
  PickleId pop();
  PickleId top() const;
  std::size_t pop_mark();
  void count_references(std::size_t count);
  void memoize(uint64_t index);

  void append_items(std::size_t first);
  void set_items(std::size_t first);
  PickleId collect(PickleKind kind, std::size_t first);
  PickleId call(PickleId callable, PickleId arguments);
  void build();
  PickleId persistent(PickleId id);
  PickleId rebuild_tensor(const PickleNode& arguments);
  std::vector<int64_t> integers(PickleId id) const;

  std::string_view bytes_;
  std::string origin_;
  PickleLimits limits_;
  std::size_t position_ = 0;
  std::size_t references_ = 0;
  std::vector<PickleNode> nodes_;
  std::vector<PickleStorage> storages_;
  std::vector<PickleTensor> tensors_;
  std::vector<PickleId> stack_;
  std::vector<std::size_t> marks_;
  std::vector<PickleId> memo_;
  PickleId root_ = 0;
};

}  // namespace rfseg
