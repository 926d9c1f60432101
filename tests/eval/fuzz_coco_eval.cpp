#include <cstdint>
#include <string_view>

#include "eval/coco_data.h"
#include "rfseg/error.h"

// The same bytes as ground truth and as results (against a fixed ground truth), both IoU types.

using namespace rfseg;

namespace {

constexpr std::string_view kTruth = R"({"images":[{"id":7,"height":6,"width":5},
 {"id":9,"height":4,"width":4}],"categories":[{"id":5},{"id":3}],"annotations":[
 {"id":1,"image_id":7,"category_id":3,"area":6,"iscrowd":0,"bbox":[1,1,2,3],
  "segmentation":[[1,1,3,1,3,4,1,4]]},
 {"id":2,"image_id":9,"category_id":5,"area":4.5,"iscrowd":1,"bbox":[0,0,2,2],
  "segmentation":{"size":[4,4],"counts":[0,2,2,2,10]}}]})";
constexpr std::string_view kResults = R"([
 {"image_id":7,"category_id":3,"score":0.9,"bbox":[0,0,3,4]},
 {"image_id":9,"category_id":5,"score":0.9,"bbox":[0,0,3,4]}])";

void run(std::string_view truth_bytes, std::string_view result_bytes, IouType type) {
  try {
    JsonBytes truth_source(truth_bytes, "truth");
    const GroundTruth truth = load_ground_truth(truth_source, type);
    JsonBytes result_source(result_bytes, "results");
    const CocoSummary summary = evaluate(truth, load_results(result_source, truth, type), type);
    for (double value : summary.stats) {
      if (!(value == -1 || (value >= 0 && value <= 1))) __builtin_trap();
    }
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const IouType type : {IouType::kBbox, IouType::kSegm}) {
    run(bytes, kResults, type);
    run(kTruth, bytes, type);
  }
  return 0;
}
