#pragma once

#include <cstddef>

#include "core/held_pixels.h"
#include "engine/cuda/cuda_engine.h"
#include "rfseg/image.h"

namespace rfseg {

/// What a frame's steps take on a GPU without a pipeline around them. Microseconds, medians over
/// `rounds` that are each waited for.

/// One copy of `bytes` from pinned memory to GPU `device`.
double copy_us(int device, std::size_t bytes, int rounds);
/// One pass of the network over a batch of one, as a graph.
double network_us(const CudaEngine& engine, int rounds);

/// `view` becomes a copy of what it shows in memory of GPU `device`, and `held` its owner.
void hold_on_device(ImageView& view, HeldPixels& held, int device);

}  // namespace rfseg
