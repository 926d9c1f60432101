#include "engine/product_cases.h"

#include <algorithm>

#include "engine/activate.h"

namespace rfseg::cuda::test {
namespace {

/// What is allowed for a result near `want`: rounding to the output's type and the inputs'
/// products.
double tolerance(Math math, bool out_half, double want, double scale) {
  const double products = math == Math::kFp16 ? 1e-5 : math == Math::kTf32 ? 1.5e-3 : 2e-6;
  return products * scale + (out_half ? 5.2e-4 : 1e-6) * std::fabs(want) + 1e-7;
}

int64_t row_in_out(const GemmArguments& g, int m) {
  return g.out_group == 0 ? m : m + int64_t{m / g.out_group} * g.out_skip + g.out_first;
}

}  // namespace

void make_gemm(GemmCase& c, Math math, RowSource source, int m, int n, int k,
               const GemmParts& parts, uint64_t seed, const Map& map) {
  c.math = math;
  GemmArguments& g = c.g;
  g.source = source;
  std::size_t a_rows = static_cast<std::size_t>(m);
  if (source == RowSource::kConv3x3) {
    g.map_rows = map.rows;
    g.map_cols = map.cols;
    g.stride = map.stride;
    g.out_rows = (map.rows - 1) / map.stride + 1;
    g.out_cols = (map.cols - 1) / map.stride + 1;
    g.channels = map.channels;
    m = map.pictures * g.out_rows * g.out_cols;
    k = 9 * map.channels;
    a_rows = static_cast<std::size_t>(map.pictures * map.rows * map.cols);
    g.lda = map.channels + parts.pad_a;
  } else {
    g.lda = k + parts.pad_a;
  }
  g.m = m;
  g.n = n;
  g.k = k;
  g.batch = parts.batch;
  const bool normed = source == RowSource::kNormed;
  if (parts.index) {
    std::mt19937_64 random(seed + 9);
    a_rows += 3;
    for (int i = 0; i < m; ++i) {
      c.index.push_back(static_cast<int32_t>(random() % a_rows));
    }
    c.device_index.reserve(c.index.size() * 4);
    upload(c.device_index.data(), c.index.data(), c.index.size() * 4, "copying an index");
    g.index = c.device_index.as<int32_t>();
  }
  const std::size_t a_size = a_rows * static_cast<std::size_t>(g.lda);
  const std::size_t batch = static_cast<std::size_t>(parts.batch);
  // kNormed: a mean far from 0, as residual streams have it.
  const float least = parts.positive ? 0.0f : -1.0f;
  c.a = Values(math, a_size * batch, seed, least, normed ? 3.0f : 1.0f, normed);
  g.a = c.a.device();
  g.a_step = static_cast<int64_t>(a_size);
  g.eps = 1e-6f;
  if (parts.split != 0) {
    c.a2 = Values(math, a_size * batch, seed + 1, -1, 1);
    g.a2 = c.a2.device();
    g.split = parts.split;
  }
  g.ldb = k;
  c.b = Values(math, static_cast<std::size_t>(n) * static_cast<std::size_t>(k) * batch, seed + 2,
               least, 1);
  g.b = c.b.device();
  g.b_fixed = seed % 2 == 0;
  g.b_step = int64_t{n} * k;
  const std::size_t cols = static_cast<std::size_t>(n);
  if (parts.bias) {
    c.bias = Values(math, cols, seed + 3, -2, 2, true);
    g.bias = c.bias.floats();
  }
  if (parts.row_bias) {
    c.row_bias = Values(math, static_cast<std::size_t>(m) * batch, seed + 4, -2, 2, true);
    g.row_bias = c.row_bias.floats();
    g.row_bias_step = m;
  }
  if (parts.scale) {
    c.scale = Values(math, cols, seed + 5, -2, 2, true);
    g.scale = c.scale.floats();
  }
  g.activation = parts.activation;
  g.ldo = n + parts.pad_out;
  if (parts.out_group != 0) {
    g.out_group = parts.out_group;
    g.out_skip = 1;
    g.out_first = 1;
  }
  const std::size_t out_size =
      static_cast<std::size_t>(row_in_out(g, m - 1) + 1) * static_cast<std::size_t>(g.ldo);
  g.out_step = static_cast<int64_t>(out_size);
  g.out_float = parts.out_float;
  c.out = Values(math, out_size * batch, seed + 6, -1, 1, parts.out_float);
  g.out = c.out.device();
  if (parts.residual) {
    g.ldr = g.ldo;
    g.residual_period = parts.residual_period;
    g.residual_float = parts.in_place ? parts.out_float : parts.residual_float;
    // In place: the same values, which `out` loses.
    c.residual = Values(math, out_size * batch, seed + 6, -1, 1, g.residual_float);
    g.residual = parts.in_place ? g.out : c.residual.device();
  }
  c.name = std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
}

Row product_row(const GemmCase& c, int batch, int m) {
  const GemmArguments& g = c.g;
  const int64_t step = batch * g.a_step;
  std::vector<float> a(static_cast<std::size_t>(g.k)), a2;
  const auto fill = [&](const Values& from, std::vector<float>& to) {
    const int64_t row = (c.index.empty() ? m : c.index[static_cast<std::size_t>(m)]) * g.lda + step;
    for (int k = 0; k < g.k; ++k) to[static_cast<std::size_t>(k)] = from[row + k];
  };
  if (g.source == RowSource::kConv3x3) {
    const int x = m % g.out_cols, y = m / g.out_cols % g.out_rows;
    const int64_t picture = m / (g.out_cols * g.out_rows);
    for (int k = 0; k < g.k; ++k) {
      const int tap = k / g.channels, channel = k % g.channels;
      const int iy = y * g.stride + tap / 3 - 1, ix = x * g.stride + tap % 3 - 1;
      if (iy < 0 || iy >= g.map_rows || ix < 0 || ix >= g.map_cols) continue;
      a[static_cast<std::size_t>(k)] =
          c.a[step + ((picture * g.map_rows + iy) * g.map_cols + ix) * g.lda + channel];
    }
  } else {
    fill(c.a, a);
    if (g.split != 0) {
      a2.resize(a.size());
      fill(c.a2, a2);
    }
  }
  if (g.source == RowSource::kNormed) {
    double mean = 0, variance = 0;
    for (const float v : a) mean += v;
    mean /= g.k;
    for (const float v : a) variance += (v - mean) * (v - mean);
    variance /= g.k;
    for (float& v : a) {
      v = static_cast<float>((v - mean) / std::sqrt(variance + static_cast<double>(g.eps)));
      if (c.math == Math::kFp16) v = half_to_float(float_to_half(v));
    }
  }
  Row row;
  for (int n = 0; n < g.n; ++n) {
    const std::vector<float>& from = g.split != 0 && n >= g.split ? a2 : a;
    double exact = 0;
    float plain = 0;
    for (int k = 0; k < g.k; ++k) {
      const float x = from[static_cast<std::size_t>(k)];
      const float y = c.b[batch * g.b_step + int64_t{n} * g.ldb + k];
      exact += static_cast<double>(x) * static_cast<double>(y);
      plain += x * y;
    }
    row.exact.push_back(exact);
    row.plain.push_back(plain);
  }
  return row;
}

void expect_gemm(const GemmCase& c, int stride) {
  const GemmArguments& g = c.g;
  const std::vector<float> out = c.out.download();
  const bool bare = g.activation == Activation::kNone && g.bias == nullptr && g.scale == nullptr &&
                    g.row_bias == nullptr && g.residual == nullptr;
  double ours = 0, plain = 0, one_rounding = 0;
  std::vector<char> written(out.size(), 0);
  int wrong = 0;
  for (int batch = 0; batch < g.batch; ++batch) {
    for (int m = 0; m < g.m; ++m) {
      const int64_t to = row_in_out(g, m);
      for (int n = 0; n < g.n; ++n) {
        written[static_cast<std::size_t>(batch * g.out_step + to * g.ldo + n)] = 1;
      }
      if (m % stride != 0 && m != g.m - 1) continue;
      const Row row = product_row(c, batch, m);
      for (int n = 0; n < g.n; ++n) {
        double v = row.exact[static_cast<std::size_t>(n)];
        const double sum_scale = std::sqrt(static_cast<double>(g.k));
        if (g.bias != nullptr) v += c.bias[n];
        if (g.row_bias != nullptr) v += c.row_bias[batch * g.row_bias_step + m];
        v = activated(g.activation, v);
        double factor = 1;
        if (g.scale != nullptr) v *= factor = c.scale[n];
        const int64_t at = batch * g.out_step + to * g.ldo + n;
        if (g.residual != nullptr) {
          const int64_t from = g.residual_period > 0 ? to % g.residual_period : to;
          v += c.residual[batch * g.out_step + from * g.ldr + n];
        }
        const double got = out[static_cast<std::size_t>(at)];
        const double allowed =
            tolerance(c.math, c.out.half(), v, sum_scale * std::max(1.0, std::fabs(factor))) +
            // The kernel normalises in float before it rounds to halves.
            (g.source == RowSource::kNormed && c.math == Math::kFp16 ? 3e-4 * sum_scale : 0);
        if (!(std::fabs(got - v) <= allowed) && ++wrong < 5) {
          ADD_FAILURE() << c.name << ": batch " << batch << ", row " << m << ", column " << n
                        << ": got " << got << ", expected " << v << " within " << allowed;
        }
        if (bare) {
          ours += (got - row.exact[static_cast<std::size_t>(n)]) *
                  (got - row.exact[static_cast<std::size_t>(n)]);
          const double p =
              row.plain[static_cast<std::size_t>(n)] - row.exact[static_cast<std::size_t>(n)];
          plain += p * p;
          one_rounding += sum_scale * sum_scale * 0x1p-48;
        }
      }
    }
  }
  EXPECT_EQ(wrong, 0) << c.name;
  // A few results may by chance be right to the last bit in plain fp32, which rounds once at least.
  if (c.math == Math::kFp32 && bare && g.source != RowSource::kNormed) {
    EXPECT_LE(std::sqrt(ours), 2 * std::sqrt(std::max(plain, one_rounding))) << c.name;
  }
  const auto before = [&](std::size_t i) { return c.out[static_cast<int64_t>(i)]; };
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (written[i] == 0) {
      ASSERT_EQ(out[i], before(i)) << c.name << ": wrote beside the output";
    }
  }
}

void make_norm(NormCase& c, Math math, RowSource source, int m, int n, int k, uint64_t seed,
               bool residual, Activation activation, const Map& map, int room) {
  GemmParts parts;
  parts.bias = true;
  parts.scale = room > 1;
  parts.residual = residual;
  parts.out_float = true;
  make_gemm(c.product, math, source, m, n, k, parts, seed, map);
  c.product.g.out = nullptr;
  c.g.product = c.product.g;
  m = c.product.g.m;
  const std::size_t size = static_cast<std::size_t>(m) * static_cast<std::size_t>(n);
  c.gamma = Values(math, static_cast<std::size_t>(n), seed + 11, -2, 2, true);
  c.beta = Values(math, static_cast<std::size_t>(n), seed + 12, -2, 2, true);
  c.plus = Values(math, size, seed + 13, -2, 2, true);
  c.out_float = Values(math, size, seed + 14, 0, 0, true);
  c.out = Values(math, size, seed + 15, 0, 0);
  c.out_plus = Values(math, size, seed + 16, 0, 0);
  c.sum = Values(math, size, seed + 18, 0, 0, true);
  c.g.sum = static_cast<float*>(c.sum.device());
  c.g.ld_sum = n;
  c.scratch = Values(math, size * static_cast<std::size_t>(room), seed + 17, 0, 0, true);
  c.g.scratch_size = static_cast<int64_t>(c.scratch.size());
  c.g.gamma = c.gamma.floats();
  c.g.beta = c.beta.floats();
  c.g.eps = 1e-5f;
  c.g.activation = activation;
  c.g.out_float = static_cast<float*>(c.out_float.device());
  c.g.ldo_float = n;
  c.g.out = c.out.device();
  c.g.ldo = n;
  c.g.plus = c.plus.floats();
  c.g.out_plus = c.out_plus.device();
  c.g.scratch = static_cast<float*>(c.scratch.device());
}

void expect_norm(const NormCase& c, int stride) {
  const GemmArguments& g = c.g.product;
  const std::vector<float> as_float = c.out_float.download(), out = c.out.download(),
                           plus = c.out_plus.download(), sums = c.sum.download();
  int wrong = 0;
  for (int m = 0; m < g.m; ++m) {
    if (m % stride != 0 && m != g.m - 1) continue;
    Row row = product_row(c.product, 0, m);
    double mean = 0, variance = 0;
    for (int n = 0; n < g.n; ++n) {
      double& v = row.exact[static_cast<std::size_t>(n)];
      v += c.product.bias[n];
      if (g.scale != nullptr) v *= c.product.scale[n];
      if (g.residual != nullptr) v += c.product.residual[int64_t{m} * g.ldr + n];
      mean += v / g.n;
    }
    for (const double v : row.exact) variance += (v - mean) * (v - mean) / g.n;
    for (int n = 0; n < g.n; ++n) {
      const double z = activated(
          c.g.activation, (row.exact[static_cast<std::size_t>(n)] - mean) /
                                  std::sqrt(variance + static_cast<double>(c.g.eps)) * c.gamma[n] +
                              c.beta[n]);
      const int64_t at = int64_t{m} * g.n + n;
      const double with = z + c.plus[at];
      const auto near = [&](float got, double want, bool half) {
        const double allowed = tolerance(c.product.math, half, want, 1) * 2 +
                               2e-6 * (std::fabs(static_cast<double>(c.beta[n])) + 2);
        if (!(std::fabs(got - want) <= allowed) && ++wrong < 5) {
          ADD_FAILURE() << c.product.name << ": row " << m << ", column " << n << ": got " << got
                        << ", expected " << want << " within " << allowed;
        }
      };
      const std::size_t i = static_cast<std::size_t>(at);
      EXPECT_NEAR(sums[i], row.exact[static_cast<std::size_t>(n)],
                  tolerance(c.product.math, false, row.exact[static_cast<std::size_t>(n)],
                            2 * std::sqrt(static_cast<double>(g.k))));
      near(as_float[i], z, false);
      near(out[i], z, c.out.half());
      near(plus[i], with, c.out_plus.half());
    }
  }
  EXPECT_EQ(wrong, 0) << c.product.name;
}

void make_attention(AttentionCase& c, Math math, int sequences, int length, int heads, int head_dim,
                    uint64_t seed) {
  c.math = math;
  const int64_t width = int64_t{heads} * head_dim, rows = int64_t{sequences} * length;
  c.qkv = Values(math, static_cast<std::size_t>(rows * 3 * width), seed, -3, 3);
  c.out = Values(math, static_cast<std::size_t>(rows * width), seed + 1, 0, 0);
  AttentionArguments& g = c.g;
  const int bytes = element_bytes(math);
  g.q = c.qkv.device();
  g.k = static_cast<std::byte*>(c.qkv.device()) + width * bytes;
  g.v = static_cast<std::byte*>(c.qkv.device()) + 2 * width * bytes;
  g.ldq = g.ldk = g.ldv = 3 * width;
  g.out = c.out.device();
  g.ldo = width;
  g.sequences = sequences;
  g.length = length;
  g.heads = heads;
  g.head_dim = head_dim;
  g.scale = 1 / std::sqrt(static_cast<float>(head_dim));
}

void expect_attention(const AttentionCase& c, int stride) {
  const AttentionArguments& g = c.g;
  const std::vector<float> out = c.out.download();
  const int64_t width = int64_t{g.heads} * g.head_dim;
  double square = 0;
  int wrong = 0, turn = 0;
  for (int sequence = 0; sequence < g.sequences; ++sequence) {
    for (int head = 0; head < g.heads; ++head) {
      for (int row = 0; row < g.length; ++row) {
        if (turn++ % stride != 0 && row != g.length - 1) continue;
        const auto at = [&](int r, int part) {
          return (int64_t{sequence} * g.length + r) * 3 * width + part * width +
                 int64_t{head} * g.head_dim;
        };
        std::vector<double> scores(static_cast<std::size_t>(g.length));
        double highest = -1e300, total = 0;
        for (int j = 0; j < g.length; ++j) {
          double& s = scores[static_cast<std::size_t>(j)];
          for (int d = 0; d < g.head_dim; ++d) {
            s += static_cast<double>(c.qkv[at(row, 0) + d]) *
                 static_cast<double>(c.qkv[at(j, 1) + d]);
          }
          s *= static_cast<double>(g.scale);
          highest = std::max(highest, s);
        }
        for (double& s : scores) total += s = std::exp(s - highest);
        for (int d = 0; d < g.head_dim; ++d) {
          double want = 0;
          for (int j = 0; j < g.length; ++j) {
            want += scores[static_cast<std::size_t>(j)] / total *
                    static_cast<double>(c.qkv[at(j, 2) + d]);
          }
          const double got = out[static_cast<std::size_t>(
              (int64_t{sequence} * g.length + row) * g.ldo + head * g.head_dim + d)];
          // Weights are rounded to halves (or TF32) before they meet the values.
          const double allowed = c.math == Math::kFp32 ? 4e-6 : c.math == Math::kFp16 ? 3e-3 : 6e-3;
          square += (got - want) * (got - want);
          if (!(std::fabs(got - want) <= allowed) && ++wrong < 5) {
            ADD_FAILURE() << g.sequences << "x" << g.length << "x" << g.heads << ": row " << row
                          << ", head " << head << ", element " << d << ": got " << got
                          << ", expected " << want;
          }
        }
      }
    }
  }
  EXPECT_EQ(wrong, 0);
}

}  // namespace rfseg::cuda::test
