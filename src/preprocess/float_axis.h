#pragma once

#include <vector>

namespace rfseg {

/// One axis of torch's F.interpolate(mode="bilinear", align_corners=False) in float32, as its CUDA
/// kernel rounds it (pytorch/pytorch 2.11, aten/src/ATen/native/cuda/UpSampleBilinear2d.cu):
/// output i = weight0[i] * in[low[i]] + weight1[i] * in[high[i]].
struct BilinearAxis {
  int in = 0, out = 0;
  std::vector<int> low, high;
  std::vector<float> weight0, weight1;
};
BilinearAxis make_bilinear_axis(int in, int out);

/// One axis of the same with antialias=True (UpSampleGen2d antialias kernels of that file).
struct AntialiasAxis {
  int in = 0, out = 0;
  int taps = 0;  ///< row length of `weights`
  std::vector<int> first, count;
  std::vector<float> weights;  ///< [out, taps], sum 1, zero past count
};
AntialiasAxis make_antialias_axis(int in, int out);

}  // namespace rfseg
