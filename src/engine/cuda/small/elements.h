#pragma once

#include <cuda_fp16.h>

#include <cmath>
#include <cstring>

#include "core/cuda/simt.h"

// Activations in memory: __half or float, read and written 8 at a time, computed with as float.

namespace rfseg::cuda {

RFSEG_DEVICE float to_float(float v) { return v; }
RFSEG_DEVICE float to_float(__half v) { return __half2float(v); }

template <class T>
RFSEG_DEVICE T from_float(float v) {
  if constexpr (sizeof(T) == 2) {
    return __float2half_rn(v);
  } else {
    return v;
  }
}

/// 8 consecutive elements at an address that is a multiple of 8 elements.
template <class T>
struct Eight;
template <>
struct Eight<__half> {
  uint4 raw;
};
template <>
struct Eight<float> {
  float4 low, high;
};

template <class T>
RFSEG_DEVICE Eight<T> load8(const T* p) {
  return *reinterpret_cast<const Eight<T>*>(p);
}
template <class T>
RFSEG_DEVICE void store8(T* p, const Eight<T>& e) {
  *reinterpret_cast<Eight<T>*>(p) = e;
}

RFSEG_DEVICE void unpack(const Eight<__half>& e, float* v) {
  __half2 pairs[4];
  memcpy(static_cast<void*>(pairs), &e.raw, sizeof(pairs));
  RFSEG_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float2 two = __half22float2(pairs[i]);
    v[2 * i] = two.x;
    v[2 * i + 1] = two.y;
  }
}
RFSEG_DEVICE void unpack(const Eight<float>& e, float* v) {
  v[0] = e.low.x, v[1] = e.low.y, v[2] = e.low.z, v[3] = e.low.w;
  v[4] = e.high.x, v[5] = e.high.y, v[6] = e.high.z, v[7] = e.high.w;
}

template <class T>
RFSEG_DEVICE Eight<T> pack(const float* v) {
  Eight<T> e;
  if constexpr (sizeof(T) == 2) {
    __half2 pairs[4];
    RFSEG_UNROLL
    for (int i = 0; i < 4; ++i) pairs[i] = __floats2half2_rn(v[2 * i], v[2 * i + 1]);
    memcpy(&e.raw, static_cast<const void*>(pairs), sizeof(pairs));
  } else {
    e.low = {v[0], v[1], v[2], v[3]};
    e.high = {v[4], v[5], v[6], v[7]};
  }
  return e;
}

/// Loads 8 elements as float, stores 8 floats as elements.
template <class T>
RFSEG_DEVICE void read8(const T* p, float* v) {
  unpack(load8(p), v);
}
template <class T>
RFSEG_DEVICE void write8(T* p, const float* v) {
  store8(p, pack<T>(v));
}

RFSEG_DEVICE float warp_sum(float v) {
  RFSEG_UNROLL
  for (int d = kWarp / 2; d > 0; d /= 2) v += warp_read(v, (thread_index() % kWarp) ^ d);
  return v;
}

/// LayerNorm over the channels that a warp holds: lane l has the 8 channels from 8 * (l + 32 * i)
/// in v[i]; those from `channels` on are padding. Mean first, then the squared distances from it.
template <int kVectors>
struct WarpNorm {
  float mean, inverse;  ///< 1 / sqrt(variance + eps)

  RFSEG_DEVICE WarpNorm(const float (&v)[kVectors][8], int channels, float eps) {
    const int lane = thread_index() % kWarp;
    float sum = 0;
    RFSEG_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      if (8 * (lane + kWarp * i) >= channels) continue;
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) sum += v[i][j];
    }
    mean = warp_sum(sum) / static_cast<float>(channels);
    float squares = 0;
    RFSEG_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      if (8 * (lane + kWarp * i) >= channels) continue;
      RFSEG_UNROLL
      for (int j = 0; j < 8; ++j) squares += (v[i][j] - mean) * (v[i][j] - mean);
    }
    inverse = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(channels) + eps);
  }
};

/// Stores the row that a warp holds as WarpNorm's.
template <class T, int kVectors>
RFSEG_DEVICE void store_row(const float (&v)[kVectors][8], int channels, T* out) {
  RFSEG_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int channel = 8 * (thread_index() % kWarp + kWarp * i);
    if (channel < channels) write8(out + channel, v[i]);
  }
}

}  // namespace rfseg::cuda
