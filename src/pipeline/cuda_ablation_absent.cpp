#include "core/cuda/usable.h"
#include "pipeline/ablation.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

[[noreturn]] void refuse() {
  std::string why;
  cuda::usable(&why);
  throw Error(ErrorCode::kDevice, why);
}

}  // namespace

std::vector<AblationRow> ablate_postprocess(const RecordedCase&, const AblationOptions&) {
  refuse();
}

std::vector<AblationRow> ablate_network(const ModelConfig&, const WeightSource&, const float*,
                                        const PostprocessSpec&, const AblationOptions&) {
  refuse();
}

std::vector<AblationRow> ablate_frame(const ModelConfig&, const WeightSource&, const ImageView&,
                                      const ResolvedOptions&, const AblationOptions&) {
  refuse();
}

}  // namespace rfseg
