#include "eval/coco_eval.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "eval/coco_data.h"
#include "rfseg/error.h"

// Goldens: data/, written by make_goldens.py with pycocotools.

namespace rfseg {
namespace {

using Json = nlohmann::json;

const std::string kData = RFSEG_SOURCE_DIR "/tests/eval/data/";

Json load(const std::string& name) {
  std::ifstream file(kData + name);
  return Json::parse(file);
}

CocoSummary evaluate_text(const std::string& truth_text, const std::string& result_text,
                          IouType type) {
  JsonBytes truth_source(truth_text, "truth.json");
  const GroundTruth truth = load_ground_truth(truth_source, type);
  JsonBytes result_source(result_text, "results.json");
  return evaluate(truth, load_results(result_source, truth, type), type);
}

void expect_stats(const CocoSummary& summary, const Json& expected) {
  ASSERT_EQ(expected.size(), summary.stats.size());
  for (std::size_t i = 0; i < summary.stats.size(); ++i) {
    EXPECT_TRUE(std::abs(summary.stats[i] - expected[i].get<double>()) <= 1e-9)
        << "number " << i << ": " << summary.stats[i] << " instead of " << expected[i];
  }
}

TEST(CocoEval, PublicSampleAsPycocotools) {
  const Json expected = load("expected.json");
  const CocoSummary segm =
      evaluate_coco(kData + "instances.json", kData + "results.json", IouType::kSegm);
  expect_stats(segm, expected["segm"]);
  EXPECT_NEAR(segm.stats[0], .3195452758576433, 1e-9);
  EXPECT_NEAR(segm.stats[1], .5622883972521636, 1e-9);
  EXPECT_NEAR(segm.stats[2], .29892653412086784, 1e-9);
  expect_stats(evaluate_coco(kData + "instances.json", kData + "results.json", IouType::kBbox),
               expected["bbox"]);
}

TEST(CocoEval, RandomCasesAsPycocotools) {
  const Json cases = load("cases.json");
  ASSERT_GE(cases.size(), 10u);
  for (const Json& one : cases) {
    SCOPED_TRACE(one["name"].get<std::string>());
    const std::string truth = one["truth"].dump(), results = one["results"].dump();
    expect_stats(evaluate_text(truth, results, IouType::kBbox), one["bbox"]);
    expect_stats(evaluate_text(truth, results, IouType::kSegm), one["segm"]);
  }
}

TEST(CocoEval, TableAsPycocotoolsPrintsIt) {
  CocoSummary summary;
  summary.stats.fill(-1);
  summary.stats[0] = 0.31954;
  summary.stats[7] = 1;
  const std::string table = summary.table(IouType::kSegm);
  EXPECT_NE(table.find(" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = "
                       "0.320\n"),
            std::string::npos);
  EXPECT_NE(table.find(" Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=100 ] = "
                       "-1.000\n"),
            std::string::npos);
  EXPECT_NE(table.find(" Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets= 10 ] = "
                       "1.000\n"),
            std::string::npos);
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 12);
}

const std::string kTruth =
    R"({"images":[{"id":7,"height":6,"width":5}],"categories":[{"id":3}],"annotations":[
    {"id":1,"image_id":7,"category_id":3,"area":6,"iscrowd":0,"bbox":[1,1,2,3],
     "segmentation":[[1,1,3,1,3,4,1,4]]}]})";

TEST(CocoEval, NothingFound) {
  const CocoSummary summary = evaluate_text(kTruth, "[]", IouType::kSegm);
  EXPECT_EQ(summary.stats[0], 0);
  EXPECT_EQ(summary.stats[8], 0);
  EXPECT_EQ(summary.stats[5], -1);
}

TEST(CocoEval, NothingToFind) {
  const CocoSummary summary =
      evaluate_text(R"({"images":[],"categories":[],"annotations":[]})", "[]", IouType::kBbox);
  for (double value : summary.stats) EXPECT_EQ(value, -1);
}

TEST(CocoEval, AnnotationsOfUnknownPicturesAreLeftOut) {
  std::string truth = kTruth;
  truth.insert(truth.rfind("]}"), R"(,{"id":2,"image_id":8,"category_id":3},
      {"id":3,"image_id":7,"category_id":4})");
  const std::string results =
      R"([{"image_id":7,"category_id":3,"score":1,"bbox":[1,1,2,3]},
          {"image_id":7,"category_id":4,"score":1,"bbox":[1,1,2,3]}])";
  EXPECT_NEAR(evaluate_text(truth, results, IouType::kBbox).stats[0], 1, 1e-9);
  EXPECT_NEAR(evaluate_text(truth, results, IouType::kSegm).stats[0], 1, 1e-9);
}

std::string error_of(const std::string& truth, const std::string& results, IouType type) {
  try {
    evaluate_text(truth, results, type);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kInput);
    return e.what();
  }
  return "no error";
}

struct BadInput {
  const char* text;
  const char* message;  ///< part of it
};

TEST(CocoEval, MalformedResultsNameTheEntry) {
  const std::string good =
      R"({"image_id":7,"category_id":3,"score":0.5,"segmentation":{"size":[6,5],"counts":[30]}},)";
  const BadInput cases[] = {
      {R"({"category_id":3,"score":1})", "entry 1: has no 'image_id'"},
      {R"({"image_id":8,"category_id":3,"score":1})", "entry 1: image_id 8 is not in"},
      {R"({"image_id":7.5})", "entry 1: image_id must be a whole number"},
      {R"({"image_id":"7"})", "entry 1: image_id holds a string"},
      {R"({"image_id":7,"score":1})", "entry 1: has no 'category_id'"},
      {R"({"image_id":7,"category_id":3})", "entry 1: has no 'score'"},
      {R"({"image_id":7,"category_id":3,"score":null})", "entry 1: score holds null"},
      {R"({"image_id":7,"category_id":3,"score":[1]})", "entry 1: score holds an array"},
      {R"({"image_id":7,"category_id":3,"score":{}})", "entry 1: score holds an object"},
      {R"({"image_id":7,"category_id":3,"score":1})", "entry 1: has no segmentation"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":"abc"})",
       "entry 1: segmentation holds a string"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":[]})", "an empty list"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":[1,2,3]})",
       "entry 1: segmentation holds a number"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":[[1,2,3]]})", "three points"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":{"counts":"0"}})",
       "entry 1: segmentation has no 'size'"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":{"size":[6,5]}})",
       "entry 1: segmentation has no 'counts'"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":{"size":[6,-5],"counts":"0"}})",
       "'size' must be"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":{"size":[6,5,4],"counts":"0"}})",
       "'size' must be"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":{"size":6,"counts":"0"}})",
       "must hold 'size'"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":{"size":[6,5],"counts":[31]}})",
       "entry 1: run-length mask: the runs cover more"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":{"size":[6,5],"counts":[1.5]}})",
       "whole numbers"},
      {R"({"image_id":7,"category_id":3,"score":1,"segmentation":{"size":[6,5],"counts":"0"}})",
       "entry 1: run-length mask: the runs cover 0 of"},
      {R"({"image_id":7,"category_id":3,"score":1,
           "segmentation":{"size":[2000000000,2000000000],"counts":[4000000000000000000]}})",
       "limit of 2^30"},
      {R"({"image_id":7,"category_id":3,"score":1,"bbox":[1,2,3,4,5]})",
       "entry 1: bbox must hold four"},
      {"5", "entry 1: holds a number"},
      {"[]", "entry 1: holds an array"},
  };
  for (const BadInput& bad : cases) {
    const std::string message = error_of(kTruth, "[" + good + bad.text + "]", IouType::kSegm);
    EXPECT_NE(message.find("results.json: "), std::string::npos) << message;
    EXPECT_NE(message.find(bad.message), std::string::npos) << message << " for " << bad.text;
  }
  const std::string boxes = R"([{"image_id":7,"category_id":3,"score":1,"bbox":[1,2,3,4]},
      {"image_id":7,"category_id":3,"score":1,"segmentation":{"size":[6,5],"counts":[30]}}])";
  EXPECT_NE(error_of(kTruth, boxes, IouType::kBbox).find("entry 1: has no 'bbox'"),
            std::string::npos);
}

TEST(CocoEval, MalformedGroundTruthNamesTheEntry) {
  const BadInput cases[] = {
      {R"([])", "expected an object"},
      {R"("x")", "expected an object"},
      {R"({"images":[],"categories":[]})", "has no 'annotations'"},
      {R"({"images":{},"categories":[],"annotations":[]})", "'images' must be one array"},
      {R"({"images":null,"categories":[],"annotations":[]})", "'images' must be one array"},
      {R"({"images":[{}],"categories":[],"annotations":[]})", "images[0]: has no 'id'"},
      {R"({"images":[],"categories":[{"id":1},{"id":"a"}],"annotations":[]})",
       "categories[1]: id holds a string"},
      {R"({"images":[{"id":1}],"categories":[{"id":1}],"annotations":[
          {"id":1,"image_id":1,"category_id":1}]})",
       "annotations[0]: has no 'area'"},
      {R"({"images":[{"id":1}],"categories":[{"id":1}],"annotations":[
          {"id":1,"image_id":1,"category_id":1,"area":1,
           "segmentation":[[1,2,3,4,5,6]],"bbox":[1,2,3]}]})",
       "annotations[0]: "},
      {R"({"images":[{"id":1,"height":5,"width":5}],"categories":[{"id":1}],"annotations":[
          {"id":1,"image_id":1,"category_id":1,"area":1,"bbox":[1,2,3,4],
           "segmentation":[[1,2,3,4,5,6]]},
          {"id":1,"image_id":1,"category_id":1,"area":1,"bbox":[1,2,3,4],
           "segmentation":[[1,2,3,4,5,6]]}]})",
       "annotations[1]: repeats the id 1"},
      {"{\"images\":[{\"id\":1\x01", "not valid JSON"},
      {"{\"images\":[{\"id\":\"\xff\xfe", "not valid JSON"},
      {R"({"images":[{"id":1e999}]})", "not valid JSON"},
      {"", "not valid JSON"},
  };
  for (const BadInput& bad : cases) {
    for (const IouType type : {IouType::kBbox, IouType::kSegm}) {
      const std::string message = error_of(bad.text, "[]", type);
      EXPECT_TRUE(message.starts_with("truth.json: ")) << message;
      EXPECT_NE(message.find(bad.message), std::string::npos) << message << " for " << bad.text;
      EXPECT_LT(message.size(), 400u);
      for (char c : message) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << message;
    }
  }
  EXPECT_NE(error_of(kTruth, "{}", IouType::kBbox).find("results.json: expected an array"),
            std::string::npos);
  EXPECT_NE(error_of(kTruth, "[{}", IouType::kBbox).find("results.json: "), std::string::npos);
}

TEST(CocoEval, DeepNestingIsReadWithoutRecursion) {
  std::string truth = R"({"info":)" + std::string(1 << 20, '[') + std::string(1 << 20, ']') + "," +
                      kTruth.substr(1);
  EXPECT_EQ(evaluate_text(truth, "[]", IouType::kBbox).stats[0], 0);
}

TEST(CocoEval, MissingFilesAreInputErrors) {
  const std::string gone = kData + "no such file.json";
  for (const auto& [truth, results] :
       {std::pair(gone, kData + "results.json"), std::pair(kData + "instances.json", gone),
        std::pair(kData, gone)}) {
    try {
      evaluate_coco(truth, results, IouType::kSegm);
      FAIL() << "expected an error";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kInput);
      EXPECT_NE(std::string(e.what()).find(kData), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace rfseg
