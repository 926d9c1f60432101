#include "engine/reference/gemm.h"

#include <algorithm>

#include "core/tensor.h"

#ifdef RFSEG_ONEDNN
#include <dnnl.h>
#include <omp.h>

#include "rfseg/error.h"
#endif

namespace rfseg::reference {
namespace {

// The innermost loops touch buffers of one call only. Watched access by access they would be a
// hundred times slower, and with them every test of a pipeline around them.
#if defined(__SANITIZE_THREAD__)
#define RFSEG_UNWATCHED __attribute__((no_sanitize_thread))
#else
#define RFSEG_UNWATCHED
#endif

// A panel of b, [kPanelDepth, kPanelWidth], stays in the first or second level cache while every
// row of a passes over it.
constexpr int64_t kPanelDepth = 256;
constexpr int64_t kPanelWidth = 64;

/// c[m, kPanelWidth] += a[m, depth] * panel[depth, kPanelWidth]; four rows at a time share each
/// load of the panel.
RFSEG_UNWATCHED __attribute__((always_inline)) inline void add_panel(int64_t m, int64_t depth,
                                                                     const float* a, int64_t lda,
                                                                     const float* panel, float* c) {
  for (int64_t i = 0; i < m; i += 4) {
    const int64_t rows = m - i < 4 ? m - i : 4;
    // Rows past the end repeat the last one: the loops keep a fixed length.
    const float* row[4];
    for (int64_t r = 0; r < 4; ++r) row[r] = a + (i + (r < rows ? r : rows - 1)) * lda;
    for (int64_t column = 0; column < kPanelWidth; column += 16) {
      float sum[4][16] = {};
      for (int64_t p = 0; p < depth; ++p) {
        const float* b = panel + p * kPanelWidth + column;
        for (int64_t r = 0; r < 4; ++r) {
          const float value = row[r][p];
          for (int64_t j = 0; j < 16; ++j) sum[r][j] += value * b[j];
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        float* out = c + (i + r) * kPanelWidth + column;
        for (int64_t j = 0; j < 16; ++j) out[j] += sum[r][j];
      }
    }
  }
}

using AddPanel = void (*)(int64_t, int64_t, const float*, int64_t, const float*, float*);

RFSEG_UNWATCHED void add_panel_baseline(int64_t m, int64_t depth, const float* a, int64_t lda,
                                        const float* panel, float* c) {
  add_panel(m, depth, a, lda, panel, c);
}

#if defined(__x86_64__)
// The same loops compiled for wider registers. Chosen by a function pointer and not by an ifunc,
// whose resolver runs before a sanitizer is ready.
RFSEG_UNWATCHED __attribute__((target("avx2"))) void add_panel_avx2(int64_t m, int64_t depth,
                                                                    const float* a, int64_t lda,
                                                                    const float* panel, float* c) {
  add_panel(m, depth, a, lda, panel, c);
}
#endif

AddPanel choose_add_panel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return add_panel_avx2;
#endif
  return add_panel_baseline;
}

}  // namespace

void plain_gemm(Second second, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
                const float* b, int64_t ldb, float* c, int64_t ldc) {
  static const AddPanel add = choose_add_panel();
  AlignedVector<float> panel(kPanelDepth * kPanelWidth);
  AlignedVector<float> sums(m * kPanelWidth);
  for (int64_t column = 0; column < n; column += kPanelWidth) {
    const int64_t width = std::min(kPanelWidth, n - column);
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int64_t start = 0; start < k; start += kPanelDepth) {
      const int64_t depth = std::min(kPanelDepth, k - start);
      std::fill(panel.begin(), panel.end(), 0.0f);
      for (int64_t p = 0; p < depth; ++p) {
        for (int64_t j = 0; j < width; ++j) {
          panel[p * kPanelWidth + j] = second == Second::kPlain ? b[(start + p) * ldb + column + j]
                                                                : b[(column + j) * ldb + start + p];
        }
      }
      add(m, depth, a + start, lda, panel.data(), sums.data());
    }
    for (int64_t i = 0; i < m; ++i) {
      std::copy_n(sums.data() + i * kPanelWidth, width, c + i * ldc + column);
    }
  }
}

#ifdef RFSEG_ONEDNN

void gemm(Second second, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
          const float* b, int64_t ldb, float* c, int64_t ldc, int threads) {
  // A product of less than a millisecond loses more at the team's barrier than it gains.
  if (m * n * k < 4'000'000) threads = 1;
  // oneDNN takes its team's size from the calling thread.
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  const dnnl_status_t status = dnnl_sgemm('N', second == Second::kTransposed ? 'T' : 'N', m, n, k,
                                          1.0f, a, lda, b, ldb, 0.0f, c, ldc);
  omp_set_num_threads(before);
  if (status != dnnl_success) throw Error(ErrorCode::kInternal, "dnnl_sgemm failed");
}

#else

void gemm(Second second, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
          const float* b, int64_t ldb, float* c, int64_t ldc, int /*threads*/) {
  plain_gemm(second, m, n, k, a, lda, b, ldb, c, ldc);
}

#endif

}  // namespace rfseg::reference
