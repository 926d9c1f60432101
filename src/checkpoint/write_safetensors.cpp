#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "checkpoint/byte_source.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors_file.h"
#include "core/files.h"
#include "core/half.h"
#include "core/model_tensors.h"

namespace rfseg {
namespace {

using nlohmann::json;

json config_json(const ModelConfig& c) {
  json levels = json::array();
  for (const Level level : c.levels) {
    levels.push_back(level == Level::kP3 ? "P3" : level == Level::kP4 ? "P4" : "P5");
  }
  return {{"variant", c.variant},
          {"resolution", {c.height, c.width}},
          {"patch_size", c.patch},
          {"positional_encoding_size", c.pos_grid},
          {"num_windows", c.windows},
          {"out_feature_indexes", c.taps},
          {"projector_scale", levels},
          {"dec_layers", c.dec_layers},
          {"hidden_dim", c.dim},
          {"sa_nheads", c.sa_heads},
          {"ca_nheads", c.ca_heads},
          {"dec_n_points", c.points},
          {"num_queries", c.queries},
          {"num_select", c.num_select},
          {"group_detr", 1},
          {"segmentation_head", c.seg},
          {"class_names", c.class_names}};
}

void write_half(OutputFile& out, const Tensor& tensor, const std::string& name,
                const std::string& origin) {
  std::vector<uint16_t> half(tensor.data.size());
  for (std::size_t i = 0; i < half.size(); ++i) {
    half[i] = float_to_half(tensor.data[i]);
    if ((half[i] & 0x7c00u) == 0x7c00u) {
      fail_model(origin,
                 fmt::format("tensor '{}' holds {}, which float16 cannot hold (at most 65504); "
                             "convert to f32",
                             name, tensor.data[i]));
    }
  }
  out.write({reinterpret_cast<const char*>(half.data()), half.size() * sizeof(uint16_t)});
}

}  // namespace

void write_safetensors(const Checkpoint& checkpoint, const std::string& path, bool half) {
  const std::vector<TensorSpec> tensors = required_tensors(checkpoint.config);
  json header = json::object();
  json& metadata = header["__metadata__"];
  for (const auto& [key, value] : checkpoint.metadata) metadata[key] = value;
  metadata["format"] = "pt";
  // Names may hold bytes that are no UTF-8; JSON cannot.
  const auto dump = [](const json& value) {
    return value.dump(-1, ' ', false, json::error_handler_t::replace);
  };
  json config = config_json(checkpoint.config);
  // Read back as they are, by column.
  config["names_by_column"] = true;
  metadata[kConfigKey] = dump(config);
  const uint64_t size = half ? 2 : 4;
  uint64_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    const uint64_t end = offset + static_cast<uint64_t>(element_count(tensor.shape)) * size;
    header[tensor.name] = {
        {"dtype", half ? "F16" : "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = dump(header);
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string length(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));

  OutputFile out(path);
  out.write(length);
  out.write(text);
  for (const TensorSpec& expected : tensors) {
    const Tensor tensor = checkpoint.weights->read(expected.name, expected.shape);
    if (half) {
      write_half(out, tensor, expected.name, checkpoint.weights->origin());
    } else {
      out.write(
          {reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size() * sizeof(float)});
    }
  }
  out.commit();
}

}  // namespace rfseg
