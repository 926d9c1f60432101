// What rfseg makes of folders of network outputs, for torch_grid.py to compare with PyTorch.
//
//   dump_detections BACKEND CONVENTION FOLDER OUT HxW...
//
// BACKEND: cpu, reference or cuda; CONVENTION: rfdetr or inference. FOLDER holds case folders with
// boxes.npy [1,Q,4], logits.npy [1,Q,K], masks.npy [1,Q,rows,columns]. OUT gets a JSON line a case
// and size; floats are written as the integers that have their bits.

#include <bit>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/npy.h"
#include "postprocess/postprocess.h"

namespace rfseg {
namespace {

using nlohmann::json;

uint32_t bits(float value) { return std::bit_cast<uint32_t>(value); }

int run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 5) throw std::runtime_error("too few arguments; see the source's head");
  PostprocessSpec spec;
  spec.backend = arguments[0] == "cuda"        ? Backend::kCuda
                 : arguments[0] == "reference" ? Backend::kReference
                                               : Backend::kCpu;
  spec.like = arguments[1] == "inference" ? Convention::kInference : Convention::kRfdetr;
  std::vector<std::filesystem::path> folders;
  for (const auto& entry : std::filesystem::directory_iterator(arguments[2])) {
    if (std::filesystem::exists(entry.path() / "masks.npy")) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  std::ofstream out(arguments[3]);
  std::size_t detections = 0;
  for (const auto& folder : folders) {
    const Tensor boxes = read_npy(folder / "boxes.npy"), logits = read_npy(folder / "logits.npy"),
                 masks = read_npy(folder / "masks.npy");
    NetworkOutputs outputs;
    outputs.boxes = boxes.data.data();
    outputs.logits = logits.data.data();
    outputs.masks = masks.data.data();
    outputs.queries = static_cast<int>(logits.dim(1));
    outputs.classes = static_cast<int>(logits.dim(2));
    outputs.mask_rows = static_cast<int>(masks.dim(2));
    outputs.mask_cols = static_cast<int>(masks.dim(3));
    spec.num_select = outputs.queries;
    for (std::size_t i = 4; i < arguments.size(); ++i) {
      int height = 0, width = 0;
      if (std::sscanf(arguments[i].c_str(), "%dx%d", &height, &width) != 2) {
        throw std::runtime_error(arguments[i] + ": expected HxW");
      }
      spec.geometry =
          PreprocessGeometry::stretch(height, width, outputs.mask_rows * 4, outputs.mask_cols * 4);
      json items = json::array();
      for (const Detection& item : postprocess(outputs, spec).items) {
        json box = json::array();
        for (const float v : item.box_xyxy) box.push_back(bits(v));
        items.push_back({{"query", item.query},
                         {"class", item.class_id},
                         {"score", bits(item.score)},
                         {"box", box},
                         {"counts", item.mask->counts}});
        ++detections;
      }
      out << json{{"case", folder.filename().string()}, {"size", arguments[i]}, {"items", items}}
          << '\n';
    }
  }
  if (!out.flush()) throw std::runtime_error(arguments[3] + ": cannot be written");
  std::printf("%zu cases, %zu detections\n", folders.size(), detections);
  return 0;
}

}  // namespace
}  // namespace rfseg

int main(int argc, char** argv) {
  try {
    return rfseg::run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
