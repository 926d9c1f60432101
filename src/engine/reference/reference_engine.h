#pragma once

#include <memory>

#include "engine/engine.h"

namespace rfseg {

/// The plain backend: the forward pass step by step, without rewrites, one picture at a time, every
/// named point traceable. Readable first; its one heavy primitive is a matrix product (gemm.h).
/// `config` and the shapes of `weights` have been checked. `threads` bounds the matrix product.
std::unique_ptr<Engine> create_reference_engine(const ModelConfig& config,
                                                const WeightSource& weights, int threads);

}  // namespace rfseg
