#pragma once

#include <algorithm>
#include <cmath>

#include "engine/cuda/products.h"

namespace rfseg::cuda {

/// What an activation is, in double.
inline double activated(Activation activation, double v) {
  switch (activation) {
    case Activation::kRelu:
      return std::max(v, 0.0);
    case Activation::kGelu:
      return v * 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
    case Activation::kSilu:
      return v / (1 + std::exp(-v));
    case Activation::kNone:
      break;
  }
  return v;
}

}  // namespace rfseg::cuda
