#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "rfseg/detections.h"
#include "rfseg/export.h"
#include "rfseg/image.h"
#include "rfseg/model.h"
#include "rfseg/options.h"

namespace rfseg {

/// Progress and cancel for work on many pictures. Both are called on the calling thread.
struct RunControl {
  std::function<void(std::size_t done, std::size_t total)> progress;
  std::function<bool()> cancelled;  ///< true stops before the next batch with Error(kCancelled)
};

/// Pictures in, detections out, by one set of options. Cheap to make; several may share a model.
/// Thread-safe.
class RFSEG_API Predictor {
 public:
  /// Throws Error(kUsage) naming an option that does not fit the model (an unknown class name).
  explicit Predictor(Model model, PredictOptions options = {});
  ~Predictor();
  Predictor(Predictor&&) noexcept;
  Predictor& operator=(Predictor&&) noexcept;

  /// The detections of one picture, in its pixels.
  Detections predict(const ImageView& image) const;
  /// The same for many pictures of any sizes, `batch` at a time through the network, in order.
  std::vector<Detections> predict(std::span<const ImageView> images, int batch = 1,
                                  const RunControl& control = {}) const;

  const Model& model() const;
  /// By class id, as results name them.
  const std::vector<std::string>& class_names() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rfseg
