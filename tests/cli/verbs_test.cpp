#include <cmath>

#include "cli/program.h"
#include "core/npy.h"

namespace rfseg {
namespace {

using nlohmann::json;
using testing::json_lines;
using testing::read_text;
using testing::write_text;

class VerbsTest : public testing::ProgramTest {};

TEST_F(VerbsTest, HelpHasAnExampleForEveryVerb) {
  const auto all = run({"--help"});
  EXPECT_EQ(all.code, 0);
  for (const char* verb :
       {"predict", "forward", "preprocess", "postprocess", "info", "convert", "download", "bench",
        "eval", "parity", "capture", "replay", "completion"}) {
    EXPECT_NE(all.out.find(verb), std::string::npos) << verb;
    const auto help = run({verb, "--help"});
    EXPECT_EQ(help.code, 0) << verb;
    EXPECT_NE(help.out.find("Example: "), std::string::npos) << help.out;
  }
  EXPECT_NE(all.out.find("70 a fault of rfseg itself"), std::string::npos) << all.out;
  const auto predict = run({"predict", "--help"});
  for (const char* option :
       {"--output FILE", "--overlay DIR", "--every INT", "--start FLOAT", "--shape HxW",
        "--class-threshold NAME=T", "--masks {rle,polygon,dense,none}"}) {
    EXPECT_NE(predict.out.find(option), std::string::npos) << option;
  }
  for (const char* text :
       {"every Nth frame (1)", "from this second (0)", "up to this second (its end)",
        "together (1)", "a batch (20)", "auto (default) where it is", "(auto): RFSEG_BACKEND",
        "on stdout jsonl", "Title of the page (rfseg results)"}) {
    EXPECT_NE(predict.out.find(text), std::string::npos) << text;
  }
  EXPECT_NE(run({"parity", "--help"}).out.find("of files the lowest score"), std::string::npos);
  // Post-processing resizes nothing and has no weights.
  const auto postprocess = run({"postprocess", "--help"});
  EXPECT_NE(postprocess.out.find("--like"), std::string::npos);
  for (const char* option : {"--resize", "--weights-cache"}) {
    EXPECT_EQ(postprocess.out.find(option), std::string::npos) << option;
  }
  const auto version = run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.rfind("rfseg ", 0), 0u);
}

TEST_F(VerbsTest, PreprocessForwardPostprocessInARowGiveWhatPredictGives) {
  ASSERT_EQ(run({"preprocess", pictures_[0], "--size", "312", "-o", "x.npy"}).code, 0);
  const Tensor x = read_npy(path("x.npy"));
  EXPECT_EQ(x.shape, (Shape{1, 3, 312, 312}));
  const auto forward = run({"forward", "-m", model(), "--input", "x.npy", "-o", "out"});
  ASSERT_EQ(forward.code, 0) << forward.err;
  const Tensor boxes = read_npy(path("out/boxes.npy"));
  const Tensor masks = read_npy(path("out/masks.npy"));
  ASSERT_EQ(boxes.shape.size(), 3u);
  EXPECT_EQ(masks.shape, (Shape{1, boxes.shape[1], 78, 78}));

  const json predicted = json_lines(run({"predict", "-m", model(), pictures_[0]}).out)[0];
  const std::string size = std::to_string(predicted["height"].get<int>()) + "x" +
                           std::to_string(predicted["width"].get<int>());
  const auto post =
      run({"postprocess", "--boxes", "out/boxes.npy", "--logits", "out/logits.npy", "--masks",
           "out/masks.npy", "--image-size", size, "-o", "r.jsonl", "--stats", "post.json"});
  ASSERT_EQ(post.code, 0) << post.err;
  const json stats = json::parse(read_text(path("post.json")));
  EXPECT_EQ(stats["command"], "postprocess");
  EXPECT_EQ(stats["backend"], "cpu");
  EXPECT_EQ(stats["counts"]["pictures"], 1);
  EXPECT_EQ(stats["counts"]["detections"], predicted["detections"].size());
  EXPECT_GT(stats["stages"][1]["total_ms"].get<double>(), 0);
  // On a GPU the same bytes, without one an error.
  const auto gpu =
      run({"postprocess", "--boxes", "out/boxes.npy", "--logits", "out/logits.npy", "--masks",
           "out/masks.npy", "--image-size", size, "-o", "gpu.jsonl", "--device", "cuda"});
  if (gpu.code == 0) {
    EXPECT_EQ(read_text(path("gpu.jsonl")), read_text(path("r.jsonl")));
  } else {
    EXPECT_EQ(gpu.code, 5);
    EXPECT_NE(gpu.err.find("--device cuda: "), std::string::npos) << gpu.err;
  }
  const json line = json_lines(read_text(path("r.jsonl")))[0];
  ASSERT_EQ(line["detections"].size(), predicted["detections"].size());
  ASSERT_FALSE(line["detections"].empty());
  for (std::size_t i = 0; i < line["detections"].size(); ++i) {
    for (const char* key : {"class_id", "score", "box_xyxy", "segmentation"}) {
      EXPECT_EQ(line["detections"][i][key], predicted["detections"][i][key]) << key;
    }
  }
}

TEST_F(VerbsTest, TraceWritesTheNamedPointsAndTopkCanBeForced) {
  ASSERT_EQ(run({"preprocess", pictures_[0], "--size", "312", "-o", "x.npy"}).code, 0);
  const auto trace = run({"forward", "-m", model(), "--input", "x.npy", "-o", "t", "--trace"});
  ASSERT_EQ(trace.code, 0) << trace.err;
  for (const char* name : {"embed", "block0", "tap0", "memory0", "enc_score", "ref", "decoder0",
                           "hs", "mask_features"}) {
    EXPECT_TRUE(std::filesystem::exists(path(std::string("t/") + name + ".npy"))) << name;
  }
  const IntArray topk = read_npy_int(path("t/topk.npy"));
  EXPECT_EQ(topk.data.size(), 100u);
  const auto forced =
      run({"forward", "-m", model(), "--input", "x.npy", "-o", "f", "--topk", "t/topk.npy"});
  ASSERT_EQ(forced.code, 0) << forced.err;
  const Tensor a = read_npy(path("t/logits.npy")), b = read_npy(path("f/logits.npy"));
  ASSERT_EQ(a.shape, b.shape);
  float low = a.data[0], high = a.data[0], worst = 0;
  for (std::size_t i = 0; i < a.data.size(); ++i) {
    low = std::min(low, a.data[i]);
    high = std::max(high, a.data[i]);
    ASSERT_TRUE(std::isfinite(b.data[i]));
    worst = std::max(worst, std::abs(a.data[i] - b.data[i]));
  }
  EXPECT_LE(worst, 1e-5f * (high - low)) << "the fast path and the traced one differ";
}

TEST_F(VerbsTest, InfoAsTextAndJson) {
  const auto text = run({"info", model()});
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_NE(text.out.find("312"), std::string::npos);
  const auto result = run({"info", model(), "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json info = json::parse(result.out);
  EXPECT_EQ(info["height"], 312);
  EXPECT_EQ(info["queries"], 100);
  EXPECT_EQ(info["classes"], 91);
  EXPECT_EQ(info["has_masks"], true);
  EXPECT_EQ(info["backend"], "cpu");
  EXPECT_GT(info["parameters"].get<int64_t>(), 1000000);
  ASSERT_FALSE(info["tensors"].empty());
  EXPECT_TRUE(info["tensors"][0].contains("dtype"));
  EXPECT_EQ(info["class_names"][17], "cat");
}

TEST_F(VerbsTest, InfoTellsWhetherThereIsCuda) {
  const json cuda = json::parse(run({"info", "--json"}).out)["cuda"];
  const auto text = run({"info"});
  EXPECT_EQ(cuda["built_in"].get<bool>(), !cuda["architectures"].empty());
  EXPECT_EQ(cuda.contains("why_not"), !cuda["usable"].get<bool>());
  const std::string built =
      cuda["built_in"].get<bool>()
          ? "built in for the architectures " + cuda["architectures"][0].get<std::string>()
          : "not built in";
  EXPECT_NE(text.out.find("CUDA            " + built), std::string::npos) << text.out;
}

TEST_F(VerbsTest, EvalSaysWhereBoxesStandForMasks) {
  write_text(path("gt.json"),
             R"({"images": [{"id": 1, "width": 9, "height": 9}], "categories": [{"id": 1}],
                 "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "area": 9, "iscrowd": 0,
                                  "bbox": [1, 1, 3, 3], "segmentation": [[1, 1, 4, 1, 4, 4, 1, 4]]}]})");
  write_text(path("boxes.json"),
             R"([{"image_id": 1, "category_id": 1, "score": 1, "bbox": [1, 1, 3, 3]}])");
  const auto eval = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"eval", "--gt", "gt.json", "--results", "boxes.json"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  const auto masks = eval({"--json"});
  EXPECT_EQ(masks.code, 0);
  EXPECT_NE(masks.err.find("boxes.json: 1 of 1 results have no mask; their boxes stand for masks"),
            std::string::npos)
      << masks.err;
  EXPECT_EQ(json::parse(masks.out)["boxes_as_masks"], 1);
  const auto boxes = eval({"--json", "--iou", "bbox"});
  EXPECT_EQ(boxes.err, "");
  EXPECT_FALSE(json::parse(boxes.out).contains("boxes_as_masks"));
}

TEST_F(VerbsTest, EvalSaysForHowManyPicturesThereIsNoResult) {
  write_text(path("gt.json"),
             R"({"images": [{"id": 1, "width": 9, "height": 9}, {"id": 2, "width": 9, "height": 9},
                            {"id": 3, "width": 9, "height": 9}], "categories": [{"id": 1}],
                 "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "area": 9, "iscrowd": 0,
                                  "bbox": [1, 1, 3, 3]},
                                 {"id": 2, "image_id": 3, "category_id": 1, "area": 9, "iscrowd": 0,
                                  "bbox": [1, 1, 3, 3]}]})");
  const auto eval = [&](const std::string& results) {
    write_text(path("boxes.json"), results);
    return run({"eval", "--gt", "gt.json", "--results", "boxes.json", "--iou", "bbox", "--json"});
  };
  const std::string first =
      R"({"image_id": 1, "category_id": 1, "score": 1, "bbox": [1, 1, 3, 3]})";
  const auto one = eval("[" + first + "]");
  EXPECT_EQ(one.code, 0);
  EXPECT_NE(one.err.find("boxes.json: no result for 1 of 2 annotated pictures"), std::string::npos)
      << one.err;
  const auto all = eval("[" + first + ", " +
                        R"({"image_id": 3, "category_id": 1, "score": 1, "bbox": [1, 1, 3, 3]}])");
  EXPECT_EQ(all.err, "");
}

TEST_F(VerbsTest, InfoOfAFileWhoseNameIsNoUtf8) {
  std::filesystem::create_symlink(model(), path("m\xe9.safetensors"));
  const auto result = run({"info", "m\xe9.safetensors", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(json::parse(result.out)["file"], "m\uFFFD.safetensors");
}

TEST_F(VerbsTest, ConvertKeepsTheAnswers) {
  const auto convert = run({"convert", model(), "c.safetensors", "--dtype", "f32"});
  ASSERT_EQ(convert.code, 0) << convert.err;
  const auto before = run({"predict", "-m", model(), pictures_[0]});
  const auto after = run({"predict", "-m", "c.safetensors", pictures_[0]});
  EXPECT_EQ(after.code, 0) << after.err;
  EXPECT_EQ(before.out, after.out);
}

TEST_F(VerbsTest, BenchGivesEveryStage) {
  const auto result = run({"bench", "-m", model(), "--batch", "1,2", "--rounds", "2", "--warmup",
                           "1", "--image-size", "240x320", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const json bench = json::parse(result.out);
  std::vector<std::string> names;
  for (const json& stage : bench["stages"]) {
    names.push_back(stage["name"].get<std::string>() + std::to_string(stage["batch"].get<int>()));
    EXPECT_GT(stage["median_ms"].get<double>(), 0);
    EXPECT_LE(stage["median_ms"].get<double>(), stage["p99_ms"].get<double>());
    EXPECT_EQ(stage["launches"], 0);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"decode1", "preprocess1", "network1", "network2",
                                             "postprocess1", "whole1"}));
  EXPECT_GT(bench["load_ms"].get<double>(), 0);
}

TEST_F(VerbsTest, TheGpusKernelsAreNotTimedOnTheCpu) {
  const auto bench = run({"bench", "-m", model(), "--kernels", "--device", "cpu"});
  EXPECT_EQ(bench.code, 5);
  EXPECT_NE(bench.err.find("--device cuda"), std::string::npos) << bench.err;
  EXPECT_EQ(bench.out, "");
}

TEST_F(VerbsTest, AblateSaysWhatItTakes) {
  const auto expect_usage = [&](const std::vector<std::string>& words, const char* named) {
    const auto result = run(words);
    EXPECT_EQ(result.code, 2) << words.back();
    EXPECT_NE(result.err.find(named), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  };
  expect_usage({"ablate", "--queries", "100,ten"}, "--queries");
  expect_usage({"ablate", "--queries", "0"}, "--queries");
  expect_usage({"ablate", "--image-size", "12xx"}, "--image-size");
  expect_usage({"ablate", "-m", model()}, "--image");
  expect_usage({"ablate", "--device", "cpu"}, "--device");
}

TEST_F(VerbsTest, CompletionNamesVerbsAndOptions) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const auto result = run({"completion", shell});
    EXPECT_EQ(result.code, 0);
    EXPECT_NE(result.out.find("predict"), std::string::npos);
    EXPECT_NE(result.out.find("threshold"), std::string::npos);
  }
  const auto works = run({"completion", "bash"},
                         "| (cat; echo 'COMP_WORDS=(rfseg predict --thres); COMP_CWORD=2; _rfseg; "
                         "echo ${COMPREPLY[@]}') | bash");
  EXPECT_EQ(works.out, "--threshold\n");
}

TEST_F(VerbsTest, PostprocessTakesClassMapAndTransform) {
  ASSERT_EQ(run({"preprocess", pictures_[0], "--size", "312", "-o", "x.npy"}).code, 0);
  ASSERT_EQ(run({"forward", "-m", model(), "--input", "x.npy", "-o", "out"}).code, 0);
  std::string map = "[";
  for (int c = 0; c < 91; ++c) map += (c > 0 ? "," : "") + std::string(c == 1 ? "-1" : "7");
  write_text(path("map.json"), map + "]");
  const auto result =
      run({"postprocess", "--boxes", "out/boxes.npy", "--logits", "out/logits.npy", "--masks",
           "out/masks.npy", "--image-size", "480x640", "--class-map", "map.json", "-o", "r.jsonl"});
  ASSERT_EQ(result.code, 0) << result.err;
  for (const json& detection : json_lines(read_text(path("r.jsonl")))[0]["detections"])
    EXPECT_EQ(detection["class_id"], 7);
}

}  // namespace
}  // namespace rfseg
