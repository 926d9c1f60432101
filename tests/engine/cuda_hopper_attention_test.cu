// Hopper's attention against a plain kernel that accumulates in double, each variant apart.

#include "engine/cuda/hopper/attention.h"
#include "engine/cuda_hopper_plain.h"
#include "engine/cuda_plain_attention.h"

namespace rfseg::cuda {
namespace {

void try_attention(int sequences, int length, int heads, float loud, bool overlap = false) {
  std::printf("attention: %d sequences of %d, %d heads, scores to %g\n", sequences, length, heads,
              loud);
  AttentionArguments a;
  a.sequences = sequences;
  a.length = length;
  a.heads = heads;
  a.head_dim = 64;
  a.scale = 0.125f;
  const int width = heads * 64;
  const int64_t rows = static_cast<int64_t>(sequences) * length;
  Array<__half> qkv(rows * 3 * width);
  fill(qkv, rows * 3 * width, loud, 11);
  a.q = qkv.data();
  a.k = qkv.data() + width;
  a.v = qkv.data() + 2 * width;
  a.ldq = a.ldk = a.ldv = 3 * width;
  a.ldo = width + 8;
  Array<__half> out((rows + 2) * a.ldo);
  a.out = out.data();
  Array<double> plain(rows * width);
  plain_attention<<<static_cast<unsigned>(rows * heads), 32, length * 8>>>(a, plain.data());
  check(cudaGetLastError(), "launching the plain attention");
  const std::vector<double> want = plain.read();
  for (const hopper::AttentionVariant& variant : hopper::attention_variants()) {
    out.poison();
    ASSERT_TRUE(hopper::attention({nullptr, overlap}, a, variant));
    check(cudaDeviceSynchronize(), "running attention");
    const auto first = out.read();
    // Weights are halves, so that an output is off by up to 2^-11 of the largest value.
    expect_close(
        first, want, 1e-3, 1e-3 * loud, [&](int64_t i) { return i / width * a.ldo + i % width; },
        hopper::name(variant));
    out.poison();
    a.from_end = true;  // the same units in another order
    hopper::attention({nullptr, overlap}, a, variant);
    a.from_end = false;
    const auto again = out.read();
    EXPECT_EQ(std::memcmp(first.data(), again.data(), first.size() * 2), 0);
  }
  EXPECT_TRUE(hopper::attention({nullptr, overlap}, a));
  check(cudaDeviceSynchronize(), "running attention");
}

TEST_F(CudaHopper, AttentionOneTile) { try_attention(1, 64, 1, 1.0f); }
TEST_F(CudaHopper, AttentionShort) {
  try_attention(1, 1, 1, 1.0f);
  try_attention(3, 37, 2, 2.0f);
  try_attention(2, 65, 1, 2.0f);
}
TEST_F(CudaHopper, AttentionOnePicture) { try_attention(1, 677, 6, 3.0f, true); }
TEST_F(CudaHopper, AttentionManyPictures) {
  try_attention(8, 677, 6, 2.0f);
  try_attention(12, 257, 6, 6.0f);
  try_attention(24, 130, 6, 2.0f);  // blocks whose runs of units cross heads
  try_attention(20, 677, 6, 2.0f);
  try_attention(5, 442, 12, 1.0f);
}

TEST_F(CudaHopper, LeavesOtherHeadsToOthers) {
  Array<__half> x(64 * 64);
  AttentionArguments a;
  a.q = a.k = a.v = a.out = x.data();
  a.ldq = a.ldk = a.ldv = a.ldo = 64;
  a.sequences = 1;
  a.length = 8;
  a.heads = 2;
  a.head_dim = 32;
  EXPECT_FALSE(hopper::attention({}, a));
}

}  // namespace
}  // namespace rfseg::cuda
