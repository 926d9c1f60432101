#pragma once

#include "postprocess/kernels.h"
#include "postprocess/postprocess.h"

namespace rfseg {

/// postprocess() by the fast backend with the instructions of `isa`, which must be supported; for
/// tests and benchmarks, which compare them.
Detections postprocess_with(const NetworkOutputs& outputs, const PostprocessSpec& spec, Isa isa);

/// Throws what postprocess() throws for shapes, thresholds and a geometry that cannot be.
void check_postprocess(const NetworkOutputs& outputs, const PostprocessSpec& spec,
                       const PreprocessGeometry& geometry, bool masks);

}  // namespace rfseg
