#include "checkpoint/pickle.h"

#include <fmt/format.h>

#include <bit>

#include "checkpoint/byte_source.h"
#include "checkpoint/pickle_opcodes.h"

namespace rfseg {

using namespace pickle_opcode;

PickleReader::PickleReader(std::string_view bytes, std::string origin, PickleLimits limits)
    : bytes_(bytes), origin_(std::move(origin)), limits_(limits) {
  if (bytes.size() > limits_.bytes) {
    corrupt(fmt::format("has {} bytes; at most {} are accepted", bytes.size(), limits_.bytes));
  }
  run();
  // Only the nodes are needed from here on.
  stack_ = {};
  marks_ = {};
  memo_ = {};
}

void PickleReader::corrupt(const std::string& what) const {
  fail_model(origin_, fmt::format("the pickle (byte {}) {}", position_, what));
}

std::string_view PickleReader::take(uint64_t count) {
  if (count > bytes_.size() - position_) corrupt("is truncated");
  const std::string_view piece = bytes_.substr(position_, static_cast<std::size_t>(count));
  position_ += static_cast<std::size_t>(count);
  return piece;
}

std::string_view PickleReader::take_line() {
  const std::size_t end = bytes_.find('\n', position_);
  if (end == std::string_view::npos) corrupt("is truncated");
  const std::string_view line = bytes_.substr(position_, end - position_);
  position_ = end + 1;
  return line;
}

template <class T>
T PickleReader::take_int() {
  return load_le<T>(take(sizeof(T)).data());
}

void PickleReader::count_references(std::size_t count) {
  references_ += count;
  if (references_ > limits_.references) {
    corrupt(fmt::format("refers to more than {} values", limits_.references));
  }
}

PickleId PickleReader::make(PickleKind kind) {
  if (nodes_.size() >= limits_.nodes) {
    corrupt(fmt::format("builds more than {} values", limits_.nodes));
  }
  nodes_.emplace_back().kind = kind;
  return static_cast<PickleId>(nodes_.size() - 1);
}

PickleId PickleReader::make_text(PickleKind kind, std::string_view text) {
  const PickleId id = make(kind);
  nodes_[id].text = text;
  return id;
}

void PickleReader::push(PickleId id) {
  count_references(1);
  stack_.push_back(id);
}

void PickleReader::push_int(int64_t value) {
  const PickleId id = make(PickleKind::kInt);
  nodes_[id].integer = value;
  push(id);
}

PickleId PickleReader::top() const {
  const std::size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) corrupt("takes from an empty stack");
  return stack_.back();
}

PickleId PickleReader::pop() {
  const PickleId id = top();
  stack_.pop_back();
  return id;
}

std::size_t PickleReader::pop_mark() {
  if (marks_.empty()) corrupt("has no mark to return to");
  const std::size_t mark = marks_.back();
  marks_.pop_back();
  return mark;
}

void PickleReader::memoize(uint64_t index) {
  if (index > limits_.nodes) corrupt(fmt::format("uses memo slot {}", index));
  const auto slot = static_cast<std::size_t>(index);
  if (slot >= memo_.size()) {
    count_references(slot + 1 - memo_.size());
    memo_.resize(slot + 1, kNoNode);
  }
  memo_[slot] = top();
}

void PickleReader::run() {
  for (;;) {
    const auto opcode = static_cast<unsigned char>(take(1)[0]);
    switch (opcode) {
      case kProto: {
        const auto version = take_int<uint8_t>();
        if (version < 2 || version > 5)
          corrupt(fmt::format("has protocol {}; accepted: 2 to 5", version));
        break;
      }
      case kFrame:
        take(8);
        break;
      case kStop:
        root_ = pop();
        return;
      case kMark:
        count_references(1);
        marks_.push_back(stack_.size());
        break;
      case kPop:
        if (!marks_.empty() && stack_.size() == marks_.back()) {
          marks_.pop_back();
        } else {
          pop();
        }
        break;
      case kPopMark:
        stack_.resize(pop_mark());
        break;
      case kDup:
        push(top());
        break;

      case kNone:
        push(make(PickleKind::kNone));
        break;
      case kNewTrue:
      case kNewFalse: {
        const PickleId id = make(PickleKind::kBool);
        nodes_[id].integer = opcode == kNewTrue;
        push(id);
        break;
      }
      case kBinInt:
        push_int(static_cast<int32_t>(take_int<uint32_t>()));
        break;
      case kBinInt1:
        push_int(take_int<uint8_t>());
        break;
      case kBinInt2:
        push_int(take_int<uint16_t>());
        break;
      case kLong1:
      case kLong4: {
        const uint64_t size = opcode == kLong1 ? take_int<uint8_t>() : take_int<uint32_t>();
        const std::string_view digits = take(size);
        if (size > 8) {  // a random seed or the like
          push(make_text(PickleKind::kOpaque, "int"));
          break;
        }
        uint64_t value = 0;
        for (std::size_t i = 0; i < digits.size(); ++i) {
          value |= static_cast<uint64_t>(static_cast<unsigned char>(digits[i])) << (8 * i);
        }
        if (size > 0 && size < 8 && (digits.back() & 0x80) != 0)
          value |= ~uint64_t{0} << (8 * size);
        push_int(static_cast<int64_t>(value));
        break;
      }
      case kBinFloat: {
        const std::string_view digits = take(8);  // big-endian
        uint64_t bits = 0;
        for (const char c : digits) bits = (bits << 8) | static_cast<unsigned char>(c);
        const PickleId id = make(PickleKind::kFloat);
        nodes_[id].real = std::bit_cast<double>(bits);
        push(id);
        break;
      }

      case kShortBinUnicode:
      case kShortBinBytes:
      case kShortBinString:
        push(make_text(PickleKind::kString, take(take_int<uint8_t>())));
        break;
      case kBinUnicode:
      case kBinBytes:
      case kBinString:
        push(make_text(PickleKind::kString, take(take_int<uint32_t>())));
        break;
      case kBinUnicode8:
      case kBinBytes8:
      case kByteArray8:
        push(make_text(PickleKind::kString, take(take_int<uint64_t>())));
        break;

      case kEmptyTuple:
        push(make(PickleKind::kTuple));
        break;
      case kEmptyList:
        push(make(PickleKind::kList));
        break;
      case kEmptyDict:
        push(make(PickleKind::kDict));
        break;
      case kEmptySet:
        push(make_text(PickleKind::kOpaque, "set"));
        break;
      case kTuple:
        push(collect(PickleKind::kTuple, pop_mark()));
        break;
      case kList:
        push(collect(PickleKind::kList, pop_mark()));
        break;
      case kTuple1:
      case kTuple2:
      case kTuple3: {
        const std::size_t count = opcode - kTuple1 + 1u;
        const std::size_t floor = marks_.empty() ? 0 : marks_.back();
        if (stack_.size() - floor < count) corrupt("takes from an empty stack");
        push(collect(PickleKind::kTuple, stack_.size() - count));
        break;
      }
      case kDict: {
        const std::size_t first = pop_mark();
        if ((stack_.size() - first) % 2 != 0) corrupt("has a dictionary key without a value");
        push(collect(PickleKind::kDict, first));
        break;
      }
      case kFrozenSet:
        stack_.resize(pop_mark());
        push(make_text(PickleKind::kOpaque, "frozenset"));
        break;
      case kAppend:
        top();
        append_items(stack_.size() - 1);
        break;
      case kAppends:
      case kAddItems:
        append_items(pop_mark());
        break;
      case kSetItem:
        if (stack_.size() - (marks_.empty() ? 0 : marks_.back()) < 2) {
          corrupt("takes from an empty stack");
        }
        set_items(stack_.size() - 2);
        break;
      case kSetItems:
        set_items(pop_mark());
        break;

      case kBinPut:
        memoize(take_int<uint8_t>());
        break;
      case kLongBinPut:
        memoize(take_int<uint32_t>());
        break;
      case kMemoize:
        memoize(memo_.size());
        break;
      case kBinGet:
      case kLongBinGet: {
        const uint64_t slot = opcode == kBinGet ? take_int<uint8_t>() : take_int<uint32_t>();
        if (slot >= memo_.size() || memo_[slot] == kNoNode) {
          corrupt(fmt::format("refers to memo slot {}, which is empty", slot));
        }
        push(memo_[slot]);
        break;
      }

      case kGlobal: {
        const std::string_view module = take_line();
        const std::string_view name = take_line();
        const PickleId id = make_text(PickleKind::kGlobal, module);
        nodes_[id].text2 = name;
        push(id);
        break;
      }
      case kStackGlobal: {
        const PickleId name = pop(), module = pop();
        if (nodes_[name].kind != PickleKind::kString ||
            nodes_[module].kind != PickleKind::kString) {
          corrupt("names a class by something that is no string");
        }
        const std::string_view module_text = nodes_[module].text, name_text = nodes_[name].text;
        const PickleId id = make_text(PickleKind::kGlobal, module_text);
        nodes_[id].text2 = name_text;
        push(id);
        break;
      }
      case kNewObjEx:
        pop();  // keyword arguments
        [[fallthrough]];
      case kReduce:
      case kNewObj: {
        const PickleId arguments = pop(), callable = pop();
        push(call(callable, arguments));
        break;
      }
      case kBuild:
        build();
        break;
      case kBinPersId:
        push(persistent(pop()));
        break;

      default:
        corrupt(fmt::format("has opcode 0x{:02x}, which no checkpoint uses", opcode));
    }
  }
}

const PickleNode* PickleReader::get(const PickleNode& container, std::string_view key) const {
  const PickleNode* dict = &container;
  if (dict->kind == PickleKind::kObject) {
    if (dict->integer < 0) return nullptr;
    dict = &nodes_[static_cast<std::size_t>(dict->integer)];
  }
  if (dict->kind != PickleKind::kDict) return nullptr;
  for (std::size_t i = dict->items.size(); i >= 2; i -= 2) {
    const PickleNode& name = nodes_[dict->items[i - 2]];
    if (name.kind == PickleKind::kString && name.text == key) return &nodes_[dict->items[i - 1]];
  }
  return nullptr;
}

}  // namespace rfseg
