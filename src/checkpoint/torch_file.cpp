#include "checkpoint/torch_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_map>

#include "checkpoint/convert.h"
#include "checkpoint/pickle.h"
#include "checkpoint/zip_directory.h"

namespace rfseg {
namespace {

using nlohmann::json;

// A view may show an element more than once (torch's expand), but not so often that a small file
// asks for much memory.
constexpr int64_t kMaxRepeatedElements = int64_t{1} << 23;
constexpr std::size_t kMaxNameBytes = 512;
constexpr std::size_t kMaxTextBytes = 1024;
constexpr std::size_t kMaxListItems = 100'000;

std::optional<DType> storage_dtype(std::string_view type) {
  static const std::map<std::string_view, DType> kTypes = {
      {"FloatStorage", DType::kF32},     {"HalfStorage", DType::kF16},
      {"BFloat16Storage", DType::kBf16}, {"DoubleStorage", DType::kF64},
      {"BoolStorage", DType::kBool},     {"ByteStorage", DType::kU8},
      {"CharStorage", DType::kI8},       {"ShortStorage", DType::kI16},
      {"IntStorage", DType::kI32},       {"LongStorage", DType::kI64}};
  const auto found = kTypes.find(type);
  if (found == kTypes.end()) return std::nullopt;
  return found->second;
}

// The pickle of the archive: the entry that ends in /data.pkl and lies highest.
const ZipEntry& find_pickle(const ByteSource& file, const ZipDirectory& zip) {
  const auto depth = [](const ZipEntry& e) {
    return std::count(e.name.begin(), e.name.end(), '/');
  };
  const ZipEntry* best = nullptr;
  for (const ZipEntry& entry : zip.entries()) {
    const bool is_pickle = entry.name == "data.pkl" || entry.name.ends_with("/data.pkl");
    if (is_pickle && (best == nullptr || depth(entry) < depth(*best))) best = &entry;
  }
  if (best == nullptr) {
    fail_model(file.name(),
               "a zip archive without a data.pkl, so not written by torch.save; accepted: .pth, "
               ".pt, .ckpt of torch.save and .safetensors");
  }
  return *best;
}

class TorchReader {
 public:
  TorchReader(const ByteSource& file, const ZipDirectory& zip, const PickleReader& pickle,
              std::string prefix)
      : file_(file), zip_(zip), pickle_(pickle), prefix_(std::move(prefix)) {}

  FileContents read() {
    const PickleNode& root = pickle_.node(pickle_.root());
    if (root.kind != PickleKind::kDict) {
      fail_model(file_.name(),
                 fmt::format("holds no dictionary of tensors but {}; save "
                             "model.state_dict(), or {{'model': ...}}",
                             root.kind == PickleKind::kOpaque
                                 ? fmt::format("an object of class '{}'", printable(root.text))
                                 : std::string("a single value")));
    }
    const PickleNode* state = nullptr;
    for (const char* key : {"model", "state_dict", "ema_model"}) {
      state = pickle_.get(root, key);
      if (state != nullptr && state->kind == PickleKind::kDict) {
        contents_.config.metadata["weights"] = key;
        break;
      }
      if (state != nullptr && std::string_view(key) == "model") refuse_whole_model(*state);
    }
    if (state == nullptr || state->kind != PickleKind::kDict) state = &root;
    read_config(root);
    read_tensors(*state);
    check_overlap();
    return std::move(contents_);
  }

 private:
  [[noreturn]] void refuse_whole_model(const PickleNode& model) const {
    fail_model(file_.name(), fmt::format("'model' is a whole Python object (class '{}'), not a "
                                         "state dictionary; save model.state_dict()",
                                         printable(model.text)));
  }

  json scalar(const PickleNode& node) const {
    switch (node.kind) {
      case PickleKind::kBool:
        return node.integer != 0;
      case PickleKind::kInt:
        return node.integer;
      case PickleKind::kFloat:
        return node.real;
      case PickleKind::kString:
        return node.text.size() <= kMaxTextBytes ? json(std::string(node.text)) : json();
      default:
        return nullptr;
    }
  }

  // Scalars, and flat lists and dictionaries of scalars; anything deeper becomes null.
  json value(const PickleNode& node) const {
    if (node.items.size() > kMaxListItems) return nullptr;
    if (node.kind == PickleKind::kList || node.kind == PickleKind::kTuple) {
      json list = json::array();
      for (const PickleId id : node.items) list.push_back(scalar(pickle_.node(id)));
      return list;
    }
    if (node.kind == PickleKind::kDict) {
      json dict = json::object();
      for (std::size_t i = 0; i + 1 < node.items.size(); i += 2) {
        const PickleNode& key = pickle_.node(node.items[i]);
        const std::string text = key.kind == PickleKind::kInt
                                     ? std::to_string(key.integer)
                                     : std::string(key.text.substr(0, kMaxTextBytes));
        dict[text] = scalar(pickle_.node(node.items[i + 1]));
      }
      return dict;
    }
    return scalar(node);
  }

  // The fields of a dictionary or namespace that a configuration is made of.
  json object(const PickleNode& node) const {
    json out = json::object();
    const PickleNode* dict = &node;
    if (node.kind == PickleKind::kObject && node.integer >= 0) {
      dict = &pickle_.node(static_cast<PickleId>(node.integer));
    }
    if (dict->kind != PickleKind::kDict) return out;
    for (std::size_t i = 0; i + 1 < dict->items.size(); i += 2) {
      const PickleNode& key = pickle_.node(dict->items[i]);
      if (key.kind != PickleKind::kString || key.text.size() > kMaxNameBytes) continue;
      const std::string name(key.text);
      if (is_architecture_field(name) || name == "class_names" || name == "model_name" ||
          name == "pretrain_weights") {
        out[name] = value(pickle_.node(dict->items[i + 1]));
      }
    }
    return out;
  }

  void read_config(const PickleNode& root) {
    StoredConfig& config = contents_.config;
    for (const char* key : {"rfdetr_version", "model_name", "epoch", "best_total_source",
                            "pytorch-lightning_version"}) {
      const PickleNode* node = pickle_.get(root, key);
      if (node == nullptr) continue;
      const json text = scalar(*node);
      if (text.is_string()) config.metadata[key] = text.get<std::string>();
      if (text.is_number_integer()) config.metadata[key] = text.dump();
    }
    if (config.metadata.contains("model_name"))
      config.hints.push_back(config.metadata["model_name"]);
    if (const PickleNode* stored = pickle_.get(root, "model_config"))
      add_fields(config, object(*stored));
    if (const PickleNode* args = pickle_.get(root, "args")) {
      json fields = object(*args);
      if (args->kind == PickleKind::kDict) {
        // Settings of a training run: they say what the data was, not what the model is.
        fields =
            json{{"class_names", fields.contains("class_names") ? fields["class_names"] : json()},
                 {"pretrain_weights",
                  fields.contains("pretrain_weights") ? fields["pretrain_weights"] : json()}};
      } else if (fields.contains("num_select") && fields["num_select"] == 100) {
        // rfdetr up to 1.5.2 wrote this default where a model had no value of its own.
        fields.erase("num_select");
      }
      add_fields(config, fields);
    }
  }

  void read_tensors(const PickleNode& state) {
    std::unordered_map<std::string_view, std::size_t> seen;
    for (std::size_t i = 0; i + 1 < state.items.size(); i += 2) {
      const PickleNode& key = pickle_.node(state.items[i]);
      const PickleNode& tensor = pickle_.node(state.items[i + 1]);
      if (key.kind != PickleKind::kString || key.text.ends_with("_extra_state")) continue;
      if (tensor.kind != PickleKind::kTensor || key.text.size() > kMaxNameBytes) continue;
      add_tensor(key.text, pickle_.tensor(tensor), seen);
    }
  }

  void add_tensor(std::string_view name, const PickleTensor& tensor,
                  std::unordered_map<std::string_view, std::size_t>& seen) {
    const PickleStorage& storage = pickle_.storage(tensor.storage);
    const std::optional<DType> dtype = storage_dtype(storage.type);
    if (!dtype) {
      contents_.unreadable.push_back(fmt::format("tensor '{}' has element type '{}'",
                                                 printable(name), printable(storage.type)));
      return;
    }
    const auto corrupt = [&](const std::string& what) {
      fail_model(file_.name(), fmt::format("tensor '{}' {}", printable(name), what));
    };
    const int64_t extent = view_extent(tensor.shape, tensor.stride);
    if (extent < 0) {
      corrupt(fmt::format("has size {} and stride {}, which no tensor can have",
                          to_string(tensor.shape), to_string(tensor.stride)));
    }
    if (tensor.offset < 0 || tensor.offset > storage.numel ||
        extent > storage.numel - tensor.offset) {
      corrupt(fmt::format(
          "of size {} and stride {} from element {} on reaches out of its storage of {}",
          to_string(tensor.shape), to_string(tensor.stride), tensor.offset, storage.numel));
    }
    if (element_count(tensor.shape) > std::max(storage.numel, kMaxRepeatedElements)) {
      corrupt(fmt::format("of size {} repeats a storage of {} elements", to_string(tensor.shape),
                          storage.numel));
    }
    const uint64_t base = storage_offset(storage, *dtype, extent == 0);
    StridedPart part{*dtype, tensor.shape, tensor.stride,
                     base + static_cast<uint64_t>(tensor.offset) * element_size(*dtype)};
    TensorRecord record{std::string(name), {std::move(part)}};
    const auto [found, is_new] = seen.emplace(name, contents_.records.size());
    if (is_new) {
      contents_.records.push_back(std::move(record));
    } else {
      contents_.records[found->second] = std::move(record);  // as Python: the last one counts
    }
  }

  // Where the storage's bytes begin. An empty storage may have no entry.
  uint64_t storage_offset(const PickleStorage& storage, DType dtype, bool empty) {
    const auto found = offsets_.find(storage.key);
    uint64_t bytes = 0;
    const ZipEntry* entry = zip_.find(prefix_ + "data/" + std::string(storage.key));
    if (entry == nullptr) {
      if (empty) return 0;
      fail_model(file_.name(), fmt::format("storage '{}data/{}' is missing from the archive",
                                           printable(prefix_), printable(storage.key)));
    }
    if (__builtin_mul_overflow(static_cast<uint64_t>(storage.numel), element_size(dtype), &bytes) ||
        bytes > entry->size) {
      fail_model(file_.name(), fmt::format("storage '{}' has {} bytes, {} elements of {} need more",
                                           printable(entry->name), entry->size, storage.numel,
                                           dtype_name(dtype)));
    }
    if (found != offsets_.end()) return found->second;
    const uint64_t offset = zip_.data_offset(*entry);
    offsets_.emplace(storage.key, offset);
    ranges_.push_back({entry->header_offset, offset + entry->size, entry});
    return offset;
  }

  // Entries that share bytes are how zip bombs are made; torch.save never writes them.
  void check_overlap() {
    std::sort(ranges_.begin(), ranges_.end(),
              [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < ranges_.size(); ++i) {
      if (ranges_[i].begin < ranges_[i - 1].end) {
        fail_model(file_.name(), fmt::format("zip entries '{}' and '{}' overlap",
                                             printable(ranges_[i - 1].entry->name),
                                             printable(ranges_[i].entry->name)));
      }
    }
  }

  struct Range {
    uint64_t begin = 0, end = 0;
    const ZipEntry* entry = nullptr;
  };

  const ByteSource& file_;
  const ZipDirectory& zip_;
  const PickleReader& pickle_;
  std::string prefix_;
  FileContents contents_;
  std::unordered_map<std::string_view, uint64_t> offsets_;
  std::vector<Range> ranges_;
};

}  // namespace

FileContents read_torch_file(const ByteSource& file) {
  const ZipDirectory zip(file);
  const ZipEntry& entry = find_pickle(file, zip);
  const std::string prefix = entry.name.substr(0, entry.name.size() - 8);
  if (zip.find(prefix + "constants.pkl") != nullptr) {
    fail_model(file.name(),
               "a TorchScript archive; accepted: a checkpoint of torch.save with the "
               "model's state dictionary, or .safetensors");
  }
  if (const ZipEntry* order = zip.find(prefix + "byteorder");
      order != nullptr && order->size == 3) {
    if (file.read_string(zip.data_offset(*order), 3) == "big") {
      fail_model(file.name(), "was written on a big-endian machine, which is not supported");
    }
  }
  const uint64_t offset = zip.data_offset(entry);
  if (entry.size > PickleLimits{}.bytes) {
    fail_model(file.name(), fmt::format("data.pkl has {} bytes; at most {} are accepted",
                                        entry.size, PickleLimits{}.bytes));
  }
  const std::string bytes = file.read_string(offset, entry.size);
  const PickleReader pickle(bytes, file.name());
  return TorchReader(file, zip, pickle, prefix).read();
}

}  // namespace rfseg
