// The portable matrix products and attention on odd shapes, every tile, every source of rows, every
// part of the epilogue, against plain loops. Built twice: for a GPU, and with RFSEG_SIMT_EMULATION
// for the emulator.

#include "core/cuda/usable.h"
#include "engine/cuda/hopper/attention_split.h"
#include "engine/cuda/hopper/gemm.h"
#include "engine/cuda/hopper/gemm_split.h"
#include "engine/cuda/portable/portable.h"
#include "engine/product_cases.h"

namespace rfseg::cuda::test {
namespace {

class CudaProducts : public ::testing::TestWithParam<Math> {
 protected:
  void SetUp() override {
    std::string why;
    if (!usable(&why)) GTEST_SKIP() << why;
    if (has_hopper_code()) {
      queue_.overlap = true;
    }
  }
  Math math() const { return GetParam(); }
  void finish() { check(cudaDeviceSynchronize(), "running kernels"); }
  Queue queue_;
};

/// Parts of the epilogue by the bits of `choice`.
GemmParts some_parts(unsigned choice) {
  GemmParts parts;
  parts.bias = choice % 3 != 0;
  parts.scale = choice % 4 == 1;
  parts.row_bias = choice % 5 == 2;
  parts.residual = choice % 2 == 1;
  parts.residual_float = choice % 7 < 4;
  parts.out_float = choice % 4 < 2;
  parts.in_place = choice % 6 == 1;
  parts.activation = static_cast<Activation>(choice % 4);
  parts.pad_a = choice % 3 == 1 ? 8 : 0;
  parts.pad_out = static_cast<int>(choice % 3 == 2 ? 5 : choice % 5 == 0 ? 16 : 0);
  parts.out_group = choice % 4 == 2 ? 7 : 0;
  parts.residual_period = choice % 6 == 3 ? 5 : 0;
  return parts;
}

struct Size {
  int m, n, k;
};

TEST_P(CudaProducts, RowsOfEveryTile) {
  const Size sizes[] = {{1, 1, 8}, {70, 91, 40}, {129, 136, 72}, {33, 4, 264}};
  unsigned choice = 1;
  for (int tile = 0; tile < portable::gemm_tiles(math(), RowSource::kRows); ++tile) {
    SCOPED_TRACE(portable::gemm_tile_name(math(), RowSource::kRows, tile));
    for (const Size& size : sizes) {
      GemmParts parts = some_parts(++choice);
      parts.index = choice % 5 == 0;
      GemmCase c;
      make_gemm(c, math(), RowSource::kRows, size.m, size.n, size.k, parts, choice);
      ASSERT_TRUE(portable::gemm_by_tile(queue_, math(), c.g, tile));
      finish();
      expect_gemm(c);
    }
  }
}

TEST_P(CudaProducts, BareSumsAreAccurate) {
  for (int tile = 0; tile < portable::gemm_tiles(math(), RowSource::kRows); ++tile) {
    SCOPED_TRACE(portable::gemm_tile_name(math(), RowSource::kRows, tile));
    for (const bool positive : {false, true}) {
      // All of fp16's sums are cut by the tensor core, which shows in long ones of one sign.
      if (positive && math() == Math::kFp16) continue;
      GemmParts parts;
      parts.out_float = true;
      parts.positive = positive;
      GemmCase c;
      make_gemm(c, math(), RowSource::kRows, 24, 40, positive ? 1536 : 1024, parts, 77);
      ASSERT_TRUE(portable::gemm_by_tile(queue_, math(), c.g, tile));
      finish();
      expect_gemm(c);
    }
  }
}

TEST_P(CudaProducts, ConvolutionsOfEveryTile) {
  unsigned choice = 100;
  for (int tile = 0; tile < portable::gemm_tiles(math(), RowSource::kConv3x3); ++tile) {
    SCOPED_TRACE(portable::gemm_tile_name(math(), RowSource::kConv3x3, tile));
    for (const Map& map : {Map{2, 5, 7, 1, 16}, Map{1, 9, 6, 2, 24}}) {
      const GemmParts parts = some_parts(++choice);
      GemmCase c;
      make_gemm(c, math(), RowSource::kConv3x3, 0, 72, 0, parts, choice, map);
      ASSERT_TRUE(portable::gemm_by_tile(queue_, math(), c.g, tile));
      finish();
      expect_gemm(c);
    }
  }
}

TEST_P(CudaProducts, NormedRowsOfEveryTile) {
  unsigned choice = 200;
  for (int tile = 0; tile < portable::gemm_tiles(math(), RowSource::kNormed); ++tile) {
    SCOPED_TRACE(portable::gemm_tile_name(math(), RowSource::kNormed, tile));
    int taken = 0;
    for (const Size& size : {Size{67, 72, 40}, Size{35, 100, 384}, Size{19, 40, 768}}) {
      const GemmParts parts = some_parts(++choice);
      GemmCase c;
      make_gemm(c, math(), RowSource::kNormed, size.m, size.n, size.k, parts, choice);
      if (!portable::gemm_by_tile(queue_, math(), c.g, tile)) continue;
      ++taken;
      finish();
      expect_gemm(c);
    }
    EXPECT_GE(taken, 2);
  }
  GemmCase c;
  make_gemm(c, math(), RowSource::kNormed, 3, 16, 1024, {}, 5);
  portable::gemm(queue_, math(), c.g);
  finish();
  expect_gemm(c);
}

TEST_P(CudaProducts, TwoSourcesOfRows) {
  for (const int split : {64, 128}) {
    GemmParts parts = some_parts(7);
    parts.split = split;
    GemmCase c;
    make_gemm(c, math(), RowSource::kRows, 37, 192, 32, parts, 300);
    portable::gemm(queue_, math(), c.g);
    finish();
    expect_gemm(c);
  }
}

TEST_P(CudaProducts, Batches) {
  GemmParts parts;
  parts.batch = 3;
  parts.row_bias = true;
  parts.out_float = true;
  GemmCase c;
  make_gemm(c, math(), RowSource::kRows, 21, 77, 64, parts, 400);
  portable::gemm(queue_, math(), c.g);
  finish();
  expect_gemm(c);
}

TEST_P(CudaProducts, NormsOfWholeRows) {
  unsigned seed = 500;
  for (const int n : {8, 128, 256, 384, 1024}) {
    for (const bool conv : {false, true}) {
      if (conv && n > 256) continue;
      NormCase c;
      ++seed;
      make_norm(c, math(), conv ? RowSource::kConv3x3 : RowSource::kRows, 21, n, 72, seed,
                seed % 2 == 0, static_cast<Activation>(seed % 4), {1, 5, 7, 1, 16});
      portable::gemm_norm(queue_, math(), c.g);
      finish();
      expect_norm(c);
    }
  }
}

#if defined(RFSEG_SIMT_EMULATION)
bool has_clusters() { return true; }
#else
bool has_clusters() { return has_hopper_code(); }
#endif

TEST_P(CudaProducts, NormsOfWholeRowsByClusters) {
  if (!has_clusters()) GTEST_SKIP() << "a GPU without clusters";
  EXPECT_EQ(portable::gemm_norm_tiles(math(), RowSource::kRows) > 0, math() == Math::kFp16);
  unsigned seed = 520;
  for (const bool conv : {false, true}) {
    const RowSource source = conv ? RowSource::kConv3x3 : RowSource::kRows;
    for (int tile = 0; tile < portable::gemm_norm_tiles(math(), source); ++tile) {
      int taken = 0;
      for (const int n : {64, 128, 256, 384, 512, 72}) {
        NormCase c;
        ++seed;
        make_norm(c, math(), source, 37, n, 264, seed, seed % 2 == 0,
                  static_cast<Activation>(seed % 4), {1, 5, 7, 1, 40});
        if (!portable::gemm_norm_by_cluster(queue_, math(), c.g, tile)) continue;
        ++taken;
        finish();
        expect_norm(c);
      }
      EXPECT_GE(taken, 3);
    }
  }
}

TEST_P(CudaProducts, NormsOfSharedLongRows) {
  for (const bool conv : {false, true}) {
    NormCase c;
    make_norm(c, math(), conv ? RowSource::kConv3x3 : RowSource::kRows, 37, 128, 1096, 550, true,
              Activation::kSilu, {1, 5, 7, 1, 120}, 8);
    portable::gemm_norm(queue_, math(), c.g);
    finish();
    expect_norm(c);
  }
}

TEST_P(CudaProducts, AttentionOfEveryTile) {
  unsigned seed = 600;
  for (const int head_dim : {64, 32}) {
    for (int tile = 0; tile < portable::attention_tiles(math(), head_dim); ++tile) {
      SCOPED_TRACE(portable::attention_tile_name(math(), head_dim, tile));
      for (const int length : {1, 33, 100, 145}) {
        AttentionCase c;
        make_attention(c, math(), length == 33 ? 2 : 1, length, length == 145 ? 1 : 2, head_dim,
                       ++seed);
        portable::attention_by_tile(queue_, math(), c.g, tile);
        finish();
        expect_attention(c);
      }
    }
  }
}

#if !defined(RFSEG_SIMT_EMULATION)

TEST_P(CudaProducts, HoppersTilesOfFloats) {
  if (math() == Math::kFp16) GTEST_SKIP() << "not of halves";
  if (!hopper::usable()) GTEST_SKIP() << "not a Hopper GPU";
  unsigned choice = 1000;
  for (const RowSource source : {RowSource::kRows, RowSource::kConv3x3}) {
    const portable::TileList tiles = hopper::split_tiles(source);
    ASSERT_GT(tiles.count, 0);
    for (int tile = 0; tile < tiles.count; ++tile) {
      SCOPED_TRACE(tiles.entries[tile].name);
      const auto expect = [&](GemmCase& c) {
        ASSERT_TRUE(portable::gemm_by_entry(queue_, math(), c.g, tiles.entries[tile]));
        finish();
        expect_gemm(c, c.g.m > 200 ? 97 : 1);
      };
      if (source == RowSource::kConv3x3) {
        for (const Map& map : {Map{2, 5, 7, 1, 16}, Map{1, 9, 6, 2, 24}, Map{1, 12, 13, 1, 128}}) {
          GemmCase c;
          ++choice;
          make_gemm(c, math(), source, 0, 72, 0, some_parts(choice), choice, map);
          expect(c);
        }
        continue;
      }
      for (const Size& size :
           {Size{1, 1, 8}, Size{70, 91, 40}, Size{129, 136, 72}, Size{33, 4, 264},
            Size{64, 200, 32}, Size{65, 40, 1536}, Size{677, 1152, 384}}) {
        GemmParts parts = some_parts(++choice);
        parts.index = choice % 5 == 0;
        GemmCase c;
        make_gemm(c, math(), source, size.m, size.n, size.k, parts, choice);
        expect(c);
      }
      for (const int k : {32, 96, 384, 1024, 3072}) {
        GemmParts bare;
        bare.out_float = true;
        bare.positive = choice % 2 == 0 || k > 1024;
        GemmCase c;
        make_gemm(c, math(), source, 77, 72, k, bare, ++choice);
        expect(c);
      }
      GemmParts sources = some_parts(7);
      sources.split = 384;
      GemmCase split;
      make_gemm(split, math(), source, 37, 450, 72, sources, ++choice);
      expect(split);
      GemmParts batch;
      batch.batch = 3;
      batch.row_bias = batch.out_float = true;
      GemmCase several;
      make_gemm(several, math(), source, 69, 77, 104, batch, ++choice);
      expect(several);
    }
  }
}

TEST_P(CudaProducts, HoppersAttentionOfFloats) {
  if (math() == Math::kFp16) GTEST_SKIP() << "not of halves";
  if (!hopper::usable()) GTEST_SKIP() << "not a Hopper GPU";
  struct Shape {
    int sequences, length, heads;
  };
  unsigned seed = 1200;
  for (const Shape& s : {Shape{1, 1, 1}, Shape{2, 33, 2}, Shape{1, 64, 2}, Shape{1, 65, 1},
                         Shape{3, 145, 2}, Shape{1, 300, 1}, Shape{1, 677, 6}, Shape{4, 170, 6},
                         Shape{1, 1768, 6}, Shape{8, 677, 6}, Shape{16, 101, 12}}) {
    AttentionCase c;
    make_attention(c, math(), s.sequences, s.length, s.heads, 64, ++seed);
    ASSERT_TRUE(hopper::split_attention(queue_, c.g));
    finish();
    expect_attention(c, s.length > 200 ? 17 : 1);
  }
}

// What products.h makes of long rows of floats with a norm: several parts of k, on Hopper by its
// own tiles, the last part shorter than the others.
TEST_P(CudaProducts, NormsOfSharedLongRowsOfManyTiles) {
  unsigned seed = 1300;
  for (const Size& size : {Size{677, 384, 1536}, Size{676, 256, 1096}, Size{100, 256, 2048}}) {
    NormCase c;
    make_norm(c, math(), RowSource::kRows, size.m, size.n, size.k, ++seed, true, Activation::kNone,
              {}, 8);
    gemm_norm(queue_, math(), c.g);
    finish();
    expect_norm(c, 29);
  }
  NormCase c;
  make_norm(c, math(), RowSource::kConv3x3, 0, 128, 0, ++seed, false, Activation::kSilu,
            {1, 26, 26, 1, 128}, 8);
  gemm_norm(queue_, math(), c.g);
  finish();
  expect_norm(c, 29);
}

// Real shapes of seg-nano, seg-large and the deprecated large model, for some of the rows.
TEST_P(CudaProducts, ShapesOfTheModels) {
  const Size sizes[] = {{676, 384, 432},   {677, 1152, 384},  {677, 384, 384},   {677, 1536, 384},
                        {677, 384, 1536},  {676, 256, 1536},  {676, 256, 640},   {676, 91, 256},
                        {676, 1024, 256},  {100, 2048, 256},  {100, 256, 2048},  {100, 4, 256},
                        {6084, 256, 256},  {1768, 1152, 384}, {1768, 384, 1536}, {1616, 2304, 768},
                        {1616, 768, 3072}, {6400, 384, 1536}, {5416, 1536, 384}};
  unsigned choice = 700;
  for (const Size& size : sizes) {
    ++choice;
    GemmCase c;
    make_gemm(c, math(), RowSource::kRows, size.m, size.n, size.k, some_parts(choice), choice);
    portable::gemm(queue_, math(), c.g);
    finish();
    expect_gemm(c, 97);
    if (portable::gemm_prefers_normed(math(), size.m, size.n, size.k)) {
      GemmCase normed;
      make_gemm(normed, math(), RowSource::kNormed, size.m, size.n, size.k, some_parts(3),
                ++choice);
      portable::gemm(queue_, math(), normed.g);
      finish();
      expect_gemm(normed, 97);
    }
  }
  for (const Map& map : {Map{1, 26, 26, 1, 128}, Map{2, 42, 42, 1, 128}, Map{1, 40, 40, 2, 768},
                         Map{1, 80, 80, 1, 192}}) {
    ++choice;
    GemmCase c;
    make_gemm(c, math(), RowSource::kConv3x3, 0, 128, 0, some_parts(choice), choice, map);
    portable::gemm(queue_, math(), c.g);
    finish();
    expect_gemm(c, 97);
    NormCase n;
    make_norm(n, math(), RowSource::kConv3x3, 0, 128, 0, ++choice, false, Activation::kSilu, map);
    portable::gemm_norm(queue_, math(), n.g);
    finish();
    expect_norm(n, 97);
  }
  for (const Size& size : {Size{676, 256, 640}, Size{100, 256, 2048}, Size{300, 384, 2048}}) {
    NormCase n;
    make_norm(n, math(), RowSource::kRows, size.m, size.n, size.k, ++choice, true,
              Activation::kNone, {}, 8);
    portable::gemm_norm(queue_, math(), n.g);
    finish();
    expect_norm(n, 17);
  }
}

TEST_P(CudaProducts, AttentionOfTheModels) {
  struct Shape {
    int sequences, length, heads, head_dim;
  };
  for (const Shape& s :
       {Shape{1, 677, 6, 64}, Shape{8, 677, 6, 64}, Shape{4, 442, 6, 64}, Shape{1, 1768, 6, 64},
        Shape{16, 101, 12, 64}, Shape{1, 100, 8, 32}, Shape{8, 300, 12, 32}}) {
    AttentionCase c;
    make_attention(c, math(), s.sequences, s.length, s.heads, s.head_dim, 800);
    portable::attention(queue_, math(), c.g);
    finish();
    expect_attention(c, 97);
  }
}

#endif

TEST_P(CudaProducts, TheSameBytesTwice) {
  GemmCase c;
  make_gemm(c, math(), RowSource::kRows, 65, 96, 520, some_parts(1), 900);
  c.g.residual = nullptr;
  portable::gemm(queue_, math(), c.g);
  finish();
  const std::vector<float> first = c.out.download();
  portable::gemm(queue_, math(), c.g);
  finish();
  EXPECT_EQ(first, c.out.download());
}

INSTANTIATE_TEST_SUITE_P(All, CudaProducts,
                         ::testing::Values(Math::kFp16, Math::kTf32, Math::kFp32),
                         [](const auto& info) {
                           return std::string(info.param == Math::kFp16   ? "fp16"
                                              : info.param == Math::kTf32 ? "tf32"
                                                                          : "fp32");
                         });

}  // namespace
}  // namespace rfseg::cuda::test
