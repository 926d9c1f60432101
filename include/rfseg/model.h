#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rfseg/export.h"
#include "rfseg/options.h"

namespace rfseg {

/// What a loaded model is and what runs it.
struct ModelInfo {
  std::string variant;  ///< "seg-nano", ..., or "custom"
  std::string format;   ///< file format of the checkpoint
  int height = 0;       ///< network input rows, pixels
  int width = 0;        ///< network input columns, pixels
  int queries = 0;
  int classes = 0;                       ///< columns of the class head
  bool has_masks = false;                ///< false for detection models
  std::vector<std::string> class_names;  ///< by class id; "" where an id has no name
  int64_t parameters = 0;                ///< that inference uses
  std::string device;                    ///< "cpu", or "cuda:0" and on
  std::string backend;                   ///< which engine runs: "cpu", "reference" or "cuda"
  std::string precision;                 ///< "fp32", on a GPU also "fp16" or "tf32"
  std::size_t memory_bytes = 0;          ///< weights and workspace of the engine
};

/// A checkpoint, loaded and packed for a device. Cheap to copy: copies share one engine.
/// Thread-safe: calls that reach the engine wait for each other.
class RFSEG_API Model {
 public:
  /// Reads a .pth, .pt, .ckpt or .safetensors file, or the downloaded official weights of a variant
  /// name such as "seg-nano". Nothing in the file is executed. Throws Error(kModel) that names the
  /// file and what is wrong with it, Error(kDevice) where the device or precision is not to be had.
  static Model load(const std::string& path, const ModelOptions& options = {});

  const ModelInfo& info() const;

  struct Impl;
  const std::shared_ptr<Impl>& impl() const { return impl_; }

 private:
  explicit Model(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace rfseg
