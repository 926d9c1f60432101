#pragma once

#include <memory>

#include "engine/engine.h"

namespace rfseg {

/// The fast CPU backend, "cpu": packed weights, kernels for the processor's widest instructions
/// (AVX-512, AVX2 with FMA, or plain; see kernels.h), its own team of `threads` threads
/// (0 = the cores that this process may use). fp32 throughout; within 1e-5 of the range of the
/// reference backend's outputs. Results do not depend on the number of threads.
/// Throws Error(kModel) for widths that are not whole vectors, which no RF-DETR model has.
std::unique_ptr<Engine> create_cpu_engine(const ModelConfig& config, const WeightSource& weights,
                                          int threads);

}  // namespace rfseg
