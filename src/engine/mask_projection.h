#pragma once

#include "core/tensor.h"
#include "core/weights.h"

namespace rfseg {

/// The two projections of a mask, query_features_proj and spatial_features_proj, in one.
struct MaskProjection {
  Tensor weight;  ///< [C + 1, C] over the query's features: C rows for the features before
                  ///< spatial_features_proj, the last for the constant
  Tensor bias;    ///< [C + 1]
};

/// mask = (P s + p) . (Q f + q) + m = s . (P^T Q f + P^T q) + (p^T Q f + p . q + m) for spatial
/// features s, query features f: exact, and saves one product over all pixels.
MaskProjection fold_mask_projections(const WeightSource& weights, int dim);

}  // namespace rfseg
