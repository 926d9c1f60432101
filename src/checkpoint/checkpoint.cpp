#include "checkpoint/checkpoint.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "checkpoint/checkpoint_internal.h"
#include "checkpoint/identify.h"
#include "checkpoint/names.h"
#include "checkpoint/safetensors_file.h"
#include "checkpoint/tensor_names.h"
#include "checkpoint/torch_file.h"
#include "checkpoint/zip_directory.h"
#include "core/log.h"
#include "core/model_tensors.h"

namespace rfseg {
namespace {

constexpr uint64_t kMaxSideFileBytes = uint64_t{4} << 20;
// The largest published model has 121 million weights.
constexpr uint64_t kMaxUnbackedElements = uint64_t{1} << 27;

bool is_regular(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

bool is_directory(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// A small text file beside the checkpoint, "" if there is none.
std::string read_beside(const std::string& folder, const char* name) {
  if (folder.empty()) return "";
  const std::string path = folder + name;
  if (!is_regular(path)) return "";
  const FileSource file(path);
  if (file.size() > kMaxSideFileBytes) {
    fail_model(
        path, fmt::format("has {} bytes; at most {} are accepted", file.size(), kMaxSideFileBytes));
  }
  return file.read_string(0, file.size());
}

void read_huggingface_config(const std::string& folder, StoredConfig& config) {
  const std::string text = read_beside(folder, "config.json");
  if (text.empty()) return;
  const nlohmann::json object = parse_json(text, folder + "config.json");
  if (!object.is_object() || !object.contains("model_type") || object["model_type"] != "rf_detr") {
    return;
  }
  const std::string sizes = read_beside(folder, "preprocessor_config.json");
  add_huggingface(
      config, object,
      sizes.empty() ? nlohmann::json() : parse_json(sizes, folder + "preprocessor_config.json"));
}

// The list that a deployment bundle carries, used where the file itself names nothing.
void read_class_list(const std::string& folder, int columns, StoredConfig& config) {
  if (!config.class_names.empty()) return;
  const std::string text = read_beside(folder, "class_names.txt");
  std::vector<std::string> names;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    names.push_back(std::move(line));
    at = end + 1;
  }
  while (!names.empty() && names.back().empty()) names.pop_back();
  const auto count = static_cast<int>(std::min<std::size_t>(names.size(), 1u << 30));
  if (count == columns || count == columns - 1) config.class_names = std::move(names);
}

[[noreturn]] void refuse_format(const ByteSource& file) {
  constexpr const char* kAccepted =
      "accepted: .pth, .pt and .ckpt as torch.save writes them (torch 1.6 and later), and "
      ".safetensors";
  const std::string head = file.read_string(0, std::min<uint64_t>(file.size(), 512));
  if (head.empty()) fail_model(file.name(), fmt::format("is empty; {}", kAccepted));
  if (head[0] == '\x80') {
    fail_model(file.name(),
               fmt::format("a pickle in the form of torch before 1.6; load it with torch "
                           "and torch.save it again; {}",
                           kAccepted));
  }
  if (head[0] == '<')
    fail_model(file.name(), fmt::format("a web page, not a checkpoint; {}", kAccepted));
  if (head.rfind("version https://git-lfs", 0) == 0) {
    fail_model(file.name(), "a Git LFS pointer: fetch the file itself with `git lfs pull`");
  }
  fail_model(file.name(), fmt::format("no known checkpoint format; {}", kAccepted));
}

}  // namespace

Checkpoint open_checkpoint_source(std::shared_ptr<const ByteSource> source,
                                  const ModelOptions& options, const std::string& folder) {
  Checkpoint checkpoint;
  FileContents contents;
  if (looks_like_zip(*source)) {
    contents = read_torch_file(*source);
    checkpoint.format = "torch-zip";
  } else if (looks_like_safetensors(*source)) {
    contents = read_safetensors_file(*source);
    checkpoint.format = "safetensors";
  } else {
    refuse_format(*source);
  }
  const std::string& origin = source->name();
  if (has_huggingface_names(contents.records)) {
    contents.records = from_huggingface_names(std::move(contents.records), origin);
    checkpoint.format += " (Hugging Face names)";
  } else {
    contents.records = strip_wrapper_prefix(std::move(contents.records));
  }
  refuse_foreign_models(contents.records, origin);
  if (contents.config.fields.empty()) read_huggingface_config(folder, contents.config);

  auto weights = std::make_shared<TensorFile>(std::move(source), std::move(contents.records));
  if (const TensorInfo* head = weights->find("class_embed.bias");
      head != nullptr && head->shape.size() == 1 && head->shape[0] != 91 &&
      head->shape[0] < 1 << 20) {
    read_class_list(folder, static_cast<int>(head->shape[0]), contents.config);
  }
  checkpoint.config = identify_model(*weights, contents.config, options);
  const TensorInfo* table = weights->find(kPositionTable);
  if (table->shape[1] != int64_t{checkpoint.config.pos_grid} * checkpoint.config.pos_grid + 1) {
    weights->resample_positions(checkpoint.config.pos_grid);
  }
  try {
    check_weights(checkpoint.config, *weights);
  } catch (const std::exception& error) {
    if (contents.unreadable.empty()) throw;
    fail_model(origin, fmt::format("{}; accepted: floats of 16, 32 and 64 bits, bool and integers",
                                   contents.unreadable[0]));
  }
  uint64_t elements = 0;
  for (const TensorSpec& tensor : required_tensors(checkpoint.config)) {
    elements += static_cast<uint64_t>(element_count(tensor.shape));
  }
  if (elements > std::max(weights->file().size(), kMaxUnbackedElements)) {
    fail_model(origin,
               fmt::format("describes {} weights in {} bytes", elements, weights->file().size()));
  }
  checkpoint.metadata = std::move(contents.config.metadata);
  checkpoint.weights = std::move(weights);
  return checkpoint;
}

int64_t inference_parameters(const ModelConfig& config) {
  int64_t count = 0;
  for (const TensorSpec& tensor : required_tensors(config)) count += element_count(tensor.shape);
  return count;
}

Checkpoint open_checkpoint(const std::string& path, const ModelOptions& options) {
  std::string file = path;
  if (is_directory(path)) {
    file = path + (path.ends_with('/') ? "" : "/") + "model.safetensors";
    if (!is_regular(file)) {
      fail_model(path, "a folder without model.safetensors; a checkpoint file is expected");
    }
  }
  const std::size_t slash = file.find_last_of('/');
  const std::string folder = slash == std::string::npos ? "./" : file.substr(0, slash + 1);
  return open_checkpoint_source(std::make_shared<FileSource>(file), options, folder);
}

}  // namespace rfseg
