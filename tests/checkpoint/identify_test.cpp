// Fine-tunes, overrides, ambiguity and models that are not for this program.

#include <gtest/gtest.h>

#include "checkpoint/identify.h"

#include "checkpoint/checkpoint.h"
#include "checkpoint/test_files.h"
#include "core/log.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

namespace pk = test::pk;
using test::NamedShapes;
using test::open_bytes;
using test::stock_tensors;

void expect_error(const std::string& bytes, ErrorCode code, const std::vector<std::string>& words,
                  const ModelOptions& options = {}, const std::string& name = "model.pth") {
  try {
    const Checkpoint checkpoint = open_bytes(bytes, options, name);
    FAIL() << "opened as " << checkpoint.config.variant << ", expected: " << words[0];
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    for (const std::string& word : words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << "'" << word << "' not in: " << error.what();
    }
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
  }
}

std::string with_config(const NamedShapes& tensors,
                        std::vector<std::pair<std::string, std::string>> fields) {
  return test::torch_zip(pk::dict(
      {{"model", test::state_of(tensors)}, {"model_config", pk::dict(std::move(fields))}}));
}

std::string with_args(const NamedShapes& tensors,
                      std::vector<std::pair<std::string, std::string>> fields) {
  return test::torch_zip(pk::dict(
      {{"model", test::state_of(tensors)}, {"args", pk::name_space(pk::dict(std::move(fields)))}}));
}

// A table as a model built at another resolution has it.
NamedShapes at_grid(const std::string& variant, int64_t grid) {
  NamedShapes tensors = stock_tensors(variant);
  for (auto& [name, shape] : tensors) {
    if (name.ends_with("position_embeddings")) shape[1] = grid * grid + 1;
  }
  return tensors;
}

TEST(Identify, FineTuneWithOtherClasses) {
  NamedShapes tensors = stock_tensors("seg-small");
  test::set_classes(tensors, 4);
  const auto config =
      open_bytes(with_args(tensors, {{"class_names", pk::strings({"a", "b", "c"})}})).config;
  EXPECT_EQ(config.variant, "seg-small");
  EXPECT_EQ(config.logits, 4);
  EXPECT_EQ(config.class_names, (std::vector<std::string>{"a", "b", "c", "__background__"}));
  // Without names there is nothing to say.
  EXPECT_TRUE(open_bytes(test::flat_model(tensors)).config.class_names.empty());
}

TEST(Identify, CocoNamesGoToTheirCategoryIds) {
  std::vector<std::string> eighty;
  for (const std::string& name : coco_class_names()) {
    if (!name.empty()) eighty.push_back(name);
  }
  NamedShapes tensors = stock_tensors("seg-small");
  EXPECT_EQ(
      open_bytes(with_args(tensors, {{"class_names", pk::strings(eighty)}})).config.class_names,
      coco_class_names());
  // Eighty columns and the no-object one: a fine-tune, label i is names[i].
  test::set_classes(tensors, 81);
  const auto names =
      open_bytes(with_args(tensors, {{"class_names", pk::strings(eighty)}})).config.class_names;
  ASSERT_EQ(names.size(), 81u);
  EXPECT_EQ(names[0], "person");
  EXPECT_EQ(names[80], "__background__");
}

TEST(Identify, CustomResolutionIsPatchTimesGrid) {
  const auto config = open_bytes(test::flat_model(at_grid("seg-medium", 40))).config;
  EXPECT_EQ(config.height, 480);
  EXPECT_EQ(config.pos_grid, 40);
  EXPECT_EQ(config.windows, 2);
  EXPECT_EQ(config.queries, 200);
}

TEST(Identify, QueriesTellSegPreviewFromSegSmall) {
  const auto config = open_bytes(test::flat_model(at_grid("seg-preview", 40))).config;
  EXPECT_EQ(config.variant, "seg-preview");
  EXPECT_EQ(config.windows, 2);
}

TEST(Identify, AsksWhereTwoVariantsFit) {
  const std::string bytes = test::flat_model(at_grid("seg-small", 40));
  expect_error(bytes, ErrorCode::kModel, {"num_windows", "--variant", "seg-nano, seg-small"});
  ModelOptions options;
  options.variant = "seg-small";
  EXPECT_EQ(open_bytes(bytes, options).config.windows, 2);
  options.variant = "seg-nano";
  EXPECT_EQ(open_bytes(bytes, options).config.windows, 1);
  expect_error(test::flat_model(at_grid("xlarge", 40)), ErrorCode::kModel, {"xlarge, 2xlarge"});
  // An odd grid cannot be split in two.
  EXPECT_EQ(open_bytes(test::flat_model(at_grid("seg-small", 41))).config.windows, 1);
}

TEST(Identify, NamesDecideBetweenTwoVariants) {
  const NamedShapes tensors = at_grid("seg-small", 40);
  const std::string state = test::state_of(tensors);
  const auto windows = [&](const std::string& root, const std::string& file) {
    return open_bytes(test::torch_zip(root), {}, file).config.windows;
  };
  EXPECT_EQ(
      windows(pk::dict({{"model", state}, {"model_name", pk::str("RFDETRSegSmall")}}), "m.pth"), 2);
  EXPECT_EQ(
      windows(pk::dict({{"model", state}, {"model_name", pk::str("RFDETRSegNano")}}), "m.pth"), 1);
  EXPECT_EQ(windows(state, "folder/rf-detr-seg-small.pt"), 2);
  EXPECT_EQ(windows(state, "folder/rf-detr-seg-n-ft.pth"), 1);
  EXPECT_EQ(
      windows(
          pk::dict({{"model", state},
                    {"args", pk::dict({{"pretrain_weights", pk::str("rf-detr-seg-nano.pt")}})}}),
          "m.pth"),
      1);
}

TEST(Identify, NamesComeBeforeAGridThatIsAnothersByChance) {
  // seg-nano built at 384: tensor for tensor as seg-small.
  const NamedShapes tensors = at_grid("seg-nano", 32);
  EXPECT_EQ(open_bytes(test::flat_model(tensors)).config.windows, 2);
  const auto named =
      open_bytes(test::torch_zip(pk::dict({{"model", test::state_of(tensors)},
                                           {"model_name", pk::str("RFDETRSegNano")}})))
          .config;
  EXPECT_EQ(named.variant, "seg-nano");
  EXPECT_EQ(named.windows, 1);
  EXPECT_EQ(named.height, 384);
  ModelOptions options;
  options.variant = "seg-nano";
  const auto asked = open_bytes(test::flat_model(tensors), options).config;
  EXPECT_EQ(asked.windows, 1);
  EXPECT_EQ(asked.height, 384);
}

TEST(Identify, UnderstandsPublishedNames) {
  for (const std::string& variant : stock_variants()) {
    EXPECT_EQ(variant_of_name("rf-detr-" + variant + ".pth"), variant);
  }
  EXPECT_EQ(variant_of_name("RFDETRSegNano"), "seg-nano");
  EXPECT_EQ(variant_of_name("RFDETR2XLarge"), "2xlarge");
  EXPECT_EQ(variant_of_name("RFDETRLargeDeprecated"), "large-deprecated");
  EXPECT_EQ(variant_of_name("rf-detr-xxlarge.pth"), "2xlarge");
  EXPECT_EQ(variant_of_name("rf-detr-seg-xxlarge.pt"), "seg-2xlarge");
  EXPECT_EQ(variant_of_name("rf-detr-seg-2xl-ft.pth"), "seg-2xlarge");
  EXPECT_EQ(variant_of_name("rf-detr-seg-l-ft.pth"), "seg-large");
  EXPECT_EQ(variant_of_name("checkpoint_best_total.pth"), "");
  EXPECT_EQ(variant_of_name("my_small_dog.pth"), "");
}

TEST(Identify, TheStoredConfigurationComesFirst) {
  const auto config =
      open_bytes(
          with_config(at_grid("seg-small", 40),
                      {{"num_windows", pk::integer(4)},
                       {"resolution", pk::integer(528)},
                       {"num_queries", pk::integer(60)},
                       {"num_select", pk::integer(50)},
                       {"positional_encoding_size", pk::integer(44)},
                       {"out_feature_indexes", pk::list({pk::integer(1), pk::integer(4),
                                                         pk::integer(8), pk::integer(10)})}}))
          .config;
  EXPECT_EQ(config.windows, 4);
  EXPECT_EQ(config.height, 528);
  EXPECT_EQ(config.pos_grid, 44);
  EXPECT_EQ(config.queries, 60);
  EXPECT_EQ(config.num_select, 50);
  EXPECT_EQ(config.taps, (std::vector<int>{1, 4, 8, 10}));
  EXPECT_EQ(config.enc_layers, 10);
  EXPECT_EQ(config.variant, "custom");
}

TEST(Identify, RectangularResolution) {
  const auto config =
      open_bytes(with_config(stock_tensors("seg-small"),
                             {{"resolution", pk::list({pk::integer(384), pk::integer(480)})}}))
          .config;
  EXPECT_EQ(config.height, 384);
  EXPECT_EQ(config.width, 480);
  EXPECT_EQ(config.variant, "seg-small");
}

TEST(Identify, OldTrainingDefaultOfSelectionIsNotBelieved) {
  EXPECT_EQ(open_bytes(with_args(stock_tensors("large"), {{"num_select", pk::integer(100)}}))
                .config.num_select,
            300);
}

TEST(Identify, StrippedGroupsAndFewerQueries) {
  NamedShapes one = stock_tensors("seg-small");
  std::erase_if(one, [](const auto& t) {
    for (const char* part :
         {"enc_output.", "enc_output_norm.", "enc_out_bbox_embed.", "enc_out_class_embed."}) {
      const std::size_t at = t.first.find(part);
      if (at != std::string::npos && t.first[at + std::string(part).size()] != '0') return true;
    }
    return t.first.find("_embed.10.") != std::string::npos;
  });
  EXPECT_EQ(open_bytes(test::flat_model(one)).config.queries, 100);  // all rows, one group's heads
  test::shape_of(one, "query_feat.weight")[0] = 100;
  test::shape_of(one, "refpoint_embed.weight")[0] = 100;
  EXPECT_EQ(open_bytes(test::flat_model(one)).config.queries, 100);
  test::shape_of(one, "query_feat.weight")[0] = 40;
  test::shape_of(one, "refpoint_embed.weight")[0] = 40;
  EXPECT_EQ(open_bytes(test::flat_model(one)).config.queries, 40);
}

TEST(Identify, SegLargeRunsTwoHundredOfThreeHundredStoredQueries) {
  NamedShapes tensors = stock_tensors("seg-large");
  test::shape_of(tensors, "query_feat.weight")[0] = 3900;
  test::shape_of(tensors, "refpoint_embed.weight")[0] = 3900;
  const auto config = open_bytes(test::flat_model(tensors)).config;
  EXPECT_EQ(config.variant, "seg-large");
  EXPECT_EQ(config.queries, 200);
}

TEST(Identify, ShapeOption) {
  ModelOptions options;
  options.height = 312;
  options.width = 420;
  const std::string bytes = test::flat_model(stock_tensors("seg-nano"));
  const auto config = open_bytes(bytes, options).config;
  EXPECT_EQ(config.height, 312);
  EXPECT_EQ(config.width, 420);
  EXPECT_EQ(config.pos_grid, 26);
  EXPECT_EQ(config.variant, "seg-nano");
  options.width = 313;
  expect_error(bytes, ErrorCode::kUsage, {"312x313", "multiple of 12"}, options);
  options.width = -12;
  expect_error(bytes, ErrorCode::kUsage, {"multiple of 12"}, options);
}

TEST(Identify, VariantOptionThatCannotBe) {
  ModelOptions options;
  options.variant = "nano";
  const std::string bytes = test::flat_model(stock_tensors("seg-nano"));
  expect_error(bytes, ErrorCode::kUsage, {"--variant nano", "patch 16", "12"}, options);
  options.variant = "seg-giant";
  expect_error(bytes, ErrorCode::kUsage, {"seg-giant", "seg-nano"}, options);
}

std::string last_warning;

TEST(Identify, VariantOptionThatTheFileContradictsIsIgnoredWithAWarning) {
  last_warning.clear();
  set_log_sink([](LogLevel, const std::string& message) { last_warning = message; });
  ModelOptions options;
  options.variant = "seg-small";
  const auto config =
      open_bytes(with_config(stock_tensors("seg-nano"), {{"num_windows", pk::integer(1)}}), options)
          .config;
  set_log_sink(nullptr);
  EXPECT_EQ(config.windows, 1);
  EXPECT_NE(last_warning.find("--variant seg-small is ignored"), std::string::npos) << last_warning;
}

TEST(Identify, UnusualDepthTakesTheRestFromTheVariantOption) {
  NamedShapes tensors = stock_tensors("seg-nano");
  std::erase_if(tensors, [](const auto& t) {
    return t.first.find("decoder.layers.3") != std::string::npos ||
           t.first.find("head.blocks.3") != std::string::npos;
  });
  const std::string bytes = test::flat_model(tensors);
  expect_error(bytes, ErrorCode::kModel, {"num_windows", "3 decoder layers", "--variant"});
  ModelOptions options;
  options.variant = "seg-nano";
  const auto config = open_bytes(bytes, options).config;
  EXPECT_EQ(config.dec_layers, 3);
  EXPECT_EQ(config.windows, 1);
  EXPECT_EQ(config.variant, "custom");
}

TEST(Identify, WrappersPrefixesAreRemoved) {
  for (const std::string prefix : {"model.", "model._orig_mod.", "module.", "_orig_mod."}) {
    NamedShapes tensors = stock_tensors("seg-nano");
    for (auto& [name, shape] : tensors) name.insert(0, prefix);
    tensors.emplace_back("criterion.empty_weight", Shape{91});
    const Checkpoint checkpoint =
        open_bytes(test::torch_zip(pk::dict({{"state_dict", test::state_of(tensors)}})));
    EXPECT_EQ(checkpoint.config.variant, "seg-nano") << prefix;
    EXPECT_EQ(checkpoint.weights->find("criterion.empty_weight"), nullptr);
  }
}

// ---------------------------------------------------------------------- what does not fit

TEST(Misfit, MissingAndMisshapenTensorsAreNamed) {
  NamedShapes tensors = stock_tensors("seg-nano");
  const std::string name = "backbone.0.encoder.encoder.encoder.layer.5.mlp.fc1.bias";
  test::shape_of(tensors, name) = {1535};
  expect_error(test::flat_model(tensors), ErrorCode::kModel, {name, "[1535]", "[1536]"});
  std::erase_if(tensors, [&](const auto& t) { return t.first == name; });
  expect_error(test::flat_model(tensors), ErrorCode::kModel, {name, "missing", "[1536]"});
  tensors = stock_tensors("seg-nano");
  test::shape_of(tensors, "refpoint_embed.weight")[0] = 99;
  expect_error(test::flat_model(tensors), ErrorCode::kModel,
               {"refpoint_embed.weight", "[99, 4]", "[100, 4] or more rows"});
}

TEST(Misfit, PatchSizeOfTheConfiguration) {
  expect_error(with_config(stock_tensors("seg-nano"), {{"patch_size", pk::integer(14)}}),
               ErrorCode::kModel, {"patch_size 14", "12"});
}

TEST(Misfit, QueriesAndTapsOfTheConfiguration) {
  expect_error(with_config(stock_tensors("seg-nano"), {{"num_queries", pk::integer(1301)}}),
               ErrorCode::kModel, {"1301", "1300"});
  expect_error(with_config(stock_tensors("seg-nano"),
                           {{"out_feature_indexes", pk::list({pk::integer(3), pk::integer(13)})}}),
               ErrorCode::kModel, {"out_feature_indexes [3, 13]", "12 encoder blocks"});
  expect_error(with_config(stock_tensors("seg-nano"), {{"resolution", pk::integer(313)}}),
               ErrorCode::kModel, {"313x313", "12"});
  expect_error(with_config(stock_tensors("seg-nano"), {{"num_windows", pk::integer(0)}}),
               ErrorCode::kModel, {"num_windows = 0"});
}

TEST(Misfit, UnsupportedArchitectures) {
  const NamedShapes tensors = stock_tensors("seg-nano");
  expect_error(with_config(tensors, {{"two_stage", pk::boolean(false)}}), ErrorCode::kModel,
               {"two_stage = false", "accepted: true"});
  expect_error(with_config(tensors, {{"mask_downsample_ratio", pk::integer(8)}}), ErrorCode::kModel,
               {"mask_downsample_ratio = 8"});
  expect_error(with_config(tensors, {{"encoder", pk::str("pe_core_t")}}), ErrorCode::kModel,
               {"atto, femto or pico"});
}

std::string foreign(const std::string& name, const Shape& shape, const std::string& remove = "") {
  NamedShapes tensors = stock_tensors("nano");
  if (!remove.empty()) {
    std::erase_if(tensors,
                  [&](const auto& t) { return t.first.find(remove) != std::string::npos; });
  }
  tensors.emplace_back(name, shape);
  return test::flat_model(tensors);
}

TEST(Foreign, ModelsOutOfScopeAreRefusedByName) {
  expect_error(foreign("_kp_active_mask", {1, 17}), ErrorCode::kModel, {"keypoint"});
  expect_error(foreign("keypoint_embed.layers.0.weight", {256, 256}), ErrorCode::kModel,
               {"keypoint"});
  expect_error(foreign("backbone.0.encoder.encoder.embeddings.register_tokens", {1, 4, 384}),
               ErrorCode::kModel, {"register tokens"});
  expect_error(
      foreign("backbone.0.encoder.base_model.model.encoder.layer.0.x.lora_A.default.weight",
              {16, 384}, "backbone.0.encoder"),
      ErrorCode::kModel, {"LoRA", "merge"});
  expect_error(foreign("backbone.0.encoder.pe.weight", {1}, "backbone.0.encoder"),
               ErrorCode::kModel, {"atto, femto or pico"});
  expect_error(test::flat_model({{"semantic_embed.weight", {151, 256, 1, 1}},
                                 {"backbone.0.encoder.encoder.embeddings.cls_token", {1, 1, 384}}}),
               ErrorCode::kModel, {"semantic segmentation"});
  NamedShapes infrared = stock_tensors("nano");
  for (auto& [name, shape] : infrared) {
    if (name.ends_with("projection.weight")) shape[1] = 4;
  }
  expect_error(test::flat_model(infrared), ErrorCode::kModel, {"4 channels", "accepted: 3"});
  expect_error(test::flat_model({{"conv1.weight", {64, 3, 7, 7}}, {"fc.weight", {1000, 512}}}),
               ErrorCode::kModel, {"no RF-DETR checkpoint", "conv1.weight"});
}

}  // namespace
}  // namespace rfseg
