// The fast backend, in every instruction set that this machine has, against the reference backend:
// equal in every byte.

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "postprocess/backends.h"
#include "random_calls.h"
#include "rfseg/error.h"

namespace rfseg {
namespace {

using namespace test;

TEST(Differential, FastBackendsEqualTheReferenceInEveryByte) {
  // RFSEG_DIFFERENTIAL_CASES asks for a longer run.
  const char* wanted = std::getenv("RFSEG_DIFFERENTIAL_CASES");
  const uint64_t cases = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 20000;
  ASSERT_GT(cases, 0u);
  std::size_t detections = 0, foreground = 0, refused = 0;
  for (uint64_t seed = 1; seed <= cases; ++seed) {
    Random random(seed);
    const Scene scene = random_scene(random);
    PostprocessSpec spec = random_spec(random, scene);
    spec.geometry = random_geometry(random, scene.rows, scene.columns);
    spec.backend = Backend::kReference;
    Detections expected;
    bool throws = false;
    try {
      expected = postprocess(scene.view(), spec);
    } catch (const Error&) {  // pads that leave nothing of the grid
      throws = true;
      ++refused;
    }
    for (const Isa isa : kAllIsas) {
      if (!isa_supported(isa)) continue;
      if (throws) {
        EXPECT_THROW(postprocess_with(scene.view(), spec, isa), Error) << "seed " << seed;
        continue;
      }
      ASSERT_TRUE(same(expected, postprocess_with(scene.view(), spec, isa)))
          << "seed " << seed << ", " << kernels_for(isa).name << ", grid " << scene.rows << "x"
          << scene.columns << ", picture " << spec.geometry.original_height << "x"
          << spec.geometry.original_width << ", convention " << static_cast<int>(spec.like);
    }
    detections += expected.items.size();
    for (const Detection& item : expected.items) foreground += item.mask->area() > 0 ? 1 : 0;
  }
  std::cout << cases << " cases, " << detections << " detections, " << foreground
            << " with foreground, " << refused << " refused\n";
  EXPECT_GT(detections, cases);
  EXPECT_GT(foreground, cases / 2);
  EXPECT_LT(refused, cases / 10);
}

}  // namespace
}  // namespace rfseg
