#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace rfseg {

/// How a picture is brought to the network's input size.
enum class ResizeMode {
  kBilinear,  ///< float, two taps an axis, no antialias (torch align_corners=False): predict() of
              ///< rfdetr 1.11
  kPil,       ///< Pillow's 8-bit antialiased bilinear, bit for bit: evaluation of rfdetr,
              ///< roboflow/inference
  kPil13,  ///< the same with the passes in the order of Pillow 13.0, which differs by one level in
           ///< pictures whose height shrinks by more than twice as many pixels as their width
  kAntialias  ///< float, torch antialias=True
};

/// Whose conventions to follow. docs/conventions.md has the table for what each one decides.
enum class Convention {
  kRfdetr,      ///< RFDETR*.predict() of rfdetr 1.11.2
  kRfdetrEval,  ///< its evaluate(): Pillow resize, every one of num_select detections
  kInference    ///< roboflow/inference 0.39.6: Pillow resize, top Q, integer boxes, threshold 0.4
};

enum class MaskFormat { kNone, kRle, kPolygon, kDense };
enum class Precision { kAuto, kFp32, kFp16, kTf32 };

/// Which implementation runs. `kReference` is the plain one that the others are tested against.
enum class Backend { kAuto, kReference, kCpu, kCuda };

/// How a model is loaded. Defaults suit everyone; set what the file does not say.
struct ModelOptions {
  std::string variant;  ///< decides where neither the stored configuration nor the tensors do
  int height = 0;       ///< network input rows, 0 = the checkpoint's
  int width = 0;        ///< network input columns, 0 = the checkpoint's
  int threads = 0;      ///< CPU threads, 0 = the cores that this process may use
  /// "auto" (the first usable GPU if there is one, else the CPU), "cpu", "cuda" or "cuda:N"
  std::string device = "auto";
  Precision precision = Precision::kAuto;  ///< kAuto: fp16 on a GPU, fp32 on the CPU
  Backend backend = Backend::kAuto;
  /// Folder in which weights are kept as a GPU reads them, for the next start; empty: they are not.
  /// Files there may be deleted at any time.
  std::string weights_cache;
};

/// How pictures become detections. Unset optionals take the convention's value.
struct PredictOptions {
  Convention like = Convention::kRfdetr;
  std::optional<ResizeMode> resize;  ///< rfdetr: bilinear; rfdetr-eval, inference: pil
  std::optional<float> threshold;    ///< strict `>`; rfdetr 0.5, rfdetr-eval none, inference 0.4
  std::map<std::string, float> class_thresholds;  ///< per class name, over `threshold`
  int max_detections = 300;                       ///< kept per picture after selection
  int num_select = 0;                             ///< pairs considered, 0 = the variant's
  std::vector<std::string> class_names;           ///< empty = the checkpoint's
  std::vector<std::string> keep;                  ///< class names to keep, empty = all
  std::vector<std::string> drop;                  ///< class names to drop
  MaskFormat masks = MaskFormat::kRle;
};

}  // namespace rfseg
