// Files that torch.save, safetensors and transformers wrote, against what those read from them.

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "checkpoint/names.h"
#include "checkpoint/tensor_file.h"
#include "checkpoint/test_files.h"
#include "core/model_tensors.h"
#include "core/temporary_folder.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using test::data_path;
using test::read_table;
using test::TemporaryFolder;

// The column of tiny.tsv that has the hashes of an element type.
void expect_tiny(const Checkpoint& checkpoint, std::size_t column) {
  const auto table = read_table("tiny.tsv");
  ASSERT_EQ(table.size(), 135u);
  ASSERT_EQ(required_tensors(checkpoint.config).size(), table.size());
  for (const auto& row : table) {
    const Shape shape = test::parse_shape(row[1]);
    const Tensor tensor = checkpoint.weights->read(row[0], shape);
    EXPECT_EQ(tensor.shape, shape) << row[0];
    EXPECT_EQ(test::hash_of(tensor), row[column]) << row[0];
  }
}

void expect_tiny_config(const ModelConfig& c) {
  EXPECT_EQ(c.variant, "custom");
  EXPECT_EQ(c.height, 16);
  EXPECT_EQ(c.width, 16);
  EXPECT_EQ(c.patch, 4);
  EXPECT_EQ(c.pos_grid, 4);
  EXPECT_EQ(c.windows, 2);
  EXPECT_EQ(c.enc_dim, 64);
  EXPECT_EQ(c.enc_heads, 1);
  EXPECT_EQ(c.enc_layers, 2);
  EXPECT_EQ(c.taps, (std::vector<int>{1, 2}));
  EXPECT_EQ(c.dec_layers, 1);
  EXPECT_EQ(c.queries, 3);
  EXPECT_EQ(c.dim, 32);
  EXPECT_EQ(c.sa_heads, 1);
  EXPECT_EQ(c.ca_heads, 2);
  EXPECT_EQ(c.points, 2);
  EXPECT_EQ(c.ffn_dim, 8);
  EXPECT_EQ(c.levels, std::vector<Level>{Level::kP4});
  EXPECT_TRUE(c.seg);
  EXPECT_EQ(c.logits, 4);
}

const std::vector<std::string> kTinyNames = {"cat", "dog", "élan", "__background__"};

struct Form {
  const char* file;
  std::size_t column;
  const char* weights;
};

class TorchForms : public testing::TestWithParam<Form> {};

TEST_P(TorchForms, ReadsWhatTorchReads) {
  const Checkpoint checkpoint = open_checkpoint(data_path(std::string("torch/") + GetParam().file));
  EXPECT_EQ(checkpoint.format, "torch-zip");
  EXPECT_EQ(checkpoint.metadata.at("weights"), GetParam().weights);
  expect_tiny_config(checkpoint.config);
  EXPECT_EQ(checkpoint.config.num_select, 5);
  EXPECT_EQ(checkpoint.config.class_names, kTinyNames);
  expect_tiny(checkpoint, GetParam().column);
}

INSTANTIATE_TEST_SUITE_P(All, TorchForms,
                         testing::Values(Form{"tiny_stripped.pth", 2, "model"},
                                         Form{"tiny_training.pth", 2, "model"},
                                         Form{"tiny_newest.pth", 2, "model"},
                                         Form{"tiny_lightning.ckpt", 2, "state_dict"},
                                         Form{"tiny_bundle_half.pt", 3, "model"},
                                         Form{"tiny_bf16.pth", 4, "model"}),
                         [](const auto& info) {
                           const std::string name = info.param.file;
                           return name.substr(5, name.find('.') - 5);
                         });

// What packed weights are known by: fine-tuning may change a few biases alone.
TEST(Forms, AFingerprintIsOfEveryByte) {
  const std::string bytes(700'000, 'a');
  const auto of = [](const std::string& file) {
    return TensorFile(std::make_shared<MemorySource>("model.pth", file), {}).fingerprint();
  };
  EXPECT_EQ(of(bytes), of(bytes));
  for (const std::size_t at : {0, 600, 65'535, 70'000, 262'143, 262'144, 699'999}) {
    std::string other = bytes;
    other[at] = 'b';
    EXPECT_NE(of(other), of(bytes)) << at;
  }
  EXPECT_NE(of(bytes + "a"), of(bytes));
}

TEST(TorchForm, TellsWhatTheFileSaysForPeople) {
  const Checkpoint checkpoint = open_checkpoint(data_path("torch/tiny_newest.pth"));
  EXPECT_EQ(checkpoint.metadata.at("model_name"), "RFDETRSegNano");
  EXPECT_EQ(checkpoint.metadata.at("rfdetr_version"), "1.11.2");
  EXPECT_EQ(checkpoint.metadata.at("best_total_source"), "ema");
}

TEST(TorchForm, ListsTensorsInFileOrderWithTheirTypes) {
  const Checkpoint checkpoint = open_checkpoint(data_path("torch/tiny_newest.pth"));
  const auto& tensors = checkpoint.weights->tensors();
  ASSERT_FALSE(tensors.empty());
  EXPECT_EQ(tensors[0].name, "_kp_active_mask");
  EXPECT_EQ(tensors[0].dtype, DType::kBool);
  EXPECT_EQ(tensors[0].shape, (Shape{0, 0}));
  EXPECT_EQ(checkpoint.weights->read("_kp_active_mask").size(), 0);
  EXPECT_EQ(tensors[1].name, "transformer.decoder.layers.0.self_attn.in_proj_weight");
  EXPECT_EQ(checkpoint.weights->find("head._extra_state"), nullptr);
  EXPECT_EQ(checkpoint.weights->find("no such tensor"), nullptr);
  EXPECT_THROW(checkpoint.weights->read("no such tensor"), Error);
}

TEST(TorchForm, ResamplesThePositionTableAtLoad) {
  const Checkpoint checkpoint = open_checkpoint(data_path("torch/tiny_moved.pth"));
  EXPECT_EQ(checkpoint.config.pos_grid, 6);
  EXPECT_EQ(checkpoint.config.height, 24);
  EXPECT_EQ(checkpoint.weights->find(kPositionTable)->shape, (Shape{1, 37, 64}));
  const Tensor table = checkpoint.weights->read(kPositionTable, {1, 37, 64});
  bool compared = false;
  for (const auto& row : read_table("resampled.tsv")) {
    if (row[0] != "f16" || row[1] != "6") continue;
    compared = true;
    const auto expected = test::split(row[2], ' ');
    ASSERT_EQ(expected.size(), (37u * 64 + 52) / 53);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // The sums differ in their last bits, which may move the rounding to fp16 by one step.
      EXPECT_NEAR(table.data[i * 53], std::stof(expected[i]), 0x1p-10) << i;
    }
  }
  EXPECT_TRUE(compared);
}

TEST(Safetensors, ReadsBackWhatItWrites) {
  TemporaryFolder folder;
  for (const bool half : {false, true}) {
    const Checkpoint original = open_checkpoint(data_path("torch/tiny_stripped.pth"));
    write_safetensors(original, folder / "out.safetensors", half);
    const Checkpoint again = open_checkpoint(folder / "out.safetensors");
    EXPECT_EQ(again.format, "safetensors");
    expect_tiny_config(again.config);
    EXPECT_EQ(again.config.num_select, 5);
    EXPECT_EQ(again.config.class_names, kTinyNames);
    // The pool's fp16 values are its fp32 values rounded, so torch's fp16 file is the reference.
    expect_tiny(again, half ? 3 : 2);
  }
}

TEST(Safetensors, KeepsRectanglesAndMovedTables) {
  TemporaryFolder folder;
  ModelOptions options;
  options.height = 32;
  options.width = 16;
  const Checkpoint original = open_checkpoint(data_path("torch/tiny_moved.pth"), options);
  write_safetensors(original, folder / "out.safetensors", false);
  const Checkpoint again = open_checkpoint(folder / "out.safetensors");
  EXPECT_EQ(again.config.height, 32);
  EXPECT_EQ(again.config.width, 16);
  EXPECT_EQ(again.config.pos_grid, 6);
  EXPECT_EQ(test::hash_of(again.weights->read(kPositionTable)),
            test::hash_of(original.weights->read(kPositionTable)));
}

// As `formula` of make_goldens.py: exact in float32.
std::string formula_data(const std::string& name, std::size_t count) {
  const auto seed = static_cast<uint32_t>(test::fnv64(name.data(), name.size()));
  std::string out;
  for (std::size_t i = 0; i < count; ++i) {
    const uint32_t x = seed + 2654435761u * static_cast<uint32_t>(i);
    const float value = static_cast<float>(x >> 8) / 16777216.0f - 0.5f;
    out.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return out;
}

// A header that the safetensors library wrote, with its data.
std::string fill_header(const std::string& header) {
  const auto json = nlohmann::json::parse(header.substr(8));
  std::map<uint64_t, std::string> pieces;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    const auto begin = entry["data_offsets"][0].get<uint64_t>();
    const auto end = entry["data_offsets"][1].get<uint64_t>();
    pieces[begin] = formula_data(name, (end - begin) / 4);
  }
  std::string out = header;
  for (const auto& [begin, piece] : pieces) out += piece;
  return out;
}

TEST(HuggingFace, ReadsBothNamingsAsTransformersConvertsThem) {
  for (const bool native : {true, false}) {
    TemporaryFolder folder;
    const std::string header =
        test::read_data(native ? "safetensors/hf_native.header" : "safetensors/hf_saved.header");
    std::ofstream(folder / "model.safetensors", std::ios::binary) << fill_header(header);
    std::ofstream(folder / "config.json", std::ios::binary) << test::read_data("hf_config.json");
    // A folder is the model in it.
    const Checkpoint checkpoint = open_checkpoint(folder / "");
    EXPECT_EQ(checkpoint.format, native ? "safetensors (Hugging Face names)" : "safetensors");
    expect_tiny_config(checkpoint.config);
    EXPECT_EQ(checkpoint.config.num_select, 3);
    EXPECT_EQ(checkpoint.config.class_names, (std::vector<std::string>{"", "cat", "dog", "élan"}));
    const auto table = read_table("hf.tsv");
    ASSERT_EQ(table.size(), 136u);
    for (const auto& row : table) {
      const Tensor tensor = checkpoint.weights->read(row[0]);
      EXPECT_EQ(tensor.shape, test::parse_shape(row[1])) << row[0];
      if (native) {
        EXPECT_EQ(test::hash_of(tensor), row[2]) << row[0];
      } else {
        const std::string data = formula_data(row[0], tensor.data.size());
        EXPECT_EQ(std::memcmp(data.data(), tensor.data.data(), data.size()), 0) << row[0];
      }
    }
  }
}

TEST(HuggingFace, TakesTheInputSizeFromThePreprocessor) {
  TemporaryFolder folder;
  std::ofstream(folder / "model.safetensors", std::ios::binary)
      << fill_header(test::read_data("safetensors/hf_native.header"));
  std::ofstream(folder / "config.json", std::ios::binary) << test::read_data("hf_config.json");
  std::ofstream(folder / "preprocessor_config.json") << R"({"size": {"height": 24, "width": 32}})";
  const Checkpoint checkpoint = open_checkpoint(folder / "model.safetensors");
  EXPECT_EQ(checkpoint.config.height, 24);
  EXPECT_EQ(checkpoint.config.width, 32);
  EXPECT_EQ(checkpoint.config.pos_grid, 4);
}

}  // namespace
}  // namespace rfseg
