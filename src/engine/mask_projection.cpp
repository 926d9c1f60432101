#include "engine/mask_projection.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/model_tensors.h"

namespace rfseg {

MaskProjection fold_mask_projections(const WeightSource& weights, int dim) {
  const std::string& s = kSegmentationPrefix;
  const Tensor P = weights.read(s + "spatial_features_proj.weight", {dim, dim, 1, 1});
  const Tensor p = weights.read(s + "spatial_features_proj.bias", {dim});
  const Tensor Q = weights.read(s + "query_features_proj.weight", {dim, dim});
  const Tensor q = weights.read(s + "query_features_proj.bias", {dim});
  const Tensor m = weights.read(s + "bias", {1});
  MaskProjection folded{Tensor({dim + 1, dim}), Tensor({dim + 1})};
  std::vector<double> row(dim);
  for (int i = 0; i <= dim; ++i) {
    std::fill(row.begin(), row.end(), 0.0);
    double constant = i < dim ? 0.0 : m.data[0];
    for (int o = 0; o < dim; ++o) {
      const double factor = i < dim ? P.data[int64_t{o} * dim + i] : p.data[o];
      const float* from = Q.data.data() + int64_t{o} * dim;
      for (int j = 0; j < dim; ++j) row[j] += factor * static_cast<double>(from[j]);
      constant += factor * q.data[o];
    }
    float* to = folded.weight.data.data() + int64_t{i} * dim;
    for (int j = 0; j < dim; ++j) to[j] = static_cast<float>(row[j]);
    folded.bias.data[i] = static_cast<float>(constant);
  }
  return folded;
}

}  // namespace rfseg
