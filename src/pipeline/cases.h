#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "pipeline/case_manifest.h"

// Calls of the stages before and after the network, recorded with what must come out of them.

namespace rfseg {

/// Bytes of a picture whose planes lie one after another without padding.
std::size_t packed_bytes(const PictureLayout& layout);
/// The planes of `view` in that form.
std::vector<uint8_t> pack_picture(const ImageView& view);
/// A view of `bytes`, packed_bytes(layout) of them.
ImageView packed_view(const uint8_t* bytes, const PictureLayout& layout);

/// A case with its arrays.
struct RecordedCase {
  CaseEntry entry;
  Tensor boxes, logits, masks;  ///< kPostprocess: [Q, 4], [Q, K], [Q, rows, columns] or empty
  std::vector<uint8_t> pixels;  ///< kPreprocess, packed
  Tensor tensor;                ///< kPreprocess: [3, network_height, network_width]

  NetworkOutputs outputs() const;
  ImageView view() const { return packed_view(pixels.data(), entry.picture); }
};

/// What a case that is recorded keeps of the network's outputs.
struct RecordOptions {
  bool half_masks = false;  ///< masks are rounded to float16 first, and stored as that
  /// Only queries with a detection, and this many of the others, those with the largest logits. The
  /// rest would not change the answer. Not set: all.
  std::optional<int> weaker_queries;
};

/// Writes cases to a folder. Without finish() the destructor removes what was written.
class CaseWriter {
 public:
  /// The folder is made, or must be empty. Throws Error(kUsage) for one that is not,
  /// Error(kOutput).
  CaseWriter(std::string folder, std::map<std::string, std::string> made_by);
  ~CaseWriter();
  CaseWriter(const CaseWriter&) = delete;
  CaseWriter& operator=(const CaseWriter&) = delete;

  /// `spec` with the picture's geometry. What must come out is what the reference implementation
  /// makes of the stored values.
  void add_postprocess(const std::string& source, std::optional<int64_t> frame,
                       const NetworkOutputs& outputs, const PostprocessSpec& spec,
                       const RecordOptions& options);
  /// `tensor` [3, network_height, network_width] is what must come out.
  void add_preprocess(const std::string& source, std::optional<int64_t> frame,
                      const ImageView& picture, const PreprocessSpec& spec, const float* tensor);
  std::size_t cases() const { return manifest_.cases.size(); }
  void finish();

 private:
  CaseEntry begin(CaseEntry::Stage stage, const std::string& source, std::optional<int64_t> frame);
  /// The path of a file that is written now.
  const std::string& path(const std::string& name);

  std::string folder_;
  bool made_folder_ = false, finished_ = false;
  std::vector<std::string> written_;
  CaseManifest manifest_;
};

/// The manifest of a folder. Throws Error(kInput).
CaseManifest read_manifest(const std::string& folder);
/// The arrays of a case, checked against each other and against its spec. Throws Error(kInput)
/// naming the file.
RecordedCase read_case(const std::string& folder, const CaseEntry& entry);

struct CaseTolerance {
  double box_px = 0, score = 0, tensor = 0;
};

/// How answers differ from what must come out: nothing, or one line. Detections are compared one by
/// one, in order: classes, queries and run lengths equal, boxes, scores and tensors within the
/// tolerance (0: the same bits, but that 0 equals -0). A NaN differs from everything. `tensor` is
/// that of pre-processing, `detections` that of post-processing.
std::optional<std::string> check_answer(const RecordedCase& recorded, const Detections& detections,
                                        const float* tensor, const CaseTolerance& tolerance);

/// Runs the case on `backend` and checks its answer.
std::optional<std::string> check_case(const RecordedCase& recorded, Backend backend,
                                      int cuda_device, const CaseTolerance& tolerance);

/// One call of the case's stage, as timed. `out` has the size of `recorded.tensor`; it is written
/// by pre-processing.
Detections run_case(const RecordedCase& recorded, Backend backend, int cuda_device, float* out);

}  // namespace rfseg
