// What the opcodes of a pickle build: tuples, lists, dicts, tensors. Nothing is called or imported;
// the few callables that checkpoints need are known by name.
#include <fmt/format.h>

#include "checkpoint/byte_source.h"
#include "checkpoint/pickle.h"

namespace rfseg {
namespace {

bool is_namespace(const PickleNode& global) {
  return (global.text == "argparse" && global.text2 == "Namespace") ||
         (global.text == "types" && global.text2 == "SimpleNamespace");
}

bool is_torch(const PickleNode& global, std::string_view name) {
  return (global.text == "torch._utils" || global.text == "torch._tensor") && global.text2 == name;
}

}  // namespace

PickleId PickleReader::collect(PickleKind kind, std::size_t first) {
  const PickleId id = make(kind);
  count_references(stack_.size() - first);
  nodes_[id].items.assign(stack_.begin() + static_cast<std::ptrdiff_t>(first), stack_.end());
  stack_.resize(first);
  return id;
}

void PickleReader::append_items(std::size_t first) {
  const std::size_t count = stack_.size() - first;
  count_references(count);
  const PickleId target = [&] {
    if (first == 0) corrupt("appends to nothing");
    return stack_[first - 1];
  }();
  PickleNode& list = nodes_[target];
  if (list.kind == PickleKind::kList) {
    list.items.insert(list.items.end(), stack_.begin() + static_cast<std::ptrdiff_t>(first),
                      stack_.end());
  } else if (list.kind != PickleKind::kOpaque) {
    corrupt("appends to something that is no list");
  }
  stack_.resize(first);
}

void PickleReader::set_items(std::size_t first) {
  const std::size_t count = stack_.size() - first;
  if (first == 0 || count % 2 != 0) corrupt("sets items of nothing");
  count_references(count);
  PickleNode& dict = nodes_[stack_[first - 1]];
  if (dict.kind == PickleKind::kDict) {
    dict.items.insert(dict.items.end(), stack_.begin() + static_cast<std::ptrdiff_t>(first),
                      stack_.end());
  } else if (dict.kind != PickleKind::kOpaque) {
    corrupt("sets items of something that is no dictionary");
  }
  stack_.resize(first);
}

std::vector<int64_t> PickleReader::integers(PickleId id) const {
  const PickleNode& list = nodes_[id];
  if (list.kind != PickleKind::kTuple && list.kind != PickleKind::kList) {
    corrupt("has a tensor whose size is no tuple");
  }
  if (list.items.size() > limits_.dimensions) {
    corrupt(fmt::format("has a tensor of {} dimensions", list.items.size()));
  }
  std::vector<int64_t> out;
  for (const PickleId item : list.items) {
    if (nodes_[item].kind != PickleKind::kInt) corrupt("has a tensor whose size is no integer");
    out.push_back(nodes_[item].integer);
  }
  return out;
}

PickleId PickleReader::persistent(PickleId id) {
  const PickleNode& tuple = nodes_[id];
  const auto item = [&](std::size_t i) -> const PickleNode& { return nodes_[tuple.items[i]]; };
  if (tuple.kind != PickleKind::kTuple || tuple.items.size() < 5 ||
      item(0).kind != PickleKind::kString || item(0).text != "storage" ||
      item(1).kind != PickleKind::kGlobal || item(2).kind != PickleKind::kString ||
      item(4).kind != PickleKind::kInt || item(4).integer < 0) {
    corrupt("has a persistent id that is no storage");
  }
  storages_.push_back({item(1).text2, item(2).text, item(4).integer});
  const PickleId storage = make(PickleKind::kStorage);
  nodes_[storage].integer = static_cast<int64_t>(storages_.size() - 1);
  return storage;
}

PickleId PickleReader::rebuild_tensor(const PickleNode& arguments) {
  const auto& items = arguments.items;
  if (arguments.kind != PickleKind::kTuple || items.size() < 4) corrupt("has a malformed tensor");
  if (nodes_[items[0]].kind != PickleKind::kStorage || nodes_[items[1]].kind != PickleKind::kInt) {
    corrupt("has a tensor without a storage");
  }
  PickleTensor tensor;
  tensor.storage = static_cast<std::size_t>(nodes_[items[0]].integer);
  tensor.offset = nodes_[items[1]].integer;
  tensor.shape = integers(items[2]);
  tensor.stride = integers(items[3]);
  if (tensor.stride.size() != tensor.shape.size()) {
    corrupt("has a tensor whose size and stride differ in length");
  }
  tensors_.push_back(std::move(tensor));
  const PickleId id = make(PickleKind::kTensor);
  nodes_[id].integer = static_cast<int64_t>(tensors_.size() - 1);
  return id;
}

// REDUCE and NEWOBJ: the allow-list.
PickleId PickleReader::call(PickleId callable, PickleId arguments) {
  const PickleNode function = nodes_[callable];  // copies: `make` moves the nodes
  const auto argument = [&](std::size_t i) {
    const auto& items = nodes_[arguments].items;
    return i < items.size() ? items[i] : kNoNode;
  };
  if (function.kind != PickleKind::kGlobal) return make_text(PickleKind::kOpaque, "object");
  if (is_torch(function, "_rebuild_tensor_v2") || is_torch(function, "_rebuild_tensor")) {
    const PickleNode copy = nodes_[arguments];
    return rebuild_tensor(copy);
  }
  if (is_torch(function, "_rebuild_parameter") ||
      is_torch(function, "_rebuild_parameter_with_state")) {
    const PickleId data = argument(0);
    if (data == kNoNode) corrupt("has a malformed parameter");
    return data;
  }
  if (is_torch(
          function,
          "_rebuild_from_type_v2")) {  // a tensor with attributes: (function, type, args, state)
    const PickleId inner = argument(0), inner_arguments = argument(2);
    if (inner != kNoNode && inner_arguments != kNoNode &&
        is_torch(nodes_[inner], "_rebuild_tensor_v2")) {
      const PickleNode copy = nodes_[inner_arguments];
      return rebuild_tensor(copy);
    }
    return make_text(PickleKind::kOpaque, function.text2);
  }
  if (function.text == "torch" && function.text2 == "Size") {
    const PickleId sizes = argument(0);
    return sizes == kNoNode ? make(PickleKind::kTuple) : sizes;
  }
  if (function.text == "collections" && function.text2 == "OrderedDict") {
    const PickleId dict = make(PickleKind::kDict);
    const PickleId pairs = argument(0);
    if (pairs == kNoNode || nodes_[pairs].kind != PickleKind::kList) return dict;
    std::vector<PickleId> items;
    for (const PickleId pair : nodes_[pairs].items) {
      if (nodes_[pair].items.size() != 2) corrupt("has a malformed OrderedDict");
      count_references(2);
      items.insert(items.end(), nodes_[pair].items.begin(), nodes_[pair].items.end());
    }
    nodes_[dict].items = std::move(items);
    return dict;
  }
  if (is_namespace(function)) {
    const PickleId object = make_text(PickleKind::kObject, function.text2);
    nodes_[object].integer = -1;
    return object;
  }
  return make_text(PickleKind::kOpaque, function.text2);
}

void PickleReader::build() {
  const PickleId state = pop();
  PickleNode& object = nodes_[top()];
  if (object.kind == PickleKind::kObject && nodes_[state].kind == PickleKind::kDict) {
    object.integer = state;
  }
  // The state of everything else (an OrderedDict's _metadata, opaque objects) means nothing here.
}

}  // namespace rfseg
