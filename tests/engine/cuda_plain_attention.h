#pragma once

#include <cuda_fp16.h>

#include "engine/cuda/products.h"

// Attention with heads of 64 by a plain kernel that accumulates in double.

namespace rfseg::cuda {

/// A warp each of a.sequences * a.length * a.heads blocks, with a.length doubles of shared memory;
/// `out` dense [rows, heads * 64].
inline __global__ void plain_attention(AttentionArguments a, double* out) {
  const int query = blockIdx.x % a.length, head = blockIdx.x / a.length % a.heads,
            sequence = blockIdx.x / a.length / a.heads, lane = threadIdx.x;
  const auto row = [&](const void* p, int64_t ld, int i) {
    return static_cast<const __half*>(p) + (static_cast<int64_t>(sequence) * a.length + i) * ld +
           head * 64;
  };
  extern __shared__ double scores[];
  double highest = -1e300;
  for (int i = lane; i < a.length; i += 32) {
    double s = 0;
    for (int c = 0; c < 64; ++c) {
      s += static_cast<double>(__half2float(row(a.q, a.ldq, query)[c])) *
           __half2float(row(a.k, a.ldk, i)[c]);
    }
    scores[i] = s * a.scale;
    highest = max(highest, scores[i]);
  }
  for (int d = 16; d; d /= 2) highest = max(highest, __shfl_xor_sync(~0u, highest, d));
  double sum = 0;
  for (int i = lane; i < a.length; i += 32) {
    scores[i] = exp(scores[i] - highest);
    sum += scores[i];
  }
  for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  __syncwarp();
  for (int c = lane; c < 64; c += 32) {
    double v = 0;
    for (int i = 0; i < a.length; ++i) v += scores[i] * __half2float(row(a.v, a.ldv, i)[c]);
    out[(static_cast<int64_t>(sequence) * a.length + query) * a.heads * 64 + head * 64 + c] =
        v / sum;
  }
}

}  // namespace rfseg::cuda
