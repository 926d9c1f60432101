#pragma once

// What every second kernel begins with: parameters of a picture, the detections' way to the host,
// and where the masks of each picture are.

#include "core/cuda/simt.h"
#include "postprocess/cuda/records.h"

namespace rfseg::cuda {

/// All threads; a barrier has to follow.
RFSEG_DEVICE void load_picture(const KernelArguments& a, int picture, PictureParams& to) {
  static_assert(sizeof(PictureParams) % 4 == 0 && sizeof(PictureParams) / 4 <= kMaskThreads);
  const uint32_t* from = reinterpret_cast<const uint32_t*>(a.pictures + picture);
  const unsigned i = static_cast<unsigned>(thread_index());
  if (i < sizeof(PictureParams) / 4) reinterpret_cast<uint32_t*>(&to)[i] = from[i];
}

/// Which picture has which bytes, where all masks of a picture have one size.
struct DensePlaces {
  const KernelArguments& a;
  MaskBytes format;
  int picture = 0;     ///< found by find()
  uint64_t start = 0;  ///< of its bytes

  RFSEG_DEVICE DensePlaces(const KernelArguments& arguments, MaskBytes mask_format)
      : a(arguments), format(mask_format) {}

  RFSEG_DEVICE uint64_t bytes(int i) const {
    const PictureParams& p = a.pictures[i];
    return mask_bytes(p.height, p.width, format) * static_cast<uint64_t>(a.counts[i].masks);
  }
  /// Bytes of the pictures before `end`. All lanes of a warp.
  RFSEG_DEVICE uint64_t before(int end) const {
    const int lane = thread_index() % kWarp;
    uint64_t sum = 0;
    for (int i = lane; i < end; i += kWarp) sum += bytes(i);
    for (int d = kWarp / 2; d > 0; d /= 2) sum += warp_read(sum, (lane + d) % kWarp);
    return warp_read(sum, 0);
  }
  /// Finds the picture that has byte `at`, if one has, and returns the bytes of all. All lanes of a
  /// warp.
  RFSEG_DEVICE uint64_t find(uint64_t at) {
    const int lane = thread_index() % kWarp;
    uint64_t total = 0;
    bool found = false;
    for (int from = 0; from < a.batch; from += kWarp) {
      const uint64_t mine = from + lane < a.batch ? bytes(from + lane) : 0;
      uint64_t sum = mine;
      for (int d = 1; d < kWarp && d < a.batch; d *= 2) {
        const uint64_t other = warp_read_below(sum, d);
        if (lane >= d) sum += other;
      }
      const int last = a.batch - 1 - from < kWarp ? a.batch - 1 - from : kWarp - 1;
      const uint32_t beyond = warp_ballot(at < total + sum && lane <= last);
      if (beyond != 0 && !found) {
        const int owner = lowest_bit(beyond);
        found = true;
        picture = from + owner;
        start = total + warp_read(sum - mine, owner);
      }
      total += warp_read(sum, last);
    }
    return total;
  }
};

/// Detections of the pictures that fall to this block of `threads` threads, from the workspace to
/// the results.
RFSEG_DEVICE void hand_over_detections(const KernelArguments& a, MaskBytes format, int threads) {
  struct alignas(16) Words {
    uint32_t w[4];
  };
  // From the last block on, since the first ones have masks.
  for (int picture = grid_x() - 1 - block_x(); picture < a.batch; picture += grid_x()) {
    PictureRecord counts = a.counts[picture];
    if (format != MaskBytes::kRle) counts.offset = DensePlaces(a, format).before(picture);
    const int64_t at = int64_t{picture} * a.detection_pitch;
    const Words* from = reinterpret_cast<const Words*>(a.survivors + at);
    Words* to = reinterpret_cast<Words*>(a.detections + at);
    const int words = counts.detections * static_cast<int>(sizeof(DetectionRecord) / sizeof(Words));
    for (int i = thread_index(); i < words; i += threads) to[i] = from[i];
    if (thread_index() == 0) a.picture_records[picture] = counts;
  }
}

/// Whatever this thread has stored, and what it knows to be stored, is stored for the host, too.
RFSEG_DEVICE void fence_for_host() {
#if !defined(RFSEG_SIMT_EMULATION)
  __threadfence_system();
#endif
}

/// The end of a call's last kernel: all threads of all `blocks` blocks. The last block to come here
/// tells the host that the results are there. Each block's stores are before its fence, that before
/// its count; so they are before the last count, and before the word that the host reads.
RFSEG_DEVICE void tell_end(const KernelArguments& a, int blocks) {
  if (a.tell_end == 0) return;
  block_sync();
  if (thread_index() != 0) return;
  fence_for_host();
  if (atomic_add(a.ended, 1u) != static_cast<uint32_t>(blocks) - 1) return;
  *a.ended = 0;
  fence_for_host();
  *const_cast<volatile uint32_t*>(&a.header->done) = 1;
}

}  // namespace rfseg::cuda
