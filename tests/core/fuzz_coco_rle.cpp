#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "core/coco_rle.h"
#include "rfseg/error.h"

// Bytes: height, width, then the compressed counts; the same bytes also as an uncompressed list and
// as polygon coordinates. What is accepted must survive every operation and go back to itself.

using namespace rfseg;

namespace {

void require(bool condition) {
  if (!condition) __builtin_trap();
}

void exercise(const Rle& rle) {
  const std::vector<uint8_t> dense = rle_decode(rle);
  const Rle canonical = rle_encode(dense.data(), rle.height, rle.width);
  require(rle_area(canonical) == rle_area(rle));
  const Rle back = rle_from_string(rle_to_string(rle), rle.height, rle.width);
  require(back.counts == rle.counts);
  double a[4], b[4];
  rle_to_bbox(rle, a);
  rle_to_bbox(canonical, b);
  require(std::memcmp(a, b, sizeof a) == 0);
  const bool empty = rle_area(rle) == 0;
  require(rle_iou(rle, canonical, false) == (empty ? 0 : 1));
  require(rle_merge({rle, canonical}, true).counts == canonical.counts);
  require(rle_merge({rle, canonical}, false).counts == canonical.counts);
}

template <class F>
void attempt(F&& f) {
  try {
    f();
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const int height = data[0], width = data[1];
  data += 2;
  size -= 2;
  attempt([&] {
    exercise(rle_from_string({reinterpret_cast<const char*>(data), size}, height, width));
  });
  attempt([&] {
    std::vector<int64_t> counts(data, data + size);
    if (size >= 8) std::memcpy(counts.data(), data, 8);
    exercise(rle_from_counts(counts, height, width));
  });
  attempt([&] {
    std::vector<double> xy;
    for (std::size_t i = 0; i < size; ++i) xy.push_back((data[i] - 64) * 1.7);
    if (size >= 8) std::memcpy(xy.data(), data, 8);
    exercise(rle_from_polygon(xy, height, width));
  });
  return 0;
}
