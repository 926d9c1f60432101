#include "engine/cuda/timing/peaks.h"

namespace rfseg::cuda {
namespace {

double attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "asking for the GPU's clocks");
  return value;
}

/// Operations of a multiprocessor and clock, fp16 products with fp32 sums (NVIDIA's tuning guides
/// and architecture papers).
double operations_a_clock(int major, int minor) {
  switch (major) {
    case 8:
      return minor == 0 || minor == 7 ? 2048 : 1024;
    case 9:
      return 4096;
    case 10:
    case 11:
      return 8192;
    case 12:
      return 1024;
    default:
      return 0;
  }
}

}  // namespace

double product_peak(int device, const cudaDeviceProp& properties, Math math) {
  const double fp16 = operations_a_clock(properties.major, properties.minor) *
                      properties.multiProcessorCount * attribute(cudaDevAttrClockRate, device) *
                      1e3;
  // TF32 has half the rate, and fp32 takes three products of it.
  return math == Math::kFp16 ? fp16 : math == Math::kTf32 ? fp16 / 2 : fp16 / 6;
}

double memory_peak(int device) {
  // Two transfers a clock.
  return 2 * attribute(cudaDevAttrMemoryClockRate, device) * 1e3 *
         attribute(cudaDevAttrGlobalMemoryBusWidth, device) / 8;
}

}  // namespace rfseg::cuda
