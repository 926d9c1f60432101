#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "postprocess/postprocess.h"
#include "preprocess/preprocess.h"
#include "rfseg/detections.h"
#include "rfseg/image.h"

// The list of a folder of recorded cases: docs/cases.md has the format.

namespace rfseg {

constexpr int kCaseFormatVersion = 1;

/// How the bytes of a pre-processing case are a picture.
struct PictureLayout {
  int width = 0, height = 0;  ///< pixels
  PixelFormat format = PixelFormat::kRgb8;
  YuvMatrix matrix = YuvMatrix::kBt601;
  YuvRange range = YuvRange::kLimited;
};

/// One call of a stage: what went in, in files of the folder and in `spec`, and what must come out.
struct CaseEntry {
  enum class Stage { kPreprocess, kPostprocess };
  Stage stage = Stage::kPostprocess;
  std::string name;
  std::string source;            ///< the picture or video that it was recorded from
  std::optional<int64_t> frame;  ///< video only

  // kPostprocess
  PostprocessSpec postprocess;
  std::string boxes, logits, masks;  ///< file names; `masks` is empty where there are none
  Detections expected;

  // kPreprocess
  PreprocessSpec preprocess;
  PictureLayout picture;
  std::string pixels, tensor;  ///< file names; `tensor` must come out
};

struct CaseManifest {
  std::map<std::string, std::string> made_by;  ///< what recorded it, for people
  std::vector<CaseEntry> cases;
};

/// Throws Error(kInput) for results that JSON cannot hold (not finite).
std::string manifest_text(const CaseManifest& manifest);
/// Throws Error(kInput) naming `name`, the case and the member that is malformed. File names are
/// plain names: none leads out of the folder.
CaseManifest parse_manifest(std::string_view json, const std::string& name);

}  // namespace rfseg
