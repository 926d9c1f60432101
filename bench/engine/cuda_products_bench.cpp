// Times of the network's matrix products and attention on the GPU at the shapes of seg-nano, each
// by replays of a graph of 20 launches in a chain, next to cuBLASLt's for the same product.
//
//   bench_engine_cuda [--batch 1,8,32] [--precision fp16|fp32|tf32] [--tiles] [--only NAME]
//
// Medians of 20 replays on random data; where one product touches more than the L2 keeps, the
// launches take turns among several sets of buffers. --tiles times every tile. cuBLASLt is a
// yardstick for fp16 alone.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/cuda/device.h"
#include "core/cuda/usable.h"
#include "core/half.h"
#include "cuda_replay_time.h"
#include "engine/cuda/hopper/gemm_split.h"
#include "engine/cuda/portable/portable.h"
#include "engine/cuda/timing/cublas_lt.h"
#include "rfseg/error.h"

namespace rfseg::bench {
namespace {

using namespace rfseg::cuda;

constexpr int kChain = 20, kReplays = 20;

/// Microseconds of one of `kChain` calls of enqueue(queue, i).
double time_chain(Stream& stream, bool overlap,
                  const std::function<void(const Queue&, int)>& enqueue) {
  Graph graph;
  const Queue queue{stream, overlap};
  enqueue(queue, 0);  // loads the kernel
  stream.synchronize("warming up");
  graph.capture(stream, [&] {
    for (int i = 0; i < kChain; ++i) enqueue(queue, i);
  });
  for (int i = 0; i < 3; ++i) graph.launch(stream);
  return median_replay_us(stream, graph, kReplays) / kChain;
}

/// Random halves, or floats.
void fill(Buffer& buffer, std::size_t count, bool half, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  // A period that is no multiple of anything keeps the host's part short.
  constexpr std::size_t kPeriod = 100'003;
  std::vector<float> period(std::min(count, kPeriod));
  for (float& v : period) v = uniform(random);
  const std::size_t bytes = half ? 2 : 4;
  std::vector<std::byte> host(count * bytes);
  std::vector<uint16_t> halves;
  for (const float v : period) halves.push_back(float_to_half(v));
  for (std::size_t i = 0; i < count; i += period.size()) {
    std::memcpy(
        host.data() + i * bytes,
        half ? static_cast<const void*>(halves.data()) : static_cast<const void*>(period.data()),
        std::min(period.size(), count - i) * bytes);
  }
  buffer.reserve(host.size());
  upload(buffer.data(), host.data(), host.size(), "copying");
}

struct Product {
  const char* name;
  RowSource source;
  int m, n, k;  ///< of one picture
  Activation activation;
  bool stream;   ///< added to a residual stream of floats, scaled
  int side = 0;  ///< of the map, kConv3x3
  bool norm = false;
  int parts = 1;  ///< of a longer k, a sum each
};

constexpr Product kProducts[] = {
    {"patch", RowSource::kRows, 676, 384, 432, Activation::kNone, true},
    {"qkv normed", RowSource::kNormed, 677, 1152, 384, Activation::kNone, false},
    {"qkv", RowSource::kRows, 677, 1152, 384, Activation::kNone, false},
    {"proj", RowSource::kRows, 677, 384, 384, Activation::kNone, true},
    {"fc1 normed", RowSource::kNormed, 677, 1536, 384, Activation::kGelu, false},
    {"fc1", RowSource::kRows, 677, 1536, 384, Activation::kGelu, false},
    {"fc2", RowSource::kRows, 677, 384, 1536, Activation::kNone, true},
    {"fc2 in 2", RowSource::kRows, 677, 384, 768, Activation::kNone, false, 0, false, 2},
    {"fc2 in 3", RowSource::kRows, 677, 384, 512, Activation::kNone, false, 0, false, 3},
    {"fc2 in 4", RowSource::kRows, 677, 384, 384, Activation::kNone, false, 0, false, 4},
    {"proj in 2", RowSource::kRows, 677, 384, 192, Activation::kNone, false, 0, false, 2},
    {"proj in 3", RowSource::kRows, 677, 384, 128, Activation::kNone, false, 0, false, 3},
    {"cv1", RowSource::kRows, 676, 256, 1536, Activation::kSilu, false, 0, true},
    {"cv1 in 3", RowSource::kRows, 676, 256, 512, Activation::kNone, false, 0, false, 3},
    {"cv1 in 6", RowSource::kRows, 676, 256, 256, Activation::kNone, false, 0, false, 6},
    {"conv", RowSource::kConv3x3, 676, 128, 1152, Activation::kSilu, false, 26, true},
    {"cv2", RowSource::kRows, 676, 256, 640, Activation::kSilu, false, 0, true},
    {"enc_output", RowSource::kRows, 676, 256, 256, Activation::kNone, false, 0, true},
    {"class", RowSource::kRows, 676, 91, 256, Activation::kNone, false},
    {"values", RowSource::kRows, 676, 1024, 256, Activation::kNone, false},
    {"dec in", RowSource::kRows, 100, 768, 256, Activation::kNone, false},
    {"dec out", RowSource::kRows, 100, 256, 256, Activation::kNone, false, 0, true},
    {"dec offsets", RowSource::kRows, 100, 96, 256, Activation::kNone, false},
    {"dec fc1", RowSource::kRows, 100, 2048, 256, Activation::kRelu, false},
    {"dec fc2", RowSource::kRows, 100, 256, 2048, Activation::kNone, false, 0, true},
    {"dec fc2 in 4", RowSource::kRows, 100, 256, 512, Activation::kNone, false, 0, false, 4},
    {"dec fc2 in 8", RowSource::kRows, 100, 256, 256, Activation::kNone, false, 0, false, 8},
    {"seg pw", RowSource::kRows, 6084, 256, 256, Activation::kGelu, true},
};

class Bench {
 public:
  Bench(Math math, bool all_tiles, std::string only)
      : math_(math), all_tiles_(all_tiles), only_(std::move(only)) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0), "asking the device");
    overlap_ = properties.major >= 9;
    sms_ = properties.multiProcessorCount;
    int clock = 0;
    check(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, 0), "asking the device");
    // Dense fp16 products of a multiprocessor and clock: 2048 on 9.0, 1024 on 8.0.
    peak_ = 2.0 *
            (properties.major == 9   ? 2048
             : properties.minor == 0 ? 1024
                                     : 512) *
            sms_ * clock * 1e-9;
    // TF32 has half of it, and an fp32 product is three of TF32.
    if (floats()) peak_ /= math_ == Math::kTf32 ? 2 : 6;
    std::printf("%s, %d multiprocessors, peak at %d MHz %.0f TFLOP/s\n", properties.name, sms_,
                clock / 1000, peak_);
    if (!library_.missing().empty()) std::printf("no yardstick: %s\n", library_.missing().c_str());
  }

  void run(int batch) {
    std::printf("\nbatch %d\n%-12s %7s %5s %5s | %9s %8s %6s | %9s %6s | tile\n", batch, "product",
                "m", "n", "k", "us", "TFLOP/s", "% peak", "cuBLASLt", "ratio");
    for (const Product& p : kProducts) {
      if (!wanted(p.name)) continue;
      product(p, batch);
    }
    attention_case("attention", batch, 677, 6, 64);
    attention_case("dec attn", batch, 100, 8, 32);
  }

 private:
  /// --only names a part of a product's name, or with = before it the whole of it.
  bool wanted(const std::string& name) const {
    return only_.empty() ||
           (only_[0] == '=' ? name == only_.substr(1) : name.find(only_) != std::string::npos);
  }

  void product(const Product& p, int batch) {
    const int m = p.m * batch;
    const std::size_t rows = static_cast<std::size_t>(m), n = static_cast<std::size_t>(p.n),
                      k = static_cast<std::size_t>(p.k);
    const bool normed = p.source == RowSource::kNormed;
    const std::size_t parts = static_cast<std::size_t>(p.parts);
    const std::size_t lda = p.source == RowSource::kConv3x3 ? k / 9 : k * parts;
    const std::size_t element = static_cast<std::size_t>(element_bytes(math_));
    const bool halves = math_ == Math::kFp16;
    const std::size_t bytes = rows * lda * element + rows * n * 4;
    const std::size_t sets = std::clamp<std::size_t>((100u << 20) / bytes, 1, 4);
    const std::size_t turns = bytes > (8u << 20) ? std::max<std::size_t>(sets, 2) : 1;
    std::vector<Buffer> a, out;
    for (std::size_t i = 0; i < turns; ++i) {
      a.emplace_back(Buffer::Kind::kDevice);
      out.emplace_back(Buffer::Kind::kDevice);
      // The yardstick reads all k columns, also of a convolution.
      fill(a.back(), rows * k * parts, halves && !normed, i);
      fill(out.back(), rows * n * parts, false, 10 + i);
    }
    Buffer b(Buffer::Kind::kDevice), vectors(Buffer::Kind::kDevice), scratch(Buffer::Kind::kDevice),
        rows_out(Buffer::Kind::kDevice);
    rows_out.reserve(rows * n * element);
    fill(b, n * k * parts, halves, 20);
    fill(vectors, n, false, 21);
    scratch.reserve(rows * n * 4 * 8);
    GemmArguments g;
    g.source = p.source;
    g.lda = static_cast<int64_t>(lda);
    g.eps = 1e-6f;
    g.map_rows = g.map_cols = g.out_rows = g.out_cols = p.side;
    g.channels = p.k / 9;
    g.b = b.data();
    g.b_fixed = true;
    g.ldb = p.k * p.parts;
    g.m = m;
    g.n = p.n;
    g.k = p.k;
    g.bias = vectors.as<float>();
    g.activation = p.norm ? Activation::kNone : p.activation;
    g.batch = p.parts;
    g.a_step = g.b_step = p.k;
    g.out_step = int64_t{m} * p.n;
    g.ldo = g.ldr = p.n;
    g.out_float = p.stream || p.parts > 1;
    if (p.stream) g.scale = vectors.as<float>();
    const auto at = [&](int i) {
      GemmArguments one = g;
      const std::size_t set = static_cast<std::size_t>(i) % turns;
      one.a = a[set].data();
      one.out = out[set].data();
      if (p.stream) one.residual = one.out;
      return one;
    };
    const auto norm_at = [&](int i) {
      GemmNormArguments one;
      one.product = at(i);
      one.gamma = one.beta = vectors.as<float>();
      one.eps = 1e-6f;
      one.activation = p.activation;
      one.out = one.product.out;
      one.ldo = p.n;
      one.scratch = scratch.as<float>();
      one.scratch_size = static_cast<int64_t>(rows * n) * (batch == 1 ? 8 : 1);
      if (p.stream) {
        one.sum = static_cast<float*>(one.product.out);
        one.ld_sum = p.n;
        one.out = rows_out.data();
      }
      return one;
    };
    double yardstick = 0;
    for (int algorithm = 0; halves && p.parts == 1 && algorithm < 3; ++algorithm) {
      if (!library_.multiply(stream_, m, p.n, p.k, a[0].data(), b.data(), out[0].data(),
                             algorithm)) {
        break;
      }
      const double t = time_chain(stream_, false, [&](const Queue& queue, int i) {
        const std::size_t set = static_cast<std::size_t>(i) % turns;
        library_.multiply(queue.stream, m, p.n, p.k, a[set].data(), b.data(), out[set].data(),
                          algorithm);
      });
      yardstick = yardstick == 0 ? t : std::min(t, yardstick);
    }
    const double flops = 2.0 * m * p.n * p.k * p.parts;
    const auto line = [&](const char* name, double us, const char* tile) {
      std::printf("%-12s %7d %5d %5d | %9.2f %8.1f %6.1f | ", name, m, p.n, p.k, us,
                  flops / us * 1e-6, flops / us * 1e-6 / peak_ * 100);
      if (yardstick > 0) {
        std::printf("%9.2f %6.2f | %s\n", yardstick, us / yardstick, tile);
      } else {
        std::printf("%9s %6s | %s\n", "", "", tile);
      }
    };
    // With floats products.h chooses among more tiles than the portable ones.
    const int chosen = floats() ? -1 : portable::gemm_tile(math_, g);
    if (floats()) {
      line(p.name,
           time_chain(stream_, overlap_,
                      [&](const Queue& queue, int i) { cuda::gemm(queue, math_, at(i)); }),
           "as chosen");
    }
    for (int tile = 0; tile < portable::gemm_tiles(math_, p.source); ++tile) {
      if (!all_tiles_ && tile != chosen) continue;
      if (!portable::gemm_by_tile({stream_, false}, math_, at(0), tile)) continue;
      const double us = time_chain(stream_, overlap_, [&](const Queue& queue, int i) {
        portable::gemm_by_tile(queue, math_, at(i), tile);
      });
      const std::string name = std::string(portable::gemm_tile_name(math_, p.source, tile)) +
                               (tile == chosen ? "  <- chosen" : "");
      line(p.name, us, name.c_str());
    }
    if (floats() && all_tiles_) {
      const portable::TileList own = hopper::split_tiles(p.source);
      for (const portable::TileEntry* tile = own.entries; tile < own.entries + own.count; ++tile) {
        if (!portable::gemm_by_entry({stream_, false}, math_, at(0), *tile)) continue;
        line(p.name,
             time_chain(stream_, overlap_,
                        [&](const Queue& queue, int i) {
                          portable::gemm_by_entry(queue, math_, at(i), *tile);
                        }),
             tile->name);
      }
    }
    if (!p.norm && !p.stream) return;
    line(p.name,
         time_chain(stream_, overlap_,
                    [&](const Queue& queue, int i) {
                      // In fp16 products.h would take another family.
                      if (floats()) return cuda::gemm_norm(queue, math_, norm_at(i));
                      portable::gemm_norm(queue, math_, norm_at(i));
                    }),
         "and norm");
  }

  void attention_case(const char* name, int batch, int length, int heads, int head_dim) {
    if (!wanted(name)) return;
    const std::size_t rows = static_cast<std::size_t>(batch * length);
    const std::size_t width = static_cast<std::size_t>(heads * head_dim);
    const std::size_t element = static_cast<std::size_t>(element_bytes(math_));
    Buffer qkv(Buffer::Kind::kDevice), out(Buffer::Kind::kDevice);
    fill(qkv, rows * width * 3, math_ == Math::kFp16, 30);
    out.reserve(rows * width * element);
    AttentionArguments g;
    g.q = qkv.data();
    g.k = qkv.data() + width * element;
    g.v = qkv.data() + width * 2 * element;
    g.ldq = g.ldk = g.ldv = static_cast<int64_t>(width * 3);
    g.out = out.data();
    g.ldo = static_cast<int64_t>(width);
    g.sequences = batch;
    g.length = length;
    g.heads = heads;
    g.head_dim = head_dim;
    g.scale = 0.125f;
    const double flops = 4.0 * batch * heads * head_dim * length * length;
    const auto line = [&](double us, const std::string& tile) {
      std::printf("%-12s %7d %5d %5d | %9.2f %8.1f %6.1f | %9s %6s | %s\n", name, batch * length,
                  heads, head_dim, us, flops / us * 1e-6, flops / us * 1e-6 / peak_ * 100, "", "",
                  tile.c_str());
    };
    const int chosen = floats() ? -1 : portable::attention_tile(math_, g);
    if (floats()) {
      line(time_chain(stream_, overlap_,
                      [&](const Queue& queue, int) { cuda::attention(queue, math_, g); }),
           "as chosen");
    }
    for (int tile = 0; tile < portable::attention_tiles(math_, head_dim); ++tile) {
      if (!all_tiles_ && tile != chosen) continue;
      const double us = time_chain(stream_, overlap_, [&](const Queue& queue, int) {
        portable::attention_by_tile(queue, math_, g, tile);
      });
      line(us, std::string(portable::attention_tile_name(math_, head_dim, tile)) +
                   (tile == chosen ? "  <- chosen" : ""));
    }
  }

  bool floats() const { return math_ != Math::kFp16; }

  Math math_;
  bool all_tiles_;
  std::string only_;
  Stream stream_;
  CublasLt library_;
  bool overlap_ = false;
  int sms_ = 0;
  double peak_ = 0;
};

int usage() {
  std::fprintf(stderr,
               "bench_engine_cuda [--batch 1,8,32] [--precision fp16|fp32|tf32] [--tiles] "
               "[--only NAME]\n");
  return 2;
}

int run(int argc, char** argv) {
  std::string batches = "1,8,32", only;
  bool tiles = false;
  Math math = Math::kFp16;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--tiles") {
      tiles = true;
    } else if (option == "--batch" && i + 1 < argc) {
      batches = argv[++i];
    } else if (option == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else if (option == "--precision" && i + 1 < argc) {
      const std::string name = argv[++i];
      if (name != "fp16" && name != "fp32" && name != "tf32") return usage();
      math = name == "fp32" ? Math::kFp32 : name == "tf32" ? Math::kTf32 : Math::kFp16;
    } else {
      return usage();
    }
  }
  std::string why;
  if (!usable(&why)) {
    std::fprintf(stderr, "%s\n", why.c_str());
    return 5;
  }
  Bench bench(math, tiles, only);
  for (std::size_t at = 0; at < batches.size();) {
    std::size_t used = 0;
    bench.run(std::stoi(batches.substr(at), &used));
    at += used + 1;
  }
  return 0;
}

}  // namespace
}  // namespace rfseg::bench

int main(int argc, char** argv) {
  try {
    return rfseg::bench::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "bench_engine_cuda: %s\n", e.what());
    return 1;
  }
}
