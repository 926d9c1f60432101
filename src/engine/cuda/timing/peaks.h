#pragma once

#include "core/cuda/device.h"
#include "engine/cuda/products.h"

// What a GPU could do at most, by its data sheet: units times clocks.

namespace rfseg::cuda {

/// Operations a second of products in `math`, a multiply-add being two, without sparsity; 0 for a
/// GPU that is not in the table.
double product_peak(int device, const cudaDeviceProp& properties, Math math);

/// Bytes a second of device memory.
double memory_peak(int device);

}  // namespace rfseg::cuda
